"""Two versions of the bridge at the same time, each with half of the callers: how much less CPU one takes.

    python benches/cpu_pair.py BEFORE.py             beside the bridge as it is
    python benches/cpu_pair.py BEFORE.py AFTER.py

A version is a Python file that changes what it wants to change and then runs `pxbridge.cli.main`. What two
runs of `bench_cpu.py` cost differs by 5 % or more, because the machine and the layout of memory differ. Here
both versions suffer the same, second by second. One place can be a few per cent cheaper than the other, even
if both are equal; so there are two turns, with the places changed, and the result is the mean of both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import statistics
from pathlib import Path

from rich.table import Table

import bridges
from bench_cpu import CHUNK_MS, HANG_UP_S, LOAD, SETTLE_S, STARTS_S
from pxbridge.commands import terminal
from pxbridge.commands.load_callers import Part, play
from pxbridge.commands.load_measurement import rehearsal

CALLS = 12
"""Of each version: 20 at once keep two cores busy."""
WINDOWS = 8
WINDOW_S = 5.0
AS_IT_IS = bridges.HERE.parent / "python" / "pxbridge" / "__main__.py"


async def measure(versions: list[Path]) -> list[list[float]]:
    """CPU seconds of a call-second of each version, window by window."""
    clock = asyncio.get_running_loop().time
    bridges.go_first()
    async with contextlib.AsyncExitStack() as stack:
        engine_url = await stack.enter_async_context(rehearsal(len(versions) * CALLS, LOAD))
        running = []
        for version in versions:
            os.environ[bridges.OURS] = str(version)
            running.append(await stack.enter_async_context(bridges.bridge("ours", engine_url, CALLS)))

        async def per_second(seconds: float) -> list[float]:
            began_s, before_s = clock(), [bridge.cpu_s() for bridge in running]
            await asyncio.sleep(seconds)
            span_s = clock() - began_s
            return [(bridge.cpu_s() - s) / span_s for bridge, s in zip(running, before_s, strict=True)]

        first_s, every_s = clock(), STARTS_S / CALLS
        over_s = first_s + STARTS_S + SETTLE_S + WINDOWS * WINDOW_S + HANG_UP_S
        calling = [
            asyncio.create_task(
                play(
                    Part(
                        bridge.url,
                        CALLS,
                        0,
                        CHUNK_MS,
                        "",
                        first_s + number * every_s / len(running),
                        every_s,
                        over_s,
                        over_s + HANG_UP_S,
                    )
                )
            )
            for number, bridge in enumerate(running)
        ]
        await asyncio.sleep(STARTS_S + SETTLE_S)
        windows = [[cpu_s / CALLS for cpu_s in await per_second(WINDOW_S)] for _ in range(WINDOWS)]
        for version, outcomes in zip(versions, calling, strict=True):
            bridges.require_unbroken(version.name, await outcomes)
    return windows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=AS_IT_IS)
    args = parser.parse_args()
    for version in (args.before, args.after):
        if not version.is_file():
            parser.error(f"{version}: there is no such file")
    versions = [args.before.resolve(), args.after.resolve()]
    table = Table("ms of CPU a call-second", "before", "after", "after / before")
    ratios = []
    for places in (versions, versions[::-1]):
        windows = asyncio.run(measure(places))
        if places is not versions:
            windows = [window[::-1] for window in windows]
        before_s, after_s = (statistics.median(side) for side in zip(*windows, strict=True))
        ratios.append(after_s / before_s)
        each = [window_after_s / window_before_s for window_before_s, window_after_s in windows]
        turn = "before is started first" if places is versions else "after is started first"
        table.add_row(
            turn,
            f"{1000 * before_s:.3f}",
            f"{1000 * after_s:.3f}",
            f"{ratios[-1]:.3f} ({min(each):.3f} to {max(each):.3f})",
        )
    table.add_row("both turns", "", "", f"{math.prod(ratios) ** 0.5:.3f}")
    terminal.console().print(table)


if __name__ == "__main__":
    main()
