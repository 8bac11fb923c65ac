"""A call that is over is freed at once, by reference counts.

Python's collector of cycles counts objects, and a call is few of them with much behind each: what is left to
it lies about for minutes, and memory grows meanwhile. So nothing of a call may refer to itself when the call
is over, in whatever way it ended: no callbacks of its sockets, no watchers, no error with the frames that it
was raised through.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
import websockets.asyncio.client
from tests.call.rig import KIND, Bridge, bridge
from tests.virtual_time import run

from pxbridge.calls.call import Call
from pxbridge.calls.conversation import Conversation
from pxbridge.calls.persona import Personas
from pxbridge.calls.stats_sampler import StatsSampler
from pxbridge.engines.lease import Lease
from pxbridge.engines.pool import SlotState
from pxbridge.records.recording import Recorder
from pxbridge.simulation import faults
from pxbridge.simulation.phone import HangUp, Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode
from pxbridge.telephony.server import Arrival
from pxbridge.websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from pxbridge.simulation.faults import Fault

    Doing = Callable[[Bridge], Coroutine[Any, Any, None]]

OTHER_SIDES = (
    "pxbridge.simulation.phone",
    "pxbridge.simulation.player",
    "pxbridge.simulation.network",
    "pxbridge.simulation.rehearsal",
    "pxbridge.simulation.parrot",
    "pxbridge.simulation.faults",
)
"""The simulated phones and engines, which here live in the same process."""

PARTING_S = 2.5
"""What the engine's closing handshake takes after the call's end, the pool's pause after that, and the moment
for which a session in the making waits for another call."""


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # objects that an earlier test left, in a log or an error, are none of this test's
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


OF_A_CALL = (Arrival, Call, Conversation, Lease, StatsSampler)


def left_to_the_collector() -> Counter[str]:
    """Objects and frames of the bridge that only the collector of cycles can free."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    garbage = gc.garbage.copy()
    gc.garbage.clear()
    left: Counter[str] = Counter()
    for each in garbage:
        # `type`, not `isinstance`: among them are proxies of what is gone.
        if type(each) is FrameType:
            module, name = each.f_globals.get("__name__", ""), f"frame of {each.f_code.co_qualname}"
        else:
            module, name = type(each).__module__, type(each).__qualname__
        if module.startswith("pxbridge.") and module not in OTHER_SIDES:
            left[name] += 1
    return left


def alive() -> Counter[str]:
    """What there is of calls."""
    kinds = [type(each) for each in gc.get_objects()]
    return Counter(kind.__name__ for kind in kinds if kind in OF_A_CALL or issubclass(kind, WebSocket))


def calls(**line: Any) -> Doing:
    async def one(b: Bridge) -> None:
        await b.call(Script(hang_up_at_s=12.0), Line(**line))

    return one


async def two_calls(b: Bridge) -> None:
    await asyncio.gather(calls()(b), calls()(b))


def start(call_id: str = "c1") -> str:
    media_format = {"encoding": "raw/slin", "sample_rate": "8000"}
    told = {"stream_sid": "s", "call_sid": call_id, "from": "1", "to": "2", "media_format": media_format}
    return json.dumps({"event": "start", "stream_sid": "s", "start": told})


async def a_phone_that_vanishes(b: Bridge) -> None:
    """Its network is gone: no media any more, and nobody answers a close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", b.listener.port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /exotel HTTP/1.1\r\nHost: bridge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    text = start().encode()
    writer.write(bytes([0x81, 0x80 | 126, *len(text).to_bytes(2, "big"), 0, 0, 0, 0]) + text)
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass
    writer.transport.abort()


async def a_phone_that_says_nothing(b: Bridge) -> None:
    async with websockets.asyncio.client.connect(b.url(), compression=None) as phone:
        await phone.wait_closed()


async def a_call_that_connects_twice(b: Bridge) -> None:
    async def connection() -> None:
        async with websockets.asyncio.client.connect(b.url(), compression=None) as phone:
            await phone.send(start())
            with suppress(TimeoutError):
                async with asyncio.timeout(3.0):
                    await phone.wait_closed()

    await asyncio.gather(connection(), connection())


async def a_call_while_the_bridge_stops(b: Bridge) -> None:
    call = asyncio.create_task(calls()(b))
    await asyncio.sleep(3.0)
    await b.registry.close()
    await call


async def a_call_without_any_engine(b: Bridge) -> None:
    await b.engines[0].stop()
    await calls()(b)


async def an_observed_call(b: Bridge) -> None:
    await place_call(b.url(), Phone(Script(hang_up_at_s=5.0), Line(), seed=1), observe=lambda _told: None)


DIES = faults.Dies(after_steps=30)
WAYS: dict[str, tuple[tuple[tuple[Fault, ...], ...], dict[str, Any], Doing]] = {
    **{f"the phone ends it: {way.value}": (((),), {}, calls(hang_up=way)) for way in HangUp},
    "its phone is told of it": (((),), {}, an_observed_call),
    "with a warm session": (((),), {"warm": 1, "slots": 2}, calls()),
    "its engine dies, and another goes on": (((DIES,), ()), {}, calls()),
    "its engine dies, and a warm one goes on": (((DIES,), ()), {"warm": 1}, calls()),
    "its engines die, one after the other": (((DIES,), (DIES,)), {}, calls()),
    "its engine closes": (((faults.Closes(after_steps=30),), ()), {}, calls()),
    "its engine hangs": (((faults.Hangs(after_steps=30),), ()), {}, calls()),
    "its engine is gone": (((),), {}, a_call_without_any_engine),
    "its engine refuses it": (((faults.RefusesUpgrade(),),), {}, calls()),
    "one engine refuses it": (((faults.RefusesUpgrade(),), ()), {}, calls()),
    "its engine does not like the prompts": (((faults.ClosesPrompting(),),), {}, calls()),
    "one engine reports an error": (((faults.ReportsErrorPrompting(),), ()), {}, calls()),
    "one engine is gone while it reads its prompts": (((faults.BreaksOffPrompting(),), ()), {}, calls()),
    "one engine says nothing": (((faults.StaysSilent(),), ()), {}, calls()),
    "it hangs up on an engine that says nothing": (
        ((faults.StaysSilent(),),),
        {"handshake_timeout_s": 60.0},
        calls(),
    ),
    "another has the engine": (((),), {}, two_calls),
    "its phone vanishes": (((),), {}, a_phone_that_vanishes),
    "its phone says nothing": (((),), {}, a_phone_that_says_nothing),
    "it connects a second time": (((),), {"slots": 2}, a_call_that_connects_twice),
    "the bridge stops": (((),), {}, a_call_while_the_bridge_stops),
}


async def nothing_is_left(b: Bridge, doing: Doing) -> None:
    await doing(b)
    while b.registry.live:  # noqa: ASYNC110  virtual time: this costs nothing
        await asyncio.sleep(0.05)
    await asyncio.sleep(PARTING_S)
    b.forget()
    warm = b.pool.states()[SlotState.WARM]
    assert alive() == ({"_Dialled": warm} if warm else {})
    assert not left_to_the_collector()


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_is_over_needs_no_collector(way: str) -> None:
    engines, options, doing = WAYS[way]

    async def main() -> None:
        async with bridge(*engines, mode=Mode.RELAY, **options) as b:
            await nothing_is_left(b, doing)

    with no_collector():
        run(main(), limit_s=300.0)


def test_a_recorded_call_needs_no_collector(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "wav", lambda _record: lambda _name: None)
    recorded = Personas(replace(KIND.default, record=True), {}, {})

    async def main() -> None:
        async with bridge(mode=Mode.RELAY, personas=recorded, call_subscribers=[recorder.subscriber]) as b:
            await nothing_is_left(b, calls())

    with no_collector():
        run(main())
    recorder.close()
