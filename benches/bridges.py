"""The bridges that the benches compare, each in a process of its own, and what one of them costs.

Three bridges answer the same simulated calls: ours, `plain_bridge.py`, and `relay_bridge.py`, which moves
messages of the same sizes and touches no sound. The engine is a process of its own too, and the callers live
in the bench's process, so that the CPU time of a bridge's process is the bridge's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from pxbridge.commands.processes import OPEN, Meter, free_port, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_benchmark.fixture import BenchmarkFixture

    from pxbridge.commands.load_callers import Outcome

LATE_MS = "machine late, ms"
BEAT_S = 0.01
HERE = Path(__file__).parent
OURS = "PXBRIDGE_BENCH_OURS"
"""Environment variable: a Python file to run in place of `python -m pxbridge`.

The gate's own tests name a slower bridge there.
"""


class Bridge(NamedTuple):
    """A bridge that takes calls."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        """CPU time of the process so far: all threads, user and kernel mode.

        As in /proc/PID/stat, but in nanoseconds instead of hundredths of a second.
        """
        # clock_getcpuclockid(3), which Python has for threads only: the clock's id is made of the process id.
        return time.clock_gettime(~self.pid << 3 | 2)

    def private_bytes(self) -> int:
        """Memory that would be free if the process ended."""
        return Meter(self.pid).private_bytes()


@contextlib.asynccontextmanager
async def bridge(name: str, engine_url: str, calls: int) -> AsyncIterator[Bridge]:
    """Runs a bridge until the block ends.

    Args:
        name: ``ours``, ``plain`` or ``relay``.
        engine_url: Where it finds its engine.
        calls: How many it must take at once.

    Raises:
        BenchFailed: It does not start.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        if name == "ours":
            program = [os.environ[OURS]] if OURS in os.environ else ["-m", "pxbridge"]
            words = [*program, "--port", str(port), "--engines", engine_url, "--log-level", "error"]
            words += ["--max-calls", str(calls), "--engine-capacity", str(calls), *OPEN]
            words += ["--console-port", str(free_port()), "--state-dir", state]
        else:
            words = [str(HERE / f"{name}_bridge.py"), "--port", str(port), "--engine", engine_url]
        async with server(port, *words) as pid:
            yield Bridge(f"ws://127.0.0.1:{port}/", pid)


def go_first() -> None:
    """Lets this process and those it starts go before others on a busy machine, as `chrt -r 1` does.

    Does nothing where that is not allowed. A bridge that gets no processor is late whatever its code is like.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


class Lateness:
    """How late this process gets the processor: what live calls suffer on a machine that is busy with others.

    Callers, bridges and engines ask for it as this process does. While it runs (`async with`) a task sleeps
    for `BEAT_S` again and again.
    """

    def __init__(self) -> None:
        self._late_s: list[float] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due_s = clock() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._late_s.append(clock() - due_s)

    @property
    def late_ms(self) -> float:
        """Of a hundred wake-ups, one was later than this."""
        return round(1000 * float(np.quantile(self._late_s, 0.99)), 1)

    def note(self, benchmark: BenchmarkFixture) -> None:
        """Puts it beside the benchmark's figures."""
        benchmark.extra_info[LATE_MS] = self.late_ms


def require_unbroken(name: str, outcomes: list[Outcome]) -> None:
    """Raises AssertionError if a call did not last: then the others' figures mean nothing."""
    broken = [outcome.broken for outcome in outcomes if outcome.broken is not None]
    assert not broken, f"{len(broken)} of {len(outcomes)} calls of {name} broke off: {broken[0]}"
