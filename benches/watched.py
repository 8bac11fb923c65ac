"""What it costs callers that operators watch: calls with nobody at the console, and with some, in turn.

    python benches/watched.py                     50 calls of 30 s, 3 watchers, two rounds
    python benches/watched.py --calls 20 --seconds 10 --watchers 10

Both runs of a round use one bridge. Watchers read all that comes over ``/api/live``. On a machine that does
other work the delays vary by more than watching could change: compare them only where "calls" of both runs
were on time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from typing import TYPE_CHECKING

import aiohttp

from pxbridge.commands import terminal
from pxbridge.commands.bench import show
from pxbridge.commands.load_measurement import Load, measure, rehearsal
from pxbridge.commands.processes import OPEN, Meter, free_port, server
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def watchers(port: int, count: int) -> AsyncIterator[list[int]]:
    """Watches the console of a bridge while the block runs; gives how many snapshots each has seen."""
    seen = [0] * count

    async def watch(session: aiohttp.ClientSession, number: int) -> None:
        async with session.ws_connect("/api/live") as socket:
            async for _ in socket:
                seen[number] += 1

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        tasks = [asyncio.create_task(watch(session, number)) for number in range(count)]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--watchers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    load = Load(seconds=args.seconds)
    console = terminal.console()
    rows = []
    port, console_port = free_port(), free_port()
    async with rehearsal(args.calls, load) as engine_url:
        with tempfile.TemporaryDirectory() as state:
            words = ["-m", "pxbridge", "--port", str(port), "--engines", engine_url, "--log-level", "error"]
            words += ["--max-calls", str(args.calls), "--engine-capacity", str(args.calls), *OPEN]
            words += ["--console-port", str(console_port), "--state-dir", state]
            async with server(port, *words) as pid:
                url, meter = f"ws://127.0.0.1:{port}/", Meter(pid)
                for _ in range(args.rounds):
                    for count in (0, args.watchers):
                        async with watchers(console_port, count) as seen:
                            name = counted(count, "watcher")
                            rows.append(await measure(name, url, meter, args.calls, load, console))
                        console.print(f"{name}: snapshots seen {seen}")
    show(console, rows, load)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
