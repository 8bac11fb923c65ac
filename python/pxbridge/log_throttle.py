"""What strangers do, counted, and told now and then: they must not fill the disk, and no count is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TELL_EVERY_S: Final = 10.0
"""Often enough for whoever watches the log, and six lines a minute at most."""


def _later(delay_s: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay_s, call)


class LogThrottle:
    """Tells the first thing at once, and what follows summed up, every `TELL_EVERY_S`.

    Args:
        tell: Given how often each thing happened since it was told last, and who did the last of them.
        later: Calls something after so many seconds; by default the event loop does.
    """

    def __init__(
        self,
        tell: Callable[[Counter[str], str], None],
        later: Callable[[float, Callable[[], None]], object] = _later,
    ) -> None:
        self._tell = tell
        self._later = later
        self._untold: Counter[str] = Counter()
        self._who = ""
        self._quiet = False

    def add(self, what: str, who: str = "") -> None:
        """It happened once more."""
        self._untold[what] += 1
        self._who = who
        if not self._quiet:
            self._tell_it()

    def _tell_it(self) -> None:
        untold, self._untold = self._untold, Counter()
        self._quiet = True
        self._later(TELL_EVERY_S, self._end_quiet)
        self._tell(untold, self._who)

    def _end_quiet(self) -> None:
        self._quiet = False
        if self._untold:
            self._tell_it()


def in_words(counts: Counter[str]) -> str:
    """Counts as a log line has them."""
    return ", ".join(f"{what}: {count}" for what, count in counts.items())
