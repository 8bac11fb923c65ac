"""Hand-over decisions, kept until the carrier's flow asks for them.

Closing the socket ends our part of a call. The flow then asks over HTTP where to go next: seconds later, and
perhaps more than once. So a decision is stored before the socket closes, under the call's id, and reading it
does not delete it. If nobody answers, the flow may bring the same call back to the agent. Then only the new
stream's outcome counts, and `begin` deletes the decision before it.

The flow may ask after a restart, or it may ask another bridge. So decisions are also written to a store that
outlives the process: a file in the state folder (`pxbridge.calls.file_handover`), or the store that bridges
share (`pxbridge.calls.redis_handover`). Each question goes to the store, because another bridge may have
changed it. This process's memory answers for a decision that is not stored yet, and while the store fails.

The store may forget: a server comes back empty or with an older memory, a file is deleted. So the store gives
each change a time of its own clock, also to the change "this call is not handed over" when a stream begins.
A process keeps that time of its own changes. If the store has nothing as late, it has forgotten: then this
process's memory answers, and all that it knows is stored again, under the old times. So a later change of
another bridge is not overwritten. While its newest change is young, the process looks for it at short
intervals, because the flow may ask another bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pxbridge.errors import StoreUnreachable
from pxbridge.periodic import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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

CHECK_EVERY_S: Final = 2.0
"""How often a process checks that the store still has its newest change, while that is young."""

WATCHED_S: Final = 300.0
"""Until this age a change is young: the flow asks again after a number has rung in vain."""


class Stored(NamedTuple):
    """What a store has about a call.

    Attributes:
        changed_at: When it was changed, by the store's clock, in seconds. Later changes have later times.
        numbers: Whom the flow rings; None if the call is not handed over.
    """

    changed_at: float
    numbers: tuple[str, ...] | None


class HandOverStore(Protocol):
    """A store that outlives the process. It keeps each change for `KEPT_S`."""

    async def put(
        self, call_sid: str, numbers: Sequence[str] | None, changed_at: float | None = None
    ) -> float:
        """Stores a change and returns its time.

        Args:
            call_sid: The call.
            numbers: Whom the flow rings; None: the call is not handed over.
            changed_at: The time of a change that was stored before. It is not stored if the store has a later
                one. None: a new change.

        Raises:
            StoreUnreachable: It could not be stored.
        """
        ...

    async def get(self, call_sid: str) -> Stored | None:
        """The last change about a call; None if the store knows nothing about it.

        Raises:
            StoreUnreachable: The store does not answer.
        """
        ...

    async def close(self) -> None:
        """Closes connections and files."""
        ...


@dataclass(eq=False, slots=True)
class _Change:
    """A change that this process made.

    Attributes:
        decided_s: When, by this process's clock.
        numbers: Whom the flow rings; None if the call is not handed over.
        stored_at: Its time in the store; None if it was never stored.
    """

    decided_s: float
    numbers: tuple[str, ...] | None
    stored_at: float | None = None

    def is_forgotten_by(self, stored: Stored | None) -> bool:
        """Whether the store had this change and has lost it."""
        return self.stored_at is not None and (stored is None or stored.changed_at < self.stored_at)


class HandOvers:
    """The decisions of a process.

    Args:
        clock: Seconds, monotonic.
        store: Outlives the process; None to keep decisions in memory alone. Closed with this object.
    """

    def __init__(self, clock: Callable[[], float], store: HandOverStore | None = None) -> None:
        self._clock = clock
        self._store = store
        self._changes: dict[str, _Change] = {}  # the oldest first
        self._unstored: dict[str, None] = {}  # calls whose change must be stored, in this order
        self._storing: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return sum(change.numbers is not None for change in self._changes.values())

    def begin(self, call_sid: str) -> None:
        """A stream of a call begins: the outcome of an earlier stream no longer counts."""
        if call_sid and (self._store is not None or call_sid in self._changes):
            self._change(call_sid, None)

    def decide(self, call_sid: str, numbers: Sequence[str] = ()) -> None:
        """Hand a call over; the last decision about a call holds. Call it before its socket closes.

        Args:
            call_sid: The carrier's id of the call. Without one nothing is stored: no flow can ask for it.
            numbers: Whom the flow rings (E.164). If there are none, the flow decides.
        """
        if call_sid:
            self._change(call_sid, tuple(numbers))

    def _change(self, call_sid: str, numbers: tuple[str, ...] | None) -> None:
        now_s = self._clock()
        self._changes.pop(call_sid, None)
        self._changes[call_sid] = _Change(now_s, numbers)
        while self._changes:
            oldest = next(iter(self._changes))
            if len(self._changes) <= MAX_KEPT and self._changes[oldest].decided_s + KEPT_S > now_s:
                break
            del self._changes[oldest]
            self._unstored.pop(oldest, None)
        self._unstored.pop(call_sid, None)
        self._store_soon([call_sid])
        self._watch()

    @property
    def awaits_question(self) -> bool:
        """Whether a flow may still ask about a recent hand-over of this process."""
        now_s = self._clock()
        for change in reversed(self._changes.values()):
            if change.decided_s + RECENT_S <= now_s:
                break
            if change.numbers is not None:
                return True
        return False

    async def look_up(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers that a call was handed over to, by any process; ``None`` if it was not."""
        if self._store is None or self._is_new(call_sid):
            return self.find(call_sid)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                stored = await self._store.get(call_sid)
        except (StoreUnreachable, TimeoutError) as error:
            log.error(
                "the hand-over store does not answer; using this process's memory: %s",
                error or "no answer in time",
                extra={"call": call_sid},
            )
            return self.find(call_sid)
        if self._is_new(call_sid):
            return self.find(call_sid)  # it was changed meanwhile
        if (own := self._known(call_sid)) is not None and own.is_forgotten_by(stored):
            self._store_again()
            return own.numbers
        return None if stored is None else stored.numbers

    def find(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers that this process handed a call over to; ``None`` if it did not."""
        own = self._known(call_sid)
        return None if own is None else own.numbers

    def _known(self, call_sid: str) -> _Change | None:
        """This process's last change about a call, unless it is too old."""
        own = self._changes.get(call_sid)
        return None if own is None or own.decided_s + KEPT_S <= self._clock() else own

    def _is_new(self, call_sid: str) -> bool:
        """Whether this process changed a call and the store has not heard of it."""
        own = self._changes.get(call_sid)
        return own is not None and own.stored_at is None

    async def close(self) -> None:
        """Stores the last decisions and closes the store, each for a bounded time."""
        self._closing.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._storing is not None:
            await asyncio.wait([self._storing], timeout=CLOSE_TIMEOUT_S)
        await stop(task for task in (self._storing, self._checking) if task is not None)
        if self._store is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._store.close()

    # -- the store ------------------------------------------------------------------------------------

    def _store_soon(self, call_sids: Iterable[str]) -> None:
        if self._store is None:
            return
        self._unstored.update(dict.fromkeys(call_sids))
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_all(self._store), name="hand-overs")

    def _store_again(self) -> None:
        """Stores what the store has forgotten: perhaps everything."""
        known = [call_sid for call_sid in self._changes if self._known(call_sid) is not None]
        if len(self):
            log.warning("the store has forgotten hand-overs; changes stored again: %d", len(known))
        self._store_soon(known)

    async def _store_all(self, store: HandOverStore) -> None:
        """Stores changes one by one, in the order in which they were made."""
        while self._unstored:
            is_last_try = self._closing.is_set()
            call_sid = next(iter(self._unstored))
            change = self._changes[call_sid]
            try:
                stored_at = await store.put(call_sid, change.numbers, change.stored_at)
            except StoreUnreachable as error:
                if not self._failing and len(self):  # otherwise nothing can be lost
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
            if self._changes.get(call_sid) is change:
                change.stored_at = stored_at
                self._unstored.pop(call_sid, None)

    def _watch(self) -> None:
        """Checks the store from time to time, while the newest change is young."""
        if self._store is not None and self._timer is None and not self._closing.is_set():
            self._timer = asyncio.get_running_loop().call_later(CHECK_EVERY_S, self._check_soon, self._store)

    def _check_soon(self, store: HandOverStore) -> None:
        self._timer = None
        call_sid, newest = next(reversed(self._changes.items()))
        if newest.decided_s + WATCHED_S <= self._clock():
            return
        self._watch()
        if not self._unstored and (self._checking is None or self._checking.done()):
            self._checking = asyncio.create_task(
                self._check(store, call_sid, newest), name="hand-overs: check"
            )

    async def _check(self, store: HandOverStore, call_sid: str, newest: _Change) -> None:
        """Stores everything again if the store has forgotten the newest change of this process."""
        with contextlib.suppress(StoreUnreachable, TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found = await store.get(call_sid)
            if newest.is_forgotten_by(found):
                self._store_again()
