"""When an engine that fails is tried again: a circuit breaker with backoff.

One failure in a row may be the session's own (a crash that the server survives), so it costs the engine only
its place in the order. From the second on, each makes the pause before the next trial twice as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TOLERATED: Final = 1
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
"""An engine that comes back is noticed by its probe; this is for one that answers and does not work."""


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row; `failures` is for choosing between engines."""

    failures: int = 0
    retry_at_s: float = -math.inf

    def failed(self, now_s: float) -> None:
        """A session did not come up, or was lost."""
        self.failures += 1
        if self.failures > TOLERATED:
            doublings = self.failures - TOLERATED - 1
            self.retry_at_s = now_s + min(FIRST_PAUSE_S * 2.0**doublings, LONGEST_PAUSE_S)

    def worked(self) -> None:
        """A session came up and lived."""
        self.failures, self.retry_at_s = 0, -math.inf

    def retry_soon(self) -> None:
        """There is reason to believe that it is back: the next trial need not wait."""
        self.retry_at_s = -math.inf

    def allows(self, now_s: float) -> bool:
        """Whether a session may be tried now."""
        return now_s >= self.retry_at_s

    @property
    def on_trial(self) -> bool:
        """Whether the next session is a trial: one at a time."""
        return self.failures > TOLERATED
