"""How our WebSocket ends: either side closes, a peer vanishes, does not answer or does not read."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import weakref
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from websockets.exceptions import ConnectionClosed, InvalidMessage
from websockets.frames import Frame, Opcode

from pxbridge.websocket import (
    PEER_STOPPED_READING,
    Closed,
    Limits,
    connect,
)

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
from tests.websocket_ends import SOON_S, Ends, frame, raw, serving, url


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
