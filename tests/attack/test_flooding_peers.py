"""A phone or an engine that sends far too much, on a connection that was let in.

It must not take the event loop from the other calls: one connection has a bounded share of each turn, is
slowed when it sends more in a second than a phone does, and is closed when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attack.test_floods import assert_heard_well, script
from tests.call.rig import bridge
from tests.exotel_server import listen as listen_for_calls
from tests.fault.flooder import FLOODS, START, frame, upgrade
from tests.fault.processes import program
from tests.fault.scene import scene
from tests.virtual_time import run
from websockets.asyncio.server import serve as serve_independently

from pxbridge import websocket
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.client import open_session
from pxbridge.websocket.allowance import PIECE_BYTES, TURN_BYTES, TURN_FRAMES, Allowance

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from pxbridge.errors import EngineLost
    from pxbridge.telephony.server import Arrival

log = logging.getLogger(__name__)

LIMITS = websocket.Limits()

MOST_IN_A_TURN = TURN_FRAMES + PIECE_BYTES // len(frame(1, b""))


class Turns:
    """Counts what happens in each turn of the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self.counts: dict[int, int] = {}
        self._next: asyncio.Handle = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._number += 1
        self._next = self._loop.call_soon(self._turn)

    def count(self, *_: object) -> None:
        self.counts[self._number] = self.counts.get(self._number, 0) + 1

    def stop(self) -> None:
        self._next.cancel()


@pytest.mark.parametrize("with_the_request", [False, True])
@pytest.mark.parametrize("kind", ["empty messages", "keys", "unknown events"])
async def test_a_connection_has_a_bounded_share_of_each_turn(kind: str, with_the_request: bool) -> None:
    flood = FLOODS[kind] * (200_000 // len(FLOODS[kind]))
    turns = Turns()

    async def own(arrival: Arrival) -> None:
        arrival.socket.on_message = turns.count
        await arrival.socket.wait_closed()

    limits = websocket.Limits(close_timeout_s=0.1)
    async with listen_for_calls(own, "127.0.0.1", 0, limits=limits) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(upgrade() + (flood if with_the_request else b""))
        await asyncio.sleep(0.05)
        writer.write(flood)
        while sum(turns.counts.values()) < 1000:  # noqa: ASYNC110  the turns are what is counted
            await asyncio.sleep(0)
        writer.transport.abort()
    turns.stop()
    assert max(turns.counts.values()) <= MOST_IN_A_TURN


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flooding_phone_is_slowed_and_closed_and_its_neighbour_hears_well(kind: str) -> None:
    async def main() -> None:
        async with bridge(slots=3) as b:
            loop = asyncio.get_running_loop()
            reader, writer = await asyncio.open_connection("127.0.0.1", b.listener.port)
            began_s, sent = loop.time(), 0

            async def flood() -> None:
                nonlocal sent
                writer.write(upgrade() + START)
                with contextlib.suppress(ConnectionError):
                    while True:
                        writer.write(FLOODS[kind] * 100)
                        sent += 100
                        await writer.drain()

            flooding = asyncio.create_task(flood())
            assert_heard_well(await b.call(script()))
            with contextlib.suppress(ConnectionError):
                received = await reader.read(-1)
            flooding.cancel()
            took_s = loop.time() - began_s
            writer.transport.abort()
            await asyncio.wait([flooding])
            assert b"\x88\x13\x03\xf0too many messages" in received, "the close code is 1008"
            assert LIMITS.flood_timeout_s < took_s < LIMITS.flood_timeout_s + LIMITS.burst_s + 5.0
            assert b.listener.flooded == 1

    run(main())


def test_a_phone_that_sends_twenty_seconds_late_audio_at_once_is_neither_slowed_nor_closed() -> None:
    """As after a stall of the network, 20 ms a message, on the fastest line."""
    allowance = Allowance(LIMITS, 0.0)
    for _ in range(1000):
        allowance.bytes_left -= 1400
        allowance.frames_left -= 1
    assert allowance.bytes_left > 0 and allowance.frames_left > 0


@given(
    st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 300_000)), min_size=1, max_size=60),
)
def test_whatever_is_sent_no_more_is_read_than_the_rates_allow(sent: list[tuple[float, int]]) -> None:
    """Each entry is a pause of the peer, and a message after it."""
    allowance = Allowance(LIMITS, 0.0)
    now_s, read = 0.0, 0
    for pause_s, size in sent:
        now_s += pause_s
        read += size
        allowance.bytes_left -= size
        allowance.frames_left -= 1
        if allowance.bytes_left < 0 or allowance.frames_left < 0:
            wait_s = allowance.renew(now_s)
            now_s += wait_s
            assert wait_s == 0.0 or allowance.slowed_since_s is not None
        most = (LIMITS.burst_s + now_s) * LIMITS.max_bytes_per_s
        assert read <= most + 300_000 + TURN_BYTES
    assert allowance.renew(now_s + LIMITS.burst_s) == 0.0
    assert allowance.renew(now_s + 3 * LIMITS.burst_s) == 0.0
    assert allowance.slowed_since_s is None, "a peer that stops flooding is forgiven"


@pytest.mark.parametrize("message", [b"\x01", b"\x02hello", b"\x77", b""])
def test_an_engine_that_floods_is_slowed_and_given_up(message: bytes) -> None:
    async def flood(engine: ServerConnection) -> None:
        await engine.send(b"\x00")
        transport = engine.transport
        frames = bytes([0x82, len(message)]) + message
        while not transport.is_closing():
            if transport.get_write_buffer_size() < 100_000:
                transport.write(frames * 10_000)
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with serve_independently(flood, "127.0.0.1", 0, compression=None) as server:
            port = server.sockets[0].getsockname()[1]
            floods: list[str] = []
            session = await open_session(
                EngineAddress(f"ws://127.0.0.1:{port}/api/chat"),
                "NATF0.pt",
                "You are kind.",
                flooded=lambda: floods.append("flood"),
            )
            lost: asyncio.Future[EngineLost | None] = asyncio.get_running_loop().create_future()
            taken = [0]

            def take(_: object) -> None:
                taken[0] += 1

            session.listen(on_audio=take, on_text=take, on_close=lost.set_result)
            began_s = asyncio.get_running_loop().time()
            assert "sent too much" in str(await lost)
            took_s = asyncio.get_running_loop().time() - began_s
            assert taken[0] <= (took_s + LIMITS.burst_s + 1.0) * LIMITS.max_frames_per_s
            assert floods == ["flood"]

    run(main())


async def test_a_neighbour_of_a_flooding_phone_fares_as_a_call_elsewhere() -> None:
    """With real processes: a megabyte of small frames a second."""
    async with scene(good_engines=1, slots=2) as (stage, neighbour):
        neighbour.harm_begins()
        flooder = ("tests.fault.flooder", str(stage.bridge.port), "empty messages", "1000000")
        async with program(*flooder) as flooding:
            log.info(await neighbour.noticed_nothing())
            await flooding.ends()
            log.info(flooding.log.strip())
            assert flooding.said("closed with 1008")
        assert 'pxbridge_floods_total{peer="phone"} 1.0' in await stage.metrics()
        await stage.leaves_nothing()
