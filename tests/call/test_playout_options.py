"""The settings of time reach a call, and do there what they say."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console
from tests.call.rig import bridge, speech
from tests.virtual_time import run

from pxbridge import settings
from pxbridge.app import lifecycle as process
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.persona import Persona, Personas
from pxbridge.calls.playout_options import PlayoutOptions
from pxbridge.simulation.network import Network, parse_network
from pxbridge.simulation.phone import Line, Phone, Script, place_call

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pxbridge.telephony.carrier import PlayoutProfile

STRICT_BYTES = 3200


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
@pytest.mark.parametrize("profile", ["strict", "standard"])
def test_strict_sends_no_payload_below_exotels_minimum_whatever_the_caller_hears(
    rate_hz: int, profile: PlayoutProfile
) -> None:
    """Prompts, an agent and its end; announcements, music and an apology for one who waits in vain."""
    short = Personas(Persona("NATF0.pt", "You are kind.", max_duration_s=12.0))

    async def hold() -> list[Phone]:
        async with bridge(
            prompt_s=3.0, personas=short, playout=PlayoutOptions(profile), limits=CallLimits(max_wait_s=6.0)
        ) as b:
            line = Line(rate_hz)
            script = Script(np.tile(speech(rate_hz), 4), speak_at_s=0.5, hang_up_at_s=30.0)
            return list(await asyncio.gather(b.call(script, line), b.call(script, Line(rate_hz))))

    for phone in run(hold()):
        assert phone.player.voice_until_s is not None
        assert (min(phone.payloads) >= STRICT_BYTES) is (profile == "strict")
        assert not phone.faults


@pytest.mark.parametrize("way", ["phone", "engine"])
@pytest.mark.parametrize("bound_ms", [0, 300, 1000, 2000])
def test_what_comes_late_waits_for_the_bound_at_most(bound_ms: int, way: str) -> None:
    """The model hears nothing that is later than that, and neither does the caller."""
    network = parse_network("stall 2.5s at 6s up" if way == "phone" else "stall 2.5s at 6s down")
    waits_s: list[tuple[float, float]] = []

    async def hold() -> None:
        engine_network = network if way == "engine" else None
        async with bridge(
            playout=PlayoutOptions(max_backlog_ms=bound_ms),
            engine_network=engine_network,
            limits=CallLimits(),
        ) as b:
            script = Script(np.tile(speech(), 4), speak_at_s=0.5, hang_up_at_s=14.0)
            phone = Phone(script, network=network if way == "phone" else Network())
            calling = asyncio.create_task(place_call(b.url(), phone))
            while not calling.done():
                await asyncio.sleep(0.005)
                for call in b.registry:
                    if call.record.live_s is not None and (stats := call.stats()):
                        up, down = stats["uplink"], stats["downlink"]
                        waits = up["delay_us"] if way == "phone" else down["queued_us"] + down["exotel_us"]
                        waits_s.append((asyncio.get_running_loop().time(), waits / 1e6))

    run(hold())
    begin_s = waits_s[0][0]
    median_s = max(wait_s for at_s, wait_s in waits_s if 2 <= at_s - begin_s < 5)
    stalled_s = [wait_s for at_s, wait_s in waits_s if at_s - begin_s >= 6]
    # What waits is looked at when a frame of 80 ms has come.
    assert max(stalled_s) <= median_s + bound_ms / 1000 + 0.08
    # Some of it goes at once, out of pauses; and an engine that does not answer is soon not fed any more.
    assert max(stalled_s) >= median_s + 0.5 * bound_ms / 1000, "the bound is not used"
    assert max(wait_s for at_s, wait_s in waits_s if at_s - begin_s >= 11.6) <= median_s + 0.040


@pytest.mark.parametrize("gate_ms", [0, 200, 1500])
def test_the_engine_hears_silence_for_as_long_as_the_gate_is_shut(gate_ms: int) -> None:
    async def hold() -> Phone:
        async with bridge(playout=PlayoutOptions(gate_ms=gate_ms)) as b:
            # Loud from its first sample on.
            at = np.arange(8000 * 4)
            tone = (8000 * np.sign(np.sin(2 * np.pi * 200 * (at + 0.5) / 8000))).astype(np.int16)
            return await b.call(Script(tone, speak_at_s=0.0, hang_up_at_s=4.0), Line(chunk_ms=20))

    heard = run(hold()).player.heard.astype(float)
    loud = np.abs(heard) > 3000
    first_s = float(loud.argmax()) / 8000
    # The engine's answer comes 0.1 s later, and what was said before it was there is not answered at all.
    assert gate_ms / 1000 + 0.05 <= first_s <= gate_ms / 1000 + 0.35
    assert np.abs(heard[: int((first_s - 0.02) * 8000)]).max(initial=0.0) < 100


async def test_the_process_gives_its_settings_to_its_calls(tmp_path: Path) -> None:
    environ = {
        "PXBRIDGE_PLAYOUT_PROFILE": "strict",
        "PXBRIDGE_GATE_MS": "300",
        "PXBRIDGE_MAX_BACKLOG_MS": "0",
    }
    flags = {"port": 0, "console_port": 0, "keep_records": False, "state_dir": str(tmp_path)}
    loaded = settings.load(flags, environ)
    phone = Phone(Script(speech(), 0.0, hang_up_at_s=4.0), network=parse_network("stall 1s at 1.5s up"))
    told: list[Mapping[str, object]] = []

    async def call(url: str) -> None:
        try:
            await place_call(url, phone, observe=told.append)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    calls: list[asyncio.Task[None]] = []
    async with asyncio.timeout(20):
        await process.run(
            loaded, Console(file=io.StringIO()), lambda url: calls.append(asyncio.ensure_future(call(url)))
        )
    await asyncio.gather(*calls)
    assert min(phone.payloads) >= STRICT_BYTES
    uplink = [each["uplink"] for each in told if each.get("kind") == "stats"][-1]
    assert isinstance(uplink, dict)
    assert uplink["gated"] == 300 * 8
    # By default a backlog of one second is made shorter, and hardly anything of it is cut.
    assert uplink["cut"] > 2 * (uplink["removed_in_pauses"] + uplink["removed_in_speech"])
