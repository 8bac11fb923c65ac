"""A slot's transitions from state to state, with its lease, its session, and the engine's failure count.

Three modules decide how slots are used: `pxbridge.engines.pool` for calls, `warming` ahead of calls, and
`maintenance` for leases and health. All three change slots only through this module, so that a slot's lease
and its session are acquired and released together.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pxbridge.engines.changes import Changes
from pxbridge.engines.leases import Grant, Refusal
from pxbridge.engines.slot_directory import SlotDirectory
from pxbridge.engines.slots import (
    Asking,
    Attempt,
    Cooling,
    Elsewhere,
    Idle,
    Live,
    Opening,
    Preparing,
    Prompts,
    Releasing,
    Stage,
    Taken,
    Warm,
)
from pxbridge.errors import EngineError, EngineFull, EngineLost, EngineRejected, StoreUnreachable
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import Any

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.leases import Use, WatchedLeases
    from pxbridge.engines.probe import Told
    from pxbridge.engines.session import Session
    from pxbridge.engines.slots import Engine, Slot

log = logging.getLogger(__name__)

T = TypeVar("T")

COOLING_S: Final = 0.1
"""The pause between a session's end and its slot's release. NVIDIA's server needs it to end its loops."""

PROVEN_S: Final = 5.0
"""A session that stays up this long proves that its engine works. A shorter one proves nothing."""

CLOSING_S: Final = 5.0
"""How long `close` waits for sessions to close."""

OPENINGS_KEPT: Final = 16
"""How many openings tell how long an engine usually takes for its prompts."""

RETRY_FULL_S: Final = 1.0
LONGEST_RETRY_FULL_S: Final = 30.0
"""How long a full engine that reports nothing of itself gets no calls: for its Retry-After, up to the second
value. Without a Retry-After, the first value counts."""


class Opener(Protocol):
    """Connects to an engine, calls `connected` with the session, then prompts the engine."""

    def __call__(
        self,
        engine: EngineAddress,
        prompts: Prompts,
        connected: Callable[[Session], None],
        /,
        *,
        moved: Callable[[int], None] | None = None,
    ) -> Awaitable[Session]:
        """Returns the prompted session, or raises an `EngineError`.

        With `moved` it waits in the engine's line if the engine is full, and calls it with its place there.
        """
        ...


class SlotTransitions:
    """Changes the state of slots.

    Args:
        capacity: Conversations that each engine takes at once that does not tell.
        open_session: Opens a slot's session.
        store: Records leases.

    Attributes:
        directory: All engines, including those removed from the settings that still have a busy slot.
        changes: Signals that a slot was freed or that a session is ready.
        failures: Number of failures, by the engine's name and the stage.
        opened_in_s: How long the latest sessions took to open.
    """

    def __init__(self, capacity: int, open_session: Opener, store: WatchedLeases) -> None:
        self.directory = SlotDirectory()
        self.changes = Changes()
        self.failures: Counter[tuple[str, Stage]] = Counter()
        self.opened_in_s: deque[float] = deque(maxlen=OPENINGS_KEPT)
        self.store = store
        self.clock = asyncio.get_running_loop().time
        self._capacity = capacity
        self._open_session = open_session
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[Session] = set()
        self._accepted: set[str] = set()
        """Voices that some engine has accepted. Rejecting any other voice does not count as a fault."""

    def replace(self, addresses: Sequence[EngineAddress]) -> None:
        """Uses these engines from now on. Sessions that calls have or are opening continue to their end.

        An engine is identified by its URL. A new trust setting does not free its slots. A session made ahead
        of calls is closed, unless a call would open one in the same way now.
        """
        known = {engine.address.url: engine for engine in self.directory.engines}
        for address in addresses:
            engine = known.pop(address.url, None)
            if engine is None:
                engine = self.directory.add(address)
                engine.resize(self._capacity)
            if engine.address != address:
                engine.address = address
                engine.probe_at_s = -math.inf  # a token or a certificate may be right now
            engine.retire(False)
        for engine in known.values():
            engine.retire(True)
        for slot in tuple(self.directory.ahead):
            if not self._is_current(slot):
                self.cool(slot)
        self.directory.forget_retired()
        self.changes.happened()

    def _is_current(self, slot: Slot) -> bool:
        """Whether a session made ahead of calls would be opened in the same way now."""
        engine = slot.engine
        match slot.state:
            case Preparing(attempt=attempt):
                return not engine.retired and attempt.address == engine.address
            case Warm(session=session):
                return not engine.retired and session.engine == engine.address
            case _:
                return True

    # -- what engines tell ---------------------------------------------------------------------------------

    def follow(self, engine: Engine, told: Told, conversations: int) -> None:
        """Takes over what an engine tells of itself.

        Args:
            engine: The engine.
            told: The engine's report.
            conversations: How many this bridge had with it when it was asked.
        """
        before = engine.closed
        engine.is_full = False
        if told != engine.told:
            engine.tells(told)
        if told.closed != before:
            self._log_closed(engine)
        if told.is_leaving:
            for slot in tuple(engine.used):
                if slot.ahead is not None:
                    self.cool(slot)  # the engine ends when its conversations have ended
        self._resize(engine, told.slots)
        # A conversation that has just begun or ended may be counted by the engine and not here, or the other
        # way round. The higher count here errs towards trying: a full engine refuses at once.
        ours = max(conversations, engine.conversations)
        self._mark_taken(engine, told.slots - told.free - ours - len(engine.elsewhere))

    def unfollow(self, engine: Engine) -> None:
        """An engine tells nothing of itself, or no more: its slots are those of the settings."""
        if engine.told is not None:
            engine.tells(None)
            engine.is_full = False
            self._resize(engine, self._capacity)
            self._mark_taken(engine, 0)

    def _log_closed(self, engine: Engine) -> None:
        if engine.closed is None:
            log.info("%s takes calls again", engine.address)
        else:
            log.warning("%s says: %s; it gets no calls until it is ready", engine.address, engine.closed)

    def _resize(self, engine: Engine, count: int) -> None:
        before = len(engine.slots)
        if before == count:
            return
        engine.resize(count)
        if len(engine.slots) != before:
            log.info("%s takes %s at once", engine.address, counted(count, "conversation"))

    def _mark_taken(self, engine: Engine, strangers: int) -> None:
        """Marks as many slots as taken as the engine has conversations of others."""
        surplus = len(engine.slots) - (self._capacity if engine.told is None else engine.told.slots)
        count = max(0, strangers) + surplus
        missing = count - len(engine.taken)
        for slot in tuple(itertools.islice(reversed(engine.idle), max(0, missing))):
            slot.state = Taken()
        for slot in tuple(itertools.islice(engine.taken, max(0, -missing))):
            slot.state = Idle()
        if missing:
            self.changes.happened()

    def _full(self, engine: Engine, retry_after_s: float | None) -> None:
        """An engine said that it is full. It gets no more calls until it tells otherwise, or for a pause."""
        engine.is_full = True
        for slot in tuple(engine.idle):
            slot.state = Taken()
        if engine.told is not None:
            engine.tells(replace(engine.told, has_line=False))
            engine.probe_at_s = min(engine.probe_at_s, self.clock() + RETRY_FULL_S)
            return
        pause_s = RETRY_FULL_S if retry_after_s is None else min(retry_after_s, LONGEST_RETRY_FULL_S)
        asyncio.get_running_loop().call_later(pause_s, self._retry_full, engine)

    def _retry_full(self, engine: Engine) -> None:
        if engine.told is None and engine.is_full:
            engine.is_full = False
            self._mark_taken(engine, 0)

    def abort(self) -> None:
        """Cuts all sessions that are still waiting for the closing handshake."""
        for session in self._closing:
            session.abort()

    async def close(self) -> None:
        """Closes sessions that no call has, and waits for all that are closing."""
        for slot in tuple(self.directory.ahead):
            self.cool(slot)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSING_S)
            for task in late:
                task.cancel()

    # -- leases -------------------------------------------------------------------------------------------

    async def ask(self, slot: Slot, use: Use) -> Grant | None:
        """Asks the store for the lease of an idle slot. Returns None if it is refused or the store is down.

        The caller must use the grant at once, before it awaits anything.
        """
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
        """Releases a lease that the store grants after its request was cancelled."""
        await asyncio.wait([asking])
        if asking.exception() is None and isinstance(grant := asking.result(), Grant):
            slot.state = Cooling(grant)
            await self._release(slot)
        else:
            self._idle(slot)

    def seen(self, slot: Slot, refusal: Refusal | None) -> None:
        """Records how the store says that a slot without a lease here is held."""
        match slot.state:
            case Elsewhere() if refusal is None:
                self._idle(slot)
            case Idle() | Elsewhere() | Taken() if refusal is not None:
                self._refused(slot, refusal)
            case _:
                pass

    def _refused(self, slot: Slot, refusal: Refusal) -> None:
        # A wanted slot has no holder yet, so a call of this bridge may still get it.
        slot.state = Idle() if refusal is Refusal.WANTED else Elsewhere(refusal)
        if refusal is Refusal.SETTLING:  # the store would say so of each slot
            for engine in self.directory.engines:
                for idle in tuple(engine.idle):
                    idle.state = Elsewhere(refusal)
        self.directory.forget_retired()

    async def _release(self, slot: Slot) -> None:
        grant = slot.grant
        slot.state = Releasing()  # before the request is sent, so that it is not renewed meanwhile
        try:
            if grant is not None:
                await self.store.release(grant)
        except StoreUnreachable:
            log.warning("%s: its lease could not be released and will expire", slot.engine.address)
        finally:
            self._idle(slot)

    def _idle(self, slot: Slot) -> None:
        engine = slot.engine
        # While a call stands in the engine's line, a slot that comes free goes to the line.
        full = engine.is_full or any(other.in_line for other in engine.used if other is not slot)
        slot.state = Taken() if full else Idle()
        self.directory.forget_retired()
        self.changes.happened()

    def fence_off(self, slot: Slot) -> None:
        """Gives up a slot that another bridge holds by now. A call that has it treats its session as lost."""
        log.error("%s: another bridge has taken over its lease", slot.engine.address)
        self.cool(slot)
        if isinstance(slot.state, Cooling):
            slot.state = Cooling(None)

    # -- sessions -----------------------------------------------------------------------------------------

    def prepare(
        self, slot: Slot, grant: Grant, prompts: Prompts, moved: Callable[[int], None] | None = None
    ) -> Preparing:
        """Starts to open a session ahead of any call. With `moved` it waits in the engine's line."""
        attempt = self._attempt(slot, prompts, moved=moved)
        slot.state = preparing = Preparing(grant, attempt, self.clock())
        return preparing

    def open(self, slot: Slot, grant: Grant, prompts: Prompts) -> None:
        """Starts to open a session for a call."""
        slot.state = Opening(grant, self._attempt(slot, prompts))

    def take(self, slot: Slot, prompts: Prompts) -> None:
        """Gives a session made ahead, or still being made, to a call."""
        match slot.state:
            case Warm(grant, ready, session) if ready == prompts:
                slot.state = Live(grant, session, self.clock())
            case Warm(grant, _, session):
                # The session has another persona's prompts. The call that needs a slot now comes first.
                session.close()
                slot.state = Opening(grant, self._attempt(slot, prompts, after=session))
            case Preparing(grant, attempt):
                slot.state = Opening(grant, attempt)
            case _:
                raise RuntimeError(f"no session was made ahead in this slot: {slot.state}")

    def warmed(self, slot: Slot, preparing: Preparing, session: Session) -> Warm:
        """Records that a session made ahead is ready."""
        slot.state = warm = Warm(preparing.grant, preparing.attempt.prompts, session, self.clock())
        self.changes.happened()
        return warm

    async def session(self, slot: Slot) -> Session:
        """Returns the session of a call's slot, once it is open.

        Raises:
            EngineError: It could not be opened.
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
                    del task  # breaks a reference cycle: task, error, traceback, this frame
                slot.state = Live(grant, session, self.clock())
                return session
            case _:
                raise EngineLost(f"{slot.engine.address}: its lease went to another bridge")

    def put_ahead(self, slot: Slot) -> Preparing | None:
        """Keeps a session that is being opened for a call that has ended, for another call.

        Returns None, and ends the session, if it failed or no call would open one in the same way now.
        """
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
        """Records that a call's session was lost, and frees the slot."""
        self._proven(slot)
        self.failed(slot, Stage.CALL)
        self.cool(slot)

    def leave(self, slot: Slot) -> None:
        """Frees the slot of a call that no longer needs it."""
        self._proven(slot)
        self.cool(slot)

    def outrun(self, slot: Slot) -> None:
        """Frees the slot of an engine that kept a call waiting for longer than another one."""
        log.warning("%s: it keeps a call waiting, and another engine was ready sooner", slot.engine.address)
        self.failed(slot, Stage.SETUP)
        self.cool(slot)

    def failed(self, slot: Slot, stage: Stage, *, fault: bool = True) -> None:
        """Counts a session that could not be opened or was lost. `fault`: this counts against the engine."""
        self.failures[str(slot.engine.address), stage] += 1
        if fault:
            slot.engine.failed(self.clock())

    def _proven(self, slot: Slot) -> None:
        match slot.state:
            case Live(since_s=since_s) if self.clock() - since_s >= PROVEN_S:
                slot.engine.worked()
            case _:
                pass

    def cool(self, slot: Slot) -> None:
        """Ends a slot's session or attempt, then releases its lease."""
        match slot.state:
            case Preparing(grant, attempt) | Opening(grant, attempt):
                slot.state = Cooling(grant)
                self.spawn(self._cooling(slot, attempt, None))
            case Warm(grant=grant, session=session) | Live(grant=grant, session=session):
                slot.state = Cooling(grant)
                session.close()  # at once: a call that has given it up must get no more callbacks
                self.spawn(self._cooling(slot, None, session))
            case _:
                pass

    async def _cooling(self, slot: Slot, attempt: Attempt | None, session: Session | None) -> None:
        if attempt is not None:
            task = attempt.task
            task.cancel()
            await asyncio.wait([task])
            # Until its connection has ended, the engine is not free, also if the attempt failed.
            session = attempt.session or attempt.after
            # Breaks a reference cycle: the task holds its error, whose frames hold the attempt.
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

    def _attempt(
        self,
        slot: Slot,
        prompts: Prompts,
        after: Session | None = None,
        moved: Callable[[int], None] | None = None,
    ) -> Attempt:
        attempt = Attempt(slot.engine.address, prompts, moved, after)
        attempt.task = self.spawn(self._make(slot, attempt))
        return attempt

    async def _make(self, slot: Slot, attempt: Attempt) -> Session:
        """Opens a session, after the slot's previous session has closed."""

        def connected(session: Session) -> None:
            attempt.session = session

        if attempt.after is not None:
            await attempt.after.wait_closed()
            attempt.after = None
        voice = attempt.prompts.voice_prompt
        began_s = self.clock()
        try:
            line = {} if attempt.moved is None else {"moved": attempt.moved}
            prompts = attempt.prompts
            if slot.engine.told is None:
                prompts = prompts._replace(sampling="")
            session = await self._open_session(attempt.address, prompts, connected, **line)
        except EngineFull as error:
            self.failed(slot, Stage.BUSY, fault=False)
            self._full(slot.engine, error.retry_after_s)
            error.__cause__ = error.__context__ = None  # as below
            raise
        except EngineError as error:
            stage = Stage.AHEAD if isinstance(slot.state, Preparing) else Stage.SETUP
            fault = not isinstance(error, EngineRejected) or voice in self._accepted
            self.failed(slot, stage, fault=fault)
            # Its cause may be a timeout, which refers to this task. The task keeps the error, and the error's
            # traceback refers to every frame that it is raised through: a whole call would stay in memory.
            error.__cause__ = error.__context__ = None
            raise
        if attempt.moved is None:  # the time in an engine's line does not count
            self.opened_in_s.append(self.clock() - began_s)
        slot.engine.has_read(attempt.prompts)
        self._accepted.add(voice)
        return session

    # -- tasks --------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs a coroutine as a task of the pool. Failures are logged, except an engine's or the store's."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, EngineError | StoreUnreachable):
            log.error("engine pool: a task failed", exc_info=error)
