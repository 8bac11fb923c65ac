"""The calls that go on and the last ones that ended, for whoever asks."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pxbridge.calls.events import Kind
from pxbridge.calls.summary import summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.calls.numbers import Numbers

RECENT = 100


class RecentCalls:
    """Watches calls and remembers them in memory.

    Args:
        numbers: How phone numbers are written.
        clock: The calls' clock, in seconds.
        wall: Seconds since the epoch.
    """

    def __init__(
        self, numbers: Numbers, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self._numbers = numbers
        self._clock = clock
        self._wall = wall
        self._live: dict[int, CallRecord] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Takes note of a call that starts or ends."""
        if event.kind is Kind.STARTED:
            self._live[id(record)] = record
        elif event.kind is Kind.ENDED and self._live.pop(id(record), None) is not None:
            self._recent.appendleft(self._told(record))

    def calls(self) -> dict[str, list[dict[str, Any]]]:
        """``live`` in the order in which they came, and ``recent``, the newest first."""
        return {
            "live": [self._told(record) for record in self._live.values()],
            "recent": list(self._recent),
        }

    def _told(self, record: CallRecord) -> dict[str, Any]:
        began = self._wall() - (self._clock() - record.opened_s)
        figures = summary(record, self._numbers, self._clock())
        return {"began_at": round(began, 3), "phase": record.phase.value, **figures}
