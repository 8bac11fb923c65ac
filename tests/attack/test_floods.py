"""Strangers who want to be in the way: thousands of connections, slow ones, long ones, big ones.

In each of these a caller is on the line, or rings in the middle of it, and notices nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trustme
from tests.call.rig import Bridge, bridge, speech
from tests.exotel_server import listen as listen_for_calls
from tests.virtual_time import run
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pxbridge import websocket
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.phone import Script
from pxbridge.telephony.exotel.spelling import Exotel
from pxbridge.telephony.server import OPEN_TIMEOUT_S, Arrival
from pxbridge.websocket import serving, sockets

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from websockets.asyncio.client import ClientConnection

    from pxbridge.simulation.phone import Phone

CALL_S = 7.0

HALF_A_REQUEST = b"GET /exotel HTTP/1.1\r\nHost: x\r\n"


def script() -> Script:
    return Script(speech(), speak_at_s=1.0, hang_up_at_s=CALL_S)


def assert_heard_well(phone: Phone) -> None:
    hearing = listen(phone.said, phone.player.heard, phone.line.rate_hz)
    assert hearing.correlation > 0.85
    assert hearing.dropouts == ()
    first_s = min(hole.end_s for hole in phone.player.holes) if phone.player.holes else 0.0
    assert [hole for hole in phone.player.holes if hole.at_s > first_s + 1.0] == []
    assert phone.duration_s == pytest.approx(CALL_S)


class Stranger:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def at(cls, b: Bridge) -> Stranger:
        return cls(*await asyncio.open_connection("127.0.0.1", b.listener.port))

    async def is_cut(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True

    def close(self) -> None:
        self.writer.transport.abort()


def descriptors() -> int:
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))


def test_a_thousand_connections_that_say_nothing_keep_nobody_out_and_are_cut() -> None:
    async def main() -> None:
        async with bridge() as b:
            await b.call(Script(hang_up_at_s=0.5))
            before = descriptors()
            strangers = [await Stranger.at(b) for _ in range(1000)]
            await asyncio.sleep(0.1)
            assert descriptors() <= before + 1000 + websocket.MAX_OPENING
            assert_heard_well(await b.call(script()))
            cut = await asyncio.gather(*(stranger.is_cut() for stranger in strangers))
            assert all(cut)
            for stranger in strangers:
                stranger.close()
            await asyncio.sleep(1.0)
            assert descriptors() <= before + 1

    run(main())


def test_handshakes_a_byte_at_a_time_end_on_time() -> None:
    async def main() -> None:
        async with bridge() as b:
            loop = asyncio.get_running_loop()

            async def drip() -> float:
                stranger = await Stranger.at(b)
                began_s = loop.time()
                cut = asyncio.ensure_future(stranger.is_cut())
                for byte in HALF_A_REQUEST * 100:
                    if cut.done():
                        break
                    stranger.writer.write(bytes([byte]))
                    await asyncio.sleep(0.1)
                assert await cut
                stranger.close()
                return loop.time() - began_s

            caller = asyncio.create_task(b.call(script()))
            took_s = await asyncio.gather(*(drip() for _ in range(100)))
            assert max(took_s) < OPEN_TIMEOUT_S + 0.5
            assert_heard_well(await caller)

    run(main())


def test_a_posts_body_a_byte_at_a_time_ends_on_time() -> None:
    async def main() -> float:
        async with bridge() as b:
            stranger = await Stranger.at(b)
            stranger.writer.write(
                b"POST /exotel/passthru HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n"
            )
            began_s = asyncio.get_running_loop().time()
            cut = asyncio.ensure_future(stranger.is_cut())
            while not cut.done():
                stranger.writer.write(b"a")
                await asyncio.sleep(0.5)
            assert await cut
            stranger.close()
            return asyncio.get_running_loop().time() - began_s

    assert run(main()) < OPEN_TIMEOUT_S + 1.0


@pytest.mark.parametrize(
    "flood",
    [
        b"GET /" + b"a" * 1_000_000,
        b"GET /exotel HTTP/1.1\r\n" + b"X: " + b"a" * 1_000_000,
        b"GET /exotel HTTP/1.1\r\n" + b"X: aaaaaaaaa\r\n" * 100_000,
        b"GET /exotel HTTP/1.1\r\n" + b"Authorization: Basic " + b"QUFB" * 250_000 + b"\r\n\r\n",
        b"POST /exotel/passthru HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 1_000_000,
        b"POST /exotel/passthru HTTP/1.1\r\n" + b"X: aaaaaaaaa\r\n" * 100_000,
        b"\x16\x03\x01" + b"\x00" * 1_000_000,
        b"\x00" * 1_000_000,
    ],
    ids=["line", "header", "headers", "credentials", "body", "headers of a body", "TLS", "zeros"],
)
def test_a_megabyte_before_the_upgrade_is_not_even_kept(flood: bytes) -> None:
    async def main() -> None:
        async with bridge() as b:
            caller = asyncio.create_task(b.call(script()))
            await asyncio.sleep(2.0)
            strangers = [await Stranger.at(b) for _ in range(20)]
            before = psutil.Process().memory_info().rss
            for stranger in strangers:
                stranger.writer.write(flood)
            await asyncio.sleep(0.5)
            # What is queued on the strangers' own side of this process counts too.
            queued = sum(stranger.writer.transport.get_write_buffer_size() for stranger in strangers)
            assert psutil.Process().memory_info().rss - before - queued < 20e6
            for stranger in strangers:
                stranger.close()
            assert_heard_well(await caller)

    run(main())


async def assert_is_too_much(stranger: ClientConnection, message: str | Iterable[str]) -> None:
    """Sends the message and expects to be closed for its size."""
    with contextlib.suppress(ConnectionClosed):
        await stranger.send(message)
    await stranger.wait_closed()
    assert stranger.close_code == 1009


def test_a_message_that_is_too_long_ends_its_own_call_alone() -> None:
    async def main() -> None:
        async with bridge(slots=2) as b:
            caller = asyncio.create_task(b.call(script()))
            async with connect(b.url(), compression=None, max_size=None) as stranger:
                await stranger.send(Exotel("MZ9").start(call_sid="CA9"))
                media = '{"event": "media", "media": {"payload": "' + "A" * 2_000_000 + '"}}'
                await assert_is_too_much(stranger, media)
            assert_heard_well(await caller)

    run(main())


def test_a_message_in_a_million_pieces_ends_too() -> None:
    async def main() -> None:
        async with bridge(slots=2) as b:
            caller = asyncio.create_task(b.call(script()))
            async with connect(b.url(), compression=None) as stranger:
                await assert_is_too_much(stranger, ("A" * 1000 for _ in range(1000)))
            assert_heard_well(await caller)

    run(main())


def test_hundreds_of_calls_that_never_start_are_ended_and_take_no_engine() -> None:
    async def main() -> None:
        async with bridge() as b, contextlib.AsyncExitStack() as stack:
            strangers = [await stack.enter_async_context(connect(b.url())) for _ in range(300)]
            assert_heard_well(await b.call(script()))
            codes = set()
            for stranger in strangers:
                await stranger.wait_closed()
                codes.add(stranger.close_code)
            assert codes == {1008}

    run(main())


def test_connections_that_begin_no_tls_are_cut_and_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("voice.example.com").configure_cert(context)
    authority.configure_trust(trusting)

    async def answer(arrival: Arrival) -> None:
        arrival.socket.on_message = lambda payload, is_text: arrival.socket.send(payload, text=is_text)
        await arrival.socket.wait_closed()

    async def main() -> None:
        async with listen_for_calls(answer, "127.0.0.1", 0, ssl=context) as listener:
            before = descriptors()
            strangers = [
                Stranger(*await asyncio.open_connection("127.0.0.1", listener.port))
                for _ in range(websocket.MAX_OPENING + 200)
            ]
            for stranger in strangers[::2]:
                stranger.writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            await asyncio.sleep(0.5)
            assert descriptors() <= before + len(strangers) + websocket.MAX_OPENING + 1
            url = f"wss://127.0.0.1:{listener.port}/exotel"
            async with connect(url, ssl=trusting, server_hostname="voice.example.com") as phone:
                await phone.send("hello")
                assert await phone.recv() == "hello"
            began_s = asyncio.get_running_loop().time()
            assert all(await asyncio.gather(*(stranger.is_cut() for stranger in strangers)))
            assert asyncio.get_running_loop().time() - began_s < OPEN_TIMEOUT_S + 1.0
            for stranger in strangers:
                stranger.close()
            await asyncio.sleep(1.0)
            assert descriptors() <= before + 1

    run(main())
    assert 1 <= len(caplog.messages) <= 3, "no flood of lines either"
    assert "too many handshakes" in caplog.text


def test_when_no_descriptor_is_left_it_is_said_once_and_calls_come_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(arrival: Arrival) -> None:
        arrival.socket.send(b"hello", text=True)
        await arrival.socket.wait_closed()

    class Full:
        """A listening socket of a process that has no descriptor left."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real
            self.left = 20

        def fileno(self) -> int:
            return self.real.fileno()

        def accept(self) -> tuple[socket.socket, object]:
            if self.left == 0:
                return self.real.accept()
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    async def full(host: str | None, port: int) -> tuple[Full, ...]:
        return tuple(map(Full, await bind(host, port)))

    bind = sockets.bind
    monkeypatch.setattr(serving, "bind", full)

    async def main() -> None:
        async with (
            listen_for_calls(answer, "127.0.0.1", 0) as listener,
            connect(f"ws://127.0.0.1:{listener.port}/exotel", open_timeout=None) as phone,
        ):
            assert await phone.recv() == "hello"

    run(main())
    told = [line for line in caplog.messages if "Too many open files" in line]
    assert 1 <= len(told) <= 3


def test_handshakes_leave_most_descriptors_to_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(arrival: Arrival) -> None:
        await arrival.socket.wait_closed()

    async def main() -> int:
        async with listen_for_calls(answer, "127.0.0.1", 0) as listener:
            before = descriptors()
            strangers = [
                Stranger(*await asyncio.open_connection("127.0.0.1", listener.port)) for _ in range(100)
            ]
            await asyncio.sleep(0.5)
            held = descriptors() - before - len(strangers)
            async with connect(f"ws://127.0.0.1:{listener.port}/exotel"):
                pass
            for stranger in strangers:
                stranger.close()
            return held

    monkeypatch.setattr("resource.getrlimit", lambda _what: (200, 4096))
    assert run(main()) <= 200 // serving.OPENING_SHARE
