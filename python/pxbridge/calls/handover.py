"""Which calls go on to a person, remembered from the agent's last word until Exotel's flow asks.

Closing the socket ends our part of a call; where the flow goes next it asks over HTTP, seconds later and
perhaps more than once (`pxbridge.telephony.exotel.webhooks`). So a decision is stored before the socket
closes, under the call's SID, and is not used up by being read. A flow may bring the same call back to the
agent, if nobody answered: that stream's outcome is the one that counts then, and `begin` forgets the one
before.

The flow may ask after a restart, or another bridge than had the call. So decisions are put on a shelf too,
which outlives the process: a file in the state folder (`pxbridge.calls.file_handover`), or the store that
bridges share (`pxbridge.calls.redis_handover`). It is asked each time, as somebody else may have changed what
is on it; this process's own memory answers for what could not be put there yet, and when the shelf does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.errors import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

KEPT_S: Final = 3600.0
"""The flow asks within seconds, and again if it rings a second number: an hour is the longest of a stream."""

MAX_KEPT: Final = 10_000
"""Far more than are handed over in an hour by one process; beyond it the oldest is forgotten."""

ANSWER_TIMEOUT_S: Final = 1.0
"""Exotel waits 2 s for a webhook: what the shelf has not said by then, memory has to."""

RETRY_S: Final = 1.0
"""How long to wait before a shelf that failed is tried again."""

FLOW_ASKS_S: Final = 5.0
"""A bridge that ends is there for so long after a call that it handed over: the flow asks within 2 s."""

RECENT_S: Final = 30.0
"""A decision that is no older may not have been asked for: last words come after it, then the question."""

CLOSE_TIMEOUT_S: Final = 3.0
"""So long putting the last decisions on the shelf may take when the bridge ends."""


class HandOverStore(Protocol):
    """Where decisions outlive the process, each for `KEPT_S`."""

    async def put(self, call_sid: str, numbers: Sequence[str] | None) -> None:
        """Keeps a decision, or (None) that there is none.

        Raises:
            StoreUnreachable: It could not be kept.
        """
        ...

    async def get(self, call_sid: str) -> tuple[str, ...] | None:
        """The decision about a call.

        Raises:
            StoreUnreachable: Nobody can tell.
        """
        ...

    async def close(self) -> None:
        """Gives back what it holds."""
        ...


class HandOvers:
    """The decisions of a process.

    Args:
        clock: Seconds, monotonic.
        store: Where they outlive it; None if they need not. Closed with this.
    """

    def __init__(self, clock: Callable[[], float], store: HandOverStore | None = None) -> None:
        self._clock = clock
        self._store = store
        self._decided: dict[str, tuple[float, tuple[str, ...]]] = {}  # the oldest first
        self._unstored: dict[str, int] = {}  # calls whose last change is not on the shelf, and which it is
        self._changes = 0
        self._storing: asyncio.Task[None] | None = None
        self._failing = False
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._decided)

    def begin(self, call_sid: str) -> None:
        """A stream of a call begins: what became of an earlier one no longer counts."""
        if call_sid:
            self._decided.pop(call_sid, None)
            self._store_soon(call_sid)

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
            if len(self._decided) <= MAX_KEPT and self._decided[oldest][0] + KEPT_S > now_s:
                break
            del self._decided[oldest]
        self._store_soon(call_sid)

    @property
    def awaits_question(self) -> bool:
        """Whether a flow may ask soon, or again, whom a call of this process goes on to."""
        if not self._decided:
            return False
        decided_s, _ = self._decided[next(reversed(self._decided))]
        return decided_s + RECENT_S > self._clock()

    async def look_up(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers a call was handed over to, by whichever process had it; ``None`` if it was not."""
        if self._store is None or call_sid in self._unstored:
            return self.find(call_sid)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._store.get(call_sid)
        except (StoreUnreachable, TimeoutError) as error:
            log.error(
                "only what this process knows is known of a hand-over: %s",
                error or "no answer in time",
                extra={"call": call_sid},
            )
            return self.find(call_sid)

    def find(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers a call was handed over to by this process; ``None`` if it was not."""
        decided_s, numbers = self._decided.get(call_sid, (0.0, None))
        return None if decided_s + KEPT_S <= self._clock() else numbers

    async def close(self) -> None:
        """Puts the last decisions on the shelf, for a bounded time, and closes it."""
        self._closing.set()
        if self._storing is not None:
            await asyncio.wait([self._storing], timeout=CLOSE_TIMEOUT_S)
            self._storing.cancel()
            await asyncio.wait([self._storing])
        if self._store is not None:
            await self._store.close()

    def _store_soon(self, call_sid: str) -> None:
        if self._store is None:
            return
        self._changes += 1
        self._unstored.pop(call_sid, None)
        self._unstored[call_sid] = self._changes
        if len(self._unstored) > MAX_KEPT:
            del self._unstored[next(iter(self._unstored))]
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_all(self._store), name="hand-overs")

    async def _store_all(self, store: HandOverStore) -> None:
        """One after the other, in the order in which they changed, until none is left."""
        while self._unstored:
            is_last_try = self._closing.is_set()
            call_sid, change = next(iter(self._unstored.items()))
            try:
                await store.put(call_sid, self.find(call_sid))
            except StoreUnreachable as error:
                if not self._failing and self._decided:  # else there is nothing that could be lost
                    self._failing = True
                    log.error("what calls are handed over is known to this process only: %s", error)
                if is_last_try:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._closing.wait()
                continue
            if self._failing:
                self._failing = False
                log.warning("what calls are handed over is kept again")
            if self._unstored.get(call_sid) == change:
                del self._unstored[call_sid]
