"""A session with an engine: what it brings, and that every way to fail is told apart."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.utils import accept_key

from pxbridge import chat_wire
from pxbridge.audio import OggOpusReader, OggOpusWriter
from pxbridge.engines.address import CaFile, EngineAddress, Pinned, SystemTrust, Unverified
from pxbridge.engines.client import open_session
from pxbridge.errors import (
    EngineBusy,
    EngineError,
    EngineFull,
    EngineLost,
    EngineRefused,
    EngineRejected,
    EngineUnreachable,
    EngineUntrusted,
)
from pxbridge.simulation import faults
from pxbridge.simulation.rehearsal import Mode, Rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pxbridge.engines.session import Session

VECTORS = Path(__file__).parent.parent / "vectors"
PATIENCE_S = 10.0  # only ever spent by a test that fails


@dataclass
class Heard:
    """What came from the engine."""

    pages: list[bytes] = field(default_factory=list)
    text: str = ""
    ends: list[EngineLost | None] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def listen_to(self, session: Session) -> None:
        session.listen(on_audio=self.audio, on_text=self.add_text, on_close=self.closed)

    def audio(self, ogg: bytes) -> None:
        self.pages.append(ogg)
        self.changed.set()

    def add_text(self, piece: str) -> None:
        self.text += piece
        self.changed.set()

    def closed(self, end: EngineLost | None) -> None:
        self.ends.append(end)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def becomes(condition: Callable[[], bool]) -> None:
    """Waits for something inside the engine, which has no event for it."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def rehearsal(**settings: object) -> Rehearsal:
    return Rehearsal(**{"prompt_s": 0.0, "step_ms": 0.0, "mode": Mode.CANNED, **settings})  # type: ignore[arg-type]


async def opened(engine: Rehearsal | EngineAddress, **settings: object) -> Session:
    address = engine if isinstance(engine, EngineAddress) else EngineAddress(engine.url)
    return await open_session(address, "NATF0.pt", "You are Ada.", **settings)  # type: ignore[arg-type]


def speak(session: Session, blocks: int) -> None:
    """Sends so many steps' worth of silence."""
    writer = OggOpusWriter(24000)
    session.send_audio(writer.headers())
    session.send_audio(writer.write(np.zeros(1920 * blocks, dtype=np.float32)))


async def test_a_session_brings_sound_and_words() -> None:
    async with rehearsal() as engine:
        session, heard = await opened(engine), Heard()
        heard.listen_to(session)
        speak(session, 100)
        await heard.until(lambda: len(heard.pages) == 2 + 100)
        pcm = OggOpusReader(24000).read(b"".join(heard.pages))
        assert len(pcm) == pytest.approx(100 * 1920, abs=480)
        assert np.abs(pcm).max() > 0.1
        assert heard.text.startswith(" Hello, this is the pxbridge rehearsal engine.")
        session.close()
        await session.wait_closed()
        assert heard.ends == [None]


async def test_nothing_is_sent_before_the_handshake() -> None:
    arrived: list[bytes | str] = []
    may_begin = asyncio.Event()

    async def engine(connection: ServerConnection) -> None:
        with_timeout = asyncio.create_task(connection.recv())
        await may_begin.wait()
        assert not with_timeout.done()
        await connection.send(chat_wire.handshake())
        arrived.append(await with_timeout)
        await connection.wait_closed()

    async with serve(engine, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        opening = asyncio.create_task(opened(EngineAddress(f"ws://127.0.0.1:{port}/api/chat")))
        done, _ = await asyncio.wait({opening}, timeout=0.05)
        assert not done
        may_begin.set()
        session = await opening
        speak(session, 1)
        session.close()
        await session.wait_closed()
    assert [message[:5] for message in arrived] == [chat_wire.audio(b"OggS")]


async def test_header_pages_that_come_with_the_handshake_are_not_lost() -> None:
    """Everything in one TCP segment, before its owner could possibly listen."""
    messages = [
        chat_wire.handshake(),
        chat_wire.audio(b"head"),
        chat_wire.audio(b"tags"),
        chat_wire.text("▁Hello"),
    ]

    async def engine(connection: ServerConnection) -> None:
        connection.transport.write(b"".join(bytes([0x82, len(m)]) + m for m in messages))
        await connection.wait_closed()

    async with serve(engine, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        session, heard = await opened(EngineAddress(f"ws://127.0.0.1:{port}/api/chat")), Heard()
        heard.listen_to(session)
        await heard.until(lambda: heard.text != "")
        assert heard.pages == [b"head", b"tags"]
        session.close()
        await session.wait_closed()


async def test_the_time_for_the_prompts_is_measured() -> None:
    async with rehearsal(prompt_s=0.05) as engine:
        session = await opened(engine)
        assert 0.04 < session.prompt_s < PATIENCE_S
        session.close()
        await session.wait_closed()


async def test_an_engine_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(EngineUnreachable, match=f"ws://127.0.0.1:{port}/api/chat"):
            await opened(EngineAddress(f"ws://127.0.0.1:{port}/api/chat"))


@pytest.mark.parametrize("host", ["gpu..example", "g" * 64 + ".example"])
async def test_a_host_that_cannot_exist_is_unreachable(host: str) -> None:
    with pytest.raises(EngineUnreachable, match="its host name is not valid"):
        await opened(EngineAddress(f"ws://{host}:8998/api/chat"))


async def test_what_an_engine_says_in_one_breath_with_its_close_is_heard() -> None:
    served = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        upgrade = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n\r\n"
        )
        error, close = chat_wire.error("no gpu"), b"\x88\x02\x03\xe8"
        writer.write(upgrade + bytes([0x82, len(error)]) + error + close)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        served.set()

    async with await asyncio.start_server(engine, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(EngineRejected, match="no gpu"):
            await opened(EngineAddress(f"ws://127.0.0.1:{port}/api/chat"))
        await served.wait()


def test_for_engines_that_are_trusted_alike_the_authorities_are_read_once() -> None:
    trust = SystemTrust()
    one, other = (EngineAddress(f"wss://{name}/api/chat", trust).tls_context for name in ("one", "other"))
    assert one is other is not None
    assert EngineAddress("ws://one/api/chat", trust).tls_context is None


async def test_an_engine_that_accepts_and_does_not_answer_is_unreachable() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = EngineAddress(f"ws://127.0.0.1:{mute.getsockname()[1]}/api/chat")
        with pytest.raises(EngineUnreachable, match=r"within 0\.05 s"):
            await opened(address, connect_timeout_s=0.05)


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_an_engine_that_refuses_tells_its_status(status: int) -> None:
    async with rehearsal(faults=[faults.RefusesUpgrade(status)]) as engine:
        with pytest.raises(EngineRefused, match=str(status)) as refused:
            await opened(engine)
        assert refused.value.status == status


@pytest.mark.parametrize("status", [400, 404])
async def test_an_engine_that_refuses_the_persona_before_the_upgrade_rejects_it(status: int) -> None:
    async with rehearsal(faults=[faults.RefusesUpgrade(status)]) as engine:
        with pytest.raises(EngineRejected, match=str(status)) as rejected:
            await opened(engine)
        assert rejected.value.status == status


@pytest.mark.parametrize(
    "fault",
    [
        faults.RefusesUpgrade(503),
        faults.ClosesPrompting(1013, "no slot is free"),
        faults.ClosesPrompting(1012, "new version"),
        faults.ClosesPrompting(1001, "the engine ends"),
        faults.ReportsErrorPrompting("The server is busy."),
        faults.ReportsErrorPrompting("restarting"),
    ],
)
async def test_an_engine_that_says_it_is_busy_or_restarts_is_full_and_rejects_nothing(
    fault: faults.Fault,
) -> None:
    async with rehearsal(faults=[fault]) as engine:
        with pytest.raises(EngineFull):
            await opened(engine)


async def test_what_an_engine_says_with_its_refusal_is_told() -> None:
    said = {
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n": b'{"reason": "all 4 slots"}',
        b"HTTP/1.1 400 Bad Request\r\n": b'{"parameter": "voice_prompt", "reason": "no voice \'X\'"}',
        b"HTTP/1.1 401 Unauthorized\r\n": b"no\n",
    }
    answers = [head + b"Content-Length: %d\r\n\r\n" % len(body) + body for head, body in said.items()]

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()

    async with await asyncio.start_server(engine, "127.0.0.1", 0) as server:
        address = EngineAddress(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/chat")
        with pytest.raises(EngineFull, match=r"answered 503: all 4 slots$") as full:
            await opened(address)
        assert full.value.retry_after_s == 5.0
        with pytest.raises(EngineRejected, match="voice_prompt no voice 'X'"):
            await opened(address)
        with pytest.raises(EngineRefused, match="answered 401: no; it needs a token: set PXBRIDGE_ENGINE_TO"):
            await opened(address)


async def test_an_engine_is_shown_its_token_and_nobody_else_is() -> None:
    shown: list[bytes] = []

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(engine, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}/api/chat"
        address = EngineAddress(f"ws://{place}", token="a-secret")
        with pytest.raises(EngineRefused, match="its token is another one") as refused:
            await opened(address)
        with pytest.raises(EngineRefused):
            await opened(EngineAddress(f"ws://me:password@{place}", token="a-secret"))
    assert b"\r\nAuthorization: Bearer a-secret\r\n" in shown[0]
    assert b"\r\nAuthorization: Basic bWU6cGFzc3dvcmQ=\r\n" in shown[1]
    assert b"a-secret" not in shown[1], "the URL's own password goes before the token of all engines"
    assert "a-secret" not in f"{refused.value} {address} {address!r}"


async def test_an_engine_that_another_conversation_has_is_busy() -> None:
    async with rehearsal() as engine:
        first = await opened(engine)
        with pytest.raises(EngineBusy, match="another conversation"):
            await opened(engine, handshake_timeout_s=0.05)
        first.close()
        await first.wait_closed()
        third = await opened(engine)
        third.close()
        await third.wait_closed()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (faults.BreaksOffPrompting(), "does not know the voice 'NATF0.pt'"),
        (faults.ClosesPrompting(1011, "no memory"), r"closed with 1011 \(no memory\)"),
        (faults.ReportsErrorPrompting("no such voice"), "reported an error: no such voice"),
    ],
)
async def test_an_engine_that_fails_over_its_prompts_rejects(fault: faults.Fault, says: str) -> None:
    async with rehearsal(faults=[fault]) as engine:
        with pytest.raises(EngineRejected, match=says):
            await opened(engine)


async def test_an_unknown_voice_is_rejected() -> None:
    async with rehearsal() as engine:
        with pytest.raises(EngineRejected, match=r"'NOBODY\.pt'"):
            await open_session(EngineAddress(engine.url), "NOBODY.pt", "You are Ada.")


async def test_an_empty_prompt_never_leaves_the_house() -> None:
    async with rehearsal() as engine:
        with pytest.raises(ValueError, match="text_prompt"):
            await open_session(EngineAddress(engine.url), "NATF0.pt", "")
        assert engine.clients == 0


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([faults.Dies(3)], "disconnected"),
        ([faults.Closes(3, 1001, "bye")], r"closed with 1001 \(bye\)"),
        ([faults.ReportsError(1, "out of memory"), faults.Dies(3)], "reported an error: out of memory"),
    ],
)
async def test_an_engine_that_goes_away_is_lost(script: Sequence[faults.Fault], says: str) -> None:
    async with rehearsal(faults=script) as engine:
        session, heard = await opened(engine), Heard()
        heard.listen_to(session)
        speak(session, 10)
        await heard.until(lambda: heard.ends != [])
        assert not session.is_live
        (end,) = heard.ends
        assert isinstance(end, EngineLost)
        with pytest.raises(EngineLost, match=says):
            raise end
        session.send_audio(b"into the void")
        session.close()


async def test_an_engine_that_goes_away_before_anyone_listens_is_told_to_who_listens_then() -> None:
    async def engine(connection: ServerConnection) -> None:
        await connection.send(chat_wire.handshake())
        await connection.send(chat_wire.audio(b"head"))
        connection.transport.abort()

    async with serve(engine, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        session, heard = await opened(EngineAddress(f"ws://127.0.0.1:{port}/api/chat")), Heard()
        await session.wait_closed()
        heard.listen_to(session)
        assert isinstance(heard.ends[0], EngineLost)


async def test_what_an_engine_should_not_send_harms_nothing_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rehearsal(faults=[faults.ChattersOddly()]) as engine:
        session, heard = await opened(engine), Heard()
        heard.listen_to(session)
        speak(session, 5)
        await heard.until(lambda: len(heard.pages) == 2 + 5)
        assert session.frames.empty == session.frames.unknown == 1 + 5
        odd = session.odd_messages
        assert odd >= 2 * (1 + 5)
        assert not caplog.messages
        session.close()
        await session.wait_closed()
    warning = f"received {odd} messages that no engine should send"
    assert [message for message in caplog.messages if warning in message]


async def test_a_session_that_is_given_up_while_prompting_frees_the_engine() -> None:
    async with rehearsal(prompt_s=3600.0) as engine:
        opening = asyncio.create_task(opened(engine))
        await becomes(lambda: engine.clients == 1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await becomes(lambda: engine.clients == 0)


async def test_nothing_is_left_of_hundreds_of_sessions() -> None:
    async with rehearsal(faults=[faults.Dies(1)]) as engine:
        for number in range(300):
            session, heard = await opened(engine), Heard()
            heard.listen_to(session)
            if number % 2:
                speak(session, 3)
            else:
                session.close()
            await session.wait_closed()
            assert len(heard.ends) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


# TLS. The rehearsal engine has a self-signed certificate, as NVIDIA's servers usually do.

CERTIFICATE = VECTORS / "engine-cert.pem"
FINGERPRINT = hashlib.sha256(ssl.PEM_cert_to_DER_cert(CERTIFICATE.read_text())).hexdigest()


def tls_rehearsal() -> Rehearsal:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, VECTORS / "engine-key.pem")
    return rehearsal(ssl=context)


async def test_a_self_signed_engine_is_not_trusted_and_the_error_says_how_to_pin_it() -> None:
    async with tls_rehearsal() as engine:
        with pytest.raises(EngineUntrusted, match=FINGERPRINT):
            await opened(engine)
        assert engine.conversations == 0


@pytest.mark.parametrize("trust", [Pinned(FINGERPRINT), CaFile(CERTIFICATE)])
async def test_a_self_signed_engine_is_trusted_when_it_is_pinned_or_its_own_authority(
    trust: Pinned | CaFile,
) -> None:
    async with tls_rehearsal() as engine:
        session = await opened(EngineAddress(engine.url, trust))
        assert session.is_live
        session.close()
        await session.wait_closed()


async def test_another_certificate_than_the_pinned_one_gets_not_a_byte_of_the_request() -> None:
    requests: list[str] = []

    async def engine(connection: ServerConnection) -> None:
        requests.append(str(connection.request))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, VECTORS / "engine-key.pem")
    logger = logging.getLogger("tests.quiet")
    logger.setLevel(logging.CRITICAL)
    async with serve(engine, "127.0.0.1", 0, ssl=context, logger=logger) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        address = EngineAddress(f"wss://127.0.0.1:{port}/api/chat", Pinned("ab" * 32))
        with pytest.raises(EngineUntrusted, match=FINGERPRINT):
            await opened(address)
    assert requests == []


async def test_switching_verification_off_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with tls_rehearsal() as engine:
        session = await opened(EngineAddress(engine.url, Unverified()))
        session.close()
        await session.wait_closed()
    assert "certificate is not checked" in caplog.text


async def test_an_engine_without_tls_is_told_apart_from_one_without_trust() -> None:
    async with rehearsal() as engine:
        with pytest.raises(EngineUnreachable, match="plain ws://") as unreachable:
            await opened(EngineAddress(engine.url.replace("ws:", "wss:"), Pinned(FINGERPRINT)))
        assert not isinstance(unreachable.value, EngineUntrusted)


def test_what_may_be_secret_in_an_address_is_not_shown() -> None:
    address = EngineAddress("wss://ada:secret@gpu:8998/api/chat?token=secret")
    assert str(address) == "wss://gpu:8998/api/chat"


def test_every_failure_is_an_engine_error() -> None:
    failures = [
        EngineBusy,
        EngineFull,
        EngineLost,
        EngineRefused,
        EngineRejected,
        EngineUnreachable,
        EngineUntrusted,
    ]
    assert all(issubclass(failure, EngineError) for failure in failures)
