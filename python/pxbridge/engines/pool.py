"""The engines as calls see them: who gets a slot, who waits for one, and what is known of all.

What changes (a slot comes free, a session is ready) wakes those who wait, in the order in which they came;
only conversations whose engine died go ahead of them. A slot's states are `pxbridge.engines.slots`'.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from pxbridge.engines import probe
from pxbridge.engines.leases import LeaseStore, MemoryLeases, Refusal, Use, WatchedLeases
from pxbridge.engines.maintenance import Probes, Renewals
from pxbridge.engines.slot_transitions import SlotTransitions
from pxbridge.engines.slots import (
    Elsewhere,
    Idle,
    Live,
    Opening,
    Preparing,
    Prompts,
    Slot,
    SlotState,
    Stage,
    Warm,
    rank,
)
from pxbridge.engines.warming import Warming
from pxbridge.errors import EngineLost, NoEngineFree, StoreUnreachable
from pxbridge.periodic import repeat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from pxbridge.engines.client import EngineAddress, Session
    from pxbridge.engines.slot_transitions import Opener

__all__ = ["EnginePool", "Lease", "Place", "PoolLimits", "Prompts", "SlotState"]

RETRY_S: Final = 0.25
"""How often the first in the queue looks again, for what nobody tells: a breaker's pause, another bridge."""

PROMISED_S: Final = 10.0
"""Exotel dials at once when it was told where to, and gives up a handshake after so long."""

NONE: Final[frozenset[EngineAddress]] = frozenset()


@dataclass(frozen=True)
class PoolLimits:
    """What an operator may set.

    Attributes:
        warm_max_age_s: A warm session older than this is replaced: proxies and firewalls forget
            connections on which nothing is said.
        max_waiting: Calls that wait for a slot at the same time.
    """

    warm_max_age_s: float = 600.0
    max_waiting: int = 20


@dataclass(eq=False, slots=True)
class Place:
    """Where a call stands among those that want an engine: whoever came first has the lower number.

    Attributes:
        since_s: When it began to wait; None while it does not.
    """

    number: int
    since_s: float | None = None


class Lease:
    """One slot, held by one call until `release`, or until another bridge has it.

    Attributes:
        engine: Whose slot it is.
        warm: Whether its session was prompted ahead.
    """

    def __init__(self, transitions: SlotTransitions, slot: Slot, leave: Callable[[Slot], None]) -> None:
        self.engine = slot.engine.address
        self.warm = isinstance(slot.state, Live)
        self._transitions = transitions
        self._slot: Slot | None = slot
        self._grant = slot.grant
        self._leave = leave

    @property
    def _held(self) -> Slot | None:
        """The slot, while it is ours."""
        slot = self._slot
        return slot if slot is not None and slot.grant == self._grant else None

    async def session(self) -> Session:
        """The slot's session, prompted; its owner listens to it next.

        Raises:
            EngineError: It did not come up, which counts against the engine.
        """
        if (slot := self._held) is None:
            raise EngineLost(f"{self.engine}: its lease went to another bridge, or was given back")
        return await self._transitions.session(slot)

    def lost(self) -> None:
        """Gives the slot back, its live session gone, which counts against the engine."""
        if (slot := self._held) is not None:
            self._transitions.lost(slot)
        self._slot = None

    def release(self) -> None:
        """Gives the slot back. Its session is closed, but one in the making may be of use to another call."""
        if (slot := self._held) is not None:
            self._leave(slot)
        self._slot = None


class EnginePool:
    """Engines, shared by the calls of a process, and by several processes if the store is.

    `async with pool:` keeps sessions warm and engines watched; without it, leases work and nothing else.

    Args:
        addresses: The engines.
        capacity: Conversations each takes at once (NVIDIA's server: 1).
        open_session: How a slot gets its session.
        store: Who remembers leases.
        warm: How many sessions to keep prompted ahead, by what they are told.
        limits: See `PoolLimits`.
        what_is_wrong: With an engine; `probe.what_is_wrong`.
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
        what_is_wrong: Callable[[EngineAddress], Awaitable[str | None]] = probe.what_is_wrong,
    ) -> None:
        self._limits = limits or PoolLimits()
        self._store = WatchedLeases(store or MemoryLeases(), asyncio.get_running_loop().time)
        self._transitions = SlotTransitions(capacity, open_session, self._store)
        self._warming = Warming(self._transitions, self._limits.warm_max_age_s, lambda: self._callers_wait)
        self._jobs = {
            "warming": self._warming.run_once,
            "probes": Probes(self._transitions, what_is_wrong).run_once,
        }
        if self._store.renew_every_s is not None:
            renewals = Renewals(self._transitions, self._store.renew_every_s, lambda: self._callers_wait)
            self._jobs["renewals"] = renewals.run_once
        self._maintenance: list[asyncio.Task[None]] = []
        self._turn = 0
        self._promised: deque[float] = deque()  # until when
        self._urgent = 0  # conversations without an engine
        self._places = itertools.count(1)
        self._queue: list[Place] = []  # of those who wait, in the order in which they came
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
        for task in self._maintenance:
            task.cancel()
        await asyncio.gather(*self._maintenance, return_exceptions=True)
        self._maintenance.clear()
        await self._transitions.close()

    def abort(self) -> None:
        """Cuts the sessions whose engines do not answer their close: there is no more time."""
        self._transitions.abort()

    def replace_engines(self, addresses: Sequence[EngineAddress]) -> None:
        """Uses these engines from now on. What a call has or is getting goes on to its end."""
        self._transitions.replace(addresses)

    def keep_warm(self, warm: Mapping[Prompts, int]) -> None:
        """Keeps these sessions prompted ahead from now on, and lets others go."""
        self._warming.want(warm)

    # -- what is known --------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        return len(self._queue)

    @property
    def free(self) -> int:
        """Slots that a call could have now or in a moment, less those that were promised to calls."""
        now_s = self._transitions.clock()
        while self._promised and self._promised[0] <= now_s:
            self._promised.popleft()
        takeable = sum(self._is_takeable(slot) for slot in self._transitions.slots())
        return max(0, takeable - len(self._promised))

    def promise(self) -> None:
        """A call is about to come: a slot is kept for it for a while, as far as `free` goes."""
        self._promised.append(self._transitions.clock() + PROMISED_S)

    def _is_takeable(self, slot: Slot) -> bool:
        match slot.state:
            case Warm(session=session):
                return session.is_live
            case Preparing():
                return True
            case Idle() | Elsewhere(refusal=Refusal.WARM):
                asked = self._store.gone_since_s is None
                return asked and slot.engine.is_healthy(self._transitions.clock())
            case _:
                return False

    def has_free_besides(self, engine: EngineAddress) -> bool:
        """Whether another engine could be leased now."""
        return any(
            slot.engine.address != engine
            and self._is_takeable(slot)
            and not isinstance(slot.state, Elsewhere)
            for slot in self._transitions.slots()
        )

    @property
    def store_gone_s(self) -> float | None:
        """For how long the store that bridges share has not answered; None while it does."""
        since_s = self._store.gone_since_s
        return None if since_s is None else self._transitions.clock() - since_s

    @property
    def store_failures(self) -> int | None:
        """How often that store did not answer; None where there is none."""
        return self._store.failures if self._store.is_shared else None

    def failures(self) -> dict[str, dict[str, int]]:
        """For each engine, by name: how often it failed, and when."""
        known = {engine: 0 for engine, _ in self._transitions.failures} | self.snapshot()
        return {
            engine: {stage.value: self._transitions.failures[engine, stage] for stage in Stage}
            for engine in known
        }

    def snapshot(self) -> dict[str, dict[str, int]]:
        """For each engine, by name: how many of its slots are in which state; every state is named."""
        return {
            str(address): {state.value: states.count(state) for state in SlotState}
            for address, states in self.engines()
        }

    def states(self) -> Counter[SlotState]:
        """How many slots are in each state."""
        return Counter(state for _, states in self.engines() for state in states)

    def engines(self) -> list[tuple[EngineAddress, list[SlotState]]]:
        """Each engine and its slots' states."""
        now_s = self._transitions.clock()
        return [(e.address, [slot.shown(now_s) for slot in e.slots]) for e in self._transitions.engines]

    @property
    def _callers_wait(self) -> bool:
        return bool(self.waiting or self._urgent)

    # -- leases ---------------------------------------------------------------------------------------

    def place(self) -> Place:
        """The place of a call that has just come, behind all others'."""
        return Place(next(self._places))

    def _is_first(self, place: Place) -> bool:
        return not self._queue or place.number <= self._queue[0].number

    async def lease(
        self, prompts: Prompts, avoid: frozenset[EngineAddress] = NONE, place: Place | None = None
    ) -> Lease:
        """A slot, at once.

        Args:
            prompts: What its engine is or will be told.
            avoid: Engines already tried for this call.
            place: The call's; None: it has just come.

        Raises:
            NoEngineFree: There is none, or others who came before wait for one.
        """
        if self._promised and not avoid:
            self._promised.popleft()  # it has come
        first = self._is_first(place or self.place())
        if first and (lease := await self._take(prompts, avoid)) is not None:
            return lease
        states = ", ".join(f"{n} {state}" for state, n in sorted(self.states().items()))
        raise NoEngineFree(f"no engine is free ({states})")

    async def lease_in_turn(self, prompts: Prompts, place: Place | None = None) -> Lease:
        """A slot as soon as there is one for those who came before and one more; the caller bounds the time.

        Args:
            prompts: What its engine is told.
            place: The call's; None: it has just come. One that waited already is not turned away.

        Raises:
            NoEngineFree: Too many wait already.
        """
        place = place or self.place()
        if place.since_s is None:
            if self.waiting >= self._limits.max_waiting:
                raise NoEngineFree(f"{self.waiting} calls wait for an engine already")
            place.since_s = self._transitions.clock()
        bisect.insort(self._queue, place, key=lambda each: each.number)
        try:
            while True:
                if self._is_first(place) and not self._urgent:
                    if (lease := await self._take(prompts, NONE)) is not None:
                        place.since_s = None
                        return lease
                    await self._ask_for_warm()
                await self._transitions.changes.wait(RETRY_S)
        finally:
            self._queue.remove(place)
            self._transitions.changes.happened()  # for the next of them

    async def lease_ahead(self, prompts: Prompts, told: Prompts, avoid: frozenset[EngineAddress]) -> Lease:
        """A slot as soon as there is one, ahead of all who wait: for a conversation whose engine died.

        Args:
            prompts: What the lost engine was told: a session that was prompted ahead with it is taken first,
                for nothing else is as quick.
            told: What any other is to be told: what has been said so far, too.
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

    async def _ask_for_warm(self) -> None:
        """Has another bridge give back a slot, if there is one in which it only keeps a session warm."""
        now_s = self._transitions.clock()
        for slot in self._transitions.slots():
            match slot.state:
                case Elsewhere(refusal=Refusal.WARM) if slot.engine.is_healthy(now_s):
                    with contextlib.suppress(StoreUnreachable):  # which is told already
                        await self._store.want(slot.key)
                    return
                case _:
                    pass

    def _is_ahead(self, prompts: Prompts, kind: type[Warm | Preparing]) -> bool:
        return any(s.ahead == prompts and isinstance(s.state, kind) for s in self._transitions.slots())

    async def _take(self, prompts: Prompts, avoid: frozenset[EngineAddress]) -> Lease | None:
        """The best slot that can be had now."""
        tried: set[Slot] = set()
        while True:
            now_s = self._transitions.clock()
            slots = [s for s in self._transitions.slots() if s not in tried and s.engine.address not in avoid]
            ranked = [(order, s) for s in slots if (order := rank(s, prompts, now_s)) is not None]
            if not ranked:
                return None
            _, slot = min(ranked, key=lambda each: each[0])
            tried.add(slot)
            if slot.ahead is not None:
                self._transitions.take(slot, prompts)
            elif (grant := await self._transitions.ask(slot, Use.CALL)) is not None:
                self._transitions.open(slot, grant, prompts)
            else:
                continue
            self._warming.called(prompts)
            self._turn += 1
            slot.engine.turn = self._turn
            return Lease(self._transitions, slot, self._leave)

    def _leave(self, slot: Slot) -> None:
        """A call lets go of a slot. Where nothing looks after what is ahead of calls, it is closed."""
        if self._maintenance and isinstance(slot.state, Opening):
            self._warming.adopt(slot)
        else:
            self._transitions.leave(slot)
