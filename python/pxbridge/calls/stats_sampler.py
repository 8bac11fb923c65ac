"""Reads a call's counters about every second, so that an hour's call is seen before it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pxbridge.calls.events import Event, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Subscriber

EVERY_S = 0.93
"""The delay changes over seconds, and a reading costs some 20 µs. No multiple of the 400 ms after which the
phone's chunks of 100 ms and the model's frames of 80 ms beat anew: readings fall everywhere into that."""


class StatsSampler:
    """Watches one call, keeps its record's counters and delay fresh, and tells that as an event.

    Args:
        stats: The line's counters as they are now.
        emit: Told `Kind.COUNTERS`.
    """

    def __init__(self, stats: Callable[[], dict[str, dict[str, float]]], emit: Subscriber) -> None:
        self._loop = asyncio.get_running_loop()
        self._stats = stats
        self._emit = emit
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Beats from the call's first event to its last."""
        if event.kind is Kind.STARTED:
            self._timer = self._loop.call_later(EVERY_S, self._sample, record)
        elif event.kind is Kind.ENDED and self._timer is not None:
            self._timer.cancel()

    def _sample(self, record: CallRecord) -> None:
        self._timer = self._loop.call_later(EVERY_S, self._sample, record)
        record.stats = self._stats()
        if record.live_s is not None:
            record.delay.add(record.stats)
        self._emit(record, Event(Kind.COUNTERS, self._loop.time()))
