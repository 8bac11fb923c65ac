"""Each slot's way from state to state: its lease, its session, and what both cost the engine's name.

Whoever decides which slot is used for what (`pxbridge.engines.pool` for calls, `warming` ahead of them,
`upkeep` for leases and health) does it through here, so that a slot's lease and its session come and go
together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pxbridge.engines.leases import Grant, Refusal
from pxbridge.engines.slots import (
    Asking,
    Attempt,
    Cooling,
    Elsewhere,
    Engine,
    Idle,
    Live,
    Opening,
    Preparing,
    Prompts,
    Releasing,
    Slot,
    Stage,
    Warm,
)
from pxbridge.errors import EngineError, EngineLost, EngineRejected, StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
    from typing import Any

    from pxbridge.engines.client import EngineAddress, Session
    from pxbridge.engines.leases import Use, WatchedLeases

log = logging.getLogger(__name__)

T = TypeVar("T")

COOLING_S: Final = 0.1
"""From a session's end until its slot is given to somebody else: NVIDIA's server leaves its loops first."""

PROVEN_S: Final = 5.0
"""A session that has lived so long shows that its engine works; one that comes up and dies does not."""

CLOSING_S: Final = 5.0
"""How long the end waits for sessions to close."""


class Opener(Protocol):
    """Connects an engine and prompts it, and calls `connected` between the two."""

    def __call__(
        self, engine: EngineAddress, prompts: Prompts, connected: Callable[[], None], /
    ) -> Awaitable[Session]:
        """Returns the prompted session, or raises an `EngineError`."""
        ...


class Changes:
    """Wakes those who wait for something to change."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def happened(self) -> None:
        """Wakes everybody."""
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Waits until something changed, or for so long."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        await asyncio.wait([change], timeout=timeout_s)
        if not change.done():
            change.cancel()
            self._waiting = [each for each in self._waiting if each is not change]


class SlotTransitions:
    """The engines.

    Args:
        capacity: Conversations each takes at once.
        open_session: How a slot gets its session.
        store: Who remembers leases.

    Attributes:
        engines: All of them, with those that are used to their end though nobody names them any more.
        changes: A slot came free, a session is ready.
        failures: How often each engine failed, by its name and when that was.
    """

    def __init__(self, capacity: int, open_session: Opener, store: WatchedLeases) -> None:
        self.engines: list[Engine] = []
        self.changes = Changes()
        self.failures: Counter[tuple[str, Stage]] = Counter()
        self.store = store
        self.clock = asyncio.get_running_loop().time
        self._capacity = capacity
        self._open_session = open_session
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[Session] = set()
        self._accepted: set[str] = set()
        """Voices that some engine has taken: a rejection of any other says nothing about the engine."""

    def slots(self) -> Iterator[Slot]:
        """All slots."""
        for engine in self.engines:
            yield from engine.slots

    def replace(self, addresses: Sequence[EngineAddress]) -> None:
        """Uses these engines from now on. What a call has or is getting goes on to its end.

        An engine is its URL: one that is trusted in another way now is still as taken as it was. A session
        that was made ahead is for the calls to come, so it has to be one that they would open.
        """
        known = {engine.address.url: engine for engine in self.engines}
        for address in addresses:
            engine = known.pop(address.url, None)
            if engine is None:
                engine = Engine(address)
                engine.slots = [Slot(engine, f"{address}#{n}") for n in range(self._capacity)]
                self.engines.append(engine)
            engine.address, engine.retired = address, False
        for engine in known.values():
            engine.retired = True
        for slot in self.slots():
            if not self._is_current(slot):
                self.cool(slot)
        self._forget_retired()
        self.changes.happened()

    def _is_current(self, slot: Slot) -> bool:
        """Whether a session that is ahead of calls could be opened in the same way now."""
        engine = slot.engine
        match slot.state:
            case Preparing(attempt=attempt):
                return not engine.retired and attempt.address == engine.address
            case Warm(session=session):
                return not engine.retired and session.engine == engine.address
            case _:
                return True

    def _forget_retired(self) -> None:
        self.engines = [engine for engine in self.engines if not engine.retired or engine.busy]

    def abort(self) -> None:
        """Waits for no closing handshake any more."""
        for session in self._closing:
            session.abort()

    async def close(self) -> None:
        """Lets go of what no call has, and waits for what closes."""
        for slot in self.slots():
            if isinstance(slot.state, Preparing | Warm):
                self.cool(slot)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSING_S)
            for task in late:
                task.cancel()

    # -- leases -------------------------------------------------------------------------------------------

    async def ask(self, slot: Slot, use: Use) -> Grant | None:
        """The lease of a slot that is not used here, None if it is not to be had; used at once."""
        if self.store.gone_since_s is not None:
            return None
        slot.state = Asking()
        asking = self.spawn(self.store.acquire(slot.key, use))
        try:
            await asyncio.wait([asking])
        except asyncio.CancelledError:
            self.spawn(self._give_up(slot, asking))
            raise
        try:
            answer = asking.result()
        except StoreUnreachable:
            self._idle(slot)
            return None
        except BaseException:
            self._idle(slot)
            raise
        if not isinstance(answer, Grant):
            self._refused(slot, answer)
        elif slot.engine.retired:
            slot.state = Cooling(answer)
            self.spawn(self._release(slot))
        else:
            return answer
        return None

    async def _give_up(self, slot: Slot, asking: asyncio.Task[Grant | Refusal]) -> None:
        """Whoever asked is gone; the lease may come all the same."""
        await asyncio.wait([asking])
        if asking.exception() is None and isinstance(grant := asking.result(), Grant):
            slot.state = Cooling(grant)
            await self._release(slot)
        else:
            self._idle(slot)

    def seen(self, slot: Slot, refusal: Refusal | None) -> None:
        """What the store says of a slot that nobody here has."""
        match slot.state:
            case Elsewhere() if refusal is None:
                self._idle(slot)
            case Idle() | Elsewhere() if refusal is not None:
                self._refused(slot, refusal)
            case _:
                pass

    def _refused(self, slot: Slot, refusal: Refusal) -> None:
        # One that is promised to a call is nobody's yet: our own calls may be quicker.
        slot.state = Idle() if refusal is Refusal.WANTED else Elsewhere(refusal)
        self._forget_retired()

    async def _release(self, slot: Slot) -> None:
        grant = slot.grant
        slot.state = Releasing()  # before it is on its way: nobody may renew it now
        try:
            if grant is not None:
                await self.store.release(grant)
        except StoreUnreachable:
            log.warning("%s: its lease was not given back, and will expire", slot.engine.address)
        finally:
            self._idle(slot)

    def _idle(self, slot: Slot) -> None:
        slot.state = Idle()
        self._forget_retired()
        self.changes.happened()

    def fence_off(self, slot: Slot) -> None:
        """Leaves a slot that is another bridge's by now. A call takes its session for lost."""
        log.error("%s: its lease is another bridge's now", slot.engine.address)
        self.cool(slot)
        if isinstance(slot.state, Cooling):
            slot.state = Cooling(None)

    # -- sessions -----------------------------------------------------------------------------------------

    def prepare(self, slot: Slot, grant: Grant, prompts: Prompts) -> Preparing:
        """Begins to make a session ahead of any call."""
        attempt = self._attempt(slot, prompts)
        slot.state = preparing = Preparing(grant, attempt, self.clock())
        return preparing

    def open(self, slot: Slot, grant: Grant, prompts: Prompts) -> None:
        """Begins to make a session for a call."""
        slot.state = Opening(grant, self._attempt(slot, prompts))

    def take(self, slot: Slot, prompts: Prompts) -> None:
        """Gives what was made ahead to a call."""
        match slot.state:
            case Warm(grant, ready, session) if ready == prompts:
                slot.state = Live(grant, session, self.clock())
            case Warm(grant, _, session):
                # Another persona's next call would have had it; this call is now.
                session.close()
                slot.state = Opening(grant, self._attempt(slot, prompts, after=session))
            case Preparing(grant, attempt):
                slot.state = Opening(grant, attempt)
            case _:
                raise RuntimeError(f"nothing was made ahead: {slot.state}")

    def warmed(self, slot: Slot, preparing: Preparing, session: Session) -> Warm:
        """What was made ahead is ready."""
        slot.state = warm = Warm(preparing.grant, preparing.attempt.prompts, session, self.clock())
        self.changes.happened()
        return warm

    async def session(self, slot: Slot) -> Session:
        """The session that a call's slot has or is getting.

        Raises:
            EngineError: It did not come up.
        """
        match slot.state:
            case Live(session=session):
                return session
            case Opening(grant, attempt) as opening:
                task = attempt.task
                await asyncio.wait([task])
                if slot.state is not opening or task.cancelled():
                    raise EngineLost(f"{attempt.address}: its lease went to another bridge")
                try:
                    session = task.result()
                finally:
                    del task  # an error knows this frame, and the task knows the error
                slot.state = Live(grant, session, self.clock())
                return session
            case _:
                raise EngineLost(f"{slot.engine.address}: its lease went to another bridge")

    def put_ahead(self, slot: Slot) -> Preparing | None:
        """What is made for a call that is gone may be another's; None, and it ends, if that cannot be."""
        match slot.state:
            case Opening(grant, attempt):
                slot.state = preparing = Preparing(grant, attempt, self.clock())
                failed = attempt.task.done() and (attempt.task.cancelled() or attempt.task.exception())
                if not failed and self._is_current(slot):
                    self.changes.happened()
                    return preparing
            case _:
                pass
        self.cool(slot)
        return None

    def lost(self, slot: Slot) -> None:
        """A call's session died under it."""
        self._proven(slot)
        self.failed(slot, Stage.CALL)
        self.cool(slot)

    def leave(self, slot: Slot) -> None:
        """A call lets go of its slot."""
        self._proven(slot)
        self.cool(slot)

    def failed(self, slot: Slot, stage: Stage, *, fault: bool = True) -> None:
        """A session did not come up, or was lost; whether that may be the engine's fault."""
        self.failures[str(slot.engine.address), stage] += 1
        if fault:
            slot.engine.breaker.failed(self.clock())

    def _proven(self, slot: Slot) -> None:
        match slot.state:
            case Live(since_s=since_s) if self.clock() - since_s >= PROVEN_S:
                slot.engine.breaker.worked()
            case _:
                pass

    def cool(self, slot: Slot) -> None:
        """Ends what a slot is used for."""
        match slot.state:
            case Preparing(grant, attempt) | Opening(grant, attempt):
                slot.state = Cooling(grant)
                self.spawn(self._cooling(slot, attempt, None))
            case Warm(grant=grant, session=session) | Live(grant=grant, session=session):
                slot.state = Cooling(grant)
                session.close()  # now, so that a call that has let go of it hears no more of it
                self.spawn(self._cooling(slot, None, session))
            case _:
                pass

    async def _cooling(self, slot: Slot, attempt: Attempt | None, session: Session | None) -> None:
        if attempt is not None:
            task = attempt.task
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:
                session = task.result()
            # Its error knows the frames that it came through, and they know the attempt.
            del attempt.task, task
        if session is not None:
            session.close()
            self._closing.add(session)
            try:
                await session.wait_closed()
            finally:
                self._closing.discard(session)
            await asyncio.sleep(COOLING_S)
        await self._release(slot)

    def _attempt(self, slot: Slot, prompts: Prompts, after: Session | None = None) -> Attempt:
        attempt = Attempt(slot.engine.address, prompts)
        attempt.task = self.spawn(self._make(slot, attempt, after))
        return attempt

    async def _make(self, slot: Slot, attempt: Attempt, after: Session | None) -> Session:
        """A session, once the one before it has closed."""

        def connected() -> None:
            attempt.connected = True

        if after is not None:
            await after.wait_closed()
        voice = attempt.prompts.voice_prompt
        try:
            session = await self._open_session(attempt.address, attempt.prompts, connected)
        except EngineError as error:
            stage = Stage.AHEAD if isinstance(slot.state, Preparing) else Stage.SETUP
            fault = not isinstance(error, EngineRejected) or voice in self._accepted
            self.failed(slot, stage, fault=fault)
            # A timeout may be among what it came of. That knows this task, which will keep the error, which
            # comes to know everyone that it is raised through: a whole call.
            error.__cause__ = error.__context__ = None
            raise
        slot.engine.loaded = attempt.prompts
        self._accepted.add(voice)
        return session

    # -- tasks --------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs something beside everything else; what goes wrong in it is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, EngineError | StoreUnreachable):
            log.error("engine pool: a task failed", exc_info=error)
