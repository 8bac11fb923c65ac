"""When to try a failing engine again: a circuit breaker with exponential backoff.

A single failure may come from the session alone (a crash that the server survives). It only ranks the engine
lower. From the second failure in a row on, there is a pause before the next trial, and each further failure
doubles it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TOLERATED: Final = 1
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
"""The probe notices an engine that comes back. This limit is for an engine that answers but does not work."""


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row. The ranking of engines uses `failures`."""

    failures: int = 0
    retry_at_s: float = -math.inf

    def failed(self, now_s: float) -> None:
        """A session could not be opened, or was lost."""
        self.failures += 1
        if self.failures > TOLERATED:
            doublings = self.failures - TOLERATED - 1
            self.retry_at_s = now_s + min(FIRST_PAUSE_S * 2.0**doublings, LONGEST_PAUSE_S)

    def worked(self) -> None:
        """A session was opened and stayed up."""
        self.failures, self.retry_at_s = 0, -math.inf

    def retry_soon(self) -> None:
        """Ends the pause: there is a sign that the engine is back."""
        self.retry_at_s = -math.inf

    def allows(self, now_s: float) -> bool:
        """Whether a session may be opened now."""
        return now_s >= self.retry_at_s

    @property
    def on_trial(self) -> bool:
        """Whether the next session is a trial. Only one trial runs at a time."""
        return self.failures > TOLERATED
