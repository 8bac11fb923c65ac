"""Throttles log lines that clients can cause, so that they cannot fill the disk. No event goes uncounted."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT_EVERY_S: Final = 10.0
"""At most six lines a minute, and still soon enough for someone who reads the log."""


def _call_later(delay_s: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, call)


class LogThrottle:
    """Reports the first event at once, and later events as sums, every `REPORT_EVERY_S`.

    Args:
        report: Called with the number of each event since the last report, and the client of the last event.
        call_later: Calls a function after a delay in seconds; by default on the event loop.
    """

    def __init__(
        self,
        report: Callable[[Counter[str], str], None],
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._report = report
        self._call_later = call_later or _call_later
        self._unreported: Counter[str] = Counter()
        self._last_who = ""
        self._is_quiet = False

    def add(self, what: str, who: str = "") -> None:
        """Counts one event.

        Args:
            what: The event.
            who: The client that caused it.
        """
        self._unreported[what] += 1
        self._last_who = who
        if not self._is_quiet:
            self._report_now()

    def _report_now(self) -> None:
        unreported, self._unreported = self._unreported, Counter()
        self._is_quiet = True
        self._call_later(REPORT_EVERY_S, self._end_quiet)
        self._report(unreported, self._last_who)

    def _end_quiet(self) -> None:
        self._is_quiet = False
        if self._unreported:
            self._report_now()


def in_words(counts: Counter[str]) -> str:
    """Formats counts for a log line."""
    return ", ".join(f"{what}: {count}" for what, count in counts.items())
