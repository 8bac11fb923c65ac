"""What calls cost and how late they are: ours beside a plain Python bridge, in one run.

    python benches/load.py                        20 calls of 30 s, both bridges
    python benches/load.py --calls 20 50 100 --only ours
    python benches/load.py --chunk-ms 20 --json load.json

It is `pxbridge bench` for two bridges. Wall-clock figures of a shared machine vary by 1.7 times: compare the
rows of one run with each other. On a machine that does other work, `chrt -r 1` before the command lets the
bench go first, so that both bridges get all the processor that they ask for.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pxbridge.commands import bench

if TYPE_CHECKING:
    from pxbridge.commands.bench import Load, Row

PLAIN = Path(__file__).parent / "plain_bridge.py"
BRIDGES = ("ours", "plain")


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


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench.add_load_arguments(parser)
    parser.add_argument("--only", choices=BRIDGES, help="one bridge alone")
    args = parser.parse_args()
    load = bench.load_from(args)
    # Numbers that a narrow log cuts off are worth nothing.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    rows = [
        await measure(bridge, calls, load, console)
        for calls in args.calls
        for bridge in ([args.only] if args.only else BRIDGES)
    ]
    console.print(bench.table(rows, load))
    for ours, plain in zip(rows[::2], rows[1::2], strict=False) if args.only is None else ():
        if ours.cpu_ms_per_call_s and plain.cpu_ms_per_call_s:
            ratio = ours.cpu_ms_per_call_s / plain.cpu_ms_per_call_s
            console.print(f"CPU per call-second at {ours.calls} calls: ours is {ratio:.2f} of plain's")
    if args.json:
        bench.write_rows(args.json, rows, load)


if __name__ == "__main__":
    asyncio.run(main())
