"""What callers hear through the whole path, in virtual time: phone, bridge as its process runs it, engine."""

from __future__ import annotations

import asyncio
import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console
from tests.simulated import VECTORS
from tests.virtual_time import run

from pxbridge import settings
from pxbridge.app import lifecycle
from pxbridge.commands.report import Report, make_report
from pxbridge.simulation.phone import Ended, Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode, Rehearsal
from pxbridge.wav import read_wav, resample, to_pcm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LINES = [(rate_hz, chunk_ms) for rate_hz in (8000, 16000, 24000) for chunk_ms in (20, 100)]
SPEAK_AT_S = 2.0
PROMPT_S = 0.5
SPEECH = read_wav(VECTORS / "speech_24k.wav")


@contextlib.asynccontextmanager
async def serving(**flags: object) -> AsyncIterator[str]:
    """A bridge, and the URL that Exotel would dial."""
    ready: asyncio.Queue[str] = asyncio.Queue()
    loaded = settings.load({"port": 0, "shed_above_lag_ms": 0, **flags}, {})
    running = asyncio.create_task(lifecycle.run(loaded, Console(file=io.StringIO()), ready.put_nowait))
    try:
        yield await ready.get()
    finally:
        running.cancel()
        await asyncio.wait([running])


def phone(rate_hz: int, chunk_ms: int, speak_at_s: float | None) -> Phone:
    words = to_pcm(resample(SPEECH.samples, SPEECH.rate_hz, rate_hz))
    hang_up_at_s = None if speak_at_s is None else speak_at_s + SPEECH.duration_s + 1.0
    return Phone(Script(words, speak_at_s, hang_up_at_s=hang_up_at_s), Line(rate_hz, chunk_ms))


async def hold_calls() -> tuple[dict[tuple[int, int], Phone], Phone]:
    """One call on each kind of line with an engine that echoes, and one with the engine a newcomer meets."""
    echoed = {line: phone(*line, SPEAK_AT_S) for line in LINES}
    repeated = phone(8000, 100, None)
    async with contextlib.AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(Rehearsal(mode=Mode.ECHO, prompt_s=PROMPT_S)) for _ in echoed
        ]
        echoing = await stack.enter_async_context(
            serving(engines=" ".join(engine.url for engine in engines), allow_anonymous=True)
        )
        parroting = await stack.enter_async_context(serving())
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(place_call(echoing, each) for each in echoed.values()), place_call(parroting, repeated)
            )
    return echoed, repeated


@pytest.fixture(scope="module")
def calls() -> tuple[dict[tuple[int, int], Report], Report]:
    echoed, repeated = run(hold_calls())
    return {line: make_report(each) for line, each in echoed.items()}, make_report(repeated)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line[0]}Hz-{line[1]}ms")
def test_words_come_back_as_loud_as_high_and_as_fast_on_every_line(
    calls: tuple[dict[tuple[int, int], Report], Report], line: tuple[int, int]
) -> None:
    report = calls[0][line]
    hearing = report.hearing
    assert report.phone.ended is Ended.BY_CALLER
    assert not report.phone.faults
    assert len(hearing.delays) > 0.8 * hearing.windows
    assert hearing.correlation > 0.7
    assert hearing.gain_db == pytest.approx(0, abs=1.0)
    assert hearing.speed == pytest.approx(1, abs=0.002)
    assert hearing.dropouts == ()


def test_a_newcomers_words_are_repeated_after_the_greeting(
    calls: tuple[dict[tuple[int, int], Report], Report],
) -> None:
    report = calls[1]
    hearing = report.hearing
    assert hearing.repeated
    assert len(hearing.delays) > 0.8 * hearing.windows
    assert hearing.correlation > 0.7
    assert hearing.gain_db == pytest.approx(0, abs=1.0)
    spoke_at_s = report.phone.caller.spoke_at_s
    assert hearing.first_voice_s is not None and spoke_at_s is not None
    assert hearing.first_voice_s < spoke_at_s  # the greeting came first
    assert not report.phone.faults
    assert np.abs(report.phone.player.heard).max() < 32767
