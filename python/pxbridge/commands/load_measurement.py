"""Loads a bridge with simulated calls and measures it: CPU, memory, delay, holes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pxbridge.commands.load_callers import Outcome, Part, play_elsewhere
from pxbridge.commands.processes import OPEN, Meter, free_port, server
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from rich.console import Console

STARTS_SPREAD_S = 2.0
"""The calls begin one by one over this time, so that their chunks do not all arrive together."""
SETTLE_S = 5.0
"""Not measured: connecting, prompting, and the time until the queue has found its depth."""
CALLERS_PER_PROCESS = 40
"""They take about 0.2 of a core, so that the callers themselves are never late."""
JOIN_S = 1.5
"""How long the processes of callers take to start."""
MEMORY_FROM_CALLS = 10
"""The first call adds some 2 MB that stay, and garbage of the start is freed at any time. Divided by fewer
calls,
these would be most of the result."""
TICK_S = 0.5


@dataclass(frozen=True)
class Load:
    """The load of a measurement.

    Attributes:
        chunk_ms: The duration of the audio in one message of a phone.
        seconds: The duration of the measurement, after settling.
        network: The network between the phones and the bridge; see `pxbridge.simulation.network`.
        engine: What the rehearsal engine says. ``relay`` echoes without a codec; ``canned`` allows no delays.
        step_ms: How long the engine takes for 80 ms of audio.
        prompt_s: How long the engine takes for its prompts.
    """

    chunk_ms: float = 100.0
    seconds: float = 30.0
    network: str = ""
    engine: Literal["echo", "relay", "canned"] = "echo"
    step_ms: float = 30.0
    prompt_s: float = 0.0


@dataclass(frozen=True)
class Row:
    """The results for one bridge and one number of calls; None for unknown values."""

    bridge: str
    calls: int
    cpu_ms_per_call_s: float | None
    cpu_of_a_core: float | None
    memory_kib_per_call: float | None
    delay_p50_ms: float | None
    delay_p95_ms: float | None
    delay_p99_ms: float | None
    tones: int
    holes_per_call_minute: float
    hole_ms_per_call_minute: float
    filled_ms_per_call_minute: float | None
    lost_ms_per_call_minute: float | None
    broken_calls: int
    broken: str | None


class SoundChanges(NamedTuple):
    """Changes of the sound that cannot be measured from outside, from the bridge's metrics.

    Attributes:
        filled_s: Seconds of the agent's audio that were missing and concealed.
        lost_s: Seconds that one side sent and the other never received: cut, withheld, or dropped at
            interruptions.
    """

    filled_s: float
    lost_s: float


FILLED = {("to_phone", "concealed"), ("to_phone", "noise")}
LOST = {("to_engine", "cut"), ("to_engine", "withheld"), ("to_phone", "cut"), ("to_phone", "flushed")}
"""Values of the metrics' labels ``direction`` and ``how``."""


def sound_changes(metrics: str) -> SoundChanges:
    """Reads the changes from the text of pxbridge's metrics."""
    totals = {"pxbridge_inserted_seconds_total": 0.0, "pxbridge_removed_seconds_total": 0.0}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            labels = (sample.labels.get("direction", ""), sample.labels.get("how", ""))
            if sample.name in totals and labels in FILLED | LOST:
                totals[sample.name] += sample.value
    return SoundChanges(*totals.values())


async def scrape(port: int) -> SoundChanges:
    """Asks a bridge on this machine, by the port of its console."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        return sound_changes(await answer.text())


async def measure_own(calls: int, load: Load, console: Console, config: Path | None = None) -> Row:
    """Starts a bridge, with the settings of a TOML file if one is given, and measures it."""
    port, console_port = free_port(), free_port()
    async with rehearsal(calls, load) as engine_url:
        # None of the user's own settings, so that results are comparable.
        words = ["-m", "pxbridge", "--port", str(port), "--engines", engine_url, "--log-level", "error"]
        words += ["--max-calls", str(calls), "--engine-capacity", str(calls), *OPEN]
        words += ["--console-port", str(console_port)]
        if config is not None:
            words += ["--config", str(config)]
        async with server(port, *words) as pid:
            sound = partial(scrape, console_port)
            url = f"ws://127.0.0.1:{port}/"
            return await measure("pxbridge", url, Meter(pid), calls, load, console, sound)


@contextlib.asynccontextmanager
async def rehearsal(calls: int, load: Load) -> AsyncIterator[str]:
    """The URL of a rehearsal engine for `calls` calls, in a process of its own."""
    port = free_port()
    words = ["-m", "pxbridge.simulation.rehearsal", "--port", str(port), "--mode", load.engine]
    words += ["--slots", str(calls), "--step-ms", str(load.step_ms), "--prompt-s", str(load.prompt_s)]
    async with server(port, *words):
        yield f"ws://127.0.0.1:{port}/api/chat"


async def measure(
    name: str,
    url: str,
    meter: Meter | None,
    calls: int,
    load: Load,
    console: Console,
    sound: Callable[[], Awaitable[SoundChanges]] | None = None,
) -> Row:
    """Loads a running bridge and measures it. `sound` reads the bridge's changes of the sound so far."""
    idle_bytes = meter.private_bytes() if meter else 0
    began_s = time.monotonic()
    starts_at_s = began_s + JOIN_S
    measures_from_s = starts_at_s + STARTS_SPREAD_S + SETTLE_S
    ends_at_s = measures_from_s + load.seconds
    processes = math.ceil(calls / CALLERS_PER_PROCESS)
    parts = [
        Part(
            url=url,
            calls=len(range(first, calls, processes)),
            first=first * calls,
            chunk_ms=load.chunk_ms,
            network=load.network,
            starts_at_s=starts_at_s + first * STARTS_SPREAD_S / calls,
            every_s=processes * STARTS_SPREAD_S / calls,
            measures_from_s=measures_from_s,
            ends_at_s=ends_at_s,
        )
        for first in range(processes)
    ]
    cpu_s = span_s = live_bytes = 0.0
    async with asyncio.TaskGroup() as group:
        playing = [group.create_task(play_elsewhere(part)) for part in parts]
        with _progress(console) as progress:
            shown = progress.add_task(
                f"{counted(calls, 'call')}, {name}", total=ends_at_s - began_s, state=""
            )
            await _wait_until(measures_from_s, progress, shown, began_s, "settling")
            before = await sound() if sound else None
            if meter:
                cpu_before_s, span_before_s = meter.cpu_s(), time.monotonic()
            # Half a second before the calls end, so that their end is not measured.
            await _wait_until(ends_at_s - 0.5, progress, shown, began_s, "measuring")
            if meter:
                cpu_s, span_s = meter.cpu_s() - cpu_before_s, time.monotonic() - span_before_s
                live_bytes = meter.private_bytes()
            after = await sound() if sound else None
            await asyncio.wait(playing)
    return _row(
        name,
        [outcome for task in playing for outcome in task.result()],
        load.seconds,
        cpu_of_a_core=cpu_s / span_s if meter else None,
        memory_bytes=live_bytes - idle_bytes if meter and calls >= MEMORY_FROM_CALLS else None,
        sound=SoundChanges(*np.subtract(after, before).tolist()) if before and after else None,
    )


async def _wait_until(until_s: float, progress: Progress, shown: object, began_s: float, state: str) -> None:
    while (left_s := until_s - time.monotonic()) > 0:
        progress.update(shown, completed=time.monotonic() - began_s, state=state)  # type: ignore[arg-type]
        await asyncio.sleep(min(TICK_S, left_s))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]:9}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _row(
    name: str,
    outcomes: Sequence[Outcome],
    seconds: float,
    *,
    cpu_of_a_core: float | None,
    memory_bytes: float | None,
    sound: SoundChanges | None,
) -> Row:
    calls = len(outcomes)
    delays_s = [delay for outcome in outcomes for delay in outcome.delays_s]
    holes_s = [hole for outcome in outcomes for hole in outcome.holes_s]
    minutes = calls * seconds / 60
    quantiles: list[float | None] = [None, None, None]
    if delays_s:
        quantiles = [1000 * float(value) for value in np.percentile(delays_s, (50, 95, 99))]
    broken = [outcome.broken for outcome in outcomes if outcome.broken is not None]
    return Row(
        bridge=name,
        calls=calls,
        cpu_ms_per_call_s=None if cpu_of_a_core is None else 1000 * cpu_of_a_core / calls,
        cpu_of_a_core=cpu_of_a_core,
        memory_kib_per_call=None if memory_bytes is None else memory_bytes / 1024 / calls,
        delay_p50_ms=quantiles[0],
        delay_p95_ms=quantiles[1],
        delay_p99_ms=quantiles[2],
        tones=len(delays_s),
        holes_per_call_minute=len(holes_s) / minutes,
        hole_ms_per_call_minute=1000 * sum(holes_s) / minutes,
        filled_ms_per_call_minute=None if sound is None else 1000 * sound.filled_s / minutes,
        lost_ms_per_call_minute=None if sound is None else 1000 * sound.lost_s / minutes,
        broken_calls=len(broken),
        broken=broken[0] if broken else None,
    )
