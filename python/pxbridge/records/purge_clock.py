"""When old records and recordings are deleted, and what "old" means while the clock may be wrong.

The wall clock says how old a record is. If it jumps ahead by years (a battery, a wrong time server, a typing
error), everything looks too old. So three rules hold:

- The steady clock says when to delete. A wall clock that was ahead once delays nothing.
- A jump ahead of more than `JUMP_S` is ignored for `BELIEVED_AFTER_S`. During this time nothing is deleted
  for its age. If the clock is corrected, deleting goes on as before.
- One purge deletes at most the oldest `SPAN_S` of all records. This protects a process that starts with a
  wrong clock and cannot notice it. After a longer break, deleting catches up by one day per hour.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pxbridge.records")

PURGE_EVERY_S: Final = 3600.0
"""How often old records and recordings are deleted."""

JUMP_S: Final = 3600.0
"""Clocks that are kept are corrected by less. A suspended machine may be ahead by more, and waits a day."""

BELIEVED_AFTER_S: Final = 86_400.0
"""A clock that is wrong is noticed within a day: certificates and logins fail too."""

SPAN_S: Final = 86_400.0
"""What one purge may delete, by age: in regular use, an hour's calls become too old within an hour."""


class PurgeClock:
    """Tells when a purge is due, and the time that it may believe.

    Args:
        wall: Seconds since the epoch.
        steady: Seconds, monotonic.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset_s = wall() - steady()
        self._jumped_s: float | None = None
        self._due_s = -math.inf

    def is_due(self) -> bool:
        """Whether a purge is due; then the next one is due after `PURGE_EVERY_S`."""
        now_s = self._steady()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + PURGE_EVERY_S
        return True

    def now(self) -> float:
        """The time since the epoch; minus infinity, at which nothing is old, while it cannot be believed."""
        now_s = self._steady()
        ahead_s = self._wall() - now_s - self._offset_s
        if ahead_s <= JUMP_S:
            if self._jumped_s is not None:
                log.warning("the clock is right again; old records are deleted again")
        elif self._jumped_s is None:
            self._jumped_s = now_s
            log.error(
                "the clock jumped ahead by %.1f hours; nothing is deleted for its age for a day, or until it "
                "is right again",
                ahead_s / 3600.0,
            )
            return -math.inf
        elif now_s - self._jumped_s < BELIEVED_AFTER_S:
            return -math.inf
        self._jumped_s = None
        self._offset_s += ahead_s
        return now_s + self._offset_s
