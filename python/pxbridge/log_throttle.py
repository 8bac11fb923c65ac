"""What strangers do, counted, and told now and then: they must not fill the disk, and no count is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT_EVERY_S: Final = 10.0
"""Often enough for whoever watches the log, and six lines a minute at most."""


def _call_later(delay_s: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, call)


class LogThrottle:
    """Tells the first thing at once, and what follows summed up, every `REPORT_EVERY_S`.

    Args:
        report: Given how often each thing happened since it was told last, and who did the last of them.
        call_later: Calls something after so many seconds; by default the event loop does.
    """

    def __init__(
        self,
        report: Callable[[Counter[str], str], None],
        call_later: Callable[[float, Callable[[], None]], object] = _call_later,
    ) -> None:
        self._report = report
        self._call_later = call_later
        self._unreported: Counter[str] = Counter()
        self._last_who = ""
        self._is_quiet = False

    def add(self, what: str, who: str = "") -> None:
        """It happened once more."""
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
    """Counts as a log line has them."""
    return ", ".join(f"{what}: {count}" for what, count in counts.items())
