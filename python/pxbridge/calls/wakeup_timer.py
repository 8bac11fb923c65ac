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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pxbridge.wakeup_timer")

LOOK_AHEAD_S = 0.05
"""Moments this near are looked at together: fewer wake-ups, and each call is still woken in time."""


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


class WakeupTimer:
    """All wake-ups of a process."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Wakeup]] = []
        self._order = itertools.count()  # makes entries distinct, so that wake-ups are never compared
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf

    def wakeup(self, callback: Callable[[], None]) -> Wakeup:
        """A new wake-up, not set yet. It calls `callback` from the event loop."""
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
