"""How late callers hear what they said, from mouth to ear: our bridge's calls beside the plain bridge's.

Whole calls over real sockets, with phones that send 20 ms or 100 ms at a time, on a quiet line and after a
stall of 1.5 s. Bridges and engine are processes of their own. Both bridges have all their calls in the same
seconds: what else the machine does happens to both. The engine echoes, and a tone in what the caller says
shows how much later it is heard (`pxbridge.commands.load_callers`).

A benchmark's values are the delays, in seconds.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytest

import bridges
from pxbridge.commands.load_callers import TONE_EVERY_S, Part, play
from pxbridge.commands.load_measurement import Load, rehearsal
from replay import Replay

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

BRIDGES = ("ours", "plain")
CALLS = 4
"""Of each kind with each bridge. More would keep a machine of two cores busy, and then all are late."""
EVERY_S = 0.37
"""Between two calls of a kind: no two of them begin at the same place of a chunk, a step or a packet."""
SETTLE_S = 10.0
"""The stall is over after 5.5 s; words said meanwhile are then heard faster for 3 s."""
MEASURE_S = 8.0
"""Two tones of each call. They differ little; one call differs from another by where its packets begin."""


class Kind(NamedTuple):
    """What calls are like."""

    chunk_ms: float
    network: str


KINDS = {
    "100 ms chunks, quiet": Kind(100.0, ""),
    "100 ms chunks, after a stall": Kind(100.0, "stall 1500ms at 4s up"),
    "20 ms chunks, quiet": Kind(20.0, ""),
    "20 ms chunks, after a stall": Kind(20.0, "stall 1500ms at 4s up"),
}
REPLAY = Replay()


@dataclass
class Heard:
    """What all calls heard.

    Attributes:
        delays_s: By bridge and kind.
        lateness: Of the machine meanwhile.
    """

    delays_s: dict[tuple[str, str], list[float]]
    lateness: bridges.Lateness


async def measure() -> Heard:
    calls = CALLS * len(KINDS)
    async with (
        bridges.Lateness() as lateness,
        rehearsal(calls * len(BRIDGES), Load()) as engine_url,
        bridges.bridge("ours", engine_url, calls) as ours,
        bridges.bridge("plain", engine_url, calls) as plain,
        asyncio.TaskGroup() as group,
    ):
        now_s = asyncio.get_running_loop().time()
        measured_from_s = now_s + CALLS * EVERY_S + SETTLE_S
        playing = {}
        for number, (kind, (chunk_ms, network)) in enumerate(KINDS.items()):
            starts_at_s = now_s + number * EVERY_S / len(KINDS)
            for name, bridge in zip(BRIDGES, (ours, plain), strict=True):
                part = Part(
                    bridge.url,
                    CALLS,
                    number * CALLS,
                    chunk_ms,
                    network,
                    starts_at_s,
                    EVERY_S,
                    measured_from_s,
                    measured_from_s + MEASURE_S,
                )
                playing[name, kind] = group.create_task(play(part))
        await asyncio.wait(playing.values())
    delays_s = {}
    for (name, kind), played in playing.items():
        bridges.require_unbroken(name, played.result())
        found_s = [delay_s for outcome in played.result() for delay_s in outcome.delays_s]
        delays_s[name, kind] = found_s or [TONE_EVERY_S]  # no tone came back: longer than can be told
    return Heard(delays_s, lateness)


@functools.cache
def heard() -> Heard:
    bridges.go_first()
    return asyncio.run(measure())


@pytest.mark.benchmark(timer=REPLAY.now_s)
@pytest.mark.parametrize("side", BRIDGES)
@pytest.mark.parametrize("kind", KINDS)
def test_delay(benchmark: BenchmarkFixture, kind: str, side: str) -> None:
    benchmark.group = f"delay: {kind}"
    REPLAY.report(benchmark, heard().delays_s[side, kind])
    heard().lateness.note(benchmark)
