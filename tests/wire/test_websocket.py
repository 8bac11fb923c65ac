"""Our WebSocket against independent ones: `websockets`' own APIs, and raw sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import logging
import math
import socket
import ssl
import weakref
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest
import trustme
import websockets.asyncio.client
import websockets.asyncio.server
import websockets.sync.client
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidMessage
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from pxbridge.websocket import (
    NO_PONG,
    PEER_STOPPED_READING,
    Accept,
    Closed,
    Handler,
    HandshakeFailed,
    HandshakeRefused,
    Limits,
    Request,
    Response,
    Server,
    WebSocket,
    connect,
    serve,
    text_response,
)
from pxbridge.websocket.accepted import Accepted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection

    from pxbridge.websocket.proxy_protocol import Header

SIZES = [0, 1, 125, 126, 65_535, 65_536, 200_000]
SOON_S = 0.05  # a time limit that is meant to strike
GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"  # TLS where plain HTTP is expected


class Ends:
    """Our ends of the connections a server accepted, what came in through them and how they ended."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[WebSocket] = asyncio.Queue()
        self.messages: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self.closed: asyncio.Queue[Closed] = asyncio.Queue()
        self.requests: list[Request] = []

    def take(self, end: WebSocket) -> None:
        end.on_message = lambda payload, is_text: self.messages.put_nowait((payload, is_text))
        end.on_close = self.closed.put_nowait
        self.opened.put_nowait(end)

    def echo(self, end: WebSocket) -> None:
        end.on_message = lambda payload, is_text: end.send(payload, text=is_text)
        end.on_close = self.closed.put_nowait
        self.opened.put_nowait(end)

    def accept(self, request: Request) -> Response | Handler:
        self.requests.append(request)
        return {"/echo": self.echo, "/take": self.take}.get(request.path) or text_response(404, "not here\n")


@pytest.fixture
def ends() -> Ends:
    return Ends()


@contextlib.asynccontextmanager
async def serving(accept: Accept, **options: Any) -> AsyncIterator[Server]:
    server = await serve(accept, "127.0.0.1", 0, **options)
    try:
        yield server
    finally:
        server.close()
        for connection in server.connections:
            connection.abort("the test is over")
        await server.wait_closed()


def url(server: Server, path: str, scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{server.port}{path}"


class Raw:
    """A TCP connection that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def stop_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def read_on(self) -> None:
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    async def upgraded(self, path: str) -> Raw:
        self.writer.write(upgrade_request(path))
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return self


@contextlib.asynccontextmanager
async def raw(port: int, **options: Any) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def upgrade_request(path: str = "/take") -> bytes:
    client = ClientProtocol(parse_uri(f"ws://127.0.0.1{path}"))
    client.send_request(client.connect())
    return b"".join(client.data_to_send())


# Messages


@pytest.mark.parametrize("size", SIZES)
async def test_a_message_of_any_size_goes_there_and_back(ends: Ends, size: int) -> None:
    text, binary = "é" * (size // 2), bytes(size)
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/echo")) as peer,
    ):
        await peer.send(text)
        assert await peer.recv() == text
        await peer.send(binary)
        assert await peer.recv() == binary


@pytest.mark.parametrize("size", SIZES)
async def test_the_client_end_carries_any_size_too(ends: Ends, size: int) -> None:
    async def echo(peer: ServerConnection) -> None:
        async for message in peer:
            await peer.send(message)

    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0) as server:
        end = await connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        ends.take(end)
        end.send(bytes(size))
        assert await ends.messages.get() == (bytes(size), False)
        end.send(b"x" * size, text=True)
        assert await ends.messages.get() == (b"x" * size, True)
        end.close()
        assert await end.wait_closed() == Closed(1000, "", None, by_peer=False)


async def test_messages_that_belong_together_leave_in_one_write(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/take")) as peer,
    ):
        end = await ends.opened.get()
        assert end._transport is not None
        with mock.patch.object(end, "_transport", wraps=end._transport) as transport:
            end.send_all([(b"{}", True), (b"\x00" * 70_000, False), (b"", False)])
            end.send_all([])
            assert transport.write.call_count == 1
        assert [await peer.recv() for _ in range(3)] == ["{}", b"\x00" * 70_000, b""]


async def test_a_threaded_peer_is_served(ends: Ends) -> None:
    def talk(address: str) -> tuple[str | bytes, str | bytes]:
        with websockets.sync.client.connect(address) as peer:
            peer.send("hello")
            text = peer.recv()
            peer.send(bytes(100_000))
            return text, peer.recv()

    async with serving(ends.accept) as server:
        assert await asyncio.to_thread(talk, url(server, "/echo")) == ("hello", bytes(100_000))
        assert await ends.closed.get() == Closed(1000, "", None, by_peer=True)


async def test_a_message_in_fragments_arrives_whole(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/take")) as peer,
    ):
        await peer.send([b"one, ", b"", b"two, ", b"three"])
        assert await ends.messages.get() == (b"one, two, three", False)
        await peer.send(["é", "è"])
        assert await ends.messages.get() == ("éè".encode(), True)


@pytest.mark.parametrize("fragments", [1, 300])
async def test_a_message_over_the_limit_ends_the_connection(ends: Ends, fragments: int) -> None:
    limits = Limits(max_message_bytes=1000)
    async with (
        serving(ends.accept, limits=limits) as server,
        websockets.asyncio.client.connect(url(server, "/take")) as peer,
    ):
        await peer.send(bytes(1000))
        assert (await ends.messages.get())[0] == bytes(1000)
        with contextlib.suppress(ConnectionClosed):
            await peer.send([bytes(1002 // fragments + 1)] * fragments)
        closed = await ends.closed.get()
        assert (closed.code, closed.by_peer) == (1009, False)
        assert ends.messages.empty()


async def test_nothing_is_ever_compressed(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/take"), compression="deflate") as peer,
    ):
        assert peer.response is not None
        assert "Sec-WebSocket-Extensions" not in peer.response.headers
        await peer.send("plain")
        assert await ends.messages.get() == (b"plain", True)


async def test_what_comes_before_the_owner_is_ready_is_kept_in_order() -> None:
    async def greet(peer: ServerConnection) -> None:
        for number in range(100):
            await peer.send(str(number))
        await peer.wait_closed()

    async with websockets.asyncio.server.serve(greet, "127.0.0.1", 0) as server:
        end = await connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await asyncio.to_thread(lambda: None)  # the loop turns, with the messages on their way
        messages: asyncio.Queue[bytes] = asyncio.Queue()
        end.on_message = lambda payload, _text: messages.put_nowait(payload)
        assert [int(await messages.get()) for _ in range(100)] == list(range(100))
        end.close()
        await end.wait_closed()


async def test_a_frame_sent_together_with_the_request_is_not_lost(ends: Ends) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        peer.writer.write(upgrade_request("/take") + frame(Opcode.TEXT, b"eager"))
        assert await ends.messages.get() == (b"eager", True)


async def test_the_request_is_known_to_the_owner(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/take"), additional_headers={"X-Who": "me"}) as peer,
    ):
        end = await ends.opened.get()
        assert (end.path, end.headers["X-Who"]) == ("/take", "me")
        host, port = peer.local_address[:2]
        assert end.peer == f"{host}:{port}"


# Pings


async def test_a_ping_is_answered(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/take")) as peer,
    ):
        assert await (await peer.ping()) >= 0


async def test_the_round_trip_is_measured(ends: Ends) -> None:
    async with (
        serving(ends.accept, limits=Limits(ping_interval_s=0.001)) as server,
        websockets.asyncio.client.connect(url(server, "/echo")) as peer,
    ):
        end = await ends.opened.get()
        while end.rtt_s is None:
            await peer.send("turn")
            await peer.recv()
        assert 0 <= end.rtt_s < 5  # uvloop's clock counts whole milliseconds


async def test_the_round_trip_is_told_when_it_was_asked_for(ends: Ends) -> None:
    async with (
        serving(ends.accept, limits=Limits(ping_interval_s=None)) as server,
        websockets.asyncio.client.connect(url(server, "/echo")) as peer,
    ):
        end = await ends.opened.get()
        trips: asyncio.Queue[float] = asyncio.Queue()
        end.on_pong = trips.put_nowait
        for _ in range(3):
            end.ping()
            assert 0 <= await trips.get() < 5
        await peer.close()
        await end.wait_closed()
        end.ping()  # to nobody: nothing happens


async def test_a_missed_pong_is_no_reason_to_hang_up_unless_asked_to(ends: Ends) -> None:
    limits = Limits(ping_interval_s=0.001)
    async with serving(ends.accept, limits=limits) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        for _ in range(20):  # pings, none of which is answered
            await peer.reader.readexactly(2 + 8)
        peer.writer.write(frame(Opcode.TEXT, b"still here"))
        assert await ends.messages.get() == (b"still here", True)


async def test_a_silent_peer_is_given_up_where_a_pong_is_demanded(ends: Ends) -> None:
    limits = Limits(ping_interval_s=0.001, pong_timeout_s=SOON_S)
    async with serving(ends.accept, limits=limits) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        assert (await ends.closed.get()).error == NO_PONG


# Closing


async def test_we_close(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/take")) as peer,
    ):
        end = await ends.opened.get()
        end.close(1012, "é" * 100)
        with pytest.raises(ConnectionClosed) as closed:
            await peer.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "é" * 61)
        assert await end.wait_closed() == Closed(1012, "é" * 61, None, by_peer=False)
        assert await ends.closed.get() == await end.wait_closed()


async def test_the_peer_closes(ends: Ends) -> None:
    async with serving(ends.accept) as server:
        async with websockets.asyncio.client.connect(url(server, "/take")) as peer:
            await peer.close(4000, "enough")
        assert await ends.closed.get() == Closed(4000, "enough", None, by_peer=True)


async def test_the_server_end_of_a_client_closes(ends: Ends) -> None:
    async def bye(peer: ServerConnection) -> None:
        await peer.close(1013, "later")

    async with websockets.asyncio.server.serve(bye, "127.0.0.1", 0) as server:
        ends.take(await connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
        assert await ends.closed.get() == Closed(1013, "later", None, by_peer=True)


async def test_closing_while_the_peer_keeps_talking_still_tells_it_why(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/take")) as peer,
    ):
        end = await ends.opened.get()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await peer.send(bytes(10_000))
                end.close(1008)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_a_peer_that_vanishes_is_noticed(ends: Ends) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        peer.writer.transport.abort()
        closed = await ends.closed.get()
        assert (closed.code, closed.by_peer) == (1006, True)
        assert closed.error


async def test_half_a_connection_is_none(ends: Ends) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        peer.writer.write(frame(Opcode.TEXT, b"last words"))
        peer.writer.write_eof()
        assert await ends.messages.get() == (b"last words", True)
        end = await ends.opened.get()
        assert await end.wait_closed() == Closed(1006, "", "peer went away without closing", by_peer=True)
        assert await peer.reader.read() == b""


async def test_a_peer_that_ignores_our_close_is_cut(ends: Ends) -> None:
    async with (
        serving(ends.accept, limits=Limits(close_timeout_s=SOON_S)) as server,
        raw(server.port) as peer,
    ):
        await peer.upgraded("/take")
        end = await ends.opened.get()
        end.close(1000, "bye")
        assert await end.wait_closed() == Closed(1000, "bye", "peer did not answer our close", by_peer=False)


async def test_a_peer_that_closes_and_resets_at_once_is_sent_nothing_more(ends: Ends) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        end = await ends.opened.get()
        open_then: list[bool] = []

        def reset() -> None:
            open_then.append(end.is_open)
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

        with mock.patch.object(end, "_transport", wraps=end._transport) as transport:
            transport.can_write_eof.return_value = True
            transport.write_eof.side_effect = reset
            peer.writer.write(Frame(Opcode.CLOSE, b"\x03\xe9").serialize(mask=True))
            await end.wait_closed()
        assert open_then == [False]
        assert (await ends.closed.get()).code == 1001


async def test_sending_and_closing_after_the_end_do_nothing(ends: Ends) -> None:
    async with serving(ends.accept) as server:
        async with websockets.asyncio.client.connect(url(server, "/take")):
            end = await ends.opened.get()
        await end.wait_closed()
        end.send(b"too late")
        end.close()
        end.abort("too late")
        assert not end.is_open
        assert end.queued_bytes == 0
        late: list[Closed] = []
        end.on_close = late.append
        assert late == [Closed(1000, "", None, by_peer=True)]


async def test_no_message_is_delivered_after_we_closed(ends: Ends) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        end = await ends.opened.get()
        end.on_message = lambda _payload, _text: end.close()
        peer.writer.write(frame(Opcode.TEXT, b"one"))
        await peer.reader.readexactly(4)  # the close frame
        end.on_message = lambda payload, text: ends.messages.put_nowait((payload, text))
        peer.writer.write(frame(Opcode.TEXT, b"two") + frame(Opcode.CLOSE, b"\x03\xe8"))
        peer.writer.write_eof()
        await ends.closed.get()
        assert ends.messages.empty()


async def test_a_closed_connection_is_freed_without_the_garbage_collector(ends: Ends) -> None:
    async with serving(ends.accept) as server:
        gc.collect()
        gc.disable()
        try:
            async with websockets.asyncio.client.connect(url(server, "/take")):
                end = await ends.opened.get()
                gone = weakref.ref(end)
            await end.wait_closed()
            del end
            await asyncio.to_thread(lambda: None)  # asyncio lets go of the transport in the next turn
            assert gone() is None
        finally:
            gc.enable()


# Peers that do not read


async def test_a_peer_that_lets_the_queue_grow_is_cut_at_once(ends: Ends) -> None:
    async with (
        serving(ends.accept, limits=Limits(max_queued_bytes=100_000)) as server,
        raw(server.port) as peer,
    ):
        await peer.upgraded("/take")
        peer.stop_reading()
        end = await ends.opened.get()
        sent = 0
        while end.is_open:
            end.send(bytes(10_000))
            sent += 1
            assert sent < 100_000
        assert (await ends.closed.get()).error == PEER_STOPPED_READING


async def test_a_peer_that_leaves_a_little_unread_for_long_is_cut(ends: Ends) -> None:
    async with (
        serving(ends.accept, limits=Limits(max_queued_bytes=10**9, send_timeout_s=SOON_S)) as server,
        raw(server.port) as peer,
    ):
        await peer.upgraded("/take")
        peer.stop_reading()
        end = await ends.opened.get()
        while end.queued_bytes == 0:
            end.send(bytes(10_000))
        assert (await ends.closed.get()).error == PEER_STOPPED_READING


async def test_a_slow_peer_that_catches_up_is_kept(ends: Ends) -> None:
    limits = Limits(max_queued_bytes=10**9, send_timeout_s=30)
    async with serving(ends.accept, limits=limits) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        peer.stop_reading()
        end = await ends.opened.get()
        sent = 0
        while end.queued_bytes == 0:
            end.send(bytes(10_000))
            sent += 1
        peer.read_on()
        for _ in range(sent):
            await peer.reader.readexactly(4 + 10_000)
        assert (end.queued_bytes, end.is_open) == (0, True)
        peer.writer.write(frame(Opcode.TEXT, b"thanks"))
        assert await ends.messages.get() == (b"thanks", True)


# Handshakes and plain HTTP


async def test_a_handshake_that_takes_too_long_is_cut(ends: Ends) -> None:
    async with serving(ends.accept, open_timeout_s=SOON_S) as server, raw(server.port) as peer:
        peer.writer.write(upgrade_request()[:-2])
        with contextlib.suppress(ConnectionResetError):
            assert await peer.reader.read() == b""
        await server.wait_closed()
        assert ends.requests == []


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (GARBAGE, b"HTTP/1.1 400 "),
        (b"\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /take HTTP/9.9\r\n\r\n", b""),
        (b"GET /take HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414 "),
        (b"GET /take HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"HTTP/1.1 431 "),
        (b"GET /take HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", b"HTTP/1.1 431 "),
        (b"GET /take HTTP/1.1\r\n" + (b"X: " + b"y" * 4000 + b"\r\n") * 5 + b"\r\n", b"HTTP/1.1 431 "),
        (b"GET /take HTTP/1.1\r\n" + (b"X: " + b"y" * 4000 + b"\r\n") * 5, b"HTTP/1.1 431 "),
        (b"PUT /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /take HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 "),
        (
            b"POST /take HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 405 ",
        ),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /nowhere HTTP/1.0\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /take HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"HTTP/1.1 505 "),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
    ],
    ids=lambda value: repr(value[:24]),
)
async def test_what_is_no_upgrade_is_answered_if_it_can_be_and_hurts_nobody(
    ends: Ends, request_bytes: bytes, answer: bytes
) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/echo")) as bystander,
    ):
        async with raw(server.port) as peer:
            peer.writer.write(request_bytes)
            with contextlib.suppress(ConnectionResetError):
                got = await peer.reader.read()
                assert got.startswith(answer)
                assert got or not answer
        await bystander.send("unharmed")
        assert await bystander.recv() == "unharmed"


@pytest.mark.parametrize("cuts", [(), (1,), (3, 40), (5, 90, 120), tuple(range(1, 130))])
async def test_a_posts_body_is_read_however_it_is_cut(cuts: tuple[int, ...]) -> None:
    asked: list[Request] = []

    def accept(request: Request) -> Response:
        asked.append(request)
        return text_response(200, "thanks\n")

    body = b"CallSid=CA1&From=%2B91\r\n\r\n1"
    whole = b"POST /form?x=1 HTTP/1.1\r\nHost: x\r\ncontent-length: 27\r\nX-Y: z\r\n\r\n" + body
    async with serving(accept) as server, raw(server.port) as peer:
        for begin, end in itertools.pairwise((0, *cuts, len(whole))):
            peer.writer.write(whole[begin:end])
            await asyncio.sleep(0)
        assert (await peer.reader.read()).startswith(b"HTTP/1.1 200 ")
    (request,) = asked
    assert (request.method, request.path, request.address) == ("POST", "/form?x=1", "127.0.0.1")
    assert request.body == body
    assert request.headers["X-Y"] == "z"


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"Content-Length: 16385\r\n", b"HTTP/1.1 413 "),
        (b"Content-Length: 99999999999999999999\r\n", b"HTTP/1.1 413 "),
        (b"Content-Length: 999999999999999999999\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length: -1\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length : 1\r\n", b"HTTP/1.1 400 "),
        (b"transfer-encoding: gzip\r\n", b"HTTP/1.1 501 "),
        (b"transfer-encoding:gzip, chunked\r\n", b"HTTP/1.1 501 "),
        (b"X: y\r\n" * 3000, b"HTTP/1.1 431 "),
    ],
)
async def test_a_body_that_cannot_be_bounded_is_refused(ends: Ends, head: bytes, answer: bytes) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        peer.writer.write(b"POST /take HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        got = await peer.reader.read()
        assert got.startswith(answer) and bool(got) == bool(answer)
        assert ends.requests == []


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"HTTP/1.1 400 "),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"HTTP/1.1 404 "),
        (b"Content-Length: 3\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length: 0\r\n", b"HTTP/1.1 404 "),
    ],
)
async def test_what_is_no_post_has_no_body_and_is_answered(ends: Ends, head: bytes, answer: bytes) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        assert (await peer.reader.read()).startswith(answer)


async def test_of_too_many_handshakes_under_way_the_oldest_are_cut(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pxbridge.websocket.serving.MAX_OPENING", 3)
    async with serving(ends.accept) as server, contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(raw(server.port))
        last = [await stack.enter_async_context(raw(server.port)) for _ in range(3)]
        with contextlib.suppress(ConnectionResetError):
            assert await first.reader.read() == b""
        for peer in last:
            await peer.upgraded("/take")


async def test_head_gets_the_head_alone(ends: Ends) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        peer.writer.write(b"HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = (await peer.reader.read()).partition(b"\r\n\r\n")
        assert b"Content-Length: 9" in head
        assert body == b""


async def test_an_answer_may_come_later_and_nothing_said_meanwhile_is_read() -> None:
    asked, known = asyncio.Event(), asyncio.Event()

    async def find_out() -> Response:
        asked.set()
        await known.wait()
        return text_response(200, "found\n")

    async with serving(lambda _request: find_out()) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n")
        await asked.wait()
        for _ in range(20):
            peer.writer.write(GARBAGE * 100)
            await peer.writer.drain()
        known.set()
        answer = await peer.reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nfound\n")


async def test_whoever_hangs_up_before_the_answer_is_there_leaves_nothing_behind() -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def find_out() -> Response:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(lambda _request: find_out()) as server:
        async with raw(server.port) as peer:
            peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked.wait()
        await cancelled.wait()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_answer_that_never_comes_costs_no_more_than_a_handshake_may() -> None:
    async def find_out() -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(lambda _request: find_out(), open_timeout_s=0.05) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await peer.reader.read() == b""


async def test_a_fault_while_finding_an_answer_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def find_out() -> Response:
        raise LookupError("a fault of ours")

    async with serving(lambda _request: find_out()) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await peer.reader.read()).startswith(b"HTTP/1.1 500 ")
    assert "a request could not be answered" in caplog.text


async def test_a_fault_while_accepting_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    def accept(_request: Request) -> Response:
        raise LookupError("a fault of ours")

    async with serving(accept) as server:
        with pytest.raises(HandshakeRefused) as refused:
            await connect(url(server, "/"))
        assert refused.value.status == 500
    assert "a fault of ours" in caplog.text


async def test_a_fault_while_handling_a_message_ends_that_connection_only(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_payload: bytes, _text: bool) -> None:
        raise LookupError("a fault of ours")

    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/echo")) as bystander,
        websockets.asyncio.client.connect(url(server, "/take")) as peer,
    ):
        await ends.opened.get()
        (await ends.opened.get()).on_message = fail
        await peer.send("a secret")
        with pytest.raises(ConnectionClosedError) as closed:
            await peer.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        closed_here = await ends.closed.get()
        assert closed_here.code == 1011
        assert "a fault of ours" in (closed_here.error or "")
        await bystander.send("unharmed")
        assert await bystander.recv() == "unharmed"
    assert "a fault of ours" in caplog.text
    assert "a secret" not in caplog.text


async def test_payloads_are_never_logged(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="pxbridge")
    async with serving(ends.accept) as server:
        end = await connect(url(server, "/echo"))
        ends.take(end)
        end.send(b"a secret", text=True)
        assert await ends.messages.get() == (b"a secret", True)
        end.close()
        await end.wait_closed()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("pxbridge")]
    assert not any("secret" in line for line in ours)


def frame(opcode: int, payload: bytes, *, masked: bool = True, fin: bool = True, reserved: int = 0) -> bytes:
    """One frame by hand, with a mask of zeros."""
    assert len(payload) < 126
    head = bytes([(0x80 if fin else 0) | reserved | opcode, (0x80 if masked else 0) | len(payload)])
    return head + (bytes(4) if masked else b"") + payload


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (frame(Opcode.TEXT, b"x", masked=False), 1002),
        (frame(3, b"x"), 1002),
        (frame(Opcode.TEXT, b"x", reserved=0x40), 1002),
        (frame(Opcode.CONT, b"x"), 1002),
        (frame(Opcode.TEXT, b"x", fin=False) + frame(Opcode.TEXT, b"x"), 1002),
        (frame(Opcode.PING, b"x", fin=False), 1002),
        (frame(Opcode.CLOSE, b"\x00"), 1002),
        (frame(Opcode.CLOSE, b"\x00\x01"), 1002),
        (frame(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
        (b"\x82\xff" + b"\xff" * 8, 1009),
    ],
)
async def test_frames_against_the_rules_are_answered_with_their_code(
    ends: Ends, frames: bytes, code: int
) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        await peer.upgraded("/take")
        peer.writer.write(frame(Opcode.TEXT, b"fine") + frames)
        opcode, length = await peer.reader.readexactly(2)
        assert opcode == 0x80 | Opcode.CLOSE
        assert (await peer.reader.readexactly(length))[:2] == code.to_bytes(2, "big")
        assert await ends.messages.get() == (b"fine", True)
        assert ends.messages.empty()


# Dialling


@contextlib.asynccontextmanager
async def answering(reply: bytes | None, *, hang_up: bool = False) -> AsyncIterator[int]:
    """A server that answers every request with `reply`; ``None``: never answers."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply or b"")
        if not hang_up:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", 403),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n", 302),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200),
        (b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 503),
    ],
)
async def test_a_refusal_tells_its_status(reply: bytes, status: int) -> None:
    async with answering(reply) as port:
        with pytest.raises(HandshakeRefused, match=str(status)) as refused:
            await connect(f"ws://127.0.0.1:{port}/")
        assert refused.value.status == status


@pytest.mark.parametrize(
    ("reply", "hang_up"),
    [
        (b"", True),
        (b"HTTP/1.1 101 Switch", True),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
            False,
        ),
    ],
)
async def test_a_server_of_another_kind_is_named_as_such(reply: bytes, hang_up: bool) -> None:
    async with answering(reply, hang_up=hang_up) as port:
        with pytest.raises(HandshakeFailed) as failed:
            await connect(f"ws://127.0.0.1:{port}/")
        assert not isinstance(failed.value, HandshakeRefused)


async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    async with answering(None) as port:
        with pytest.raises(TimeoutError):
            await connect(f"ws://127.0.0.1:{port}/", open_timeout_s=SOON_S)


async def test_a_connect_that_is_cancelled_hangs_up() -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    dialling = asyncio.create_task(connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
    await asked.wait()
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await hung_up.wait()
    server.close()
    await server.wait_closed()


async def test_nobody_listening_is_an_os_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            await connect(f"ws://127.0.0.1:{unused.getsockname()[1]}/")


@pytest.mark.parametrize(
    "bad", ["http://host/", "ws://", "host", "ws://user@host/", "ws://h/#x", "ws://h:port/"]
)
async def test_a_url_that_is_none_is_a_value_error(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        await connect(bad)


async def test_a_password_in_a_bad_url_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="not a WebSocket URL") as bad:
        await connect("http://user:secret@host/")
    assert "secret" not in str(bad.value)


async def test_credentials_and_headers_are_sent(ends: Ends) -> None:
    async with serving(ends.accept) as server:
        address = f"ws://user:p%40ss@127.0.0.1:{server.port}/take"
        end = await connect(address, headers=[("X-Call", "7"), ("User-Agent", "pxbridge")])
        sent = ends.requests[0].headers
        assert sent["Authorization"] == "Basic dXNlcjpwQHNz"
        assert (sent["X-Call"], sent["User-Agent"]) == ("7", "pxbridge")
        assert sent["Host"] == f"127.0.0.1:{server.port}"
        assert "Sec-WebSocket-Extensions" not in sent
        end.close()
        await end.wait_closed()


async def test_ipv6_is_spoken(ends: Ends) -> None:
    try:
        server = await serve(ends.accept, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    end = await connect(f"ws://[::1]:{server.port}/take")
    assert ends.requests[0].headers["Host"] == f"[::1]:{server.port}"
    assert end.peer == f"[::1]:{server.port}"
    end.close()
    await end.wait_closed()
    server.close()
    await server.wait_closed()


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_with_an_independent_client(
    ends: Ends, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving(ends.accept, ssl=server_tls) as server:
        address = url(server, "/echo", "wss")
        async with websockets.asyncio.client.connect(address, ssl=client_tls) as peer:
            await peer.send(bytes(200_000))
            assert await peer.recv() == bytes(200_000)
        assert await ends.closed.get() == Closed(1000, "", None, by_peer=True)


async def test_tls_with_an_independent_server(
    ends: Ends, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def echo(peer: ServerConnection) -> None:
        async for message in peer:
            await peer.send(message)

    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, ssl=server_tls) as server:
        port = server.sockets[0].getsockname()[1]
        end = await connect(f"wss://127.0.0.1:{port}/", ssl=client_tls)
        ends.take(end)
        end.send(bytes(200_000))
        assert await ends.messages.get() == (bytes(200_000), False)
        end.close()
        assert await end.wait_closed() == Closed(1000, "", None, by_peer=False)


async def test_a_certificate_nobody_vouches_for_is_refused(ends: Ends, server_tls: ssl.SSLContext) -> None:
    async with serving(ends.accept, ssl=server_tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(url(server, "/take", "wss"))
        assert ends.requests == []


async def test_a_pinned_certificate_is_checked_before_the_request_is_sent(
    ends: Ends, server_tls: ssl.SSLContext
) -> None:
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    seen: list[bytes] = []

    def refuse(certificate: bytes) -> None:
        seen.append(certificate)
        raise PermissionError("not the certificate that was pinned")

    async with serving(ends.accept, ssl=server_tls) as server:
        address = url(server, "/take", "wss")
        with pytest.raises(PermissionError, match="pinned"):
            await connect(address, ssl=unverified, check_certificate=refuse)
        assert ends.requests == []
        assert ssl.DER_cert_to_PEM_cert(seen[0])
        end = await connect(address, ssl=unverified, check_certificate=seen.append)
        assert seen[0] == seen[1]
        end.close()
        await end.wait_closed()


async def test_tls_is_not_left_out_silently() -> None:
    with pytest.raises(ValueError, match="wss://"):
        await connect("ws://127.0.0.1:1/", ssl=ssl.create_default_context())


async def test_a_tls_peer_that_does_not_read_is_cut(
    ends: Ends, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    limits = Limits(max_queued_bytes=10**9, send_timeout_s=SOON_S)
    async with (
        serving(ends.accept, ssl=server_tls, limits=limits) as server,
        raw(server.port, ssl=client_tls) as peer,
    ):
        await peer.upgraded("/take")
        peer.stop_reading()
        end = await ends.opened.get()
        for _ in range(80):
            end.send(bytes(100_000))  # far more than both kernels and the peer's TLS will take
        assert (await ends.closed.get()).error == PEER_STOPPED_READING


# The server


async def test_a_closed_server_keeps_its_open_connections(ends: Ends) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/echo")) as peer,
        raw(server.port) as half_open,
    ):
        port = server.port
        while len(server._connections) < 2:
            await peer.send("turn")
            await peer.recv()
        server.close()
        with contextlib.suppress(ConnectionResetError):
            assert await half_open.reader.read() == b""
        with pytest.raises((OSError, InvalidMessage)):
            await websockets.asyncio.client.connect(f"ws://127.0.0.1:{port}/echo")
        await peer.send("still open")
        assert await peer.recv() == "still open"
        assert len(server.connections) == 1


# Any split of the bytes


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False
        self.reads = True

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    async def deliver(self, data: bytes, end: WebSocket) -> None:
        """Delivers bytes as soon as the connection reads."""
        while not self.reads:  # noqa: ASYNC110
            await asyncio.sleep(0)  # the next turn of the loop
        end.data_received(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


MESSAGES = st.lists(
    st.tuples(
        st.binary(max_size=300) | st.sampled_from([bytes(125), bytes(126), bytes(70_000)]),
        st.booleans(),
        st.integers(1, 4),
        st.booleans(),
    ),
    max_size=6,
)


def sent_by_a_client(messages: list[tuple[bytes, bool, int, bool]]) -> tuple[list[bytes], int]:
    """A connection as `websockets` itself writes it, in fragments, with pings: its writes, how many pings."""
    pings = 0
    client = ClientProtocol(parse_uri("ws://127.0.0.1/take"), state=websockets.protocol.State.OPEN)
    for payload, is_text, fragments, pinged in messages:
        cut = len(payload) // fragments + 1
        pieces = [payload[at : at + cut] for at in range(0, max(len(payload), 1), cut)]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            if number:
                client.send_continuation(piece, last)
            elif is_text:
                client.send_text(piece, last)
            else:
                client.send_binary(piece, last)
            if pinged:
                client.send_ping(b"between")
                pings += 1
    client.send_close(1000)
    return [upgrade_request("/take"), *client.data_to_send()], pings


@settings(deadline=None)
def accepted(take: Handler) -> Accepted:
    """A server's connection, with no socket under it."""

    def make(server: Server, arrived: object, header: Header | None = None) -> Accepted:
        limits = Limits(ping_interval_s=None)
        return Accepted(server, arrived, lambda _request: take, limits, math.inf, header)

    server = Server(make, None, 1.0)
    server._openings.add("it", "127.0.0.1", lambda: None)
    return make(server, "it")


@given(MESSAGES, st.data())
def test_any_split_of_the_bytes_gives_the_same_messages(
    messages: list[tuple[bytes, bool, int, bool]], data: st.DataObject
) -> None:
    writes, pings = sent_by_a_client(messages)
    stream = b"".join(writes)
    ends_of_frames = st.sampled_from(list(itertools.accumulate(len(write) for write in writes)))
    anywhere = st.integers(0, len(stream))
    cuts = data.draw(st.sets(ends_of_frames | anywhere, max_size=40).map(sorted), label="cuts")

    async def receive() -> tuple[list[tuple[bytes, bool]], Closed, int]:
        received: list[tuple[bytes, bool]] = []

        def take(end: WebSocket) -> None:
            end.on_message = lambda payload, is_text: received.append((payload, is_text))

        end = accepted(take)
        wire = Wire()
        end.connection_made(wire)
        for begin, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            await wire.deliver(stream[begin:stop], end)
        while not wire.ended:  # noqa: ASYNC110
            await asyncio.sleep(0)
        end.eof_received()
        end.connection_lost(None)
        return received, await end.wait_closed(), wire.written.count(b"\x8a\x07between")

    received, closed, pongs = asyncio.run(receive())
    assert received == [(payload, is_text) for payload, is_text, *_ in messages]
    assert closed == Closed(1000, "", None, by_peer=True)
    assert pongs == pings


@given(st.binary(max_size=200))
def test_any_bytes_after_the_handshake_end_at_most_their_connection(garbage: bytes) -> None:
    async def receive() -> None:
        def take(end: WebSocket) -> None:
            end.on_message = lambda _payload, _text: None

        end = accepted(take)
        end.connection_made(Wire())
        end.data_received(upgrade_request("/take"))
        end.data_received(garbage)
        end.eof_received()
        end.connection_lost(None)
        assert (await end.wait_closed()).by_peer in (True, False)

    asyncio.run(receive())


async def test_an_answer_may_be_larger_than_what_messages_may_queue() -> None:
    body = "0123456789abcdef" * 65_536

    def accept(_: Request) -> Response:
        return text_response(200, body)

    async with serving(accept, limits=Limits(max_queued_bytes=64 * 1024)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /file HTTP/1.1\r\nHost: bridge\r\n\r\n")
        await asyncio.sleep(SOON_S)  # so that more is queued than the kernel takes
        answer = await reader.read()
        writer.close()
    assert answer.endswith(body.encode())
