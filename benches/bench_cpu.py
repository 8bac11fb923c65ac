"""What a call costs in CPU time, beside what libopus alone takes for the same sound.

The bridge's process is measured from outside while `CALLS` calls are live; the engine and the callers are
other processes. What a call costs to set up is told apart from what each second of it costs. Beside it stand,
in the same seconds:

- ``libopus``: encoding what the callers say and decoding what the engine says, at real time, and nothing else
  (`libopus_alone.py`); ``libopus flat out``: the same without a pause;
- ``plain``: the plain Python bridge (`plain_bridge.py`);
- ``sockets``: receiving and sending as many messages of the same sizes (`relay_bridge.py`).

Every value is CPU seconds per call-second, or per call set up.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import statistics
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import bridges
from pxbridge.commands.load_callers import Part, play
from pxbridge.commands.load_measurement import Load, rehearsal
from replay import Replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_benchmark.fixture import BenchmarkFixture

CALLS = 20
CHUNK_MS = 100.0
STARTS_S = 2.0
"""The calls begin one after the other over this time."""
SET_UP_S = 1.0
"""After the last call began, all are connected, prompted and heard."""
SETTLE_S = 4.0
"""From then on, until a call costs what it costs from now on: its queues have found their depth."""
WINDOWS = 5
WINDOW_S = 2.0
HANG_UP_S = 0.5
"""The calls end so much after the last window: ending them does not count. (It costs less than 0.1 ms.)"""

LOAD = Load(engine="echo", chunk_ms=CHUNK_MS)
REPLAY = Replay()


@dataclass
class Figures:
    """What one bridge cost, in CPU seconds.

    Attributes:
        call_second_s: Each window's cost of a second of one call.
        libopus_s: What libopus alone took in the same windows, at real time.
        flat_out_s: And without a pause.
        setup_s: What it cost to set up one call.
        idle_s: What a second without calls cost.
        call_bytes: Private memory of one call.
        lateness: Of the machine meanwhile.
    """

    call_second_s: list[float] = field(default_factory=list)
    libopus_s: list[float] = field(default_factory=list)
    flat_out_s: list[float] = field(default_factory=list)
    setup_s: float = 0.0
    idle_s: float = 0.0
    call_bytes: float = 0.0
    lateness: bridges.Lateness = field(default_factory=bridges.Lateness)


@contextlib.asynccontextmanager
async def libopus_alone() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(bridges.HERE / "libopus_alone.py"),
        "--calls",
        str(CALLS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def ask(libopus: asyncio.subprocess.Process) -> dict[str, float]:
    """Its figures since it was asked last."""
    assert libopus.stdin is not None and libopus.stdout is not None
    libopus.stdin.write(b"\n")
    told: dict[str, float] = json.loads(await libopus.stdout.readline())
    return told


async def measure(name: str) -> Figures:
    """Loads one bridge."""
    figures = Figures()
    clock = asyncio.get_running_loop().time
    async with (
        figures.lateness,
        rehearsal(CALLS, LOAD) as engine_url,
        bridges.bridge(name, engine_url, CALLS) as bridge,
        libopus_alone() as libopus,
    ):
        await ask(libopus)
        before_s = bridge.cpu_s()
        await asyncio.sleep(SET_UP_S)
        figures.idle_s = (bridge.cpu_s() - before_s) / SET_UP_S
        idle_bytes = bridge.private_bytes()

        first_s, every_s = clock(), STARTS_S / CALLS
        set_up_s = first_s + STARTS_S + SET_UP_S
        measured_s = set_up_s + SETTLE_S + WINDOWS * WINDOW_S
        part = Part(bridge.url, CALLS, 0, CHUNK_MS, "", first_s, every_s, measured_s, measured_s + HANG_UP_S)
        before_s = bridge.cpu_s()
        calling = asyncio.create_task(play(part))
        await asyncio.sleep(set_up_s - clock())
        setting_up_s = bridge.cpu_s() - before_s
        call_seconds = sum(clock() - (first_s + number * every_s) for number in range(CALLS))
        await asyncio.sleep(SETTLE_S)
        await ask(libopus)
        for _ in range(WINDOWS):
            began_s, before_s = clock(), bridge.cpu_s()
            await asyncio.sleep(WINDOW_S)
            cpu_s, span_s = bridge.cpu_s() - before_s, clock() - began_s
            figures.call_second_s.append(cpu_s / span_s / CALLS)
            took = await ask(libopus)
            figures.libopus_s.append(took["paced"])
            figures.flat_out_s.append(took["flat_out"])
        figures.call_bytes = (bridge.private_bytes() - idle_bytes) / CALLS
        bridges.require_unbroken(name, await calling)
    figures.setup_s = (setting_up_s - call_seconds * statistics.median(figures.call_second_s)) / CALLS
    return figures


@functools.cache
def figures(side: str) -> Figures:
    bridges.go_first()
    return asyncio.run(measure("relay" if side == "sockets" else side))


@pytest.mark.benchmark(group="CPU of a second of a call", timer=REPLAY.now_s)
@pytest.mark.parametrize("side", ["ours", "libopus", "libopus flat out", "plain", "sockets"])
def test_call_second(benchmark: BenchmarkFixture, side: str) -> None:
    match side:
        case "libopus":
            found = figures("ours")
            REPLAY.report(benchmark, found.libopus_s)
        case "libopus flat out":
            found = figures("ours")
            REPLAY.report(benchmark, found.flat_out_s)
        case _:
            found = figures(side)
            REPLAY.report(benchmark, found.call_second_s)
            benchmark.extra_info["KiB of a call"] = round(found.call_bytes / 1024)
            benchmark.extra_info["idle, ms of CPU a second"] = round(1000 * found.idle_s, 2)
    found.lateness.note(benchmark)


@pytest.mark.benchmark(group="CPU of setting up a call", timer=REPLAY.now_s)
@pytest.mark.parametrize("side", ["ours", "sockets"])
def test_setup(benchmark: BenchmarkFixture, side: str) -> None:
    REPLAY.report(benchmark, [figures(side).setup_s])
    figures(side).lateness.note(benchmark)
