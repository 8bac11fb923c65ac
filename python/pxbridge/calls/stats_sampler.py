"""Reads a call's counters about once a second, so that a long call can be watched before it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pxbridge.calls.events import Event, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Subscriber
    from pxbridge.calls.wakeup_timer import Wakeup, WakeupTimer

EVERY_S = 0.93
"""The delay changes over seconds, so one reading a second is enough. The phone's chunks of 100 ms and the
model's frames of 80 ms line up again every 400 ms. This is no multiple of that, so readings fall everywhere
into the pattern."""


class StatsSampler:
    """Subscribes to one call, keeps its record's counters and delay fresh, and emits `Kind.COUNTERS`.

    Args:
        stats: Reads the line's counters.
        emit: Tells all subscribers.
        wakeups: The process's timer.
    """

    def __init__(
        self,
        stats: Callable[[], dict[str, dict[str, float]]],
        emit: Subscriber,
        wakeups: WakeupTimer,
    ) -> None:
        self._clock = asyncio.get_running_loop().time
        self._stats = stats
        self._emit = emit
        self._record: CallRecord | None = None
        self._wakeups = wakeups
        self._wakeup: Wakeup | None = None

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Samples from the call's first event to its last."""
        if event.kind is Kind.STARTED:
            self._record = record
            self._wakeup = self._wakeups.every(EVERY_S, self._sample)
        elif event.kind is Kind.ENDED and self._wakeup is not None:
            self._wakeup.cancel()

    def _sample(self) -> None:
        record = self._record
        if record is None:
            return
        record.stats = self._stats()
        if record.live_s is not None:
            record.delay.add(record.stats)
        self._emit(record, Event(Kind.COUNTERS, self._clock()))
