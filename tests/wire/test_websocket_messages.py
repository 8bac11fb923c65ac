"""Our WebSocket's messages and pings, against `websockets`' own APIs and raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import websockets.asyncio.client
import websockets.asyncio.server
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Opcode

from pxbridge.websocket import (
    NO_PONG,
    Closed,
    Limits,
    connect,
)

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
from tests.websocket_ends import SOON_S, Ends, frame, raw, serving, upgrade_request, url

SIZES = [0, 1, 125, 126, 65_535, 65_536, 200_000]


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
