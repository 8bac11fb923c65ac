"""The engines and their slots: who has which, which can be had, and which are prompted ahead of a call.

NVIDIA's server takes one conversation and keeps a second one waiting without a word, so a slot is leased from
before anybody connects until its session has closed. Each slot is in one state::

    idle ──▶ connecting ──▶ prompting ──▶ warm ──▶ live ──▶ cooling ──▶ idle
                 │              │  └────────────────▲          ▲
                 └──────────────┴──────────────────────────────┘

*Warm* is a session that was connected and prompted before its call: the agent speaks at once instead of after
seconds of prompts. It needs nothing to stay so: an engine steps only on the caller's audio, and nothing is
sent before the call begins, not even the Ogg header. An idle slot whose engine is not to be used shows as
*unhealthy*.

What changes (a slot comes free, a session is ready) wakes those who wait, in the order in which they came;
only conversations whose engine died go ahead of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from pxbridge.errors import EngineError, EngineRejected, NoEngineFree, StoreUnreachable
from pxbridge.personaplex import probe
from pxbridge.personaplex.breaker import Breaker
from pxbridge.personaplex.leases import Grant, LeaseStore, MemoryLeases, Renewal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from pxbridge.personaplex.client import EngineAddress, Session

log = logging.getLogger(__name__)

RETRY_S: Final = 0.25
"""How often the first in the queue looks again, for what nobody tells: a breaker's pause, another bridge."""

TAKEN_ELSEWHERE_S: Final = 1.0
"""A slot that another bridge holds is not asked for again before this."""

COOLING_S: Final = 0.1
"""From a session's end until its slot is given to somebody else: NVIDIA's server leaves its loops first."""

PROBE_EVERY_S: Final = 5.0
PROBES_TO_FAIL: Final = 2
"""One lost answer is a busy event loop."""

UPKEEP_EVERY_S: Final = 1.0
"""How often warm sessions are counted although nothing happened: their age."""

PROVEN_S: Final = 5.0
"""A session that has lived so long shows that its engine works; one that comes up and dies does not."""

CLOSING_S: Final = 5.0
"""How long the end of the pool waits for sessions to close."""


NONE: Final[frozenset[EngineAddress]] = frozenset()


class Prompts(NamedTuple):
    """What an engine is told before a conversation; sessions with the same are interchangeable."""

    voice_prompt: str
    text_prompt: str


class Opener(Protocol):
    """Connects an engine and prompts it, and calls `connected` between the two."""

    def __call__(
        self, engine: EngineAddress, prompts: Prompts, connected: Callable[[], None], /
    ) -> Awaitable[Session]:
        """Returns the prompted session, or raises an `EngineError`."""
        ...


class SlotState(StrEnum):
    """See the module."""

    IDLE = "idle"
    CONNECTING = "connecting"
    PROMPTING = "prompting"
    WARM = "warm"
    LIVE = "live"
    COOLING = "cooling"
    UNHEALTHY = "unhealthy"


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
class _Engine:
    address: EngineAddress
    breaker: Breaker = field(default_factory=Breaker)
    probes_failed: int = 0
    loaded: Prompts | None = None
    """What it was told last: its voice may still be in its memory."""
    turn: int = 0
    """When it was last leased, so that equals take turns."""
    retired: bool = False
    slots: list[_Slot] = field(default_factory=list)

    def is_healthy(self, now_s: float) -> bool:
        return not self.retired and self.probes_failed < PROBES_TO_FAIL and self.breaker.allows(now_s)

    @property
    def awaits_verdict(self) -> bool:
        """It is on trial, and whether a session comes up at all is just being found out."""
        states = {slot.state for slot in self.slots}
        opening = not states.isdisjoint((SlotState.CONNECTING, SlotState.PROMPTING))
        return self.breaker.on_trial and opening and states.isdisjoint((SlotState.WARM, SlotState.LIVE))

    @property
    def busy(self) -> int:
        return sum(slot.state is not SlotState.IDLE for slot in self.slots)


@dataclass(eq=False, slots=True)
class _Slot:
    engine: _Engine
    key: str
    state: SlotState = SlotState.IDLE
    since_s: float = 0.0
    prompts: Prompts | None = None
    opening: asyncio.Task[Session] | None = None
    session: Session | None = None
    grant: Grant | None = None
    taken: bool = False
    """By a call; one that is not is being warmed."""
    ask_again_s: float = -math.inf


class Lease:
    """One slot, held by one call until `release`.

    Attributes:
        engine: Whose slot it is.
        warm: Whether its session was prompted ahead.
    """

    def __init__(self, pool: EnginePool, slot: _Slot, prompts: Prompts) -> None:
        self.engine = slot.engine.address
        self.warm = slot.state is SlotState.WARM
        self._pool = pool
        self._slot: _Slot | None = slot
        self._prompts = prompts

    async def session(self) -> Session:
        """The slot's session, prompted; its owner listens to it next.

        Raises:
            EngineError: It did not come up, which counts against the engine.
        """
        if self._slot is None:
            raise RuntimeError("the lease was given back")
        return await self._pool._session_of(self._slot, self._prompts)

    def lost(self) -> None:
        """Gives the slot back, its live session gone, which counts against the engine."""
        if self._slot is not None:
            self._pool._session_lost(self._slot)
        self.release()

    def release(self) -> None:
        """Gives the slot back; its session is closed."""
        if self._slot is not None:
            self._pool._released(self._slot)
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
        answers: Whether an engine is there; `probe.answers`.
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
        answers: Callable[[EngineAddress], Awaitable[bool]] = probe.answers,
    ) -> None:
        self.waiting = 0
        """Calls that wait for a slot."""
        self._open_session = open_session
        self._store: LeaseStore = store or MemoryLeases()
        self._warm = dict(warm or {})
        self._limits = limits or PoolLimits()
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._capacity = capacity
        self._engines: list[_Engine] = []
        self._turn = 0
        self._urgent = 0  # conversations without an engine
        self._warming_breakers: dict[Prompts, Breaker] = {}
        self._queue = asyncio.Lock()  # whoever holds it is the first of those who wait; it is fair
        self._changes: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._upkeep: list[asyncio.Task[Any]] = []
        self._accepted: set[str] = set()
        """Voices that some engine has taken: a rejection of any other says nothing about the engine."""
        self.replace_engines(addresses)

    # -- life ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        for name, work in (("warm", self._keep_warm), ("probe", self._probe), ("renew", self._renew)):
            self._upkeep.append(asyncio.create_task(work(), name=f"engine pool: {name}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        self._upkeep.clear()
        for slot in self._slots():
            if slot.state not in (SlotState.IDLE, SlotState.COOLING) and not slot.taken:
                self._cool(slot)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSING_S)
            for task in late:
                task.cancel()
        await self._store.close()

    def replace_engines(self, addresses: Sequence[EngineAddress]) -> None:
        """Uses these engines from now on. One that is not among them keeps its live sessions to their end.

        An engine is its URL: one that is trusted in another way now is still as taken as it was.
        """
        known = {engine.address.url: engine for engine in self._engines}
        for address in addresses:
            engine = known.pop(address.url, None)
            if engine is None:
                engine = _Engine(address)
                engine.slots = [_Slot(engine, f"{address}#{n}") for n in range(self._capacity)]
                self._engines.append(engine)
            engine.address, engine.retired = address, False
        for engine in known.values():
            engine.retired = True
            for slot in engine.slots:
                if slot.state is SlotState.WARM:
                    self._cool(slot)
        self._forget_retired()
        self._changed()

    def keep_warm(self, warm: Mapping[Prompts, int]) -> None:
        """Keeps these sessions prompted ahead from now on, and lets others go."""
        self._warm = dict(warm)
        for slot in self._slots():
            if slot.state is SlotState.WARM and slot.prompts not in self._warm:
                self._cool(slot)
        self._changed()

    # -- what is known --------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Slots that could be leased now."""
        states = self.states()
        return states[SlotState.IDLE] + states[SlotState.WARM]

    def has_free_besides(self, engine: EngineAddress) -> bool:
        """Whether another engine could be leased now."""
        free = (SlotState.IDLE, SlotState.WARM)
        return any(
            address != engine and any(state in free for state in states) for address, states in self.engines()
        )

    def snapshot(self) -> dict[str, dict[str, int]]:
        """For each engine, by name: how many of its slots are in which state; every state is named."""
        return {
            str(engine.address): {
                state.value: sum(self._shown(slot) is state for slot in engine.slots) for state in SlotState
            }
            for engine in self._engines
        }

    def states(self) -> Counter[SlotState]:
        """How many slots are in each state."""
        return Counter(self._shown(slot) for slot in self._slots())

    def engines(self) -> list[tuple[EngineAddress, list[SlotState]]]:
        """Each engine and its slots' states."""
        return [(e.address, [self._shown(slot) for slot in e.slots]) for e in self._engines]

    def _shown(self, slot: _Slot) -> SlotState:
        if slot.state is SlotState.IDLE and not slot.engine.is_healthy(self._clock()):
            return SlotState.UNHEALTHY
        return slot.state

    def _slots(self) -> Iterator[_Slot]:
        for engine in self._engines:
            yield from engine.slots

    # -- leases ---------------------------------------------------------------------------------------

    async def lease(self, prompts: Prompts, avoid: frozenset[EngineAddress] = NONE) -> Lease:
        """A slot, at once.

        Args:
            prompts: What its engine is or will be told.
            avoid: Engines already tried for this call.

        Raises:
            NoEngineFree: There is none, or others wait for one.
        """
        if not self.waiting and (slot := await self._take(prompts, avoid)) is not None:
            return Lease(self, slot, prompts)
        states = ", ".join(f"{n} {state}" for state, n in sorted(self.states().items()))
        raise NoEngineFree(f"no engine is free ({states})")

    async def lease_in_turn(self, prompts: Prompts) -> Lease:
        """A slot as soon as there is one for those who came before and one more; the caller bounds the time.

        Raises:
            NoEngineFree: Too many wait already.
        """
        if self.waiting >= self._limits.max_waiting:
            raise NoEngineFree(f"{self.waiting} calls wait for an engine already")
        self.waiting += 1
        try:
            async with self._queue:
                while self._urgent or (slot := await self._take(prompts, NONE)) is None:
                    await self._change(RETRY_S)
        finally:
            self.waiting -= 1
        return Lease(self, slot, prompts)

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
                    *(((prompts, NONE),) if self._has_warm(prompts) else ()),
                    (told, avoid),
                    *(((prompts, NONE),) if self._has_warming(prompts) else ()),
                    (told, NONE),
                ):
                    if (slot := await self._take(wish, without)) is not None:
                        return Lease(self, slot, wish)
                await self._change(RETRY_S)
        finally:
            self._urgent -= 1

    def _has_warm(self, prompts: Prompts) -> bool:
        return any(s.prompts == prompts and s.state is SlotState.WARM and not s.taken for s in self._slots())

    def _has_warming(self, prompts: Prompts) -> bool:
        return any(s.prompts == prompts and s.opening is not None and not s.taken for s in self._slots())

    async def _take(self, prompts: Prompts, avoid: frozenset[EngineAddress]) -> _Slot | None:
        """The best slot that can be had now: its state is not idle any more, and it is the caller's."""
        tried: set[_Slot] = set()
        while True:
            slots = [s for s in self._slots() if s not in tried and s.engine.address not in avoid]
            ranked = [(rank, slot) for slot in slots if (rank := self._rank(slot, prompts)) is not None]
            if not ranked:
                return None
            _, slot = min(ranked, key=lambda each: each[0])
            tried.add(slot)
            if await self._claim(slot, prompts):
                slot.taken = True
                self._turn += 1
                slot.engine.turn = self._turn
                return slot

    def _rank(self, slot: _Slot, prompts: Prompts) -> tuple[float, ...] | None:
        """Lower is better; None: not to be had. Ready sessions first, then the engine that knows the persona,
        then the one that failed least.
        """
        now_s = self._clock()
        engine = slot.engine
        ours = slot.prompts == prompts and not slot.taken
        if (
            slot.state is SlotState.WARM
            and slot.session is not None
            and slot.session.is_live
            and not slot.taken
        ):
            kind = 0 if ours else 3
        elif slot.state in (SlotState.CONNECTING, SlotState.PROMPTING) and ours:
            kind = 1  # being warmed for just this: sooner there than a new one
        elif slot.state is SlotState.IDLE and engine.is_healthy(now_s) and now_s >= slot.ask_again_s:
            if engine.awaits_verdict:
                return None
            kind = 2
        else:
            return None
        return (kind, engine.breaker.failures > 0, engine.loaded != prompts, engine.breaker.failures,
                engine.busy, engine.turn)  # fmt: skip

    async def _claim(self, slot: _Slot, prompts: Prompts) -> bool:
        """Makes a ranked slot the caller's; False if another bridge has it."""
        if slot.state is SlotState.IDLE:
            self._become(slot, SlotState.CONNECTING)
            slot.prompts = prompts
            slot.taken = True
            try:
                slot.grant = await self._store.acquire(slot.key)
            except StoreUnreachable as error:
                log.warning("%s", error)
            except BaseException:
                self._idle(slot)
                raise
            if slot.grant is None:
                self._idle(slot)
                slot.ask_again_s = self._clock() + TAKEN_ELSEWHERE_S
                return False
        elif slot.prompts != prompts:
            # Somebody's next call would have had it; this call is now.
            session, slot.session, slot.taken = slot.session, None, True
            self._become(slot, SlotState.CONNECTING)
            slot.prompts = prompts
            if session is not None:
                try:
                    session.close()
                    await session.wait_closed()
                except BaseException:
                    self._cool(slot)
                    raise
        return True

    async def _session_of(self, slot: _Slot, prompts: Prompts) -> Session:
        if slot.session is None:
            if slot.opening is None:
                self._open(slot, prompts)
            assert slot.opening is not None  # noqa: S101 - just made
            # Cancelled with the call, unlike what it waits for: the slot's cooling sees to that.
            slot.session = await asyncio.shield(slot.opening)
            slot.opening = None
        self._become(slot, SlotState.LIVE)
        return slot.session

    # -- a slot's way -----------------------------------------------------------------------------------

    def _become(self, slot: _Slot, state: SlotState) -> None:
        slot.state, slot.since_s = state, self._clock()

    def _open(self, slot: _Slot, prompts: Prompts) -> None:
        slot.opening = self._spawn(self._opening(slot, prompts))

    async def _opening(self, slot: _Slot, prompts: Prompts) -> Session:
        def connected() -> None:
            if slot.state is SlotState.CONNECTING:
                self._become(slot, SlotState.PROMPTING)

        engine = slot.engine
        try:
            session = await self._open_session(engine.address, prompts, connected)
        except EngineError as error:
            if not isinstance(error, EngineRejected) or prompts.voice_prompt in self._accepted:
                self._failed(slot)
            # A timeout may be among what it came of. That knows this task, which will keep the error, which
            # comes to know everyone that it is raised through: a whole call.
            error.__cause__ = error.__context__ = None
            raise
        engine.loaded = prompts
        self._accepted.add(prompts.voice_prompt)
        return session

    def _proven(self, slot: _Slot) -> bool:
        return slot.state is SlotState.LIVE and self._clock() - slot.since_s >= PROVEN_S

    def _session_lost(self, slot: _Slot) -> None:
        if self._proven(slot):
            slot.engine.breaker.worked()  # so far
        self._failed(slot)
        self._cool(slot)

    def _released(self, slot: _Slot) -> None:
        if self._proven(slot):
            slot.engine.breaker.worked()
        self._cool(slot)

    def _failed(self, slot: _Slot) -> None:
        slot.engine.breaker.failed(self._clock())

    def _cool(self, slot: _Slot) -> None:
        if slot.state not in (SlotState.IDLE, SlotState.COOLING):
            self._become(slot, SlotState.COOLING)
            if slot.session is not None:
                slot.session.close()  # now, so that a call that has let go of it hears no more of it
            self._spawn(self._cooling(slot))

    async def _cooling(self, slot: _Slot) -> None:
        opening, session = slot.opening, slot.session
        if opening is not None:
            opening.cancel()
            # Not awaited itself: the error that it keeps would keep this frame, which keeps it.
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                session = opening.result()
        if session is not None:
            session.close()
            await session.wait_closed()
            await asyncio.sleep(COOLING_S)
        if slot.grant is not None:
            try:
                await self._store.release(slot.grant)
            except StoreUnreachable as error:
                log.warning("%s: the lease will expire", error)
        self._idle(slot)

    def _idle(self, slot: _Slot) -> None:
        self._become(slot, SlotState.IDLE)
        slot.opening = slot.session = slot.grant = slot.prompts = None
        slot.taken = False
        self._forget_retired()
        self._changed()

    def _forget_retired(self) -> None:
        self._engines = [engine for engine in self._engines if not engine.retired or engine.busy]

    # -- upkeep -----------------------------------------------------------------------------------------

    async def _keep_warm(self) -> None:
        while True:
            for prompts, wanted in self._warm.items():
                ready = sum(s.prompts == prompts and not s.taken and s.state is not SlotState.COOLING
                            for s in self._slots())  # fmt: skip
                breaker = self._warming_breakers.setdefault(prompts, Breaker())
                for _ in range(wanted - ready):
                    if self.waiting or self._urgent or not breaker.allows(self._clock()):
                        break
                    if not await self._warm_up(prompts):
                        break
            self._renew_oldest()
            await self._change(UPKEEP_EVERY_S)

    async def _warm_up(self, prompts: Prompts) -> bool:
        """Begins to prompt an idle slot, if there is one."""
        ranked = [
            (rank, slot)
            for slot in self._slots()
            if slot.state is SlotState.IDLE and (rank := self._rank(slot, prompts)) is not None
        ]
        for _, slot in sorted(ranked, key=lambda each: each[0]):
            if slot.state is SlotState.IDLE and await self._claim(slot, prompts):
                slot.taken = False
                self._open(slot, prompts)
                self._spawn(self._warming(slot, prompts))
                return True
        return False

    async def _warming(self, slot: _Slot, prompts: Prompts) -> None:
        """From a slot's first prompt until its call comes, or its session dies."""
        opening = slot.opening
        assert opening is not None  # noqa: S101 - set by the caller
        await asyncio.wait([opening])  # as in `_cooling`
        if slot.opening is not opening or slot.taken:
            return
        slot.opening = None
        if opening.cancelled() or opening.exception() is not None:
            why = "" if opening.cancelled() else opening.exception()
            log.warning("a session could not be prompted ahead: %s", why)
            self._warming_breakers.setdefault(prompts, Breaker()).failed(self._clock())
            self._cool(slot)
            return
        slot.session = session = opening.result()
        self._warming_breakers.pop(prompts, None)
        self._become(slot, SlotState.WARM)
        self._changed()
        await session.wait_closed()
        if slot.session is session and slot.state is SlotState.WARM:
            log.warning(
                "%s: a session that was prompted ahead is gone; another takes its place", session.engine
            )
            self._failed(slot)
            self._cool(slot)

    def _renew_oldest(self) -> None:
        """Lets one session go that is too old, if none is just being prompted: never all at once."""
        if any(s.opening is not None and not s.taken for s in self._slots()):
            return
        warm = [slot for slot in self._slots() if slot.state is SlotState.WARM]
        oldest = min(warm, key=lambda slot: slot.since_s, default=None)
        if oldest is not None and self._clock() - oldest.since_s >= self._limits.warm_max_age_s:
            self._cool(oldest)

    async def _probe(self) -> None:
        while True:
            await asyncio.gather(*(self._probe_one(engine) for engine in tuple(self._engines)))
            await asyncio.sleep(PROBE_EVERY_S)

    async def _probe_one(self, engine: _Engine) -> None:
        if any(slot.session is not None for slot in engine.slots):
            engine.probes_failed = 0  # a session is a better proof
            return
        if await self._answers(engine.address):
            if engine.probes_failed >= PROBES_TO_FAIL:
                log.info("%s answers again", engine.address)
                engine.breaker.retry_soon()
                self._changed()
            engine.probes_failed = 0
        else:
            engine.probes_failed += 1
            if engine.probes_failed == PROBES_TO_FAIL:
                log.warning("%s does not answer: no call goes there until it does", engine.address)

    async def _renew(self) -> None:
        every_s = self._store.renew_every_s
        while every_s is not None:
            await asyncio.sleep(every_s)
            await asyncio.gather(*(self._renew_one(slot) for slot in self._slots() if slot.grant is not None))

    async def _renew_one(self, slot: _Slot) -> None:
        grant = slot.grant
        assert grant is not None  # noqa: S101 - asked for by the caller
        try:
            renewal = await self._store.renew(grant)
        except StoreUnreachable as error:
            log.warning("%s: %s keeps its session", error, slot.engine.address)
            return
        if renewal is Renewal.LOST and slot.grant == grant:
            log.error("%s: its lease %d is another bridge's now", slot.engine.address, grant.fence)
            slot.grant = None
            if slot.session is not None and slot.taken:
                slot.session.close()  # its call takes it for lost, and goes to another engine
            else:
                self._cool(slot)

    # -- waiting ----------------------------------------------------------------------------------------

    def _changed(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            if not change.done():
                change.set_result(None)

    async def _change(self, timeout_s: float) -> None:
        """Waits until something changed, or for so long."""
        change: asyncio.Future[None] = self._loop.create_future()
        self._changes.append(change)
        await asyncio.wait([change], timeout=timeout_s)
        if not change.done():
            change.cancel()
            self._changes = [each for each in self._changes if each is not change]

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, EngineError):
            log.error("engine pool: a task failed", exc_info=error)
