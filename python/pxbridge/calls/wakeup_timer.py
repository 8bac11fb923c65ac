"""One timer for all calls of a process.

Rust names the moment at which it wants to be asked although nothing arrived. It hardly ever comes: with
every packet that does arrive, it moves on. A timer of asyncio's for each call would fire all the same, early,
a dozen times a second, only to be set again; and cost more than the packet. Here a call notes its moment,
which costs nothing, and one timer for all looks at those whose noted moment is near and most often finds
that it has moved on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pxbridge.alarm")

LOOK_AHEAD_S = 0.05
"""Moments this near are looked at together: fewer wake-ups, and each call's is still kept to the moment."""


def _ignore() -> None:
    pass


class Wakeup:
    """One call's; made by `WakeupTimer.wakeup`."""

    __slots__ = ("_at_s", "_callback", "_queued_s", "_timer")

    def __init__(self, wakeups: WakeupTimer, callback: Callable[[], None]) -> None:
        self._timer = wakeups
        self._callback = callback
        self._at_s = math.inf
        self._queued_s = math.inf

    def set(self, at_s: float) -> None:
        """Rings at `at_s` on the event loop's clock and at no other time; infinity: not at all."""
        self._at_s = at_s
        if at_s < self._queued_s:
            self._queued_s = at_s
            self._timer._queue(self, at_s)

    def cancel(self) -> None:
        """Never rings again, and lets go of whom it would have called."""
        self._at_s = math.inf
        self._callback = _ignore

    def check(self, now_s: float) -> None:
        """Rings if it is time, and is looked at again when it may be."""
        self._queued_s = math.inf
        if self._at_s > now_s:
            self.set(self._at_s)
            return
        self._at_s = math.inf
        try:
            self._callback()
        except Exception:  # the other calls' alarms are to ring all the same
            log.exception("an alarm failed")


class WakeupTimer:
    """All of a process."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Wakeup]] = []
        self._order = itertools.count()  # so that no two entries are equal, and alarms are never compared
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def wakeup(self, callback: Callable[[], None]) -> Wakeup:
        """A new one that calls `callback`, from the event loop."""
        return Wakeup(self, callback)

    def _queue(self, wakeup: Wakeup, at_s: float) -> None:
        heapq.heappush(self._heap, (at_s, next(self._order), wakeup))
        if at_s < self._timer_s:
            self._set_timer(at_s)

    def _set_timer(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = at_s
        self._timer = asyncio.get_running_loop().call_at(at_s, self._fire)

    def _fire(self) -> None:
        now_s = asyncio.get_running_loop().time()
        near = []
        while self._heap and self._heap[0][0] <= now_s + LOOK_AHEAD_S:
            queued_s, _, wakeup = heapq.heappop(self._heap)
            if queued_s == wakeup._queued_s:  # else it was queued again, for earlier
                near.append(wakeup)
        self._timer, self._timer_s = None, -math.inf  # set once, below
        for wakeup in near:
            wakeup.check(now_s)
        self._timer_s = math.inf
        if self._heap:
            self._set_timer(self._heap[0][0])
