"""pxbridge that samples where its own CPU time goes, for `cpu_profile.py`.

Between SIGUSR1 and SIGUSR2 a signal comes once per tick of the process's own CPU time (4 ms on most
machines), so sleeping does not count. Its handler notes which Python function is running and who called it.
Time in Rust or in the kernel belongs to the Python function that called there. Sampling costs next to
nothing, where `cProfile` doubles the price of each function call.
"""

from __future__ import annotations

import atexit
import collections
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pxbridge.cli import main

if TYPE_CHECKING:
    from types import FrameType

SAMPLES = "BENCH_SAMPLES"
"""Environment variable: the file that gets the samples, `COUNT STACK` a line, outermost function first."""
EVERY_S = 0.001

stacks: collections.Counter[str] = collections.Counter()


def sample(_signal: int, frame: FrameType | None) -> None:
    names = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{Path(code.co_filename).name}:{code.co_qualname}")
        frame = frame.f_back
    stacks[";".join(reversed(names))] += 1


def write() -> None:
    lines = [f"{count} {stack}\n" for stack, count in stacks.most_common()]
    Path(os.environ[SAMPLES]).write_text("".join(lines), encoding="utf-8")


def begin(_signal: int, _frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)


def end(_signal: int, _frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    atexit.register(write)
    sys.exit(main())
