"""What the pool finds wrong with an engine without opening a conversation."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from pxbridge.engines.address import CaFile, EngineAddress, Pinned, Unverified
from pxbridge.engines.probe import what_is_wrong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pxbridge.engines.address import Trust

HTTP = b"HTTP/1.1 404 Not Found\r\n\r\n"


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
    ("reply", "wrong"),
    [(HTTP, None), (b"SSH-2.0-OpenSSH", "does not speak HTTP"), (b"", "does not speak HTTP")],
)
async def test_any_answer_in_http_will_do(reply: bytes, wrong: str | None) -> None:
    async with engine(reply) as url:
        assert await what_is_wrong(EngineAddress(url)) == wrong


async def test_an_engine_that_hangs_or_is_not_there_is_told_apart() -> None:
    async with engine(None) as url:
        assert await what_is_wrong(EngineAddress(url), 0.05) == "does not answer within 0.05 s"
    assert await what_is_wrong(EngineAddress(url)) == "does not answer (Connection refused)"
    told = await what_is_wrong(EngineAddress("ws://a..b"))
    assert told is not None and told.startswith("has a host name that is not valid")


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

        async def found(trust: Trust) -> str | None:
            return await what_is_wrong(EngineAddress(url, trust))

        assert await found(CaFile(files["ours"])) is None
        assert await found(Unverified()) is None
        told = await found(CaFile(files["another's"]))
        assert told is not None and told.startswith("is not trusted (its certificate: ")
        told = await found(Pinned("00" * 32))
        assert told is not None
        assert told.startswith("is not trusted (its certificate has the SHA-256 fingerprint ")
    assert "not checked" not in caplog.text, "that is said of its use, not every few seconds"
    async with engine(HTTP) as url:
        told = await what_is_wrong(EngineAddress(url.replace("ws:", "wss:"), Unverified()))
        assert told is not None and told.startswith("does not answer (TLS: ")
