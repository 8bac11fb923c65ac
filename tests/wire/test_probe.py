"""What the pool finds wrong with an engine without opening a conversation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from pxbridge.engines.address import CaFile, EngineAddress, Pinned, Unverified
from pxbridge.engines.probe import Found, Told, Wrong, probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pxbridge.engines.address import Trust

HTTP = b"HTTP/1.1 404 Not Found\r\n\r\n"


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@contextlib.asynccontextmanager
async def engine(reply: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The URL of something that answers everything with this, or nothing with nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if reply is None:
            await reader.read()
        else:
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        scheme = "ws" if tls is None else "wss"
        yield f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (HTTP, None),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", None),
        (b"HTTP/2 nonsense", None),
        (b"SSH-2.0-OpenSSH", Wrong("does not speak HTTP")),
        (b"", Wrong("does not speak HTTP")),
    ],
)
async def test_any_answer_in_http_will_do(reply: bytes, found: Found) -> None:
    async with engine(reply) as url:
        assert await probe(EngineAddress(url)) == found


TOLD = {
    "ready": True,
    "full": False,
    "reasons": [],
    "slots": 4,
    "free": 3,
    "waiting": 0,
    "line": 16,
    "model": "personaplex-7b",
    "warm_up": {"done": True, "took_s": 9.4},
    "draining": False,
    "token_needed": False,
}


@pytest.mark.parametrize(
    ("status", "told", "found"),
    [
        (200, {}, Told(4, 3, "personaplex-7b", 9.4, True)),
        (503, {"ready": False, "full": True, "free": 0, "reasons": ["all 4 slots are taken"], "waiting": 16},
         Told(4, 0, "personaplex-7b", 9.4, False)),
        (503, {"ready": False, "reasons": ["warming up"], "warm_up": {"done": False, "took_s": None}},
         Told(4, 3, "personaplex-7b", None, True, "warming up")),
        (503, {"ready": False, "draining": True, "free": 0, "reasons": ["draining"]},
         Told(4, 0, "personaplex-7b", 9.4, True, "draining", True)),
        (200, {"slots": 0}, None),
        (200, {"slots": "4"}, None),
        (200, {"slots": True}, None),
        (200, {"slots": 100_000}, None),
        (200, {"free": None}, None),
        (200, {"free": 9}, Told(4, 4, "personaplex-7b", 9.4, True)),
    ],
)  # fmt: skip
async def test_what_an_engine_tells_of_itself_is_read(
    status: int, told: dict[str, object], found: Found
) -> None:
    async with engine(http(status, json.dumps(TOLD | told).encode())) as url:
        assert await probe(EngineAddress(url)) == found


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"{", b"[" * 20_000, b"\xff", b"7", b"alive\n", b'{"a": NaN}']
)
async def test_who_tells_something_else_tells_nothing(body: bytes) -> None:
    async with engine(http(200, body)) as url:
        assert await probe(EngineAddress(url)) is None
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
    async with engine(b"HTTP/1.1 200 OK\r\n" + chunked) as url:
        assert await probe(EngineAddress(url)) is None, "it breaks off"


async def test_an_engine_that_wants_another_token_says_how_to_mend_it() -> None:
    async with engine(http(200, json.dumps(TOLD | {"token_needed": True}).encode())) as url:
        told = await probe(EngineAddress(url))
        assert isinstance(told, Wrong) and "set PXBRIDGE_ENGINE_TOKEN" in told.what
        assert isinstance(await probe(EngineAddress(url, token="a-secret")), Told)
    refusal = http(401, b'{"error": "token", "reason": "the token is wrong"}')
    async with engine(refusal) as url:
        told = await probe(EngineAddress(url, token="a-secret"))
        assert isinstance(told, Wrong) and "must be the same here and there" in told.what and told.token
    async with engine(http(401, b"a proxy of NVIDIA's server says no")) as url:
        assert await probe(EngineAddress(url)) is None, "it is there; a conversation may be let in"


async def test_an_engine_that_hangs_or_is_not_there_is_told_apart() -> None:
    async with engine(None) as url:
        assert await probe(EngineAddress(url), 0.05) == Wrong("does not answer within 0.05 s")
    assert await probe(EngineAddress(url)) == Wrong("does not answer (Connection refused)")
    told = await probe(EngineAddress("ws://a..b"))
    assert isinstance(told, Wrong) and told.what.startswith("has a host name that is not valid")


async def test_an_engine_that_nobody_vouches_for_is_said_to_be_just_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    files = {}
    for name, ca in (("ours", authority), ("another's", stranger)):
        files[name] = tmp_path / f"{name}.pem"
        ca.cert_pem.write_to_path(str(files[name]))
    async with engine(HTTP, tls) as url:

        async def found(trust: Trust) -> Found:
            return await probe(EngineAddress(url, trust))

        assert await found(CaFile(files["ours"])) is None
        assert await found(Unverified()) is None
        told = await found(CaFile(files["another's"]))
        assert isinstance(told, Wrong) and told.what.startswith("is not trusted (its certificate: ")
        told = await found(Pinned("00" * 32))
        assert isinstance(told, Wrong)
        assert told.what.startswith("is not trusted (its certificate has the SHA-256 fingerprint ")
    assert "not checked" not in caplog.text, "that is said of its use, not every few seconds"
    async with engine(HTTP) as url:
        told = await probe(EngineAddress(url.replace("ws:", "wss:"), Unverified()))
        assert isinstance(told, Wrong) and told.what.startswith("does not answer (TLS: ")
