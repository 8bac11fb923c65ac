"""Hand-over decisions, kept until the carrier's flow asks for them.

Closing the socket ends our part of a call. The flow then asks over HTTP where to go next: seconds later, and
perhaps more than once. So a decision is stored before the socket closes, under the call's id, and reading it
does not delete it. If nobody answers, the flow may bring the same call back to the agent. Then only the new
stream's outcome counts, and `begin` deletes the decision before it.

The flow may ask after a restart, or it may ask another bridge. So decisions are also written to a store that
outlives the process: a file in the state folder (`pxbridge.calls.file_handover`), or the store that bridges
share (`pxbridge.calls.redis_handover`). Each question goes to the store, because another bridge may have
changed it. This process's memory answers for a decision that is not stored yet, and while the store fails.
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
"""The flow asks within seconds, and again if it rings a second number. A stream lasts an hour at most."""

MAX_KEPT: Final = 10_000
"""Far more than one process hands over in an hour. If there are more, the oldest is deleted."""

ANSWER_TIMEOUT_S: Final = 1.0
"""A flow waits 2 s for a webhook. After this the answer comes from memory."""

RETRY_S: Final = 1.0
"""From a failure of the store to the next try."""

FLOW_ASKS_S: Final = 5.0
"""A bridge that stops stays up for this long after it handed a call over. The flow asks within 2 s."""

RECENT_S: Final = 30.0
"""The flow may not have asked yet about a younger decision: the last words come first, then the question."""

CLOSE_TIMEOUT_S: Final = 3.0
"""The longest time for storing the last decisions when the bridge stops."""


class HandOverStore(Protocol):
    """A store that outlives the process. It keeps each decision for `KEPT_S`."""

    async def put(self, call_sid: str, numbers: Sequence[str] | None) -> None:
        """Stores a decision; None deletes it.

        Raises:
            StoreUnreachable: It could not be stored.
        """
        ...

    async def get(self, call_sid: str) -> tuple[str, ...] | None:
        """The decision about a call.

        Raises:
            StoreUnreachable: The store does not answer.
        """
        ...

    async def close(self) -> None:
        """Closes connections and files."""
        ...


class HandOvers:
    """The decisions of a process.

    Args:
        clock: Seconds, monotonic.
        store: Outlives the process; None to keep decisions in memory alone. Closed with this object.
    """

    def __init__(self, clock: Callable[[], float], store: HandOverStore | None = None) -> None:
        self._clock = clock
        self._store = store
        self._decided: dict[str, tuple[float, tuple[str, ...]]] = {}  # the oldest first
        self._unstored: dict[str, int] = {}  # calls whose last change is not stored, and its number
        self._changes = 0
        self._storing: asyncio.Task[None] | None = None
        self._failing = False
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._decided)

    def begin(self, call_sid: str) -> None:
        """A stream of a call begins: the outcome of an earlier stream no longer counts."""
        if call_sid:
            self._decided.pop(call_sid, None)
            self._store_soon(call_sid)

    def decide(self, call_sid: str, numbers: Sequence[str] = ()) -> None:
        """Hand a call over; the last decision about a call holds. Call it before its socket closes.

        Args:
            call_sid: The carrier's id of the call. Without one nothing is stored: no flow can ask for it.
            numbers: Whom the flow rings (E.164). If there are none, the flow decides.
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
        """Whether a flow may still ask about a recent hand-over of this process."""
        if not self._decided:
            return False
        decided_s, _ = self._decided[next(reversed(self._decided))]
        return decided_s + RECENT_S > self._clock()

    async def look_up(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers that a call was handed over to, by any process; ``None`` if it was not."""
        if self._store is None or call_sid in self._unstored:
            return self.find(call_sid)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._store.get(call_sid)
        except (StoreUnreachable, TimeoutError) as error:
            log.error(
                "the hand-over store does not answer; using this process's memory: %s",
                error or "no answer in time",
                extra={"call": call_sid},
            )
            return self.find(call_sid)

    def find(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers that this process handed a call over to; ``None`` if it did not."""
        decided_s, numbers = self._decided.get(call_sid, (0.0, None))
        return None if decided_s + KEPT_S <= self._clock() else numbers

    async def close(self) -> None:
        """Stores the last decisions, for a bounded time, and closes the store."""
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
        """Stores decisions one by one, in the order in which they changed."""
        while self._unstored:
            is_last_try = self._closing.is_set()
            call_sid, change = next(iter(self._unstored.items()))
            try:
                await store.put(call_sid, self.find(call_sid))
            except StoreUnreachable as error:
                if not self._failing and self._decided:  # otherwise nothing can be lost
                    self._failing = True
                    log.error("hand-overs cannot be stored; only this process knows them: %s", error)
                if is_last_try:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._closing.wait()
                continue
            if self._failing:
                self._failing = False
                log.warning("hand-overs are stored again")
            if self._unstored.get(call_sid) == change:
                del self._unstored[call_sid]
