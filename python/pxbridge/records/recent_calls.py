"""The live calls, and the ones that ended last, in memory."""

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

MAX_RECENT = 100
"""Ended calls that are kept."""


class RecentCalls:
    """Keeps live calls and the ones that ended last. It is a subscriber to the events of all calls.

    Args:
        numbers: How phone numbers are written.
        clock: The clock of the calls, in seconds.
        wall: The wall clock, in seconds since the epoch.
    """

    def __init__(
        self, numbers: Numbers, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self._numbers = numbers
        self._clock = clock
        self._wall = wall
        self._live: dict[int, CallRecord] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=MAX_RECENT)

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Notes that a call starts or ends."""
        if event.kind is Kind.STARTED:
            self._live[id(record)] = record
        elif event.kind is Kind.ENDED and self._live.pop(id(record), None) is not None:
            self._recent.appendleft(self._as_dict(record))

    def calls(self) -> dict[str, list[dict[str, Any]]]:
        """``live`` calls, the oldest first, and ``recent`` ones, the newest first; each a JSON object."""
        return {
            "live": [self._as_dict(record) for record in self._live.values()],
            "recent": list(self._recent),
        }

    def live_call(self, name: str) -> dict[str, Any] | None:
        """The live call whose id or key is `name` or begins with it, with its counters; of several, the one
        that `pxbridge.records.database.one` would find.
        """
        begins = [
            record
            for record in self._live.values()
            if name and (record.call_id.startswith(name) or record.key.startswith(name))
        ]
        if not begins:
            return None
        record = max(begins, key=lambda each: (each.call_id == name, each.key == name, each.opened_s))
        return {**self._as_dict(record), "counters": record.stats}

    def _as_dict(self, record: CallRecord) -> dict[str, Any]:
        began = self._wall() - (self._clock() - record.opened_s)
        figures = summary(record, self._numbers, self._clock())
        return {"began_at": round(began, 3), "phase": record.phase.value, **figures}
