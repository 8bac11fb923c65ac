"""`pxbridge bench`: many simulated calls at once, and what they cost the bridge and its callers.

Without `--url` it starts a bridge of its own and a rehearsal engine, each in its own process, so that what
is measured of the bridge is the bridge's alone. `benches/load.py` measures other bridges by the same rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pxbridge.commands.call import LONGEST_CHUNK_MS, SHORTEST_CHUNK_MS
from pxbridge.commands.load_callers import Outcome, Part, play_elsewhere
from pxbridge.commands.output import require_writable
from pxbridge.errors import InputError, PxbridgeError
from pxbridge.simulation.network import GRAMMAR, parse_network

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from rich.console import Console

STARTS_SPREAD_S = 2.0
"""The calls begin one after the other over this time, as chunks that all come at once would tell nothing."""
SETTLE_S = 5.0
"""A conversation's first seconds are connecting, prompts and a queue that finds its depth."""
CALLERS_A_PROCESS = 40
"""So many callers take some 0.2 of a core: a process of them is never late itself."""
JOIN_S = 1.5
"""How long the processes of callers take to be there."""
BOOT_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
MEMORY_FROM_CALLS = 10
"""The first call brings some 2 MB that stay, and garbage of the start goes whenever it likes: shared among
fewer calls, that is most of the figure."""
TICK_S = 0.5
EXIT_BROKEN = 5

_EPILOG = f"""\
networks: {GRAMMAR.replace(" (", chr(10) + "          (")}

CPU and memory are the bridge's alone; of a bridge at --url they are known with its --pid. Memory is what is
private to the process half a second before the calls end, less what was before they began; it is told from
{MEMORY_FROM_CALLS} calls on, as with fewer it is mostly what one call would need too. Delay is from mouth to
ear. Holes are silences between two pieces of audio; "filled" is where the agent's sound was missing too and
the bridge made something up, "lost" what one side said and the other never got, both as the bridge started
for the bench tells. All count after the first {SETTLE_S:.0f} s, and per minute of a call.

examples:
  pxbridge bench --calls 1 20 50
  pxbridge bench --calls 20 --network "jitter 80ms" --seconds 60
  pxbridge bench --config strict.toml       (playout_profile = "strict")
  pxbridge bench --url ws://127.0.0.1:5050/exotel --pid $(pidof -s pxbridge)

exit status: 0 every call lasted, {EXIT_BROKEN} some did not
"""


@dataclass(frozen=True)
class Load:
    """What a bridge is measured under.

    Attributes:
        chunk_ms: The phones' chunks.
        seconds: Measured, after settling.
        network: Between the phones and the bridge.
        engine: What the rehearsal engine says. ``relay`` echoes without a codec; ``canned`` tells no delays.
        step_ms: How long the engine seems to think about 80 ms.
        prompt_s: How long it seems to read its prompts.
    """

    chunk_ms: float = 100.0
    seconds: float = 30.0
    network: str = ""
    engine: Literal["echo", "relay", "canned"] = "echo"
    step_ms: float = 30.0
    prompt_s: float = 0.0


@dataclass(frozen=True)
class Row:
    """What one bridge did under one number of calls; what is not known is None."""

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


class Sound(NamedTuple):
    """What callers cannot tell from speech and pauses, as a bridge's own metrics count it, in seconds.

    Attributes:
        filled_s: The agent's sound was missing, and something was made up in its place: what would be holes.
        lost_s: What one side said and the other never got: cut, withheld or dropped when interrupted.
    """

    filled_s: float
    lost_s: float


FILLED = {("to_phone", "concealed"), ("to_phone", "noise")}
LOST = {("to_engine", "cut"), ("to_engine", "withheld"), ("to_phone", "cut"), ("to_phone", "flushed")}
"""Of the metrics' directions and hows."""


def sound_of(metrics: str) -> Sound:
    """Reads it off pxbridge's metrics."""
    totals = {"pxbridge_inserted_seconds_total": 0.0, "pxbridge_removed_seconds_total": 0.0}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            what = (sample.labels.get("direction", ""), sample.labels.get("how", ""))
            if sample.name in totals and what in FILLED | LOST:
                totals[sample.name] += sample.value
    return Sound(*totals.values())


async def scrape(port: int) -> Sound:
    """The same of a bridge of this machine, by its console's port."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        return sound_of(await answer.text())


class BenchFailed(PxbridgeError):
    """A bench that could not be run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--url", help="a running bridge to call (default: one of its own)")
    parser.add_argument("--pid", type=int, help="that bridge's process, for its CPU and memory")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of settings for the bridge that is started"
    )
    add_load_arguments(parser)


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what a `Load` is made of, and where its rows go."""
    parser.add_argument(
        "--calls", type=int, nargs="+", default=[20], metavar="N", help="calls at once; several: a row each"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        metavar="S",
        help=f"measured, after {SETTLE_S:.0f} s (default: 30)",
    )
    parser.add_argument(
        "--chunk-ms", type=float, default=100.0, metavar="MS", help="the phones' chunks (default: 100)"
    )
    parser.add_argument("--network", default="", metavar="TEXT", help='a bad network, e.g. "jitter 40ms"')
    parser.add_argument(
        "--engine",
        choices=("echo", "relay", "canned"),
        default="echo",
        help="what it says; relay echoes without a codec, canned tells no delays (default: echo)",
    )
    parser.add_argument(
        "--step-ms", type=float, default=30.0, metavar="MS", help="the engine's step (default: 30)"
    )
    parser.add_argument(
        "--prompt-s", type=float, default=0.0, metavar="S", help="the engine's prompts (default: 0)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")


def load_from(args: argparse.Namespace) -> Load:
    """The load that was asked for.

    Raises:
        InputError: It makes no sense.
    """
    parse_network(args.network)
    if min(args.calls) < 1:
        raise InputError(f"--calls {min(args.calls)}: at least one was expected")
    for option, given, least, most in (
        ("--seconds", args.seconds, 1.0, math.inf),
        ("--chunk-ms", args.chunk_ms, SHORTEST_CHUNK_MS, LONGEST_CHUNK_MS),
        ("--step-ms", args.step_ms, 0.0, math.inf),
        ("--prompt-s", args.prompt_s, 0.0, math.inf),
    ):
        if not least <= given <= most or math.isinf(given):
            to = "" if math.isinf(most) else f" to {most:g}"
            raise InputError(f"{option} {given:g}: {least:g}{to or ' or more'} was expected")
    require_writable("--json", args.json)
    return Load(args.chunk_ms, args.seconds, args.network, args.engine, args.step_ms, args.prompt_s)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Runs the bench and prints its table; returns the exit status.

    Raises:
        InputError: An argument cannot be used.
        BenchFailed: A process did not start.
    """
    load = load_from(args)
    if args.config is not None and args.url is not None:
        raise InputError("--config: a bridge that runs already, at --url, has its settings")
    rows = []
    for calls in args.calls:
        if args.url is not None:
            meter = None if args.pid is None else Meter(args.pid)
            rows.append(await measure("bridge", args.url, meter, calls, load, console))
        else:
            rows.append(await measure_own(calls, load, console, args.config))
    console.print(table(rows, load))
    if args.json is not None:
        write_rows(args.json, rows, load)
    return EXIT_BROKEN if any(row.broken_calls for row in rows) else 0


async def measure_own(calls: int, load: Load, console: Console, config: Path | None = None) -> Row:
    """Measures a bridge that is started for it, with the settings of a TOML file if there is one."""
    port, console_port = free_port(), free_port()
    async with rehearsal(calls, load) as engine_url:
        # Nothing of the user's own settings but what is named: what is measured is the same everywhere.
        words = ["-m", "pxbridge", "--port", str(port), "--engines", engine_url, "--log-level", "error"]
        words += ["--max-calls", str(calls), "--engine-capacity", str(calls), *OPEN]
        words += ["--console-port", str(console_port)]
        if config is not None:
            words += ["--config", str(config)]
        async with server(port, *words) as pid:
            sound = partial(scrape, console_port)
            url = f"ws://127.0.0.1:{port}/"
            return await measure("pxbridge", url, Meter(pid), calls, load, console, sound)


OPEN = ("--allow-anonymous", "--handshakes-per-minute", "1000000")
"""On loopback only, and all calls come from one address."""


@contextlib.asynccontextmanager
async def rehearsal(calls: int, load: Load) -> AsyncIterator[str]:
    """A rehearsal engine in a process of its own, for so many calls; its URL."""
    port = free_port()
    words = ["-m", "pxbridge.simulation.rehearsal", "--port", str(port), "--mode", load.engine]
    words += ["--slots", str(calls), "--step-ms", str(load.step_ms), "--prompt-s", str(load.prompt_s)]
    async with server(port, *words):
        yield f"ws://127.0.0.1:{port}/api/chat"


@contextlib.asynccontextmanager
async def server(port: int, *words: str) -> AsyncIterator[int]:
    """`python WORDS`, from when its port answers until the block ends; its process id.

    Raises:
        BenchFailed: It does not answer; with what it wrote last.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PXBRIDGE_")}
    with tempfile.TemporaryFile() as output:
        started = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=output, stderr=output, env=environ
        )
        try:
            give_up_at_s = time.monotonic() + BOOT_TIMEOUT_S
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                if started.returncode is not None or time.monotonic() > give_up_at_s:
                    output.seek(0)
                    said = output.read().decode(errors="replace").strip()
                    raise BenchFailed(f"did not start: {' '.join(words)}\n{said}")
                await asyncio.sleep(0.05)
            yield started.pid
        finally:
            if started.returncode is None:
                started.terminate()
                try:
                    await asyncio.wait_for(started.wait(), STOP_TIMEOUT_S)
                except TimeoutError:
                    started.kill()
                    await started.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Meter:
    """CPU and memory of one process, as Linux tells them (proc(5)).

    Raises:
        InputError: There is no such process, or no Linux.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        try:
            self.cpu_s()
            self.private_bytes()
        except OSError as error:
            raise InputError(f"process {pid} cannot be measured: {error.strerror}") from error

    def cpu_s(self) -> float:
        """What it has used so far, in user and in kernel mode."""
        # Field 2, the name, may hold spaces; it ends with the last parenthesis.
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * self._tick_s

    def private_bytes(self) -> int:
        """Memory that is its own: what would be free if it ended."""
        lines = (self._folder / "smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def measure(
    name: str,
    url: str,
    meter: Meter | None,
    calls: int,
    load: Load,
    console: Console,
    sound: Callable[[], Awaitable[Sound]] | None = None,
) -> Row:
    """Loads a running bridge and measures it; `sound` asks the bridge what it did to the calls so far."""
    idle_bytes = meter.private_bytes() if meter else 0
    began_s = time.monotonic()
    starts_at_s = began_s + JOIN_S
    measures_from_s = starts_at_s + STARTS_SPREAD_S + SETTLE_S
    ends_at_s = measures_from_s + load.seconds
    processes = math.ceil(calls / CALLERS_A_PROCESS)
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
            shown = progress.add_task(f"{calls} calls, {name}", total=ends_at_s - began_s, state="")
            await _wait_until(measures_from_s, progress, shown, began_s, "settling")
            before = await sound() if sound else None
            if meter:
                cpu_before_s, span_before_s = meter.cpu_s(), time.monotonic()
            # Half a second before they hang up, so that hanging up does not count.
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
        sound=Sound(*np.subtract(after, before).tolist()) if before and after else None,
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
    sound: Sound | None,
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


def table(rows: Sequence[Row], load: Load) -> Table:
    """The rows as they are printed."""
    network = load.network or "a good network"
    title = (
        f"{load.chunk_ms:g} ms chunks, {network}, {load.engine} engine with {load.step_ms:g} ms a step and "
        f"{load.prompt_s:g} s of prompts, {load.seconds:g} s each"
    )
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    made.add_column("bridge", no_wrap=True)
    for column in ("calls", "CPU ms\n/call·s", "of a\ncore", "KiB\n/call", "delay\np50 ms", "p95", "p99"):
        made.add_column(column, justify="right", no_wrap=True)
    for column in ("holes\n/min", "ms\n/min", "filled\nms/min", "lost\nms/min"):
        made.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(
            row.bridge,
            str(row.calls),
            _number(row.cpu_ms_per_call_s, ".2f"),
            _number(row.cpu_of_a_core, ".0%"),
            _number(row.memory_kib_per_call, ".0f"),
            _number(row.delay_p50_ms, ".0f"),
            _number(row.delay_p95_ms, ".0f"),
            _number(row.delay_p99_ms, ".0f"),
            f"{row.holes_per_call_minute:.1f}",
            f"{row.hole_ms_per_call_minute:.0f}",
            _number(row.filled_ms_per_call_minute, ".0f"),
            _number(row.lost_ms_per_call_minute, ".0f"),
        )
    broken = [
        f"{row.broken_calls} of {row.calls} calls broke off: {row.broken}" for row in rows if row.broken
    ]
    if broken:
        made.caption = "\n".join(map(escape, broken))
        made.caption_justify = "left"
    return made


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def write_rows(file: Path, rows: Sequence[Row], load: Load) -> None:
    """Writes the rows and what they were measured under as JSON.

    Raises:
        InputError: The file cannot be written.
    """
    text = json.dumps({"load": asdict(load), "rows": [asdict(row) for row in rows]}, indent=2)
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {file}: {error.strerror}") from error
