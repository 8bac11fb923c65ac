"""A WebSocket connection fed byte by byte: the split of the bytes changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from tests.websocket_ends import upgrade_request
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

from pxbridge.websocket import (
    Closed,
    Handler,
    Limits,
    Server,
    WebSocket,
)
from pxbridge.websocket.accepted import Accepted

if TYPE_CHECKING:
    from pxbridge.websocket.proxy_protocol import Header


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
    client = ClientProtocol(parse_uri("ws://127.0.0.1/take"), state=State.OPEN)
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
