"""Where the CPU time of a bridge goes while calls are live: a table by Python function, or by native symbol.

    python benches/cpu_profile.py                    which Python functions (`sampled_bridge.py`)
    python benches/cpu_profile.py --perf             which libraries and symbols (needs perf(1))
    python benches/cpu_profile.py --perf --bridge relay

The load is that of `bench_cpu.py`. perf tells Rust and libopus apart only in a build with symbols. To make
one, and to get the usual one back:

    CARGO_TARGET_DIR=target/profile cargo build --profile bench -p pxbridge-native --features extension-module
    cp target/profile/release/lib_native.so python/pxbridge/_native.abi3.so
    rm .venv/.built; make build
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

import bridges
from bench_cpu import CALLS, CHUNK_MS, LOAD, SETTLE_S, STARTS_S
from pxbridge.commands import terminal
from pxbridge.commands.load_callers import Part, play
from pxbridge.commands.load_measurement import rehearsal
from sampled_bridge import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

PERF_HZ = 4000
WITH_CALLEES = "function with what it calls"
SHOWN = 40
SMALLEST = 0.003
"""Of the whole: what is less is left out of the tables."""


async def under_load(name: str, seconds: float, profile: Callable[[int], Awaitable[None]]) -> float:
    """Profiles a bridge with live calls; returns what it cost meanwhile, in CPU seconds per call-second."""
    bridges.go_first()
    clock = asyncio.get_running_loop().time
    async with (
        rehearsal(CALLS, LOAD) as engine_url,
        bridges.bridge(name, engine_url, CALLS) as bridge,
    ):
        now_s = clock()
        measured_s = now_s + STARTS_S + SETTLE_S
        part = Part(
            bridge.url, CALLS, 0, CHUNK_MS, "", now_s, STARTS_S / CALLS, measured_s, measured_s + seconds + 1
        )
        calling = asyncio.create_task(play(part))
        await asyncio.sleep(measured_s - clock())
        before_s, began_s = bridge.cpu_s(), clock()
        await profile(bridge.pid)
        cost_s = (bridge.cpu_s() - before_s) / (clock() - began_s) / CALLS
        bridges.require_unbroken(name, await calling)
        return cost_s


def by_function(seconds: float) -> tuple[float, list[tuple[str, Counter[str]]]]:
    """The cost of a call-second, and the samples by Python function."""

    async def sample(pid: int) -> None:
        os.kill(pid, signal.SIGUSR1)
        await asyncio.sleep(seconds)
        os.kill(pid, signal.SIGUSR2)

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "samples"
        os.environ[SAMPLES] = str(written)
        os.environ[bridges.OURS] = str(bridges.HERE / "sampled_bridge.py")
        cost_s = asyncio.run(under_load("ours", seconds, sample))
        lines = written.read_text(encoding="utf-8").splitlines()
    files, own, with_callees = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        count, _, stack = line.partition(" ")
        functions = stack.split(";")
        files[functions[-1].partition(":")[0]] += int(count)
        own[functions[-1]] += int(count)
        with_callees.update(dict.fromkeys(functions, int(count)))
    return cost_s, [("file", files), ("function by itself", own), (WITH_CALLEES, with_callees)]


def by_symbol(name: str, seconds: float) -> tuple[float, list[tuple[str, Counter[str]]]]:
    """The cost of a call-second, and perf's samples by kind of code and by symbol."""
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "perf.data"

        async def record(pid: int) -> None:
            options = ["-q", "-e", "cpu-clock", "-F", str(PERF_HZ), "-p", str(pid), "-o", str(recorded)]
            await run("perf", "record", *options, "--", "sleep", str(seconds))

        cost_s = asyncio.run(under_load(name, seconds, record))
        options = ["-i", str(recorded), "--stdio", "-q", "--sort", "dso,sym", "-F", "sample,dso,sym"]
        report = asyncio.run(run("perf", "report", *options))
    kinds, symbols = Counter[str](), Counter[str]()
    for line in report.splitlines():
        found = re.match(r"\s*(\d+)\s+(\S+)\s+\[.\]\s+(.*?)\s*(?:-\s*)*$", line)
        if found:
            kind = kind_of(found[2], found[3])
            kinds[kind] += int(found[1])
            symbols[f"{kind}: {found[3]}"] += int(found[1])
    return cost_s, [("kind of code", kinds), ("symbol", symbols)]


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complained = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{complained.decode(errors='replace')}")
    return said.decode(errors="replace")


def kind_of(library: str, symbol: str) -> str:
    """Which part of the whole a symbol belongs to. libopus is linked into the extension, and is C."""
    if library.startswith("_native"):
        module = re.search(r"pxbridge_core::(\w+)", symbol)
        if module:
            return f"Rust core, {module[1]}"
        if re.search(r"\b(_native|pyo3\w*|numpy)::", symbol):
            return "binding"
        return "Rust, others' crates" if "::" in symbol else "libopus"
    if library.startswith("[kernel"):
        return "kernel"
    return "CPython" if "python" in library else "C library"


def tables(cost_s: float, counted: Iterable[tuple[str, Counter[str]]]) -> Iterable[Table]:
    for title, counts in counted:
        # Each sample counts once for every function of its stack, the outermost among them.
        total = max(counts.values()) if title == WITH_CALLEES else counts.total()
        table = Table(title, "share", "ms a call-second")
        for name, count in counts.most_common(SHOWN):
            if count >= SMALLEST * total:
                share = count / total
                table.add_row(name, f"{share:.1%}", f"{1000 * cost_s * share:.3f}")
        yield table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--perf", action="store_true", help="by native symbol instead of by Python function")
    parser.add_argument(
        "--bridge", choices=("ours", "relay"), default="ours", help="with --perf (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="(%(default)s)")
    args = parser.parse_args()
    cost_s, counted = by_symbol(args.bridge, args.seconds) if args.perf else by_function(args.seconds)
    console = terminal.console()
    console.print(f"{1000 * cost_s:.2f} ms of CPU a call-second, {CALLS} calls")
    for table in tables(cost_s, counted):
        console.print(table)


if __name__ == "__main__":
    main()
