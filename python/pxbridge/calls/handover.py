"""Which calls go on to a person, remembered from the agent's last word until Exotel's flow asks.

Closing the socket ends our part of a call; where the flow goes next it asks over HTTP, seconds later and
perhaps more than once (`pxbridge.exotel.webhooks`). So a decision is stored before the socket closes, under
the call's SID, and is not used up by being read. Where several bridges share a store, the flow may ask
another of them than had the call (`pxbridge.calls.redis_handover`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEPT_S: Final = 3600.0
"""The flow asks within seconds, and again if it rings a second number: an hour is the longest of a stream."""

MOST_KEPT: Final = 10_000
"""Far more than are handed over in an hour by one process; beyond it the oldest is forgotten."""


class HandOvers:
    """The decisions of a process.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._decided: dict[str, tuple[float, tuple[str, ...]]] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._decided)

    def decide(self, call_sid: str, numbers: Sequence[str] = ()) -> None:
        """Hand a call over; the last decision about a call holds. Call it before its socket closes.

        Args:
            call_sid: Exotel's SID of the call; one without is not remembered, as nobody can ask for it.
            numbers: Whom the flow shall ring (E.164); none leaves that to its Connect applet.
        """
        if not call_sid:
            return
        now_s = self._clock()
        self._decided.pop(call_sid, None)
        self._decided[call_sid] = (now_s, tuple(numbers))
        while self._decided:
            oldest = next(iter(self._decided))
            if len(self._decided) <= MOST_KEPT and self._decided[oldest][0] + KEPT_S > now_s:
                break
            del self._decided[oldest]

    async def look_up(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers a call was handed over to, by whichever bridge had it; ``None`` if it was not."""
        return self.find(call_sid)

    def find(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers a call was handed over to by this process; ``None`` if it was not."""
        decided_s, numbers = self._decided.get(call_sid, (0.0, None))
        return None if decided_s + KEPT_S <= self._clock() else numbers
