"""What a caller hears in a real browser: how late, how whole, and what stalls do to it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.call.rig import speech
from tests.fault.network import relay
from tests.fault.processes import QUIET, free_port, program, until
from tests.web.browser import RATE_HZ, tab, write_microphone

from pxbridge.simulation.mouth_to_ear import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

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
            gaps_before = await gaps(through)
            await asyncio.sleep(6.0)
            both = [await hearing(t, tmp_path / f"{run}.wav", last_s=5.0) for t in (straight, through)]
            medians_ms = [1000 * float(np.median([each.delay_s for each in one.delays])) for one in both]
            runs.append((*medians_ms, await gaps(through) - gaps_before))
            if medians_ms[1] <= MOST_OF_A_RELAY * medians_ms[0] and runs[-1][2] <= 1:
                break
        else:
            raise AssertionError(f"straight and through the bridge in ms, and gaps: {runs}")
        assert straight.complaints == through.complaints == []


STALL_S = 1.5
BACK_WITHIN_S = 3.0
NEARLY_MS = 60.0
"""What a busy machine's jitter may leave in the playout's target."""


async def test_a_stall_of_the_socket_leaves_the_delay_as_it_was(voice: Path, tmp_path: Path) -> None:
    async with (
        bridge_and_echo() as (page, _),
        relay(int(page.rpartition(":")[2])) as between,
        tab(voice) as t,
    ):
        await prepare(t, f"http://127.0.0.1:{between.port}/talk")
        await asyncio.sleep(5.0)
        stalled_at_s = (await t.recording(tmp_path / "before.wav"))[0].size / 24_000
        for way in between.ways:
            if way.transport is not None:
                way.transport.pause_reading()
        await asyncio.sleep(STALL_S)
        for way in between.ways:
            if way.transport is not None:
                way.transport.resume_reading()
        await asyncio.sleep(BACK_WITHIN_S + 5.0)
        heard = await hearing(t, tmp_path / "heard.wav")
        assert t.complaints == []
    before = [each.delay_s for each in heard.delays if each.at_s < stalled_at_s - 0.5]
    after = [each.delay_s for each in heard.delays if each.at_s > stalled_at_s + STALL_S + BACK_WITHIN_S]
    assert len(before) > 3
    assert len(after) > 3
    assert 1000 * (np.median(after) - np.median(before)) < NEARLY_MS


async def test_a_page_that_stalls_for_two_seconds_keeps_on_talking(voice: Path) -> None:
    async with bridge_and_echo() as (page, _), tab(voice) as t:
        await prepare(t, f"{page}/talk")
        await asyncio.sleep(3.0)
        before = await packets(t)
        await t.page.evaluate("for (const until = performance.now() + 2000; performance.now() < until;);")
        await asyncio.sleep(1.0)
        after = await packets(t)
        # By the main thread, nothing would have gone for two of these three seconds.
        assert [later - earlier >= 2.5 * 45 for earlier, later in zip(before, after, strict=True)] == [
            True,
            True,
        ]
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
        await asyncio.sleep(3.0)
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


async def packets(t: Tab) -> list[int]:
    """Sent and received."""
    return [int(count) for count in (await t.figures())["packets"].split(",")]
