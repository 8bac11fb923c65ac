"""What production does to calls, each as a scenario with real processes.

Of each is told: what the caller who is hit hears, that a neighbour on the same bridge does not notice, and
that nothing is left behind; `pytest -rP --log-level=INFO` shows the figures. Scenarios of a bridge's own end
are in `test_ending`, those of its disk in `test_disk`, and what takes half a minute of silence is in virtual
time in `tests/call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.fault.processes import free_port, until
from tests.fault.scene import PACKET_MS, agent_heard, heard_s, longest_gap_s, scene, tone
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pxbridge.exotel.messages import MAX_MESSAGE_BYTES, Exotel, Spelling
from pxbridge.exotel.phone import SPELLINGS, Ended, HangUp, Line, Phone, Script, place_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)

VECTORS = Path(__file__).parents[1] / "vectors"

BUSY_S = 1.0
"""What a machine that does other things may add to a gap."""


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
        assert longest_gap_s(caller) < 1.0 + BUSY_S
        assert caller.close_code is None and not caller.faults
        await stage.leaves_nothing()


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        ("StaysSilent", {"engine_handshake_timeout_s": "1"}),
        ("ClosesPrompting:after_s=0.2", {}),
    ],
)
async def test_an_engine_that_does_not_come_up_costs_the_caller_a_wait(
    fault: str, settings: dict[str, Any]
) -> None:
    async with scene(fault, **settings) as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call()
        await stage.hears(caller)
        assert stage.bridge.said('"engine failed"'), stage.bridge.log
        told = await neighbour.noticed_nothing()
        first_s = caller.spoken_s if caller.player.voice_from_s is None else caller.player.voice_from_s
        log.info(f"the agent after {first_s:.2f} s; {told}")
        assert first_s < 1.5 + BUSY_S
        await stage.leaves_nothing()


async def test_an_engine_that_stops_in_mid_stream_is_replaced() -> None:
    async with scene("Hangs:after_steps=20", engine_silent_timeout_s="1") as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call()
        await until(lambda: stage.bridge.said('"engine lost"'), "the engine is lost")
        await stage.hears(caller, 1.0)
        told = await neighbour.noticed_nothing()
        log.info(f"gap {longest_gap_s(caller):.2f} s; {told}")
        assert longest_gap_s(caller) < 2.0 + BUSY_S
        assert caller.close_code is None and not caller.faults
        await stage.leaves_nothing()


@pytest.mark.parametrize("fault", ["Floods:after_steps=15,times=1000", "SendsGarbage:every_steps=3"])
async def test_an_engine_that_sends_nonsense_keeps_its_call(fault: str) -> None:
    async with scene(fault) as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call()
        await stage.hears(caller, 3.0)
        told = await neighbour.noticed_nothing()
        log.info(f"longest gap {longest_gap_s(caller):.2f} s, {heard_s(caller):.1f} s heard; {told}")
        assert longest_gap_s(caller) < 0.5 + BUSY_S
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
    async with scene(good_engines=1, slots=3) as (stage, neighbour):
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
        await stage.hears(caller, 1.5)
        log.info(f"{heard_s(caller):.1f} s heard; {await neighbour.noticed_nothing()}")
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


@pytest.mark.parametrize("hang_up", [HangUp.STOP_ONLY, HangUp.CLOSE_ONLY, HangUp.ABORT])
async def test_however_a_phone_leaves_its_call_is_over(hang_up: HangUp) -> None:
    async with scene(good_engines=1, slots=2) as (stage, neighbour):
        neighbour.harm_begins()
        caller = await stage.call(Line(hang_up=hang_up))
        await stage.hears(caller)
        caller.caller.leave()
        await until(lambda: stage.bridge.said('"call ended"'), "the bridge knows")
        await until(lambda: caller.is_over, "and so does the phone")
        assert not caller.faults, "left open"
        log.info(await neighbour.noticed_nothing())
        await stage.leaves_nothing()


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
