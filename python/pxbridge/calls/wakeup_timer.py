"""One timer of the event loop for everything that calls wait for.

After each message, Rust says when it wants to be asked if nothing arrives before. That moment hardly ever
comes, because each further message moves it on. A timer of asyncio's for each call would be set and cancelled
a dozen times a second, which costs more than the message. Here a call only notes its moment. One timer looks
at the calls whose noted moment is near, and mostly finds that the moment has moved on.

A call's periodic work goes through the same timer: asyncio compares its own timers in Python, this heap
compares tuples in C.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import logging
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pxbridge.wakeup_timer")

LOOK_AHEAD_S = 0.05
"""Moments this near are looked at together: fewer wake-ups, and each call is still woken in time."""

TOGETHER: Final = 16
"""The number of calls that do their periodic work together, one after the other. Code that runs once a second
has left the CPU's caches, so the first call's work costs three times as much as the others'. More at a time
would make messages wait."""

GROUPS: Final = 8
"""The groups of `TOGETHER` calls have their turns at this many moments of an interval."""


def _ignore() -> None:
    pass


class Wakeup:
    """A moment at which something wants to be called. Made by `WakeupTimer.wakeup`.

    The callback runs in the context in which the wake-up was made, so that what it logs belongs to its call.
    """

    __slots__ = ("_at_s", "_callback", "_context", "_queued_s", "_timer")

    def __init__(self, timer: WakeupTimer, callback: Callable[[], None]) -> None:
        self._timer = timer
        self._callback = callback
        self._context = contextvars.copy_context()
        self._at_s = math.inf
        self._queued_s = math.inf  # the moment under which the timer's heap has it; never later than `_at_s`

    def set(self, at_s: float) -> None:
        """Calls back at `at_s` on the event loop's clock, and at no other time. Infinity: never."""
        self._at_s = at_s
        if at_s < self._queued_s:
            self._queued_s = at_s
            self._timer._queue(self, at_s)

    def cancel(self) -> None:
        """Never calls back again, and lets go of the callback."""
        self._at_s = math.inf
        self._callback = _ignore

    def _call(self) -> None:
        try:
            self._context.run(self._callback)
        except Exception:  # the other wake-ups must be called all the same
            log.exception("a wake-up failed")


class _Periodic(Wakeup):
    """A wake-up that comes again, at its group's moments."""

    __slots__ = ("_interval_s", "_turn_s")

    def __init__(
        self, timer: WakeupTimer, callback: Callable[[], None], interval_s: float, turn_s: float
    ) -> None:
        super().__init__(timer, callback)
        self._interval_s = interval_s
        self._turn_s = turn_s
        self.set_next()

    def set_next(self) -> None:
        """The group's next moment: its calls share it, whenever they began."""
        now_s = asyncio.get_running_loop().time()
        # Rounding can put `now_s` just before the moment that is due. The next moment must be a later one.
        passed = math.floor((now_s - self._turn_s) / self._interval_s + 1e-6)
        self.set((passed + 1) * self._interval_s + self._turn_s)

    def _call(self) -> None:
        self.set_next()
        super()._call()


class WakeupTimer:
    """All wake-ups of a process."""

    def __init__(self) -> None:
        self._numbers: defaultdict[float, itertools.count[int]] = defaultdict(itertools.count)
        self._heap: list[tuple[float, int, Wakeup]] = []
        self._order = itertools.count()  # makes entries distinct, so that wake-ups are never compared
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def wakeup(self, callback: Callable[[], None]) -> Wakeup:
        """A new wake-up, not set yet. It calls `callback` from the event loop."""
        return Wakeup(self, callback)

    def every(self, interval_s: float, callback: Callable[[], None]) -> Wakeup:
        """A wake-up that comes every `interval_s` until it is cancelled; the first time after less than that.

        Calls that ask one after the other share their moments (`TOGETHER`).
        """
        number = next(self._numbers[interval_s])
        return _Periodic(self, callback, interval_s, number // TOGETHER % GROUPS * interval_s / GROUPS)

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
        heap, order = self._heap, self._order
        near = []
        while heap and heap[0][0] <= now_s + LOOK_AHEAD_S:
            queued_s, _, wakeup = heapq.heappop(heap)
            if queued_s == wakeup._queued_s:  # else it was queued again, for an earlier moment
                near.append(wakeup)
        self._timer, self._timer_s = None, -math.inf  # set once, below
        for wakeup in near:
            at_s = wakeup._at_s
            if at_s <= now_s:
                wakeup._at_s = wakeup._queued_s = math.inf
                wakeup._call()
            else:
                wakeup._queued_s = at_s
                if at_s < math.inf:
                    heapq.heappush(heap, (at_s, next(order), wakeup))
        self._timer_s = math.inf
        if heap:
            self._set_timer(heap[0][0])
