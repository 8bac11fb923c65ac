"""What production does to calls, each as a scenario with real processes.

Of each is asserted what the caller who is hit hears, that a neighbour on the same bridge fares hardly worse
than a call elsewhere (`tests.fault.scene`: delay, windows of speech, holes), and that nothing is left behind:
descriptors of bridge and engines, tasks, slots and leases, temporary files. `pytest -rP --log-level=INFO`
shows the figures.

=====================================  =====================================================================
what happens                           what the caller hears
=====================================  =====================================================================
engine killed in mid-call              a gap of a second at most, then the agent, from the warm session
engine accepts and stays silent        nothing for as long as it may take, then the agent of another
engine closes during its prompts       the same, as soon as it has closed
engine stops in mid-stream             the line's noise until it is given up, then the agent of another
network to the engine swallows all     the same
cable to the engine is unplugged       the same
engine floods, sends garbage Ogg       the agent; not the flood
engine's certificate is not trusted    the agent of another; the first is told no prompt
phone does not read                    nothing that could be known; it is given up after 5 s
phone sends garbage                    the agent, unless it breaks the WebSocket's rules (1002)
phone floods                           undisturbed neighbours; it is closed (1008): `tests/attack`
chunks of 100 kB; longer messages      the agent; the line is closed (1009)
every spelling, odd chunks             the agent
second connection for a call           the agent on the new one, the close (1000) on the old one
stop without close, and the reverse    the close; its engine is free for the next caller
network to the phone swallows all      what was queued; it is given up when it was silent for so long
cable to the phone is unplugged        the same; the kernel gives it up after 5 s
SIGTERM                                the agent, undisturbed; who calls now is refused (503)
lease store gone and back              who calls now is asked to wait, then the agent; who talks, the agent
disk full (`test_disk`)                the agent; the recording ends
SIGKILL (`test_disk`, `test_ending`)   the line is dead (1006); who calls again is answered by the next one
=====================================  =====================================================================

How calls end when the bridge is told to stop is in `test_ending`, too. An engine that hangs where no other is
free, and half a minute of a phone's silence, are in virtual time in `tests/call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import redis.asyncio
from tests.fault.network import Relay, cable, relay
from tests.fault.processes import until
from tests.fault.scene import PACKET_MS, Neighbour, Scene, agent_heard, heard_s, longest_gap_s, scene, tone
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pxbridge import websocket
from pxbridge.commands.processes import free_port
from pxbridge.errors import CallRefused
from pxbridge.redis_store import PREFIX
from pxbridge.settings import Settings
from pxbridge.simulation.phone import SPELLINGS, Ended, HangUp, Line, Phone, Script, place_call
from pxbridge.telephony.exotel.messages import MAX_MESSAGE_BYTES
from pxbridge.telephony.exotel.spelling import Exotel, Spelling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.processes import EngineProcess

log = logging.getLogger(__name__)

VECTORS = Path(__file__).parents[1] / "vectors"

WARM_GAP_S = 1.0
"""What the product promises of a gap when a session is warm."""

ANSWER_S = 0.7
"""From the lease of an engine without prompts to its first sound at the caller's ear: its connection, the
phone's chunk, a step, the playout's margin."""

LOOKS_S = 0.5
"""How often a live engine is looked at."""


async def test_an_engine_killed_in_mid_call_is_replaced_by_a_session_prompted_ahead() -> None:
    async with scene(prompt_s=1.0, warm_sessions="1") as (stage, neighbour):
        caller = await stage.call()
        await stage.hears(caller)
        await stage.until_slots("the next session is prompted", warm=1)
        assert stage.engine is not None
        neighbour.harm_begins()
        stage.engine.signal(signal.SIGKILL)
        await until(lambda: stage.bridge.said('"engine lost"'), "the engine is lost")
        await stage.hears(caller, 1.0)
        told = await neighbour.noticed_nothing()
        log.info(f"gap {longest_gap_s(caller):.2f} s; {told}")
        assert longest_gap_s(caller) < WARM_GAP_S + neighbour.slack_s()
        assert caller.close_code is None and not caller.faults
        await stage.leaves_nothing(lost_engine=True)


@pytest.mark.parametrize(
    ("fault", "settings", "wait_s"),
    [
        ("StaysSilent", {"engine_handshake_timeout_s": "1"}, 1.0),
        ("ClosesPrompting:after_s=0.2", {}, 0.2),
    ],
)
async def test_an_engine_that_does_not_come_up_costs_the_caller_a_wait(
    fault: str, settings: dict[str, Any], wait_s: float
) -> None:
    async with scene(fault, **settings) as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call()
        await stage.hears(caller)
        assert stage.bridge.said('"engine failed"'), stage.bridge.log
        told = await neighbour.noticed_nothing()
        first_s = float(np.argmax(agent_heard(caller))) * PACKET_MS / 1000
        log.info(f"the agent after {first_s:.2f} s; {told}")
        assert wait_s < first_s < wait_s + ANSWER_S + neighbour.slack_s()
        await stage.leaves_nothing()


async def test_an_engine_that_stops_in_mid_stream_is_replaced() -> None:
    async with scene("Hangs:after_steps=20", engine_silent_timeout_s="1") as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call()
        await until(lambda: stage.bridge.said('"engine lost"'), "the engine is lost")
        await stage.hears(caller, 1.0)
        told = await neighbour.noticed_nothing()
        log.info(f"gap {longest_gap_s(caller):.2f} s; {told}")
        assert longest_gap_s(caller) < 1.0 + LOOKS_S + ANSWER_S + neighbour.slack_s()
        assert caller.close_code is None and not caller.faults
        await stage.leaves_nothing()


def port_of(engine: EngineProcess) -> int:
    return urlsplit(engine.url).port or 0


async def test_an_engine_whose_network_swallows_everything_is_replaced() -> None:
    between: list[Relay] = []

    @contextlib.asynccontextmanager
    async def reached(engine: EngineProcess) -> AsyncIterator[str]:
        async with relay(port_of(engine)) as way:
            between.append(way)
            yield f"ws://127.0.0.1:{way.port}/api/chat"

    async with scene(reached_by=reached) as (stage, neighbour):
        caller = await stage.call()
        await stage.hears(caller)
        neighbour.harm_begins()
        between[0].swallow()
        await engine_is_given_up(stage, neighbour, caller)
        assert between[0].ways, "nobody was told"
        between[0].end()
        await stage.leaves_nothing()


async def test_an_engine_whose_cable_is_unplugged_is_replaced() -> None:
    between: list[Relay] = []
    with cable() as line:

        @contextlib.asynccontextmanager
        async def reached(engine: EngineProcess) -> AsyncIterator[str]:
            async with relay(port_of(engine), listener=line.listen()) as way:
                between.append(way)
                yield f"ws://{line.there}:{way.port}/api/chat"

        async with scene(reached_by=reached) as (stage, neighbour):
            caller = await stage.call()
            await stage.hears(caller)
            neighbour.harm_begins()
            line.unplug()
            await engine_is_given_up(stage, neighbour, caller)
            between[0].end()
            await stage.leaves_nothing()


async def engine_is_given_up(stage: Scene, neighbour: Neighbour, caller: Phone) -> None:
    """The caller hears the line's noise and then the agent, from the engine that is left."""
    await until(lambda: stage.bridge.said("it is sent sound and has sent none for"), "the engine is given up")
    await stage.hears(caller, 1.0)
    told = await neighbour.noticed_nothing()
    log.info(f"gap {longest_gap_s(caller):.2f} s; {told}")
    silent_s = Settings().engine_silent_timeout_s
    gap_s = longest_gap_s(caller)
    assert silent_s - LOOKS_S < gap_s < silent_s + LOOKS_S + ANSWER_S + neighbour.slack_s()
    assert caller.close_code is None and not caller.faults


async def test_a_phone_whose_network_swallows_everything_is_hung_up() -> None:
    async with scene(good_engines=1, slots=2, phone_silent_timeout_s="2") as (stage, neighbour):
        async with relay(stage.bridge.port) as between:
            caller = await stage.call(port=between.port)
            await stage.hears(caller)
            neighbour.harm_begins()
            heard_before_s = heard_s(caller)
            between.swallow()
            await phone_is_given_up(stage, "nothing from the phone for 2 s", lost_s=2.0, slack=neighbour)
            assert heard_s(caller) < heard_before_s + 2.5, "what was queued is all that is heard"
            # Its engine is free: there are two conversations, and the neighbour has the other.
            await stage.hears(await stage.call())
            log.info(await neighbour.noticed_nothing())
            between.end()
        await stage.leaves_nothing()


async def test_a_phone_whose_cable_is_unplugged_is_hung_up() -> None:
    with cable() as line:
        async with scene(good_engines=1, slots=2, host="0.0.0.0") as (stage, neighbour):
            async with relay(0, dial=lambda: line.dial(stage.bridge.port)) as between:
                caller = await stage.call(port=between.port)
                await stage.hears(caller)
                neighbour.harm_begins()
                line.unplug()
                # The kernel gives up what was not acknowledged for so long, sooner than the bridge would.
                unread_s = websocket.Limits().send_timeout_s
                await phone_is_given_up(stage, "the line broke off", lost_s=unread_s, slack=neighbour)
                await stage.hears(await stage.call())
                log.info(await neighbour.noticed_nothing())
                between.end()
            await stage.leaves_nothing()


async def phone_is_given_up(stage: Scene, why: str, *, lost_s: float, slack: Neighbour) -> None:
    """The call is over, and not much later than it may be."""
    dark_s = time.monotonic()
    await until(lambda: stage.bridge.said('"call ended"'), "its call is over")
    took_s = time.monotonic() - dark_s
    (ended,) = (json.loads(line) for line in stage.bridge.lines if '"call ended"' in line)
    log.info(f"{ended['outcome']} after {took_s:.1f} s: {ended['reason']}")
    assert why in ended["reason"] and ended["ended_by"] == "phone"
    assert took_s < 1.5 * lost_s + 1.0 + slack.slack_s()


@pytest.mark.parametrize("fault", ["Floods:after_steps=15,times=1000", "SendsGarbage:every_steps=3"])
async def test_an_engine_that_sends_nonsense_keeps_its_call(fault: str) -> None:
    async with scene(fault) as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call()
        await stage.hears(caller, 3.0)
        told = await neighbour.noticed_nothing()
        log.info(f"longest gap {longest_gap_s(caller):.2f} s, {heard_s(caller):.1f} s heard; {told}")
        assert longest_gap_s(caller) < 0.2 + neighbour.slack_s()
        assert caller.player.depth_s < 2.0, "the flood is not passed on"
        assert caller.close_code is None and not caller.faults
        assert not stage.bridge.said('"engine lost"')
        await stage.leaves_nothing()


async def test_an_engine_whose_certificate_is_not_trusted_gets_no_call() -> None:
    options = ("--tls-cert", str(VECTORS / "engine-cert.pem"), "--tls-key", str(VECTORS / "engine-key.pem"))
    async with scene(options=options) as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call()
        await stage.hears(caller)
        (failed,) = (line for line in stage.bridge.lines if '"engine failed"' in line)
        assert "certificate" in failed
        assert stage.engine is not None and "text_prompt" not in stage.engine.log
        log.info(await neighbour.noticed_nothing())
        await stage.leaves_nothing()


def start(sid: str, rate_hz: int = 8000) -> list[str]:
    """What opens a call."""
    exotel = Exotel(sid, Spelling())
    started = exotel.start(call_sid=sid, account_sid="a", caller="1", called="2", custom={}, rate_hz=rate_hz)
    return [exotel.connected(), started]


async def test_a_phone_that_does_not_read_is_given_up() -> None:
    async with scene(good_engines=1, slots=2) as (stage, neighbour):
        neighbour.harm_begins()
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", stage.bridge.port))
        deaf.setblocking(False)
        async with connect(f"{stage.bridge.url}?sample-rate=24000", sock=deaf, max_queue=1) as ws:
            for message in start("deaf", 24000):
                await ws.send(message)
            said = tone(24000, 0.1).tobytes()
            exotel = Exotel("deaf", Spelling())
            ws.transport.pause_reading()
            with contextlib.suppress(ConnectionClosed):
                while not stage.bridge.said('"call ended"'):
                    await ws.send(exotel.media(said, 0))
                    await asyncio.sleep(0.1)  # the line's own time
        await until(lambda: stage.bridge.said('"call ended"'), "its call is over")
        (ended,) = (json.loads(line) for line in stage.bridge.lines if '"call ended"' in line)
        log.info(f"{ended['outcome']}: {ended['reason']}; {await neighbour.noticed_nothing()}")
        assert ended["ended_by"] == "phone"
        await stage.leaves_nothing()


JUNK: tuple[str | bytes, ...] = (
    b"",
    b"\x00\xff" * 500,
    "",
    "{",
    "null",
    "[]",
    '"media"',
    '{"event": 7}',
    '{"event": "media"}',
    '{"event": "media", "media": {"payload": "!!!!"}}',
    '{"event": "media", "media": {"payload": 7}}',
    '{"event": "mark"}',
    '{"event": "dtmf", "dtmf": []}',
    '{"event": "start"}',
    '{"event": "clear"}',
    '{"event": "\\ud800"}',
    "[" * 50_000,
)


async def test_a_phone_that_sends_garbage_harms_nobody() -> None:
    async with scene(good_engines=1, slots=2) as (stage, neighbour):
        neighbour.harm_begins()
        async with connect(stage.bridge.url) as ws:
            for message in start("garbage"):
                await ws.send(message)
            await until(lambda: stage.bridge.log.count('"call live"') == 2, "it has an engine")
            for junk in (*JUNK, *start("other")):
                await ws.send(junk)
            exotel = Exotel("garbage", Spelling())
            for n in range(10):
                await ws.send(exotel.media(tone(seconds=0.1).tobytes(), 100 * n))
            async with asyncio.timeout(20):
                while json.loads(await ws.recv())["event"] != "media":
                    pass
            assert not stage.bridge.said('"call ended"'), "the call goes on"
        async with connect(stage.bridge.url) as ws:
            ws.transport.write(b"\xff\xff\xff\xff no frame at all")
            with contextlib.suppress(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1002
        log.info(await neighbour.noticed_nothing())
        await stage.leaves_nothing()


async def test_frames_of_100_kb_are_heard_and_longer_ones_end_their_call() -> None:
    async with scene() as (stage, neighbour):
        neighbour.harm_begins()
        # 99,840 bytes: the most that Exotel's chunk rule allows, 2.08 s of sound in each.
        caller = await stage.call(Line(rate_hz=24000, chunk_ms=2080.0))
        ws = await connect(stage.bridge.url)
        for message in start("long"):
            await ws.send(message)
        await until(lambda: stage.bridge.log.count('"call live"') == 3, "it has an engine")
        with contextlib.suppress(ConnectionClosed):
            await ws.send(Exotel("long", Spelling()).media(bytes(MAX_MESSAGE_BYTES), 0))
            async with asyncio.timeout(20):
                while True:
                    await ws.recv()
        assert ws.close_code == 1009
        await stage.hears(caller, 3.0)
        told = await neighbour.noticed_nothing()
        share = heard_s(caller) / (caller.spoken_s - 2.08)
        log.info(f"{heard_s(caller):.1f} s heard, {share:.2f} of what was said; {told}")
        assert caller.close_code is None and not caller.faults
        await stage.leaves_nothing()


async def test_every_spelling_of_events_and_odd_payloads_are_understood() -> None:
    at_a_time = asyncio.Semaphore(6)

    async def call(url: str, phone: Phone) -> None:
        async with at_a_time:
            await place_call(url, phone)

    async with scene(good_engines=1, slots=8) as (stage, neighbour):
        neighbour.harm_begins()
        lines = {name: Line(spelling=spelling) for name, spelling in SPELLINGS.items()}
        lines |= {f"{ms} ms": Line(chunk_ms=ms) for ms in (7.125, 20.0, 333.0)}
        phones = {
            name: Phone(Script(tone(line.rate_hz), speak_at_s=0.0, hang_up_at_s=2.5), line)
            for name, line in lines.items()
        }
        await asyncio.gather(*(call(stage.bridge.url, phone) for phone in phones.values()))
        told = await neighbour.noticed_nothing()
        log.info(f"heard of 2.5 s: {', '.join(f'{n} {heard_s(p):.1f} s' for n, p in phones.items())}; {told}")
        for name, phone in phones.items():
            assert phone.ended is Ended.BY_CALLER and not phone.faults, name
            assert heard_s(phone) > 1.0, name
        await stage.leaves_nothing()


async def test_a_second_connection_for_a_call_takes_it_over() -> None:
    async with scene(good_engines=1, slots=3) as (stage, neighbour):
        neighbour.harm_begins()
        first = await stage.call(Line(call_sid="twice"))
        await stage.hears(first)
        second = await stage.call(Line(call_sid="twice"))
        await until(lambda: first.close_code is not None, "the first connection is closed")
        await stage.hears(second)
        log.info(f"the first was closed with {first.close_code}; {await neighbour.noticed_nothing()}")
        assert second.close_code is None
        await stage.leaves_nothing()


async def test_however_a_phone_leaves_its_call_is_over() -> None:
    async with scene(good_engines=1, slots=4) as (stage, neighbour):
        neighbour.harm_begins()
        for number, hang_up in enumerate((HangUp.STOP_ONLY, HangUp.CLOSE_ONLY, HangUp.ABORT), 1):
            caller = await stage.call(Line(hang_up=hang_up))
            await stage.hears(caller)
            caller.caller.leave()
            await ends(stage, caller, number)
            assert not caller.faults, f"left open: {hang_up}"
            await stage.until_slots("its engine is free", live=1, cooling=0)
        log.info(await neighbour.noticed_nothing())
        await stage.leaves_nothing()


async def ends(stage: Scene, caller: Phone, number: int) -> None:
    """Both sides know that the call is over, the `number`th that ended."""
    await until(lambda: stage.bridge.log.count('"call ended"') == number, "the bridge knows")
    await until(lambda: caller.is_over, "and so does the phone")


async def test_sigterm_refuses_new_calls_and_live_ones_do_not_notice() -> None:
    async with scene(good_engines=1, slots=3, drain_s="600") as (stage, neighbour):
        caller = await stage.call()
        await stage.hears(caller)
        neighbour.harm_begins()
        stage.bridge.signal(signal.SIGTERM)
        await until(lambda: stage.bridge.ready() == (503, "draining: no new calls\n"), "it is not ready")
        with pytest.raises(CallRefused):
            await place_call(stage.bridge.url, Phone(Script(hang_up_at_s=1.0)))
        await stage.hears(caller, 1.0)
        told = await neighbour.noticed_nothing()
        log.info(f"longest gap {longest_gap_s(caller):.2f} s; {told}")
        assert longest_gap_s(caller) < 0.2 + neighbour.slack_s()
        for phone in stage.callers:
            phone.caller.leave()
        assert await stage.bridge.ends() == 0
        assert "Traceback" not in stage.bridge.log
        await stage.engines_are_left()
        stage.left_on_disk()


@contextlib.asynccontextmanager
async def lease_server(port: int) -> AsyncIterator[None]:
    """A Redis or Valkey server; killed at the end of the block."""
    name = shutil.which("valkey-server") or shutil.which("redis-server")
    if name is None:
        pytest.skip("there is no valkey-server or redis-server")
    server = await asyncio.create_subprocess_exec(
        name, "--port", str(port), "--save", "", "--appendonly", "no", stdout=asyncio.subprocess.DEVNULL
    )

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        await until(answers, "the lease store answers")
        yield
    finally:
        server.kill()
        await server.wait()


async def leases_in(url: str) -> list[Any]:
    """The leases that somebody holds."""
    async with redis.asyncio.from_url(url) as client:
        return [key async for key in client.scan_iter(f"{PREFIX}lease:*")]


async def test_a_lease_store_that_is_gone_holds_up_new_calls_and_no_live_one() -> None:
    port = free_port()
    store = f"redis://127.0.0.1:{port}/0"
    async with contextlib.AsyncExitStack() as stack:
        async with lease_server(port):
            stage, neighbour = await stack.enter_async_context(
                scene(good_engines=1, slots=2, lease_store=store, lease_ttl_s="2")
            )
            neighbour.harm_begins()
        caller = Phone(Script(tone(), speak_at_s=0.0, hang_up_at_s=600.0))
        stage.callers.append(caller)
        stage.bridge.phones.append(asyncio.create_task(place_call(stage.bridge.url, caller)))
        await until(lambda: caller.player.voice_from_s is not None, "the new caller is asked to wait")
        assert heard_s(caller) == 0.0
        assert stage.bridge.said("the lease store does not answer")
        async with lease_server(port):
            await stage.hears(caller)
            told = await neighbour.noticed_nothing()
            first_s = float(np.argmax(agent_heard(caller))) * PACKET_MS / 1000
            log.info(f"asked to wait, and the agent after {first_s:.1f} s; {told}")
            # Connections to the store stay open: one to lease by, one to renew by.
            stage.descriptors += 2
            await stage.leaves_nothing()
            assert not await leases_in(store), "leases"
