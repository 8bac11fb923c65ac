"""`pxbridge engine bench`: what the model costs on this machine, and how many conversations it can hold."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from pxbridge.commands import engine_options
from pxbridge.commands.output import require_writable
from pxbridge.commands.terminal import say
from pxbridge.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from pxbridge.personaplex.bench import Row, Tensors, Times
    from pxbridge.personaplex.config import LmConfig, MimiConfig
    from pxbridge.personaplex.model import Options

DEFAULT_SLOTS = (1, 8, 32, 64)
DEFAULT_SECONDS = 360.0
"""With loading, the whole ends within 7 minutes."""

_EPILOG = """\
A tick is measured from the callers' sound in memory to the agents', with every slot speaking.
  tick      right after a prompt of 213 positions
  full      with the context almost full, where every long call ends up
  floor     reading weights and contexts once, at the bandwidth that this device has when it copies
  prefill   that prompt; chunk: the longest time that it keeps the others waiting at once
  copy      the same prompt, when it is known
  eager     "full" without a CUDA graph
  GiB       what the device holds
Conversations are held in real time if 19 of 20 ticks in full context take less than the 80 ms that they
stand for. Sockets and Opus need CPU time beside it.

examples:
  pxbridge engine bench --random-weights             (nothing to download; times are those of real weights)
  pxbridge engine bench --weights int8 --slots 1,16,80 --json h200.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--slots",
        type=_counts,
        default=DEFAULT_SLOTS,
        metavar="N,N,…",
        help="how many conversations at once (default: 1,8,32,64)",
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="of the same sizes, instead of a checkpoint's"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=DEFAULT_SECONDS,
        metavar="S",
        help="begin nothing that would end later (default: %(default)g)",
    )
    engine_options.add_checkpoint_arguments(parser)
    engine_options.add_size_arguments(parser)
    engine_options.add_model_arguments(parser)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Measures, prints the figures, and returns the exit status.

    Raises:
        InputError: An argument or a file cannot be used.
    """
    require_writable("--json", args.json)
    lm, mimi = engine_options.configurations(args)

    from pxbridge.personaplex.assembly import set_threads
    from pxbridge.personaplex.bench import Row, Skipped, look_at, measure

    options = engine_options.model_options(args, lm)
    set_threads(lm, options.device)
    tensors = _tensors(args, lm, mimi, options, console)
    machine = look_at(options.device)
    say(
        console,
        f"{machine.device}, {machine.memory_gib} GiB, {machine.bandwidth_gb_s} GB/s, torch {machine.torch}",
    )
    figures = {
        "machine": asdict(machine),
        "weights": args.weights,
        "random_weights": args.random_weights,
        "context": options.context,
        "rows": [],
        "skipped": [],
    }
    rows: list[Row] = []
    for found in measure(lm, mimi, tensors, options, args.slots, machine, args.seconds):
        match found:
            case Row():
                rows.append(found)
                figures["rows"].append(asdict(found))
                say(console, _line(found))
            case Skipped():
                figures["skipped"].append(asdict(found))
                say(console, f"{counted(found.slots, 'slot')}: not measured: {found.why}")
        if args.json is not None:  # after each row, so that an early end keeps the rows so far
            args.json.write_text(json.dumps(figures, indent=1), "utf-8")
        await asyncio.sleep(0)
    if rows:
        console.print(_table(rows))
        say(console, "in ms; ticks as p50/p95")
        if options.device == "cuda" and not all(row.graphed for row in rows):
            say(console, "ticks ran without a CUDA graph: the log says why")
        held = max((row.slots for row in rows if row.realtime), default=0)
        say(console, f"conversations held in real time: {held} (of the numbers measured)")
    return 0


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers above 0, such as 1,8,32")
    return counts


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return seconds


def _tensors(
    args: argparse.Namespace, lm: LmConfig, mimi: MimiConfig, options: Options, console: Console
) -> tuple[Tensors, Tensors]:
    from pxbridge.personaplex.bench import random_tensors
    from pxbridge.personaplex.checkpoint import find_weights, open_lm, open_mimi

    if args.random_weights:
        return random_tensors(lm, mimi, options)
    lm_file, mimi_file = find_weights(engine_options.sources(args), lambda told: say(console, told))
    return open_lm(lm_file, lm), open_mimi(mimi_file, mimi)


def _line(row: Row) -> str:
    took = _shown(row.tick_in_full_context)
    return f"{counted(row.slots, 'slot')}: a tick takes {took} ms (p50 / p95) in full context"


def _table(rows: list[Row]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    of_gpu = rows[0].memory_gib is not None
    for title in ("slots", "tick", "full", "floor", "prefill", "chunk", "copy"):
        table.add_column(title, justify="right", no_wrap=True)
    if of_gpu:
        table.add_column("eager", justify="right", no_wrap=True)
        table.add_column("GiB", justify="right", no_wrap=True)
    for row in rows:
        cells = [
            str(row.slots),
            _shown(row.tick_after_prompt),
            _shown(row.tick_in_full_context),
            f"{row.floor_ms:.1f}",
            f"{row.prefill_ms:.1f}",
            f"{row.longest_chunk_ms:.1f}",
            f"{row.prefix_copy_ms:.1f}",
        ]
        if of_gpu:
            eager, memory = row.eager_in_full_context, row.memory_gib
            cells += [_shown(eager) if eager else "", "" if memory is None else f"{memory:.1f}"]
        table.add_row(*cells)
    return table


def _shown(times: Times) -> str:
    return f"{times.p50_ms:.1f}/{times.p95_ms:.1f}"
