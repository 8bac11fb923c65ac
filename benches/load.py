"""What calls cost and how late they are: ours beside a plain Python bridge, in one run.

    python benches/load.py                        20 calls of 30 s, both bridges
    python benches/load.py --calls 20 50 100 --only ours
    python benches/load.py --chunk-ms 20 --json load.json
    python benches/load.py --calls 20 --seconds 8 --gate    exit status 1 if ours costs more than it may

It is `pxbridge bench` for two bridges. Wall-clock figures of a shared machine vary by 1.7 times: compare the
rows of one run with each other. On a machine that does other work, `chrt -r 1` before the command lets the
bench go first, so that both bridges get all the processor that they ask for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pxbridge.commands import bench

if TYPE_CHECKING:
    from pxbridge.commands.bench import Load, Row

PLAIN = Path(__file__).parent / "plain_bridge.py"
BRIDGES = ("ours", "plain")

MOST_CPU = 0.25
"""Of plain's. It was 0.20 to 0.23 in six runs, on two cores that had six times their work."""
MOST_KIB = 512
"""Per call. It was 158 to 245."""
PLAIN_KEEPS_UP_MS = 600.0
"""Of delay: plain has 380 to 440 where it gets the processor when it needs it. Where it does not, what it is
too late for is work that it does at once, or never, and its CPU tells nothing."""
ATTEMPTS = 2
"""A neighbour can fill the caches for longer than one measurement takes; what is slow is so each time."""


async def measure(bridge: str, calls: int, load: Load, console: Console) -> Row:
    if bridge == "ours":
        return await bench.measure_own(calls, load, console)
    port = bench.free_port()
    async with (
        bench.rehearsal(calls, load) as engine_url,
        bench.server(port, str(PLAIN), "--port", str(port), "--engine", engine_url) as pid,
    ):
        meter = bench.Meter(pid)
        return await bench.measure("plain", f"ws://127.0.0.1:{port}/", meter, calls, load, console)


def first_in_line() -> None:
    """As `chrt -r 1`, for this process and all that it starts, where that is allowed."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def share(ours: Row, plain: Row) -> float:
    """Our CPU per call-second, of plain's; NaN where one is not known."""
    return (ours.cpu_ms_per_call_s or math.nan) / (plain.cpu_ms_per_call_s or math.nan)


def too_much(ours: Row, plain: Row) -> list[str]:
    """What ours needs more of than it may."""
    found = []
    if not share(ours, plain) <= MOST_CPU:
        found.append(f"CPU: {share(ours, plain):.2f} of plain's, {MOST_CPU} is the limit")
    if ours.memory_kib_per_call is None or ours.memory_kib_per_call > MOST_KIB:
        found.append(f"memory: {ours.memory_kib_per_call} KiB per call, {MOST_KIB} is the limit")
    if ours.broken_calls:
        found.append(f"{ours.broken_calls} calls broke off: {ours.broken}")
    return found


async def gate(calls: int, load: Load, console: Console) -> int:
    """Judges ours beside plain; returns the exit status."""
    first_in_line()
    for attempt in range(1, ATTEMPTS + 1):
        plain = await measure("plain", calls, load, console)
        ours = await measure("ours", calls, load, console)
        console.print(bench.table([ours, plain], load))
        console.print(f"CPU per call-second at {calls} calls: ours is {share(ours, plain):.2f} of plain's")
        if plain.delay_p50_ms is None or plain.delay_p50_ms > PLAIN_KEEPS_UP_MS:
            console.print("plain did not get to its work: this machine is too busy to judge")
            verdict = 0
        elif not (found := too_much(ours, plain)):
            return 0
        else:
            console.print(f"attempt {attempt}: " + "; ".join(found), markup=False)
            verdict = 1
    return verdict


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench.add_load_arguments(parser)
    parser.add_argument("--only", choices=BRIDGES, help="one bridge alone")
    parser.add_argument("--gate", action="store_true", help="judge ours by the limits of CPU and memory")
    args = parser.parse_args()
    load = bench.load_from(args)
    # Numbers that a narrow log cuts off are worth nothing.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if args.gate:
        return max([await gate(calls, load, console) for calls in args.calls])
    rows = [
        await measure(bridge, calls, load, console)
        for calls in args.calls
        for bridge in ([args.only] if args.only else BRIDGES)
    ]
    console.print(bench.table(rows, load))
    for ours, plain in zip(rows[::2], rows[1::2], strict=False) if args.only is None else ():
        console.print(
            f"CPU per call-second at {ours.calls} calls: ours is {share(ours, plain):.2f} of plain's"
        )
    if args.json:
        bench.write_rows(args.json, rows, load)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
