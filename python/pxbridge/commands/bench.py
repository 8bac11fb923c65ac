"""`pxbridge bench`: many simulated calls at once, their cost, their delay and their holes.

Without `--url` it starts a bridge and a rehearsal engine, each in a process of its own, so that the measured
CPU and memory are those of the bridge alone. `benches/load.py` measures other bridges in the same way.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from pxbridge.commands.call import LONGEST_CHUNK_MS, SHORTEST_CHUNK_MS
from pxbridge.commands.load_measurement import MEMORY_FROM_CALLS, SETTLE_S, Load, Row, measure, measure_own
from pxbridge.commands.output import require_call_url, require_writable
from pxbridge.commands.processes import Meter
from pxbridge.commands.terminal import say
from pxbridge.errors import InputError
from pxbridge.simulation.network import GRAMMAR, parse_network
from pxbridge.wording import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.console import Console

EXIT_BROKEN = 5

_EPILOG = f"""\
networks: {GRAMMAR.replace(" (", chr(10) + "          (")}

CPU and memory are those of the bridge alone. For a bridge at --url they need its --pid. Memory is private
memory half a second before the calls end, minus that before they began. It is shown from
{MEMORY_FROM_CALLS} calls on: with fewer, most of it does not depend on the number of calls. Delay is from
mouth to ear. Holes are silences between two pieces of audio. "filled": the agent's audio was missing and the
bridge concealed it. "lost": audio that one side sent and the other never received. Both are known only of a
bridge that the bench starts. Everything is measured after the first {SETTLE_S:.0f} s. Holes, filled and lost
are per minute of a call.

examples:
  pxbridge bench --calls 1 20 50
  pxbridge bench --calls 20 --network "jitter 80ms" --seconds 60
  pxbridge bench --config strict.toml       (playout_profile = "strict")
  pxbridge bench --url ws://127.0.0.1:5050/exotel --pid $(pidof -s pxbridge)

exit status: 0 every call lasted, {EXIT_BROKEN} some did not
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--url", help="call this running bridge (default: start one)")
    parser.add_argument("--pid", type=int, help="process id of that bridge, to measure its CPU and memory")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of settings for the bridge that is started"
    )
    add_load_arguments(parser)


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of a `Load`, and of the file for the rows."""
    parser.add_argument(
        "--calls",
        type=int,
        nargs="+",
        default=[20],
        metavar="N",
        help="calls at the same time; several numbers give several rows",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        metavar="S",
        help=f"duration of the measurement, after {SETTLE_S:.0f} s (default: 30)",
    )
    parser.add_argument(
        "--chunk-ms",
        type=float,
        default=100.0,
        metavar="MS",
        help="duration of the audio in one message of a phone (default: 100)",
    )
    parser.add_argument(
        "--network", default="", metavar="TEXT", help='simulate a bad network, e.g. "jitter 40ms"'
    )
    parser.add_argument(
        "--engine",
        choices=("echo", "relay", "canned"),
        default="echo",
        help="what the engine says; relay echoes without a codec, canned allows no delays (default: echo)",
    )
    parser.add_argument(
        "--step-ms", type=float, default=30.0, metavar="MS", help="duration of an engine's step (default: 30)"
    )
    parser.add_argument(
        "--prompt-s",
        type=float,
        default=0.0,
        metavar="S",
        help="time that the engine needs for its prompts (default: 0)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")


def load_from(args: argparse.Namespace) -> Load:
    """The load that the arguments describe.

    Raises:
        InputError: An argument is out of range.
    """
    parse_network(args.network)
    if min(args.calls) < 1:
        raise InputError(f"--calls {min(args.calls)} is not at least 1")
    for option, given, least, most in (
        ("--seconds", args.seconds, 1.0, math.inf),
        ("--chunk-ms", args.chunk_ms, SHORTEST_CHUNK_MS, LONGEST_CHUNK_MS),
        ("--step-ms", args.step_ms, 0.0, math.inf),
        ("--prompt-s", args.prompt_s, 0.0, math.inf),
    ):
        if not least <= given <= most or math.isinf(given):
            to = "" if math.isinf(most) else f" to {most:g}"
            raise InputError(f"{option} {given:g} is not {least:g}{to or ' or more'}")
    require_writable("--json", args.json)
    return Load(args.chunk_ms, args.seconds, args.network, args.engine, args.step_ms, args.prompt_s)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Runs the bench and prints its table; returns the exit status.

    Raises:
        InputError: An argument cannot be used.
        BenchFailed: A process did not start.
    """
    if args.url is not None:
        require_call_url("--url", args.url)
    load = load_from(args)
    if args.config is not None and args.url is not None:
        raise InputError("--config is for a bridge that the bench starts; remove it, or --url")
    rows = []
    for calls in args.calls:
        if args.url is not None:
            meter = None if args.pid is None else Meter(args.pid)
            rows.append(await measure("bridge", args.url, meter, calls, load, console))
        else:
            rows.append(await measure_own(calls, load, console, args.config))
    show(console, rows, load)
    if args.json is not None:
        write_rows(args.json, rows, load)
    return EXIT_BROKEN if any(row.broken_calls for row in rows) else 0


def show(console: Console, rows: Sequence[Row], load: Load) -> None:
    """Prints the load, its rows as a table, and calls that broke off."""
    say(
        console,
        f"{load.chunk_ms:g} ms chunks, {load.network or 'good network'}, {load.engine} engine with "
        f"{load.step_ms:g} ms a step and {load.prompt_s:g} s of prompts, {load.seconds:g} s each",
    )
    console.print(_table(rows))
    for row in rows:
        if row.broken:
            say(console, f"{row.broken_calls} of {counted(row.calls, 'call')} broke off: {row.broken}")


def _table(rows: Sequence[Row]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, padding=0)
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
    return made


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def write_rows(file: Path, rows: Sequence[Row], load: Load) -> None:
    """Writes the rows and their load as JSON.

    Raises:
        InputError: The file cannot be written.
    """
    text = json.dumps({"load": asdict(load), "rows": [asdict(row) for row in rows]}, indent=2)
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {file}: {error.strerror}") from error
