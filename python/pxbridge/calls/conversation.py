"""A call's conversation, with one engine or several: prompting, waiting, live, failover.

Each phase is one method that returns when the phase is over. The method also decides what the caller hears in
that phase.

A conversation outlives its engines. When an engine dies, the phone's socket stays open, and another engine
continues with the same persona. A session that was prompted ahead is ready first, but knows only the persona.
Any other session gets the agent's words so far in its text prompt. The persona says which of the two it
prefers.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pxbridge.calls import announcements
from pxbridge.calls.announcements import Sound
from pxbridge.calls.call_state import Ending, Outcome, Party, Phase
from pxbridge.calls.continuation import continue_prompts
from pxbridge.calls.engine_watch import EngineWatch
from pxbridge.calls.events import Kind
from pxbridge.calls.persona import FailoverPrefers
from pxbridge.calls.waiting import GapCover, keep_company, play_hold_music
from pxbridge.engines.hedge import soonest
from pxbridge.engines.pool import Prompts
from pxbridge.errors import (
    EngineBusy,
    EngineError,
    EngineFull,
    EngineLost,
    EngineRejected,
    InputError,
    NoEngineFree,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from pxbridge.calls.call_line import CallLine
    from pxbridge.calls.call_state import CallRecord
    from pxbridge.calls.continuation import Continuation
    from pxbridge.calls.events import Emit
    from pxbridge.calls.persona import Persona
    from pxbridge.calls.wakeup_timer import WakeupTimer
    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.lease import Lease
    from pxbridge.engines.pool import EnginePool
    from pxbridge.engines.session import Session

GREETING_REST_S: Final = 0.1
"""The agent is connected when only this much of the persona's greeting is left, as its first sound comes
later."""

BETWEEN_TRIES_S: Final = 0.2
"""A pause between two engines, so that engines that fail at once are not tried as fast as they fail."""

TAKE_OVER_S: Final = 5.0
"""How long the session of the call's earlier connection may take to close. After that, another one is
taken."""


@dataclass(frozen=True)
class CallLimits:
    """What an operator may set.

    Attributes:
        max_wait_s: The longest that a caller waits for a free engine.
        failover_timeout_s: The longest that a caller waits for another engine when one has died.
        engine_silent_s: An engine that is sent the caller's sound and sends none for this long, not even
            silence, has died. If no other engine is free, it has `failover_timeout_s` more to come back.
        phone_silent_s: A phone that sends nothing for this long is gone. Carriers send sound all the time, so
            such a line is dead although nobody closed it (half-open).
    """

    max_wait_s: float = 60.0
    failover_timeout_s: float = 20.0
    engine_silent_s: float = 2.5
    phone_silent_s: float = 30.0


class Conversation:
    """What happens between the carrier's start message and the last word.

    Args:
        line: The call's sound.
        record: The call's record.
        engines: Where engines are leased.
        persona: Whom the caller speaks with.
        wakeups: The process's timer.
        limits: How long things may take.
        continuation: What to continue with after a break.
        emit: Tells the subscribers.
        on_pause: Called now and then while the agent says nothing.
    """

    def __init__(
        self,
        line: CallLine,
        record: CallRecord,
        engines: EnginePool,
        persona: Persona,
        wakeups: WakeupTimer,
        *,
        limits: CallLimits,
        continuation: Continuation,
        emit: Emit,
        on_pause: Callable[[], None],
    ) -> None:
        self._line = line
        self._record = record
        self._engines = engines
        self._persona = persona
        self._wakeups = wakeups
        self._prompts = Prompts(persona.voice_prompt, persona.text_prompt, persona.sampling)
        self._limits = limits
        self._continuation = continuation
        self._emit = emit
        self._on_pause = on_pause
        self._clock = asyncio.get_running_loop().time
        self._gap = GapCover(line)
        self._greets = False  # the persona's greeting may still be playing
        self._busy: set[EngineAddress] = set()  # engines that were busy

    async def run(self) -> Ending:
        """Runs to the call's end, engine after engine; returns how it ended. Cancel it to end it earlier."""
        try:
            return await self._run()
        finally:
            self._gap.end()

    async def _run(self) -> Ending:
        self._greet()
        try:
            lease, session = await self._first_engine()
        except NoEngineFree as busy:
            self._say_last(Sound.ALL_BUSY)
            # Close code 1000, as for any other end: the carrier's flow goes on with its next step.
            reason = f"all lines are busy: {busy}"
            return Ending(Party.BRIDGE, reason, last_words=True, outcome=Outcome.NO_ENGINE)
        except EngineError as error:
            self._say_last(Sound.SORRY)
            return Ending(Party.ENGINE, str(error), 1011, last_words=True)
        self._record.ready_s = self._clock()
        while True:
            try:
                loss = await self._live(lease, session)
            finally:
                lease.release()
            try:
                lease, session = await self._next_engine(loss, lease.engine)
            except TimeoutError:
                self._say_last(Sound.SORRY)
                reason = f"{loss}; no other engine came up within {self._limits.failover_timeout_s:g} s"
                return Ending(Party.ENGINE, reason, 1011, last_words=True)

    def _greet(self) -> None:
        if self._persona.greeting is None:
            return
        try:
            self._line.play(announcements.greeting(self._persona.greeting, self._line.rate_hz))
            self._greets = True
        except InputError as error:
            self._emit(Kind.NOTE, text=f"the greeting cannot be played: {error}")

    def _say_last(self, name: Sound) -> None:
        """Plays an announcement as the call's last words."""
        self._line.fade_out()
        self._line.play(announcements.sound(name, self._line.rate_hz))

    # -- prompting ------------------------------------------------------------------------------------

    async def _first_engine(self) -> tuple[Lease, Session]:
        """The first engine that comes up: at once, or after waiting in turn.

        Raises:
            EngineRejected: Every engine that works rejected the persona.
            NoEngineFree: No engine came free in time, or too many callers wait already.
        """
        self._enter(Phase.PROMPTING)
        with self._in_background(self._keep_company()):
            try:
                return await self._same_engine() or await self._free_engine()
            except NoEngineFree as none_free:
                why = str(none_free)
        return await self._wait(why)

    async def _keep_company(self) -> None:
        """What the caller hears if the prompts take long. It begins after the persona's greeting."""
        await self._line.wait_played()
        self._greets = False
        await keep_company(self._line)

    async def _free_engine(self) -> tuple[Lease, Session]:
        """The first engine that comes up without waiting in turn.

        Raises:
            EngineRejected: Every engine that works rejected the persona.
            NoEngineFree: None is free, or those that were have failed.
        """
        tried: set[EngineAddress] = set()
        failure: EngineError | None = None
        try:
            while True:
                try:
                    lease = await self._engines.lease(
                        self._prompts, frozenset(tried), self._continuation.place
                    )
                except NoEngineFree as none_free:
                    if isinstance(failure, EngineRejected) and not self._may_wait:
                        raise failure from none_free  # waiting would not make the persona better
                    raise NoEngineFree(str(failure or none_free)) from None
                try:
                    return await self._prompt(lease, self._prompts, tried)
                except EngineError as error:
                    failure = error
        finally:
            del failure  # it refers to this frame, and so to the whole call

    async def _same_engine(self) -> tuple[Lease, Session] | None:
        """The engine of the earlier connection: its session if that is still being made, else its slot."""
        if self._continuation.released is not None:
            await self._continuation.released.wait()
        if not self._continuation.engaged:
            return None
        with contextlib.suppress(TimeoutError, EngineError):
            async with asyncio.timeout(TAKE_OVER_S):
                lease = await self._lease_ahead(frozenset())
            return await self._prompt(lease, self._informed(), set())
        return None

    async def _lease_ahead(self, avoid: frozenset[EngineAddress]) -> Lease:
        """A lease for a conversation that is under way."""
        informed = self._informed()
        soonest = self._persona.failover_prefers is FailoverPrefers.SOONEST
        return await self._engines.lease_ahead(self._prompts if soonest else informed, informed, avoid)

    def _informed(self) -> Prompts:
        """The prompts for an engine that goes on with the conversation."""
        return continue_prompts(self._persona, self._continuation.said + "".join(self._record.words))

    async def _prompt(
        self, lease: Lease, prompts: Prompts, asked: set[EngineAddress]
    ) -> tuple[Lease, Session]:
        """The session of a lease or, if its engine takes long, that of a second engine.

        Args:
            lease: The first engine's.
            prompts: For a second engine.
            asked: Engines that are not asked a second time. Those that are asked are added.

        Raises:
            EngineError: No session could be opened.
        """
        lease, session = await soonest(
            self._engines,
            lease,
            prompts,
            self._continuation.place,
            asked,
            asks=self._engine_tried,
            failed=self._engine_failed,
        )
        self._record.engine = str(lease.engine)
        return lease, session

    def _engine_tried(self, lease: Lease) -> None:
        self._record.engine = str(lease.engine)
        self._emit(Kind.ENGINE_TRIED, engine=self._record.engine, warm=lease.warm)

    def _engine_failed(self, lease: Lease, error: EngineError) -> None:
        if isinstance(error, EngineBusy):
            self._busy.add(lease.engine)
        elif isinstance(error, EngineRejected):
            self._engines.rejected(self._continuation.place, lease.engine)
        self._emit(Kind.ENGINE_FAILED, engine=str(lease.engine), reason=str(error))

    # -- waiting --------------------------------------------------------------------------------------

    @property
    def _may_wait(self) -> bool:
        """Whether waiting can help. It does not make a persona better that all engines have rejected."""
        return self._engines.may_take(self._continuation.place, self._busy)

    async def _wait(self, why: str) -> tuple[Lease, Session]:
        """An engine in the caller's turn. Until then the caller hears announcements and music."""
        self._enter(Phase.WAITING, reason=why)
        self._greets = False
        try:
            since_s = self._continuation.place.since_s
            waited_s = 0.0 if since_s is None else self._clock() - since_s
            left_s = self._limits.max_wait_s - waited_s
            place = self._continuation.place
            music = play_hold_music(self._line, lambda: self._engines.position(place))
            async with asyncio.timeout(left_s):
                with self._in_background(music):
                    while True:
                        lease = await self._engines.lease_in_turn(self._prompts, place)
                        try:
                            won, session = await self._prompt(lease, self._prompts, set(place.rejected_s))
                        except EngineFull:
                            continue  # back in its place at once: the pool knows when to try the engine again
                        except EngineRejected as error:
                            # Without a status it may have been restarted while it read the prompts.
                            if error.status is not None and not self._may_wait:
                                raise
                            continue
                        except EngineError:
                            await asyncio.sleep(BETWEEN_TRIES_S)
                            continue
                        place.since_s = None
                        return won, session
        except TimeoutError:
            raise NoEngineFree(f"no engine was free within {self._limits.max_wait_s:g} s ({why})") from None

    @staticmethod
    @contextlib.contextmanager
    def _in_background(work: Coroutine[Any, Any, None]) -> Iterator[None]:
        """Runs `work` while the block runs. What it has queued plays on until an engine speaks.

        The block's end waits for nothing: a cancellation in such a wait would lose the lease that the block
        returns, and with it an engine's slot.
        """
        task = asyncio.create_task(work)
        try:
            yield
        finally:
            task.cancel()

    # -- live -----------------------------------------------------------------------------------------

    async def _live(self, lease: Lease, session: Session) -> EngineLost:
        """Connects phone and engine until the engine is lost; returns how it was lost."""
        record = self._record
        if self._greets:
            self._greets = False
            await self._line.wait_played(all_but_s=GREETING_REST_S)
        if record.live_s is None:
            record.live_s = self._clock()
            record.said_before_s, _ = self._line.spoken_s
        self._enter(Phase.LIVE)
        self._emit(Kind.LIVE, engine=str(session.engine), prompt_s=session.prompt_s, warm=lease.warm)
        lost: asyncio.Future[EngineLost] = asyncio.get_running_loop().create_future()

        def on_close(end: EngineLost | None) -> None:
            if not lost.done():  # it is cancelled when the call ends first
                lost.set_result(end or EngineLost(f"{session.engine}: its lease went to another bridge"))

        watch: EngineWatch | None = None
        try:
            self._line.connect(session, on_close)
            watch = self._watch(session, on_close)
            loss = await lost
        finally:
            if watch is not None:
                watch.stop()
            self._line.disconnect()
        lease.lost()
        self._emit(Kind.ENGINE_LOST, engine=str(session.engine), reason=str(loss))
        return loss

    def _watch(self, session: Session, on_lost: Callable[[EngineLost], None]) -> EngineWatch:
        """Watches for an engine that stops without closing."""
        silent_s = self._limits.engine_silent_s
        return EngineWatch(
            session,
            self._line,
            self._engines,
            self._gap,
            self._wakeups,
            emit=self._emit,
            on_pause=self._on_pause,
            on_lost=on_lost,
            silent_s=silent_s,
            patient_s=silent_s + self._limits.failover_timeout_s,
        )

    # -- failover -------------------------------------------------------------------------------------

    async def _next_engine(self, loss: EngineLost, lost: EngineAddress) -> tuple[Lease, Session]:
        """Another engine for a conversation under way.

        Raises:
            TimeoutError: None came up in time.
        """
        self._enter(Phase.FAILOVER, reason=str(loss))
        record = self._record
        record.failovers += 1
        avoid = {lost}
        self._gap.begin()
        try:
            async with asyncio.timeout(self._limits.failover_timeout_s):
                while True:
                    lease = await self._lease_ahead(frozenset(avoid))
                    with contextlib.suppress(EngineError):
                        return await self._prompt(lease, self._informed(), avoid)
                    await asyncio.sleep(BETWEEN_TRIES_S)
        finally:
            self._gap.end()

    def _enter(self, phase: Phase, **detail: str) -> None:
        self._record.phase = phase
        self._emit(Kind.PHASE, phase=phase.value, **detail)
