"""What a caller hears in a real browser: how late, how whole, and what stalls do to it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.call.rig import speech
from tests.fault.processes import QUIET, free_port, program, until
from tests.web.browser import RATE_HZ, tab, write_microphone

from pxbridge.simulation.mouth_to_ear import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.web.browser import Tab

    from pxbridge.simulation.mouth_to_ear import Hearing

MOST_OF_A_RELAY = 1.5
"""A talk through the bridge may take this much longer than one straight with an engine, both echoing at once."""


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A microphone that hears a person speak, with pauses of 0.7 s."""
    said = np.repeat(speech(24_000).astype(np.float64) / 32768, RATE_HZ // 24_000)
    return write_microphone(tmp_path / "voice.wav", np.append(0.7 * said, np.zeros(RATE_HZ * 7 // 10)))


@contextlib.asynccontextmanager
async def bridge_and_echo(engine: bool = True) -> AsyncIterator[tuple[str, str]]:
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


async def prepare(t: Tab, url: str) -> None:
    """Opens the page; with headphones, as nothing may be cancelled of what is measured."""
    await t.page.goto(url)
    await t.page.get_by_role("switch", name="I wear headphones").click()
    await t.press("Talk")
    await t.see("listening")
    await t.page.locator("summary", has_text="Connection").click()


async def hearing(t: Tab, to: Path) -> Hearing:
    said, heard, rate_hz = await t.recording(to)
    return listen(said, heard, rate_hz)


async def gaps(t: Tab) -> int:
    return int((await t.figures())["underruns"].split(",")[0])


async def test_the_bridge_adds_little_to_a_talk(voice: Path, tmp_path: Path) -> None:
    delays_ms = {}
    async with bridge_and_echo() as (page, engine):
        for name, url in (("straight", f"{page}/talk?engine={engine}"), ("bridge", f"{page}/talk")):
            async with tab(voice) as t:
                await prepare(t, url)
                await asyncio.sleep(10.0)
                print(await t.figures())
                heard = await hearing(t, tmp_path / f"{name}.wav")
                assert heard.delays
                delays_ms[name] = 1000 * float(np.median([each.delay_s for each in heard.delays]))
                print(name, delays_ms[name], await t.figures())
                assert t.complaints == []
    assert delays_ms["bridge"] <= MOST_OF_A_RELAY * delays_ms["straight"], delays_ms
