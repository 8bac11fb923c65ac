"""The time limit for the end of the process, even if something hangs.

Each part of a bridge has its own limit. This is the limit for unforeseen faults: a call that ignores its
cancellation, a thread that waits for a dead disk, an event loop that is blocked. The kernel enforces it:
`SIGALRM` ends the process by its default action, which needs no thread and no Python.
"""

from __future__ import annotations

import math
import signal
import time

LEAST_S = 0.001
"""`setitimer` takes 0 for "no timer"."""


class Deadline:
    """Ends the process (exit status: killed by SIGALRM) unless it has ended by itself before."""

    def __init__(self) -> None:
        self._due_s = math.inf

    def within(self, limit_s: float) -> None:
        """The process ends within `limit_s` from now, or earlier if that was said before."""
        due_s = time.monotonic() + limit_s
        if due_s < self._due_s:
            self._due_s = due_s
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(limit_s, LEAST_S))
