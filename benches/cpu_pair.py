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
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

import bridges
from bench_cpu import CHUNK_MS, HANG_UP_S, LOAD, SETTLE_S, STARTS_S
from pxbridge.commands import terminal
from pxbridge.commands.load_callers import Part, play
from pxbridge.commands.load_measurement import rehearsal

if TYPE_CHECKING:
    from collections.abc import Sequence

CALLS = 12
"""Of each version: 20 at once keep two cores busy."""
WINDOWS = 8
WINDOW_S = 5.0


async def measure(versions: Sequence[Path | None]) -> list[list[float]]:
    """CPU seconds of a call-second of each version, window by window. None is the bridge as it is."""
    clock = asyncio.get_running_loop().time
    bridges.go_first()
    async with contextlib.AsyncExitStack() as stack:
        engine_url = await stack.enter_async_context(rehearsal(len(versions) * CALLS, LOAD))
        running = []
        for version in versions:
            use(version)
            running.append(await stack.enter_async_context(bridges.bridge("ours", engine_url, CALLS)))

        async def call_seconds() -> list[float]:
            began_s, before_s = clock(), [bridge.cpu_s() for bridge in running]
            await asyncio.sleep(WINDOW_S)
            took_s = [bridge.cpu_s() - s for bridge, s in zip(running, before_s, strict=True)]
            return [cpu_s / (clock() - began_s) / CALLS for cpu_s in took_s]

        first_s, every_s = clock(), STARTS_S / CALLS
        measured_s = first_s + STARTS_S + SETTLE_S + WINDOWS * WINDOW_S
        calling = []
        for number, bridge in enumerate(running):
            begin_s = first_s + number * every_s / len(running)
            part = Part(
                bridge.url, CALLS, 0, CHUNK_MS, "", begin_s, every_s, measured_s, measured_s + HANG_UP_S
            )
            calling.append(asyncio.create_task(play(part)))
        await asyncio.sleep(STARTS_S + SETTLE_S)
        windows = [await call_seconds() for _ in range(WINDOWS)]
        for version, outcomes in zip(versions, calling, strict=True):
            bridges.require_unbroken(str(version or "ours"), await outcomes)
    return windows


def use(version: Path | None) -> None:
    """The next bridge that starts is of this version."""
    if version is None:
        os.environ.pop(bridges.OURS, None)
    else:
        os.environ[bridges.OURS] = str(version.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", help="(the bridge as it is)")
    args = parser.parse_args()
    for version in (args.before, args.after):
        if version is not None and not version.is_file():
            parser.error(f"{version}: there is no such file")
    turns = {
        "before was started first": asyncio.run(measure([args.before, args.after])),
        "after was started first": [pair[::-1] for pair in asyncio.run(measure([args.after, args.before]))],
    }
    table = Table("ms of CPU a call-second", "before", "after", "after / before")
    ratios = []
    for turn, windows in turns.items():
        before_s, after_s = (statistics.median(side) for side in zip(*windows, strict=True))
        ratios.append(after_s / before_s)
        each = [after / before for before, after in windows]
        spread = f"{ratios[-1]:.3f} ({min(each):.3f} to {max(each):.3f})"
        table.add_row(turn, f"{1000 * before_s:.3f}", f"{1000 * after_s:.3f}", spread)
    table.add_row("both turns", "", "", f"{statistics.geometric_mean(ratios):.3f}")
    terminal.console().print(table)


if __name__ == "__main__":
    main()
