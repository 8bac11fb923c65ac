"""The pool of engines: it assigns slots to calls, queues calls that wait, and reports the state of all slots.

A change (a slot is freed, a session is ready) wakes the waiting calls. They are served in order of arrival.
Only a conversation whose engine died goes ahead of them. `pxbridge.engines.slots` defines a slot's states.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from pxbridge.engines.hedge import Winner
from pxbridge.engines.lease import Lease, Place
from pxbridge.engines.leases import LeaseStore, MemoryLeases, Use, WatchedLeases
from pxbridge.engines.maintenance import Probes, Renewals
from pxbridge.engines.probe import probe
from pxbridge.engines.promises import Promises
from pxbridge.engines.slot_transitions import SlotTransitions
from pxbridge.engines.slots import Opening, Preparing, Prompts, Slot, SlotState, Stage, Taken, Warm
from pxbridge.engines.warming import Warming
from pxbridge.errors import NoEngineFree, StoreUnreachable
from pxbridge.periodic import repeat, stop
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
    from types import TracebackType

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.leases import Grant
    from pxbridge.engines.probe import Found
    from pxbridge.engines.slot_transitions import Opener

__all__ = ["EnginePool", "PoolLimits", "Prompts", "SlotState"]

RETRY_S: Final = 0.25
"""How often the first call in the queue polls. No event tells of a breaker's pause or of another bridge."""

HEDGE_AFTER_USUAL: Final = 2.0
"""A second engine is asked no sooner than this many times what engines usually take for their prompts."""

NONE: Final[frozenset[EngineAddress]] = frozenset()


@dataclass(frozen=True)
class PoolLimits:
    """Limits of the pool that an operator can set.

    Attributes:
        warm_max_age_s: A warm session older than this is replaced, because proxies and firewalls forget
            idle connections.
        max_waiting: Most calls that may wait for a slot at the same time.
        hedge_after_s: A call that waits for its engine longer than this asks a second one; 0: never.
    """

    warm_max_age_s: float = 600.0
    max_waiting: int = 20
    hedge_after_s: float = 3.0


@dataclass(frozen=True, slots=True)
class _InLine:
    """A session that waits in an engine's line for a call."""

    slot: Slot
    grant: Grant

    @property
    def is_ours(self) -> bool:
        """Whether the session still waits, or is ready; not if a call has taken it or it has ended."""
        return self.slot.grant == self.grant and self.slot.ahead is not None


class EnginePool:
    """Engines that the calls of a process share. Several processes share them through a shared store.

    `async with pool:` runs the background jobs: warm sessions, probes and lease renewals. Without it, only
    leases work.

    Args:
        addresses: The engines.
        capacity: Conversations that each engine takes at once, if it does not tell by itself (NVIDIA's
            server: 1).
        open_session: Opens a slot's session.
        store: Records leases; by default in memory.
        warm: How many sessions to keep prompted ahead of calls, by their prompts.
        limits: See `PoolLimits`.
        probe_engine: The probe; see `probe.probe`.

    Attributes:
        hedges: How often calls asked a second engine, by the engine that they got.
    """

    def __init__(
        self,
        addresses: Sequence[EngineAddress],
        capacity: int = 1,
        *,
        open_session: Opener,
        store: LeaseStore | None = None,
        warm: Mapping[Prompts, int] | None = None,
        limits: PoolLimits | None = None,
        probe_engine: Callable[[EngineAddress], Awaitable[Found]] = probe,
    ) -> None:
        self.hedges: Counter[str] = Counter(dict.fromkeys(Winner, 0))
        self._limits = limits or PoolLimits()
        self._store = WatchedLeases(store or MemoryLeases(), asyncio.get_running_loop().time)
        self._transitions = SlotTransitions(capacity, open_session, self._store)
        self._warming = Warming(self._transitions, self._limits.warm_max_age_s, lambda: self._callers_wait)
        self._jobs = {
            "warming": self._warming.run_once,
            "probes": Probes(self._transitions, probe_engine).run_once,
        }
        if self._store.renew_every_s is not None:
            renewals = Renewals(self._transitions, self._store.renew_every_s, lambda: self._callers_wait)
            self._jobs["renewals"] = renewals.run_once
        self._maintenance: list[asyncio.Task[None]] = []
        self._turn = 0
        self.promises = Promises(self._transitions.clock)
        """Slots that are reserved, in the count `free`, for calls about to arrive."""
        self._urgent = 0  # conversations whose engine died
        self._places = itertools.count(1)
        self._queue: list[Place] = []  # the places of waiting calls, in order of arrival
        self.replace_engines(addresses)
        self.keep_warm(warm or {})

    async def __aenter__(self) -> Self:
        for name, job in self._jobs.items():
            name = f"engine pool: {name}"
            self._maintenance.append(asyncio.create_task(repeat(name, job), name=name))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stop(self._maintenance)
        self._maintenance.clear()
        await self._transitions.close()

    def abort(self) -> None:
        """Cuts sessions whose engines have not answered the close, because there is no time left to wait."""
        self._transitions.abort()

    def replace_engines(self, addresses: Sequence[EngineAddress]) -> None:
        """Uses these engines from now on. Sessions that calls have or are opening continue to their end."""
        self._transitions.replace(addresses)

    def keep_warm(self, warm: Mapping[Prompts, int]) -> None:
        """Keeps these sessions prompted ahead from now on, and closes others."""
        self._warming.want(warm)

    # -- state ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a slot."""
        return len(self._queue)

    @property
    def free(self) -> int:
        """Number of slots that a call could get now or shortly, minus the slots promised to calls."""
        return self.free_for(None)

    def free_for(self, call: str | None) -> int:
        """As `free`, for a call that may have a promise itself."""
        directory = self._transitions.directory
        takeable = sum(_is_ready_soon(slot) for slot in directory.ahead)
        if self._store.gone_since_s is None:
            now_s = self._transitions.clock()
            takeable += directory.free_idle(now_s) + len(directory.kept_warm_elsewhere(now_s))
        return max(0, takeable - self.promises.besides(call))

    def has_free_besides(self, engine: EngineAddress) -> bool:
        """Whether another engine could be leased now."""
        directory = self._transitions.directory
        if any(slot.engine.address != engine and _is_ready_soon(slot) for slot in directory.ahead):
            return True
        asked = self._store.gone_since_s is None
        return asked and directory.has_idle_besides(engine, self._transitions.clock())

    @property
    def store_gone_s(self) -> float | None:
        """Seconds since the shared store stopped answering; None while it answers."""
        since_s = self._store.gone_since_s
        return None if since_s is None else self._transitions.clock() - since_s

    @property
    def store_failures(self) -> int | None:
        """Number of requests that the shared store did not answer; None without a shared store."""
        return self._store.failures if self._store.is_shared else None

    def failures(self) -> dict[str, dict[str, int]]:
        """Returns each engine's number of failures, by the engine's name and the stage."""
        known = {engine: 0 for engine, _ in self._transitions.failures} | self.snapshot()
        return {
            engine: {stage.value: self._transitions.failures[engine, stage] for stage in Stage}
            for engine in known
        }

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Returns each engine's number of slots, by the engine's name and the state, zeros included."""
        now_s = self._transitions.clock()
        return {
            str(engine.address): {state.value: count for state, count in engine.counts(now_s).items()}
            for engine in self._transitions.directory.engines
        }

    def states(self) -> Counter[SlotState]:
        """Returns the number of slots in each state."""
        return self._transitions.directory.states(self._transitions.clock())

    @property
    def _callers_wait(self) -> bool:
        return bool(self.waiting or self._urgent)

    @property
    def takes_sampling(self) -> bool:
        """Whether an engine here draws tokens as a session asks for."""
        return any(engine.told is not None for engine in self._transitions.directory.engines)

    @property
    def addresses(self) -> list[EngineAddress]:
        """The engines, including those removed from the settings that a call still uses."""
        return [engine.address for engine in self._transitions.directory.engines]

    @property
    def telling(self) -> list[EngineAddress]:
        """The engines that tell of themselves."""
        return [engine.address for engine in self._transitions.directory.engines if engine.told is not None]

    # -- leases ---------------------------------------------------------------------------------------

    def place(self) -> Place:
        """Returns a place behind all others, for a call that has just arrived."""
        return Place(next(self._places))

    def _is_first(self, place: Place) -> bool:
        """Whether no earlier call would take any engine that comes free.

        A call that an engine has rejected would not. Others take that engine meanwhile.
        """
        now_s = self._transitions.clock()
        takes_any = next((each for each in self._queue if not each.avoids(now_s)), None)
        return takes_any is None or place.number <= takes_any.number

    def rejected(self, place: Place, engine: EngineAddress) -> None:
        """Notes that an engine has rejected a call's prompts."""
        place.rejected_s[engine] = self._transitions.clock()

    def may_take(self, place: Place, busy: Container[EngineAddress]) -> bool:
        """Whether an engine may still take this call: it works, free or not, and has not rejected the call.

        Args:
            place: The call's.
            busy: Engines that said they are busy, or did not answer: they may work again soon.
        """
        now_s = self._transitions.clock()
        return any(
            engine.address not in place.rejected_s and (engine.address in busy or engine.is_healthy(now_s))
            for engine in self._transitions.directory.engines
        )

    async def lease(
        self, prompts: Prompts, avoid: frozenset[EngineAddress] = NONE, place: Place | None = None
    ) -> Lease:
        """Returns a lease on a slot without waiting in the queue.

        Args:
            prompts: The prompts for its engine.
            avoid: Engines already tried for this call.
            place: The call's place; None: it has just arrived.

        Raises:
            NoEngineFree: No slot is free, or earlier calls wait for one.
        """
        first = self._is_first(place or self.place())
        if first and (lease := await self._take(prompts, avoid)) is not None:
            return lease
        states = ", ".join(f"{n} {state}" for state, n in sorted(self.states().items()))
        raise NoEngineFree(f"no engine is free ({states})")

    async def lease_in_turn(self, prompts: Prompts, place: Place | None = None) -> Lease:
        """Waits in the queue, then returns a lease on a slot. The caller limits the time.

        Args:
            prompts: The prompts for its engine.
            place: The call's place; None: it has just arrived. A call that has waited before is not refused.

        Raises:
            NoEngineFree: Too many calls wait already.
        """
        place = place or self.place()
        if place.since_s is None:
            if self.waiting >= self._limits.max_waiting:
                raise NoEngineFree(f"{counted(self.waiting, 'call')} already waiting for an engine")
            place.since_s = self._transitions.clock()
        bisect.insort(self._queue, place, key=lambda each: each.number)
        in_line: _InLine | None = None
        try:
            while True:
                if self._is_first(place) and not self._urgent:
                    avoid = place.avoids(self._transitions.clock())
                    if (lease := await self._take(prompts, avoid)) is not None:
                        return lease
                    await self._ask_for_warm()
                    if in_line is None or not in_line.is_ours:
                        in_line = await self._stand_in_line(prompts, place)
                await self._transitions.changes.wait(RETRY_S)
        finally:
            if in_line is not None and in_line.is_ours:
                self._transitions.cool(in_line.slot)
            place.in_line = None
            self._queue.remove(place)
            self._transitions.changes.happened()  # wakes the next call in the queue

    async def _stand_in_line(self, prompts: Prompts, place: Place) -> _InLine | None:
        """Waits in the line of an engine that others have filled. None: no such engine has a line.

        Only the first call in the queue does so: a session that comes out of the line has its prompts.
        """

        def moved(in_line: int) -> None:
            place.in_line = in_line
            self._transitions.changes.happened()

        place.in_line = None
        now_s = self._transitions.clock()
        for slot in tuple(self._transitions.directory.taken):
            told = slot.engine.told
            offers = told is not None and told.has_line and slot.engine.is_healthy(now_s)
            offers = offers and slot.engine.address not in place.rejected_s
            if not offers or not isinstance(slot.state, Taken):
                continue
            if (grant := await self._transitions.ask(slot, Use.CALL)) is not None:
                preparing = self._transitions.prepare(slot, grant, prompts, moved)
                self._transitions.spawn(self._warming.see_through(slot, preparing))
                return _InLine(slot, grant)
        return None

    def position(self, place: Place) -> int | None:
        """A waiting call's position, 1 for the next, in this queue and an engine's line; None if none."""
        if place not in self._queue:
            return None
        ahead = self._queue[0].in_line or 1
        return self._queue.index(place) + ahead

    async def lease_ahead(self, prompts: Prompts, told: Prompts, avoid: frozenset[EngineAddress]) -> Lease:
        """Waits for a slot ahead of the queue, for a conversation whose engine died.

        Args:
            prompts: The prompts of the lost engine. A session prompted ahead with them is taken first,
                because nothing else is as quick.
            told: The prompts for any other session. They include what has been said so far.
            avoid: Engines to take only if there is no other.
        """
        self._urgent += 1
        try:
            while True:
                for wish, without in (
                    *(((prompts, NONE),) if self._is_ahead(prompts, Warm) else ()),
                    (told, avoid),
                    *(((prompts, NONE),) if self._is_ahead(prompts, Preparing) else ()),
                    (told, NONE),
                ):
                    if (lease := await self._take(wish, without)) is not None:
                        return lease
                await self._ask_for_warm()
                await self._transitions.changes.wait(RETRY_S)
        finally:
            self._urgent -= 1

    @property
    def hedge_after_s(self) -> float | None:
        """How long a call waits for its engine before it asks a second one; None: for ever.

        Longer than the setting if engines usually take longer.
        """
        if not self._limits.hedge_after_s:
            return None
        opened_in_s = self._transitions.opened_in_s
        usual_s = statistics.median(opened_in_s) if opened_in_s else 0.0
        return max(self._limits.hedge_after_s, HEDGE_AFTER_USUAL * usual_s)

    async def hedge(self, prompts: Prompts, avoid: Collection[EngineAddress], place: Place) -> Lease | None:
        """Leases an idle slot for a call whose engine keeps it waiting.

        Returns None if no slot is idle, if other calls wait for one, or if the free ones are promised.

        Args:
            prompts: The prompts for its engine.
            avoid: Engines that the call has asked already.
            place: The call's place. Calls that came later do not count.
        """
        tried = set[Slot]()
        while not self._urgent and self._is_first(place) and self.free:
            clock, directory = self._transitions.clock, self._transitions.directory
            if (slot := directory.best_idle(prompts, clock(), avoid, tried)) is None:
                break
            tried.add(slot)
            if (grant := await self._transitions.ask(slot, Use.CALL)) is not None:
                self._transitions.open(slot, grant, prompts)
                return self._leased(slot)
        return None

    async def _ask_for_warm(self) -> None:
        """Asks another bridge to release a slot in which it only keeps a session warm, if there is one."""
        for slot in self._transitions.directory.kept_warm_elsewhere(self._transitions.clock()):
            with contextlib.suppress(StoreUnreachable):  # WatchedLeases has logged it
                await self._store.want(slot.key)
            return

    def _is_ahead(self, prompts: Prompts, kind: type[Warm | Preparing]) -> bool:
        ahead = self._transitions.directory.ahead
        return any(slot.ahead == prompts and isinstance(slot.state, kind) for slot in ahead)

    async def _take(self, prompts: Prompts, avoid: frozenset[EngineAddress]) -> Lease | None:
        """Leases the best slot that is available now; None if there is none."""
        tried: set[Slot] = set()
        while True:
            slot = self._transitions.directory.best(prompts, self._transitions.clock(), avoid, tried)
            if slot is None:
                return None
            tried.add(slot)
            if slot.ahead is not None:
                self._transitions.take(slot, prompts)
            elif (grant := await self._transitions.ask(slot, Use.CALL)) is not None:
                self._transitions.open(slot, grant, prompts)
            else:
                continue
            self._warming.called(prompts)
            return self._leased(slot)

    def _leased(self, slot: Slot) -> Lease:
        self._turn += 1
        slot.engine.leased(self._turn)
        return Lease(self._transitions, slot, self._leave)

    def _leave(self, slot: Slot) -> None:
        """Releases a call's slot. A session that is being opened is kept if the background jobs run."""
        if self._maintenance and isinstance(slot.state, Opening):
            self._warming.adopt(slot)
        else:
            self._transitions.leave(slot)


def _is_ready_soon(slot: Slot) -> bool:
    """Whether a call could use the session that is made ahead in this slot."""
    match slot.state:
        case Warm(session=session):
            return session.is_live
        case _:
            return not slot.in_line
