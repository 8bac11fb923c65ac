"""One phone call, from its socket to its end.

A call ends exactly once: the phone, the engine or the bridge ends it (`Call._finish`). Every
task of the call belongs to one `asyncio.TaskGroup`, and nothing of it is left when `Call.run` returns.

This file holds policy: when the call begins and ends, and what an event means. Its sound goes through
`pxbridge.calls.call_line`. Which engine the caller speaks with, and what the caller hears while there is
none, is decided in `pxbridge.calls.conversation`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pxbridge.audio import AgentHeard, AllPlayed, OddPayloads, RateMismatch
from pxbridge.calls.call_line import CallLine
from pxbridge.calls.call_state import CallRecord, Ending, Outcome, Party, Phase
from pxbridge.calls.continuation import Continuation
from pxbridge.calls.conversation import CallLimits, Conversation
from pxbridge.calls.events import CURRENT_CALL, Event, Kind
from pxbridge.calls.persona import End, HandOver
from pxbridge.calls.playout_options import PlayoutOptions
from pxbridge.calls.unknown_names import NameCheck
from pxbridge.errors import CallConflict
from pxbridge.telephony import carrier

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.events import Subscriber
    from pxbridge.calls.handover import HandOvers
    from pxbridge.calls.persona import Action, Persona, Personas
    from pxbridge.calls.phrases import PhraseSpotter
    from pxbridge.calls.wakeup_timer import WakeupTimer
    from pxbridge.engines.pool import EnginePool
    from pxbridge.telephony.phone_line import Audio, LineEvent
    from pxbridge.telephony.server import Arrival
    from pxbridge.websocket import Closed

__all__ = ["Call", "CallRecord", "Ending", "Party", "Phase"]

log = logging.getLogger("pxbridge.call")

TRY_AGAIN_LATER = 1013
"""Close code 1013, from the registry of RFC 6455."""

START_TIMEOUT_S = 10.0
"""A carrier sends its start message right after the handshake. Another client may never send one."""

TOKEN_USED = "its token was used for another call"  # noqa: S105
"""A token in the URL admits one call (`pxbridge.telephony.call_tokens`)."""

LAST_WORDS_S = 10.0
"""The longest that the end of a call waits until the caller has heard the last words."""

SENTENCE_PAUSE_S = 0.32
"""Four of the model's frames. Few pauses within a sentence are longer."""

LAST_SENTENCE_S = 5.0
"""The longest that the end of a call waits for the agent to end its sentence."""

SENTENCE_POLL_S = 0.1

LAST_WORD_S = 0.8
"""The agent's words come as text before they come as sound. A pause counts only after the last word's
sound."""

UNREADABLE = 1003
"""Close code for audio that cannot be read (RFC 6455 §7.4.1: "a type of data it cannot accept")."""

MAX_UNKNOWN_NOTES = 5
"""Unknown events that a call notes, each name once: enough to learn that there is a new one."""


def _ignore(record: CallRecord, event: Event) -> None:
    pass


class Call:
    """The life of one call.

    Args:
        arrival: How it came in.
        engines: Where engines are leased.
        personas: Whom the caller can speak with.
        emit: Given everything that happens, with the record as it is then.
        wakeups: The process's timer.
        handovers: Where the call notes that it goes on to a person.
        limits: How long things may take.
        playout: How its sound is kept in time.
        names: Decides if it names a persona or a voice that does not exist.
    """

    def __init__(
        self,
        arrival: Arrival,
        *,
        engines: EnginePool,
        personas: Personas,
        emit: Subscriber,
        wakeups: WakeupTimer,
        handovers: HandOvers | None = None,
        limits: CallLimits | None = None,
        playout: PlayoutOptions | None = None,
        names: NameCheck | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._arrival = arrival
        self._socket = arrival.socket
        self._carrier = arrival.carrier
        self._engines = engines
        self._handovers = handovers
        self._limits = limits or CallLimits()
        self._playout = playout or PlayoutOptions()
        self._personas = personas
        self._names = names or NameCheck()
        self._subscriber = emit
        self._wakeups = wakeups
        self.record = CallRecord(opened_s=self._clock(), peer=arrival.peer)
        self._line: CallLine | None = None
        self._persona: Persona | None = None
        self._spotter: PhraseSpotter | None = None
        self._start: asyncio.Future[carrier.Start] = self._loop.create_future()
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._all_played = asyncio.Event()
        self._phone_gone = asyncio.Event()
        self._unknown: set[str] = set()
        self._continuation = Continuation(engines.place())
        self._left_engine = asyncio.Event()
        self._longest: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Call {self.record.call_id}>"

    # -- life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Lives the call. Returns when its socket is closed and nothing of it is left.

        However it ends, even by cancellation, `record` is complete then.
        """
        self._socket.on_close = self._on_phone_closed
        self._socket.on_pong = self._on_pong
        ending = Ending(Party.BRIDGE, "cancelled", 1001)
        try:
            if (start := self._carrier.start) is None:
                self._socket.on_message = self._on_phone_message  # until the start message
            else:
                self._on_start(start)
            async with asyncio.TaskGroup() as tasks:
                conversation = tasks.create_task(self._converse(), name="conversation")
                watch = tasks.create_task(self._watch_phone(), name="watch")
                ending = await self._ending
                await self._leave(ending, conversation)
                watch.cancel()
        except Exception:  # a fault of pxbridge; the owner of the call reports it
            ending = Ending(Party.BRIDGE, "internal error", 1011, outcome=Outcome.FAULT)
            raise
        finally:
            self._release(ending)
        await self._socket.wait_closed()

    async def _leave(self, ending: Ending, conversation: asyncio.Task[None]) -> None:
        """From the decision that the call ends until the caller has heard the last words."""
        self.record.phase = Phase.LEAVING
        self.emit(Kind.PHASE, phase=Phase.LEAVING.value)
        if not conversation.done():
            if ending.sentence:
                await self._wait_for_sentence_end()
            conversation.cancel()
            await asyncio.wait([conversation])
            if self._line is not None:
                self._line.fade_out()
        self._left_engine.set()
        if ending.last_words:
            await self._wait_for_last_words()

    def _release(self, ending: Ending) -> None:
        """Completes the record, closes the socket, and lets go of everything."""
        self._left_engine.set()
        if self._longest is not None:
            self._longest.cancel()
        self._ending.cancel()
        self._start.cancel()
        record = self.record
        record.phase = Phase.ENDED
        record.ended_s, record.ending = self._clock(), ending
        record.stats = self.stats()
        self.emit(Kind.ENDED, by=ending.by.value, reason=ending.reason)
        self._socket.close(self._close_code(ending), ending.reason)
        self._subscriber = _ignore  # the subscribers hold the call
        # Codecs are most of a call's memory. They go now, even if a closing handshake or an error's frames
        # keep the rest for a while.
        if self._line is not None:
            self._line.close()
            self._line = None

    async def _converse(self) -> None:
        """From the carrier's start message to the engine's last word."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                start = await asyncio.shield(self._start)
        except TimeoutError:
            self._finish(Ending(Party.BRIDGE, f"no start within {START_TIMEOUT_S:.0f} s", 1008))
            return
        token_use = self._arrival.token_use
        if token_use is not None and not await token_use.confirm(start.call_id):
            self._finish(Ending(Party.BRIDGE, TOKEN_USED, 1008))
            return
        if (persona := self._choose_persona(start)) is None:
            return
        if self._handovers is not None:
            self._handovers.begin(start.call_id)
        if token_use is not None and self._continuation.released is None:
            self._engines.promises.keep(start.call_id)
        conversation = Conversation(
            self._started_line(),
            self.record,
            self._engines,
            persona,
            self._wakeups,
            limits=self._limits,
            continuation=self._continuation,
            emit=self.emit,
            on_pause=self._on_agent_pause,
        )
        self._finish(await conversation.run())

    def _choose_persona(self, start: carrier.Start) -> Persona | None:
        """Whom the caller speaks with; None if the call asks for what does not exist, and is refused."""
        choice = self._names.choose(
            self._personas,
            self._arrival.persona_name,
            start.parameters,
            caller=start.caller,
            called=start.called,
        )
        for note in choice.notes:
            self.emit(Kind.NOTE, text=note)
        if choice.refusal is not None:
            self.emit(Kind.NOTE, text=choice.refusal)
            self._finish(Ending(Party.BRIDGE, choice.refusal, 1008, outcome=Outcome.NO_START))
            return None
        persona = choice.persona
        self.record.persona = persona.name
        self.emit(Kind.PERSONA, name=persona.name, record=persona.record)
        self._persona, self._spotter = persona, persona.spotter()
        if persona.max_duration_s is not None:
            over = Ending(Party.BRIDGE, "the persona's longest call is over", last_words=True, sentence=True)
            self._longest = self._loop.call_later(persona.max_duration_s, self._finish, over)
        return persona

    async def _wait_for_sentence_end(self) -> None:
        """Waits until a live agent pauses, or for a bounded time. Nobody hears it once the phone is gone."""
        if self._line is None or self._line.session is None or await self._phone_leaves(LAST_WORD_S):
            return
        give_up_s = self._clock() + LAST_SENTENCE_S
        while self.agent_speaking and self._clock() < give_up_s:
            if await self._phone_leaves(SENTENCE_POLL_S):
                return

    async def _phone_leaves(self, within_s: float) -> bool:
        """Waits this long, or until the phone has hung up; whether it has."""
        try:
            async with asyncio.timeout(within_s):
                await self._phone_gone.wait()
        except TimeoutError:
            return False
        return True

    async def _wait_for_last_words(self) -> None:
        """Waits until the caller has heard what was said last, or for a bounded time."""
        if self._line is None:
            return
        self._line.finish()
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._all_played.wait()
        except TimeoutError:
            self.emit(Kind.NOTE, text="no sign that the last words were heard")

    async def _watch_phone(self) -> None:
        """Ends a call whose line has died without a close."""
        await asyncio.shield(self._start)
        line, silent_s = self._started_line(), self._limits.phone_silent_s
        while (left_s := line.phone_heard_s + silent_s - self._clock()) > 0:  # noqa: ASYNC110
            # An event instead would have to be set for each message, which costs more than all of this.
            await asyncio.sleep(left_s)
        reason = f"nothing from the phone for {silent_s:g} s"
        self._finish(Ending(Party.PHONE, reason, 1011, outcome=Outcome.PHONE_LOST))

    # -- ending -------------------------------------------------------------------------------------

    def end(
        self, reason: str, code: int = 1000, *, last_words: bool = False, outcome: Outcome | None = None
    ) -> None:
        """Ends the call from outside (shutdown, a second connection for it)."""
        self._finish(Ending(Party.BRIDGE, reason, code, last_words, outcome=outcome))

    def _finish(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)
            if self._line is not None:
                self._line.takes_own_sound = False

    def _close_code(self, ending: Ending) -> int:
        """The close code that the carrier gets."""
        if ending.outcome is Outcome.NO_ENGINE and not self._can_be_handed_over:
            return TRY_AGAIN_LATER  # no flow needs a normal end to go on
        return ending.code

    def take_over(self, older: Call) -> None:
        """Continues a phone call that came in on another connection before, which is about to end."""
        self._continuation = Continuation(
            older._continuation.place,
            older._continuation.said + "".join(older.record.words),
            older.record.phase in (Phase.PROMPTING, Phase.LIVE, Phase.FAILOVER),
            older._left_engine,
        )

    def operate(self, action: Action, by: str) -> bool:
        """Does what an operator asks, as a key would. False if the call has not started or is ending.

        Raises:
            CallConflict: The carrier cannot hand a call over.
        """
        if self._ending.done() or not self._start.done():
            return False
        if isinstance(action, HandOver) and not self._can_be_handed_over:
            raise CallConflict(
                f"{self._carrier.name} hangs up when we close, so nobody can take this call over"
            )
        self._act(action, by)
        return True

    def _act(self, action: Action | None, by: str) -> None:
        """Does what a key, a phrase or an operator asks for. The agent finishes its sentence first."""
        if self._ending.done():
            return  # the first decision holds, and the carrier's flow is told the same
        match action:
            case End():
                self.emit(Kind.ACTION, by=by, action="end")
                self._finish(Ending(Party.BRIDGE, f"ended by {by}", last_words=True, sentence=True))
            case HandOver(numbers=numbers):
                self.emit(Kind.ACTION, by=by, action="hand over")
                self._hand_over(numbers, by)
            case None:
                pass

    def _hand_over(self, numbers: tuple[str, ...], by: str) -> None:
        """Sends the caller on to a person: noted for the carrier's flow, then last words, then the close."""
        if not self._can_be_handed_over:
            name = self._carrier.name
            self.emit(Kind.NOTE, text=f"{name} hangs up when we close, so nobody can take the call over")
            self._finish(Ending(Party.BRIDGE, f"ended by {by}", last_words=True, sentence=True))
            return
        if self._handovers is not None:
            self._handovers.decide(self.record.call_id, numbers)
        reason, outcome = f"handed over by {by}", Outcome.HANDED_OVER
        self._finish(Ending(Party.BRIDGE, reason, last_words=True, sentence=True, outcome=outcome))

    # -- what the phone sends -------------------------------------------------------------------------

    def _on_phone_message(self, message: bytes, is_text: bool) -> None:
        """A message that is neither sound nor a mark that came back."""
        self._on_phone_event(self._carrier.parse(message, is_text=is_text))

    def _on_phone_event(self, event: carrier.Event) -> None:
        match event:
            case carrier.Start() as start:
                self._on_start(start)
            case carrier.Mark(name=name) if self._line is not None:
                self._line.mark_played(name)
            case carrier.Clear() if self._line is not None:
                self._line.flush()
            case carrier.Key(digit=digit):
                self.emit(Kind.KEY, digit=digit)
                if self._persona is not None:
                    self._act(self._persona.keys.get(digit), f"the key {digit}")
            case carrier.Stop(reason=reason):
                self._phone_gone.set()
                self._finish(Ending(Party.PHONE, f"stop: {reason}" if reason else "stop"))
            case carrier.Ask(answer=answer, is_text=is_text):
                self._socket.send(answer, text=is_text)
            case carrier.Connected():
                pass
            case carrier.Malformed(reason=reason):
                self.record.malformed += 1
                log.debug("malformed message: %s", reason)
            case carrier.Unknown(event=name):
                self.record.ignored += 1
                if name not in self._unknown and len(self._unknown) < MAX_UNKNOWN_NOTES:
                    self._unknown.add(name)
                    self.emit(Kind.NOTE, text=f"the phone sends an unknown event: {name!r}")
            case _:
                self.record.ignored += 1

    def _on_start(self, start: carrier.Start) -> None:
        if self._start.done():
            self.record.ignored += 1  # the carrier repeats it: the call is already under way
            return
        token_use = self._arrival.token_use
        if token_use is not None and not token_use.begin(start.call_id):
            self._finish(Ending(Party.BRIDGE, TOKEN_USED, 1008))
            return
        record = self.record
        CURRENT_CALL.set(record)  # for everything that this socket will set off
        record.call_id, record.stream_id = start.call_id, start.stream_id
        record.caller, record.called = start.caller, start.called
        record.carrier = self._carrier.name.lower()
        record.rate_hz, record.started_s = start.media.rate_hz, self._clock()
        if start.refusal:
            self.emit(Kind.NOTE, text=start.refusal)
            self._finish(Ending(Party.BRIDGE, start.refusal, UNREADABLE, outcome=Outcome.NO_START))
            return
        playout = self._playout
        sound = self._carrier.open_line(
            start,
            profile=playout.profile,
            gate_ms=playout.gate_ms,
            max_backlog_ms=playout.max_backlog_ms,
        )
        self._line = CallLine(
            sound,
            self._socket,
            start.media.rate_hz,
            self._wakeups,
            on_other=self._on_phone_message,
            on_event=self._on_line_event,
            on_text=self._on_engine_text,
        )
        self.emit(Kind.STARTED, caller=start.caller, called=start.called, custom=start.parameters)
        for note in start.notes:
            self.emit(Kind.NOTE, text=note)
        self._line.start()
        self._start.set_result(start)

    def _on_pong(self, rtt_s: float) -> None:
        if self._line is None:
            return
        if self._carrier.behaviour.waits_for_agent and self.record.live_s is None:
            self._line.phone_heard_s = self._clock()
        self._line.pong(rtt_s)

    def _on_phone_closed(self, closed: Closed) -> None:
        self._phone_gone.set()
        if closed.error is None:
            how = f"the phone closed with {closed.code}" + (f": {closed.reason}" if closed.reason else "")
            self._finish(Ending(Party.PHONE, how))
        else:
            self._finish(
                Ending(Party.PHONE, f"the line broke off: {closed.error}", outcome=Outcome.PHONE_LOST)
            )

    # -- what the line and the engine tell ------------------------------------------------------------

    def _on_line_event(self, event: LineEvent) -> None:
        match event:
            case AgentHeard(after_s=after_s):
                self.emit(Kind.HEARD, engine=self.record.engine, after_s=after_s)
            case AllPlayed():
                self._all_played.set()
            case OddPayloads(halves=halves):
                read = "put together with the next payload" if halves else "dropped"
                self.emit(
                    Kind.NOTE, text=f"the phone's payloads end within a sample: the last byte is {read}"
                )
            case RateMismatch(claimed_hz=claimed_hz, measured_hz=measured_hz, likely_hz=likely_hz):
                self.emit(
                    Kind.NOTE,
                    text=f"the phone says {claimed_hz} Hz and sends {measured_hz} samples a second: "
                    "if voices sound slow and deep, or fast and high, "
                    f"{self._carrier.fix_rate(likely_hz)}",
                )
            case _:
                pass  # a silent engine: the conversation watches for that itself

    def _on_engine_text(self, piece: str) -> None:
        self.record.words.append(piece)
        self.emit(Kind.WORDS, text=piece)
        if self._spotter is not None:
            self._act(self._spotter.feed(piece), "the agent's words")

    def _on_agent_pause(self) -> None:
        """The agent's last word is over, whatever followed it."""
        if self._spotter is not None:
            self._act(self._spotter.pause(), "the agent's words")

    # -- what is known --------------------------------------------------------------------------------

    @property
    def _can_be_handed_over(self) -> bool:
        """Whether the carrier's flow goes on when we close."""
        return self._carrier.behaviour.after_close is carrier.AfterClose.FLOW_GOES_ON

    @property
    def agent_speaking(self) -> bool:
        """Whether the agent is in the middle of a sentence."""
        line = self._line
        return line is not None and line.session is not None and line.agent_paused_s < SENTENCE_PAUSE_S

    def stats(self) -> dict[str, dict[str, float]]:
        """The line's counters so far: ``uplink`` and ``downlink``; empty before the start message."""
        return {} if self._line is None else self._line.stats()

    @property
    def spoken_s(self) -> tuple[float, float]:
        """How long the caller has spoken, and the agent, in seconds."""
        return (0.0, 0.0) if self._line is None else self._line.spoken_s

    @property
    def place_in_line(self) -> int:
        """The place among the calls that wait for an engine: 1 is the next; 0 if this one does not wait."""
        return self._engines.position(self._continuation.place) or 0

    def keep_audio(self) -> Callable[[], tuple[Audio, Audio]]:
        """From now on keeps what caller and agent say, for a recording. The result fetches both."""
        return self._started_line().keep_audio()

    def emit(self, kind: Kind, **detail: Any) -> None:
        """Tells the subscribers."""
        self._subscriber(self.record, Event(kind, self._clock(), detail))

    def _started_line(self) -> CallLine:
        if self._line is None:
            raise RuntimeError("the call has not started")
        return self._line
