"""Reads a call's counters about once a second, so that a long call can be watched before it ends."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from pxbridge.calls.events import Event, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Subscriber
    from pxbridge.calls.wakeup_timer import WakeupTimer

EVERY_S = 0.93
"""The delay changes over seconds, so one reading a second is enough. The phone's chunks of 100 ms and the
model's frames of 80 ms line up again every 400 ms. This is no multiple of that, so readings fall everywhere
into the pattern."""

TOGETHER: Final = 16
"""So many calls are read one after the other. Code that runs once a second has left the CPU's caches, so the
first reading costs three times as much as the others. More at a time would make messages wait."""

GROUPS: Final = 8
"""The groups of `TOGETHER` calls have their turns at this many moments of `EVERY_S`."""


class StatsSampler:
    """Subscribes to one call, keeps its record's counters and delay fresh, and emits `Kind.COUNTERS`.

    Args:
        stats: Reads the line's counters.
        emit: Tells all subscribers.
        wakeups: The process's timer.
        number: The call's place in the process's count of calls.
    """

    def __init__(
        self,
        stats: Callable[[], dict[str, dict[str, float]]],
        emit: Subscriber,
        wakeups: WakeupTimer,
        number: int,
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self._stats = stats
        self._emit = emit
        self._record: CallRecord | None = None
        self._wakeup = wakeups.wakeup(self._sample)
        self._turn_s = number // TOGETHER % GROUPS * EVERY_S / GROUPS

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Samples from the call's first event to its last."""
        if event.kind is Kind.STARTED:
            self._record = record
            self._wakeup.set(self._next_turn_s(event.at_s))
        elif event.kind is Kind.ENDED:
            self._wakeup.cancel()

    def _sample(self) -> None:
        record, now_s = self._record, self._clock()
        self._wakeup.set(self._next_turn_s(now_s))
        if record is None:
            return
        record.stats = self._stats()
        if record.live_s is not None:
            record.delay.add(record.stats)
        self._emit(record, Event(Kind.COUNTERS, now_s))

    def _next_turn_s(self, now_s: float) -> float:
        """The group's next moment; its calls share it, whenever they began."""
        # A moment may lie one rounding before itself, and must not be its own next one.
        passed = math.floor((now_s - self._turn_s) / EVERY_S + 1e-6)
        return (passed + 1) * EVERY_S + self._turn_s
