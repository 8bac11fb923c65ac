"""How late the event loop runs, and when that is too late for more calls.

All calls of a process share one event loop. With more calls than the machine can serve, everything in it is
late, and every caller hears gaps. So a bridge that is late takes no new calls until it is on time again.

The measure is the 95th percentile of the last 5 s: a single pause, such as a reload, refuses nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

log = logging.getLogger("pxbridge.load")

MEASURE_EVERY_S: Final = 0.1
"""Often enough for 50 measurements in the window."""

WINDOW_S: Final = 5.0
"""Nothing is decided before so much has been measured. The number of measurements is no condition, because a
loop that is a second late makes only five in this time."""

PERCENTILE: Final = 0.95


class Shedding:
    """Decides from the event loop's lag whether new calls are refused.

    Args:
        above_ms: Refuse new calls when the 95th percentile is above this; 0 never refuses.
        below_ms: Accept them again when it is below this.
    """

    def __init__(self, above_ms: float, below_ms: float) -> None:
        self._measured: deque[tuple[float, float]] = deque()  # (time, lag)
        self._lags_s: list[float] = []  # the same lags, sorted: a percentile costs a look and no sort
        self.is_shedding = False
        self.p95_s = 0.0
        """The 95th percentile of the lag in the last `WINDOW_S`; 0 while too little is measured."""
        self._began_s: float | None = None
        self.use(above_ms, below_ms)

    def use(self, above_ms: float, below_ms: float) -> None:
        """Replaces the limits."""
        self._above_s = above_ms / 1000
        self._below_s = min(above_ms, below_ms) / 1000
        if not above_ms:
            self.is_shedding = False

    def restart(self) -> None:
        """Forgets what was measured: the start of the process says nothing about calls."""
        self._measured.clear()
        self._lags_s.clear()
        self._began_s = None
        self.p95_s = 0.0
        self.is_shedding = False

    def measured(self, lag_s: float, now_s: float) -> None:
        """Takes one measurement."""
        measured, lags_s = self._measured, self._lags_s
        measured.append((now_s, lag_s))
        insort(lags_s, lag_s)
        while measured[0][0] <= now_s - WINDOW_S:
            _, old_s = measured.popleft()
            del lags_s[bisect_left(lags_s, old_s)]
        if self._began_s is None:
            self._began_s = now_s
        if now_s < self._began_s + WINDOW_S:
            return
        self.p95_s = lags_s[int(PERCENTILE * len(lags_s))]
        if not self._above_s:
            return
        if not self.is_shedding and self.p95_s > self._above_s:
            self.is_shedding = True
            log.warning(
                "new calls are refused: the event loop is %.0f ms late (95th percentile of %g s); "
                "lower max_calls, or run more bridges",
                1000 * self.p95_s,
                WINDOW_S,
            )
        elif self.is_shedding and self.p95_s < self._below_s:
            self.is_shedding = False
            log.info("new calls are accepted again: the event loop is %.0f ms late", 1000 * self.p95_s)

    def reasons(self) -> Sequence[str]:
        """Why no new call is accepted; empty if calls are accepted."""
        if not self.is_shedding:
            return ()
        return (f"overloaded: the event loop is {1000 * self.p95_s:.0f} ms late",)


@contextlib.asynccontextmanager
async def measured(observe: Callable[[float, float], None]) -> AsyncIterator[None]:
    """Measures the lag while the block runs.

    Args:
        observe: Called with each lag and the time, both in seconds.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    # No task: it would take two turns of the loop for one measurement.
    def next_after(now_s: float) -> asyncio.TimerHandle:
        due_s = now_s + MEASURE_EVERY_S
        return loop.call_at(due_s, measure, due_s)

    def measure(due_s: float) -> None:
        nonlocal timer
        now_s = loop.time()
        timer = next_after(now_s)
        observe(max(0.0, now_s - due_s), now_s)

    timer = next_after(loop.time())
    try:
        yield
    finally:
        timer.cancel()
