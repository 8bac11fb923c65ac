"""What a caller hears in a real browser: how late, how whole, and what stalls do to it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.call.rig import speech
from tests.fault.network import relay
from tests.fault.processes import QUIET, program, until
from tests.web.browser import RATE_HZ, tab, write_microphone

from pxbridge.commands.processes import free_port
from pxbridge.simulation.mouth_to_ear import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Route
    from tests.web.browser import Tab

    from pxbridge.simulation.mouth_to_ear import Hearing

MOST_OF_A_RELAY = 1.5
"""So much longer a talk through the bridge may take than one straight with the same engine."""


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A microphone that hears a person speak, with pauses of 0.7 s."""
    said = np.repeat(speech(24_000).astype(np.float64) / 32768, RATE_HZ // 24_000)
    return write_microphone(tmp_path / "voice.wav", np.append(0.7 * said, np.zeros(RATE_HZ * 7 // 10)))


@contextlib.asynccontextmanager
async def bridge_and_echo() -> AsyncIterator[tuple[str, str]]:
    """A bridge and an engine that echoes at once, each a process: their addresses."""
    echo, port, console = free_port(), free_port(), free_port()
    environ = {
        **QUIET,
        "PXBRIDGE_PORT": str(port),
        "PXBRIDGE_CONSOLE_PORT": str(console),
        "PXBRIDGE_ENGINES": f"ws://127.0.0.1:{echo}/api/chat",
    }
    async with program("tests.web.echo_at_once", str(echo)) as engine_process:
        await until(lambda: engine_process.said("listening"), "the engine listens")
        async with program("pxbridge", environ=environ) as process:
            await until(lambda: process.said("takes calls at"), "the bridge takes calls")
            yield f"http://127.0.0.1:{console}", f"ws://127.0.0.1:{echo}/api/chat"


async def wear_headphones(t: Tab, url: str) -> None:
    """Opens the page; with headphones, as nothing may be cancelled of what is measured."""
    await t.page.goto(url)
    await t.page.get_by_role("switch", name="I wear headphones").click()


async def prepare(t: Tab, url: str) -> None:
    """Opens the page and talks."""
    await wear_headphones(t, url)
    await t.press("Talk")
    await t.see("listening")
    await t.page.locator("summary", has_text="Connection").click()


async def hearing(t: Tab, to: Path, last_s: float = 60.0) -> Hearing:
    """What came back of what was said in the last seconds."""
    said, heard, rate_hz = await t.recording(to)
    start = max(0, said.size - round(last_s * rate_hz))
    return listen(said[start:], heard[start:], rate_hz)


async def gaps(t: Tab) -> int:
    return int((await t.figures())["underruns"].split(",")[0])


TRIES = 3
"""A busy machine disturbs one run or another; what the bridge does is in all of them."""


async def test_the_bridge_adds_little_to_a_talk(voice: Path, tmp_path: Path) -> None:
    runs = []
    async with bridge_and_echo() as (page, engine), tab(voice) as straight, tab(voice) as through:
        await prepare(straight, f"{page}/talk?engine={engine}")
        await prepare(through, f"{page}/talk")
        for run in range(TRIES):
            before = [await gaps(t) for t in (straight, through)]
            await asyncio.sleep(6.0)
            both = [await hearing(t, tmp_path / f"{run}.wav", last_s=5.0) for t in (straight, through)]
            medians_ms = [1000 * float(np.median([each.delay_s for each in one.delays])) for one in both]
            more = [await gaps(t) - at_first for t, at_first in zip((straight, through), before, strict=True)]
            runs.append((*medians_ms, *more))
            # A busy machine makes gaps in both: the bridge may make one more.
            if medians_ms[1] <= MOST_OF_A_RELAY * medians_ms[0] and more[1] <= more[0] + 1:
                break
        else:
            raise AssertionError(f"straight and through the bridge: delays in ms, gaps: {runs}")
        assert straight.complaints == through.complaints == []


STALL_S = 1.5
BACK_WITHIN_S = 3.0
NEARLY_MS = 60.0
"""What a busy machine's jitter may leave in the playout's target."""


async def test_a_stall_of_the_socket_leaves_the_delay_as_it_was(voice: Path, tmp_path: Path) -> None:
    runs = []
    async with (
        bridge_and_echo() as (page, _),
        relay(int(page.rpartition(":")[2])) as between,
        tab(voice) as t,
    ):
        await prepare(t, f"http://127.0.0.1:{between.port}/talk")
        began_s, quiet_s = 0.0, math.inf
        for _ in range(TRIES):
            said, _, rate_hz = await t.record_until(began_s + 5.0, tmp_path / "before.wav")
            stalled_at_s = said.size / rate_hz
            for way in between.ways:
                if way.transport is not None:
                    way.transport.pause_reading()
            await asyncio.sleep(STALL_S)
            for way in between.ways:
                if way.transport is not None:
                    way.transport.resume_reading()
            resumed_s = (await t.recording(tmp_path / "stalled.wav"))[0].size / rate_hz
            await t.record_until(resumed_s + BACK_WITHIN_S + 5.0, tmp_path / "after.wav")
            delays = (await hearing(t, tmp_path / "heard.wav")).delays
            before = [each.delay_s for each in delays if began_s < each.at_s < stalled_at_s - 0.5]
            after = [each.delay_s for each in delays if each.at_s > resumed_s + BACK_WITHIN_S]
            assert len(before) > 3
            assert len(after) > 3
            # A delay that an earlier stall has left does not count as the usual one.
            quiet_s = min(quiet_s, float(np.median(before)))
            runs.append(1000 * (float(np.median(after)) - quiet_s))
            if runs[-1] < NEARLY_MS:
                break
            began_s = resumed_s + BACK_WITHIN_S
        else:
            raise AssertionError(f"later by so many ms after a stall than before it: {runs}")
        assert t.complaints == []


# A request that the page waits for, and that is not answered: so nothing of the machine's time is used.
STALL_OF_THE_PAGE = """() => {
  const request = new XMLHttpRequest();
  request.open("GET", "/api/stall", false);
  const began = Date.now();
  request.send();
  return [began / 1000, Date.now() / 1000];
}"""
PAGE_STALLS_S = 2.0
AT_ITS_ENDS_S = 0.3
"""Left out of what is counted: what was on its way when the page stalled, and what could go right after."""
MOST_OF_THEM = 0.5


async def test_a_page_that_stalls_for_two_seconds_keeps_on_talking(voice: Path) -> None:
    async def answer_late(route: Route) -> None:
        await asyncio.sleep(PAGE_STALLS_S)
        await route.fulfill(body="")

    runs = []
    async with (
        bridge_and_echo() as (page, _),
        relay(int(page.rpartition(":")[2])) as between,
        tab(voice) as t,
    ):
        await t.page.route("**/api/stall", answer_late)
        await prepare(t, f"http://127.0.0.1:{between.port}/talk")
        for _ in range(TRIES):
            await t.exchange(sent=150, received=150)
            began_s, ended_s = await t.page.evaluate(STALL_OF_THE_PAGE)
            long_s = ended_s - began_s - 2 * AT_ITS_ENDS_S
            before, during = (
                between.arrivals(from_s, from_s + long_s)
                for from_s in (began_s - AT_ITS_ENDS_S - long_s, began_s + AT_ITS_ENDS_S)
            )
            runs.append((before, during))
            if during >= MOST_OF_THEM * before > 0:  # by the main thread, none would be sent
                break
        else:
            raise AssertionError(f"packets at the bridge, before and while the page stalls: {runs}")
        assert t.complaints == []


STALLS_OF_THE_PAGE = """async (seconds) => {
  for (const end = performance.now() + 1000 * seconds; performance.now() < end;) {
    for (const until = performance.now() + 200; performance.now() < until;);
    await new Promise((go) => setTimeout(go, 300));
  }
}"""
WATCHED_S = 4.0


async def test_stalls_of_the_page_cause_no_gap(voice: Path) -> None:
    runs = []
    async with bridge_and_echo() as (page, _), tab(voice) as t:
        await prepare(t, f"{page}/talk")
        await t.exchange(sent=150, received=150)
        for _ in range(TRIES):
            at_first = await gaps(t)
            await asyncio.sleep(WATCHED_S)
            undisturbed = await gaps(t)
            await t.page.evaluate(STALLS_OF_THE_PAGE, WATCHED_S)
            await asyncio.sleep(1.0)  # until the page shows the last figures
            runs.append((undisturbed - at_first, await gaps(t) - undisturbed))
            if runs[-1][1] <= runs[-1][0]:
                break
        else:
            raise AssertionError(f"gaps without and with stalls of the page: {runs}")
        assert t.complaints == []
