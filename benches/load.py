"""CPU, memory and delay of many calls at once: ours beside a plain Python bridge, in one run.

    python benches/load.py                        20 calls of 30 s, both bridges
    python benches/load.py --calls 20 50 100 --only ours
    python benches/load.py --chunk-ms 20 --json load.json

It is `pxbridge bench` for two bridges. Wall-clock figures of a shared machine vary by 1.7 times: compare only
the rows of one run. On a machine that does other work, run it with `chrt -r 1`: it goes first then, and both
bridges get the processor whenever they need it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from typing import TYPE_CHECKING

import bridges
from pxbridge.commands import terminal
from pxbridge.commands.bench import add_load_arguments, load_from, show, write_rows
from pxbridge.commands.load_measurement import measure as measure_running
from pxbridge.commands.load_measurement import measure_own, rehearsal
from pxbridge.commands.processes import Meter
from pxbridge.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from pxbridge.commands.load_measurement import Load, Row

BRIDGES = ("ours", "plain")


async def measure(bridge: str, calls: int, load: Load, console: Console) -> Row:
    if bridge == "ours":
        return await measure_own(calls, load, console)
    async with (
        rehearsal(calls, load) as engine_url,
        bridges.bridge(bridge, engine_url, calls) as started,
    ):
        meter = Meter(started.pid)
        return await measure_running(bridge, started.url, meter, calls, load, console)


def share(ours: Row, plain: Row) -> float:
    """Our CPU per call-second, of plain's; NaN where one is not known."""
    return (ours.cpu_ms_per_call_s or math.nan) / (plain.cpu_ms_per_call_s or math.nan)


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_load_arguments(parser)
    parser.add_argument("--only", choices=BRIDGES, help="one bridge alone")
    args = parser.parse_args()
    load = load_from(args)
    console = terminal.console()
    rows = [
        await measure(bridge, calls, load, console)
        for calls in args.calls
        for bridge in ([args.only] if args.only else BRIDGES)
    ]
    show(console, rows, load)
    for ours, plain in zip(rows[::2], rows[1::2], strict=False) if args.only is None else ():
        calls = counted(ours.calls, "call")
        terminal.say(console, f"CPU per call-second at {calls}: ours is {share(ours, plain):.2f} of plain's")
    if args.json:
        write_rows(args.json, rows, load)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
