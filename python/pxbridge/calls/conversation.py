"""A call's way from one engine to the next: prompting, waiting, live, failover.

Each phase is one method that returns when the phase is over; what the caller hears in it is its business. A
conversation outlives its engines: when one dies the phone's socket stays, and another goes on with the same
persona. It is quickest with a session that was prompted ahead, which knows the persona and nothing of the
call; any other is told in its text prompt what has been said. Which of the two is wanted, the persona says.

An engine can also stop without dying: it hears and says nothing, or its network is gone. It is given up soon
if another is free. If none is, it may come back, so it is waited for; the caller hears meanwhile what covers
any other gap, until it is back or given up after all.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.calls import announcements
from pxbridge.calls.announcements import Sound
from pxbridge.calls.call_state import Ending, Outcome, Party, Phase
from pxbridge.calls.events import Kind
from pxbridge.calls.persona import FailoverPrefers
from pxbridge.calls.waiting import AnnouncementLine, GapCover, play_hold_music
from pxbridge.engines.pool import Prompts
from pxbridge.errors import EngineError, EngineLost, EngineRejected, InputError, NoEngineFree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Any

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.calls.persona import Persona
    from pxbridge.engines.client import EngineAddress, Session
    from pxbridge.engines.pool import EnginePool, Lease, Place

MAX_SAID_CHARS: Final = 600
"""Characters of what the agent has said that the next engine is told: some 150 tokens, 12 s of its 240 s."""

CONTINUE_PROMPT: Final = (
    " The line was interrupted in the middle of this call. Do not greet again; go on from where you were. "
    "The last that you said was: {words}"
)

GREETING_REST_S: Final = 0.1
"""When so little of the persona's greeting is left, the agent is joined: it is heard later than that."""

BETWEEN_TRIES_S: Final = 0.2
"""Engines that fail at once are not tried as fast as they fail."""

TAKE_OVER_S: Final = 5.0
"""What the session of a call's older connection has to close, with some air; then there are others."""

CHECK_EVERY_S: Final = 0.5
"""How often a live engine is looked at."""

MIN_FED_S: Final = 0.2
"""An engine that was sent less than this since its last sound owes nothing: its step is 80 ms."""


@dataclass(frozen=True)
class CallLimits:
    """What an operator may set.

    Attributes:
        max_wait_s: The longest that a caller waits for a free engine.
        failover_timeout_s: The longest that a caller waits for another engine when one died.
        engine_silent_s: An engine that hears the caller and says nothing at all, not even silence, for so
            long has died; where no other is free it has `failover_timeout_s` more to come back.
        phone_silent_s: A phone that sends nothing at all for so long is gone. Exotel sends media all the
            time, so such a line is dead though nobody closed it (half-open).
    """

    max_wait_s: float = 60.0
    failover_timeout_s: float = 20.0
    engine_silent_s: float = 2.5
    phone_silent_s: float = 30.0


@dataclass
class Continuation:
    """Where a phone call stands, on whichever of its connections: a second one takes over from the first.

    Attributes:
        place: Among the calls that want an engine.
        said: What the agent has said on connections before.
        engaged: On the one before, an engine was the caller's, or was becoming so.
        released: Set as soon as the one before has let go of it.
    """

    place: Place
    said: str = ""
    engaged: bool = False
    released: asyncio.Event | None = None


class Line(AnnouncementLine, Protocol):
    """The phone's side of a call, as far as a conversation needs it."""

    @property
    def record(self) -> CallRecord:
        """What is known of the call."""
        ...

    def emit(self, kind: Kind, **detail: Any) -> None:
        """Tells whoever watches."""
        ...

    def connect(self, session: Session, on_close: Callable[[EngineLost | None], None]) -> None:
        """Joins phone and engine."""
        ...

    def disconnect(self) -> None:
        """Takes them apart again."""
        ...

    def fade_out(self) -> None:
        """Ends the bridge's own sound with a fade."""
        ...

    def agent_pauses(self) -> None:
        """Told now and then while the agent says nothing."""
        ...

    @property
    def agent_paused_s(self) -> float:
        """How long the agent has paused; infinity while it has not spoken."""
        ...

    def engine_audio_s(self) -> tuple[float, float]:
        """Seconds of sound that engines were sent and that came from them, since the call's start."""
        ...


def continue_prompts(persona: Persona, words: str) -> Prompts:
    """What an engine is told that goes on with a conversation.

    Args:
        persona: Whom it plays.
        words: What the agent has said so far.
    """
    said = " ".join(words.split())
    if len(said) > MAX_SAID_CHARS:
        said = "... " + said[-MAX_SAID_CHARS:].partition(" ")[2]
    if not said:
        return Prompts(persona.voice_prompt, persona.text_prompt)
    return Prompts(persona.voice_prompt, persona.text_prompt + CONTINUE_PROMPT.format(words=said))


class Conversation:
    """What happens between `start` and the last word.

    Args:
        line: The phone's side.
        engines: Where engines are leased.
        persona: Whom the caller speaks with.
        limits: How long things may take.
        clock: Seconds, monotonic.
        continuation: Where the call stands.
    """

    def __init__(
        self,
        line: Line,
        engines: EnginePool,
        persona: Persona,
        limits: CallLimits,
        clock: Callable[[], float],
        continuation: Continuation,
    ) -> None:
        self._continuation = continuation
        self._line = line
        self._engines = engines
        self._persona = persona
        self._prompts = Prompts(persona.voice_prompt, persona.text_prompt)
        self._limits = limits
        self._clock = clock
        self._gap = GapCover(line)

    async def run(self) -> Ending:
        """Holds it, engine after engine; says how it ended. Ends earlier by being cancelled."""
        try:
            return await self._run()
        finally:
            await self._gap.end()

    async def _run(self) -> Ending:
        self._greet()
        try:
            lease, session = await self._first_engine()
        except NoEngineFree as busy:
            self._say_last(Sound.ALL_BUSY)
            # 1000, as for any other end: Exotel's flow goes on to its next applet.
            reason = f"all lines are busy: {busy}"
            return Ending(Party.BRIDGE, reason, last_words=True, outcome=Outcome.NO_ENGINE)
        except EngineError as error:
            self._say_last(Sound.SORRY)
            return Ending(Party.ENGINE, str(error), 1011, last_words=True)
        while True:
            try:
                loss = await self._live(lease, session)
            finally:
                lease.release()
            try:
                lease, session = await self._next_engine(loss, lease.engine)
            except TimeoutError:
                self._say_last(Sound.SORRY)
                reason = f"{loss}; no other came up within {self._limits.failover_timeout_s:g} s"
                return Ending(Party.ENGINE, reason, 1011, last_words=True)

    def _greet(self) -> None:
        if self._persona.greeting is None:
            return
        try:
            self._line.play(announcements.greeting(self._persona.greeting, self._line.rate_hz))
        except InputError as error:
            self._line.emit(Kind.NOTE, text=f"the greeting cannot be played: {error}")

    def _say_last(self, name: Sound) -> None:
        """Heard to its end before the socket closes, for whoever asks for the last words."""
        self._line.fade_out()
        self._line.play(announcements.sound(name, self._line.rate_hz))

    # -- prompting ------------------------------------------------------------------------------------

    async def _first_engine(self) -> tuple[Lease, Session]:
        """The first engine that comes up, at once or in turn.

        Raises:
            EngineRejected: Every engine refused the persona.
            NoEngineFree: None was free for as long as the caller may wait, or too many wait already.
        """
        self._enter(Phase.PROMPTING)
        if (taken_over := await self._same_engine()) is not None:
            return taken_over
        tried: frozenset[EngineAddress] = frozenset()
        failure: EngineError | None = None
        try:
            while True:
                try:
                    lease = await self._engines.lease(self._prompts, tried, self._continuation.place)
                except NoEngineFree as none_free:
                    if isinstance(failure, EngineRejected):
                        raise failure from none_free  # waiting would not make the persona better
                    return await self._wait(failure or none_free)
                try:
                    return lease, await self._prompt(lease)
                except EngineError as error:
                    failure = error
                    tried |= {lease.engine}
        finally:
            del failure  # it knows this frame, and with it the whole call

    async def _same_engine(self) -> tuple[Lease, Session] | None:
        """What the connection before had: its session if that is still in the making, or else its slot."""
        if self._continuation.released is not None:
            await self._continuation.released.wait()
        if not self._continuation.engaged:
            return None
        with contextlib.suppress(TimeoutError, EngineError):
            async with asyncio.timeout(TAKE_OVER_S):
                lease = await self._lease_ahead(frozenset())
            return lease, await self._prompt(lease)
        return None

    async def _lease_ahead(self, avoid: frozenset[EngineAddress]) -> Lease:
        """An engine for a conversation under way."""
        informed = continue_prompts(self._persona, self._continuation.said + "".join(self._line.record.words))
        soonest = self._persona.failover_prefers is FailoverPrefers.SOONEST
        return await self._engines.lease_ahead(self._prompts if soonest else informed, informed, avoid)

    async def _prompt(self, lease: Lease) -> Session:
        """A lease's session; the lease is given back if there is none."""
        engine = str(lease.engine)
        self._line.record.engine = engine
        self._line.emit(Kind.ENGINE_TRIED, engine=engine, warm=lease.warm)
        try:
            return await lease.session()
        except BaseException as error:
            lease.release()
            if isinstance(error, EngineError):
                self._line.emit(Kind.ENGINE_FAILED, engine=engine, reason=str(error))
            raise

    # -- waiting --------------------------------------------------------------------------------------

    async def _wait(self, why: EngineError) -> tuple[Lease, Session]:
        """An engine when it is the caller's turn, with announcements and music until then."""
        self._enter(Phase.WAITING, reason=str(why))
        try:
            since_s = self._continuation.place.since_s
            waited_s = 0.0 if since_s is None else self._clock() - since_s
            left_s = self._limits.max_wait_s - waited_s
            async with self._in_background(play_hold_music(self._line)), asyncio.timeout(left_s):
                while True:
                    lease = await self._engines.lease_in_turn(self._prompts, self._continuation.place)
                    with contextlib.suppress(EngineError):
                        return lease, await self._prompt(lease)
                    await asyncio.sleep(BETWEEN_TRIES_S)
        except TimeoutError:
            raise NoEngineFree(f"none was free within {self._limits.max_wait_s:g} s ({why})") from None

    @contextlib.asynccontextmanager
    async def _in_background(self, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """The caller hears `work` meanwhile; what is queued of it plays on, until an engine speaks."""
        task = asyncio.create_task(work)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- live -----------------------------------------------------------------------------------------

    async def _live(self, lease: Lease, session: Session) -> EngineLost:
        """Joins phone and engine until the engine is lost; says how."""
        if self._line.record.phase is Phase.PROMPTING and self._persona.greeting is not None:
            await self._line.wait_played(all_but_s=GREETING_REST_S)
        record = self._line.record
        if record.live_s is None:
            record.live_s = self._clock()
        self._enter(Phase.LIVE)
        self._line.emit(Kind.LIVE, engine=str(session.engine), prompt_s=session.prompt_s, warm=lease.warm)
        lost: asyncio.Future[EngineLost] = asyncio.get_running_loop().create_future()

        def on_close(end: EngineLost | None) -> None:
            if not lost.done():  # it is cancelled when the call ends first
                lost.set_result(end or EngineLost(f"{session.engine}: its lease went to another bridge"))

        try:
            self._line.connect(session, on_close)
            async with self._in_background(self._watch(session, on_close)):
                loss = await lost
        finally:
            self._line.disconnect()
        lease.lost()
        self._line.emit(Kind.ENGINE_LOST, engine=str(session.engine), reason=str(loss))
        return loss

    async def _watch(self, session: Session, on_close: Callable[[EngineLost | None], None]) -> None:
        """Finds out that an engine stopped without a close: it hears the caller and sends nothing."""
        sent_s, came_s = self._line.engine_audio_s()
        owed_s = 0.0
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            now_sent_s, now_came_s = self._line.engine_audio_s()
            if now_came_s > came_s:
                sent_s, came_s, owed_s = now_sent_s, now_came_s, 0.0
            elif now_sent_s - sent_s >= MIN_FED_S:
                owed_s += CHECK_EVERY_S
            silent_s = self._limits.engine_silent_s
            if owed_s >= silent_s:
                # Without another, the best for the caller is one that may come back: networks stall, too.
                other = self._engines.has_free_besides(session.engine)
                if other or owed_s >= silent_s + self._limits.failover_timeout_s:
                    on_close(EngineLost(f"{session.engine}: it hears and says nothing for {owed_s:g} s"))
                    return
                if not self._gap.covered:
                    self._line.emit(
                        Kind.NOTE,
                        text=f"{session.engine} says nothing, and no other engine is free: it is waited for",
                    )
                    self._gap.begin()
            elif self._gap.covered:
                await self._gap.end()  # it is back, and has ended the bridge's own sound
            if self._line.agent_paused_s >= CHECK_EVERY_S:
                self._line.agent_pauses()

    # -- failover -------------------------------------------------------------------------------------

    async def _next_engine(self, loss: EngineLost, lost: EngineAddress) -> tuple[Lease, Session]:
        """Another engine for a conversation under way.

        Raises:
            TimeoutError: None came up in time.
        """
        self._enter(Phase.FAILOVER, reason=str(loss))
        record = self._line.record
        record.failovers += 1
        avoid = frozenset({lost})
        self._gap.begin()
        try:
            async with asyncio.timeout(self._limits.failover_timeout_s):
                while True:
                    lease = await self._lease_ahead(avoid)
                    avoid |= {lease.engine}
                    with contextlib.suppress(EngineError):
                        return lease, await self._prompt(lease)
                    await asyncio.sleep(BETWEEN_TRIES_S)
        finally:
            await self._gap.end()

    def _enter(self, phase: Phase, **detail: str) -> None:
        self._line.record.phase = phase
        self._line.emit(Kind.PHASE, phase=phase.value, **detail)
