"""One phone call, from its socket to its end.

A call is ended exactly once, by whoever comes first: the phone, the engine or the bridge (`Call._finish`).
Everything it owns hangs on one `asyncio.TaskGroup` and is gone when `Call.run` returns. With whom the caller
speaks, and what is heard while there is nobody, is `pxbridge.calls.conversation`'s.

Audio never waits for a task: each message from either side is handled where it arrives, in one call into
Rust, and what comes out is written to the other socket. An alarm is set to the moment at which Rust wants to
be asked although nothing arrived (a stall to be bridged, a queue about to run dry).
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

from pxbridge.audio import Downlink, Uplink
from pxbridge.calls.call_state import CallRecord, Ending, Outcome, Party, Phase
from pxbridge.calls.conversation import CallLimits, Continuation, Conversation
from pxbridge.calls.events import CURRENT_CALL, Event, Kind
from pxbridge.calls.persona import End, HandOver
from pxbridge.calls.playout_options import PlayoutOptions
from pxbridge.telephony import carrier

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.calls.events import Subscriber
    from pxbridge.calls.handover import HandOvers
    from pxbridge.calls.persona import Action, Persona, Personas
    from pxbridge.calls.phrases import PhraseSpotter
    from pxbridge.calls.wakeup_timer import WakeupTimer
    from pxbridge.engines.client import Session
    from pxbridge.engines.pool import EnginePool
    from pxbridge.errors import EngineLost
    from pxbridge.telephony.server import Arrival
    from pxbridge.websocket import Closed

    Audio = tuple[NDArray[np.int16], list[tuple[float, int]]]
    """Samples, and for each of their pieces when it began and how many samples it has."""

__all__ = ["Call", "CallRecord", "Ending", "Party", "Phase"]

log = logging.getLogger("pxbridge.call")

START_TIMEOUT_S = 10.0
"""A phone that says nothing for so long after its handshake is not Exotel: `start` follows at once."""

LAST_WORDS_S = 10.0
"""The longest that the end of a call waits for Exotel to say that the last words were heard."""

SENTENCE_PAUSE_S = 0.32
"""Four of the model's frames: pauses within a sentence are shorter, but for a few."""

LAST_SENTENCE_S = 5.0
"""The longest that the end of a call waits for the agent to end its sentence."""

SENTENCE_POLL_S = 0.1

LAST_WORD_S = 0.8
"""The agent's words come as text before they are heard: a pause counts only after the last of them."""

RATE_CHECK_S = 2.0
"""How much of a call is measured before its sample rate is believed."""

RATE_CHECK_AGAIN_S = 10.0
"""The same for a line that stalled meanwhile: long enough for no stall to pass for a rate."""

MAX_UNKNOWN_NOTES = 5
"""So many events of names nobody knows are told in a call, each once: enough to learn of a new one."""

RATE_TOLERANCE = 0.25
"""Rates in use differ by at least 1.5; chunking and jitter over RATE_CHECK_S by far less than this."""


def _ignore(record: CallRecord, event: Event) -> None:
    pass


class Call:
    """The life of one call.

    Args:
        arrival: How it came in.
        engines: Where engines are leased.
        personas: Whom the caller can speak with.
        handovers: Where it is noted that the call goes on to a person.
        limits: How long things may take.
        playout: How its sound is kept in time.
        emit: Told everything that happens, with the record as it is then.
        wakeups: Of the process.
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
        self._subscriber = emit
        self.record = CallRecord(opened_s=self._clock(), peer=arrival.peer)
        self._uplink: Uplink | None = None
        self._downlink: Downlink | None = None
        self._session: Session | None = None
        self._persona: Persona | None = None
        self._spotter: PhraseSpotter | None = None
        self._start: asyncio.Future[carrier.Start] = self._loop.create_future()
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._drained = asyncio.Event()
        self._unknown: set[str] = set()
        self._continuation = Continuation(engines.place())
        self._left_engine = asyncio.Event()
        self._rate_check: asyncio.TimerHandle | None = None
        self._wakeup = wakeups.wakeup(self._on_wakeup)
        self._longest: asyncio.TimerHandle | None = None
        self._phone_heard_s = self.record.opened_s
        self._agent_awaited_s: float | None = None  # since when the caller waits for an agent's first sound
        self._agent_sent = 0.0  # samples of engines' that had been sent by then

    def __repr__(self) -> str:
        return f"<Call {self.record.call_id}>"

    # -- life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Lives the call; returns when its socket is closed and nothing of it is left.

        However it ends, by cancellation too, `record` is complete then.
        """
        self._socket.on_message = self._on_phone_message
        self._socket.on_close = self._on_phone_closed
        self._socket.on_pong = self._on_pong
        ending = Ending(Party.BRIDGE, "cancelled", 1001)
        try:
            async with asyncio.TaskGroup() as tasks:
                conversation = tasks.create_task(self._converse(), name="conversation")
                watch = tasks.create_task(self._watch_phone(), name="watch")
                ending = await self._ending
                self._enter_leaving()
                if not conversation.done():
                    if ending.sentence:
                        await self._wait_for_sentence_end()
                    conversation.cancel()
                    await asyncio.wait([conversation])
                    self._left_engine.set()
                    self.fade_out()
                if ending.last_words:
                    await self._wait_for_last_words()
                watch.cancel()
        except Exception:  # a fault of ours; whoever owns the call reports it
            ending = Ending(Party.BRIDGE, "internal error", 1011, outcome=Outcome.FAULT)
            raise
        finally:
            self._left_engine.set()
            self._wakeup.cancel()
            for timer in (self._rate_check, self._longest):
                if timer is not None:
                    timer.cancel()
            self._ending.cancel()
            self._start.cancel()
            self._close_record(ending)
            self._socket.close(ending.code, ending.reason)
            self._subscriber = _ignore  # who watches holds the call
            # Codecs are most of a call. Whatever may keep the rest for a while, a closing handshake or an
            # error with its frames, they go now.
            self._uplink = self._downlink = None
        await self._socket.wait_closed()

    @property
    def agent_speaking(self) -> bool:
        """Whether the agent is in the middle of a sentence."""
        if self._session is None or self._downlink is None:
            return False
        paused_s = self._downlink.paused_s
        return paused_s is not None and paused_s < SENTENCE_PAUSE_S

    def take_over(self, older: Call) -> None:
        """Goes on with a phone call that came in on another connection before, which is about to end."""
        self._continuation = Continuation(
            older._continuation.place,
            older._continuation.said + "".join(older.record.words),
            older.record.phase in (Phase.PROMPTING, Phase.LIVE, Phase.FAILOVER),
            older._left_engine,
        )

    def end(
        self, reason: str, code: int = 1000, *, last_words: bool = False, outcome: Outcome | None = None
    ) -> None:
        """Ends the call from outside (shutdown, a second connection for it)."""
        self._finish(Ending(Party.BRIDGE, reason, code, last_words, outcome=outcome))

    def operate(self, action: Action, by: str) -> bool:
        """Does what an operator asks, as a key would; False if the call has not started or ends already."""
        if self._ending.done() or not self._start.done():
            return False
        self._act(action, by)
        return True

    def _finish(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _converse(self) -> None:
        """From `start` to the engine's last word."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                start = await asyncio.shield(self._start)
        except TimeoutError:
            self._finish(Ending(Party.BRIDGE, f"no start within {START_TIMEOUT_S:.0f} s", 1008))
            return
        persona, notes = self._personas.choose(self._arrival.persona_name, start.called, start.parameters)
        persona, more = persona.for_call(start.parameters, caller=start.caller, called=start.called)
        self.record.persona = persona.name
        self.emit(Kind.PERSONA, name=persona.name, record=persona.record)
        for note in (*notes, *more):
            self.emit(Kind.NOTE, text=note)
        self._persona, self._spotter = persona, persona.spotter()
        talk = Conversation(self, self._engines, persona, self._limits, self._clock, self._continuation)
        if persona.max_duration_s is not None:
            over = Ending(Party.BRIDGE, "the persona's longest call is over", last_words=True, sentence=True)
            self._longest = self._loop.call_later(persona.max_duration_s, self._finish, over)
        self._finish(await talk.run())

    async def _wait_for_sentence_end(self) -> None:
        """Waits until a live agent pauses, or for a bounded time."""
        if self._session is not None:
            await asyncio.sleep(LAST_WORD_S)
        give_up_s = self._clock() + LAST_SENTENCE_S
        while self.agent_speaking and self._clock() < give_up_s:  # noqa: ASYNC110
            await asyncio.sleep(SENTENCE_POLL_S)

    async def _wait_for_last_words(self) -> None:
        """Waits until Exotel has played what was said last, or for a bounded time."""
        if self._downlink is None:
            return
        self._send_to_phone(self._downlink.finish(self._clock()))
        if self._downlink.heard_out:  # there were no words
            return
        self._set_wakeup()
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._drained.wait()
        except TimeoutError:
            self.emit(Kind.NOTE, text="no sign that the last words were heard")

    async def _watch_phone(self) -> None:
        """Ends a call whose line has died without a close."""
        silent_s = self._limits.phone_silent_s
        while (left_s := self._phone_heard_s + silent_s - self._clock()) > 0:  # noqa: ASYNC110
            # No event to wait for instead: setting one per message would cost more than all of this.
            await asyncio.sleep(left_s)
        reason = f"nothing from the phone for {silent_s:g} s"
        self._finish(Ending(Party.PHONE, reason, 1011, outcome=Outcome.PHONE_LOST))

    # -- what the phone sends -------------------------------------------------------------------------

    def _on_phone_message(self, message: bytes, is_text: bool) -> None:
        now_s = self._clock()
        self._phone_heard_s = now_s
        uplink = self._uplink
        if uplink is None:
            self._on_phone_event(message, is_text, now_s)
            return
        ogg = uplink.receive(message, now_s)
        if ogg is None:
            self._on_phone_event(message, is_text, now_s)
        elif ogg and self._session is not None:
            self._session.send_audio(ogg)
        self._set_wakeup()

    def _on_phone_event(self, message: bytes, is_text: bool, now_s: float) -> None:
        match self._carrier.parse(message, is_text=is_text):
            case carrier.Start() as start:
                self._on_start(start, now_s)
            case carrier.Mark(name=name) if self._downlink is not None:
                self._downlink.marked(name, now_s)
                if self._downlink.heard_out:
                    self._drained.set()
            case carrier.Clear() if self._downlink is not None:
                self._send_to_phone(self._downlink.flush(now_s))
            case carrier.Key(digit=digit):
                self.record.dtmf += digit
                self.emit(Kind.KEY, digit=digit)
                if self._persona is not None:
                    self._act(self._persona.keys.get(digit), f"the key {digit}")
            case carrier.Stop(reason=reason):
                self._finish(Ending(Party.PHONE, f"stop: {reason}" if reason else "stop"))
            case carrier.Connected():
                pass
            case carrier.Malformed(reason=reason):
                self.record.malformed += 1
                log.debug("malformed message: %s", reason)
            case carrier.Unknown(event=name):
                self.record.ignored += 1
                if name not in self._unknown and len(self._unknown) < MAX_UNKNOWN_NOTES:
                    self._unknown.add(name)
                    self.emit(Kind.NOTE, text=f"the phone sends an event that is not known: {name!r}")
            case _:
                self.record.ignored += 1

    def _on_start(self, start: carrier.Start, now_s: float) -> None:
        if self._start.done():
            self.record.ignored += 1  # the carrier repeats it: the call is already under way
            return
        record = self.record
        CURRENT_CALL.set(record)  # for all that this socket will set off
        media = start.media
        record.call_id, record.stream_id = start.call_id, start.stream_id
        record.caller, record.called = start.caller, start.called
        record.rate_hz, record.started_s = media.rate_hz, now_s
        self._agent_awaited_s = now_s
        if self._handovers is not None:
            self._handovers.begin(start.call_id)
        playout = self._playout
        self._uplink = Uplink(
            media.rate_hz,
            encoding=media.encoding,
            gate_ms=playout.gate_ms,
            max_backlog_ms=playout.max_backlog_ms,
        )
        self._downlink = Downlink(
            media.rate_hz,
            stream_sid=start.stream_id,
            encoding=media.encoding,
            profile=playout.profile,
            max_backlog_ms=playout.max_backlog_ms,
        )
        self.emit(Kind.STARTED, caller=start.caller, called=start.called, custom=start.parameters)
        for note in start.notes:
            self.emit(Kind.NOTE, text=note)
        self._send_to_phone(self._downlink.poll(now_s))
        self._rate_check = self._loop.call_later(RATE_CHECK_S, self._check_rate, now_s, 0.0)
        self._start.set_result(start)
        self._set_wakeup()

    def _check_rate(self, since_s: float, received: float) -> None:
        """Says so if the line runs at another rate than it claims: then everyone sounds slow and deep.

        Audio that is late is no other rate, and a line whose rate is too high looks stalled: so a line that
        stalled is measured again, for longer.
        """
        now_s, stats = self._clock(), self._line()[0].stats()
        measured_hz = (stats["received"] - received) / (now_s - since_s)
        like_hz = min(carrier.LINE_RATES_HZ, key=lambda rate_hz: abs(rate_hz - measured_hz))
        claimed_hz = self.record.rate_hz
        if not measured_hz or like_hz == claimed_hz or abs(measured_hz / claimed_hz - 1) <= RATE_TOLERANCE:
            return
        if stats["stalls"] and received == 0:
            self._rate_check = self._loop.call_later(
                RATE_CHECK_AGAIN_S, self._check_rate, now_s, stats["received"]
            )
            return
        self.emit(
            Kind.NOTE,
            text=f"the phone says {claimed_hz} Hz and sends {measured_hz:.0f} samples a second: "
            "if voices sound slow and deep, or fast and high, "
            f"write ?sample-rate={like_hz} into the applet's URL",
        )

    def _on_pong(self, trip_s: float) -> None:
        if self._downlink is not None:
            self._downlink.round_trip(trip_s, self._clock())

    def _on_phone_closed(self, closed: Closed) -> None:
        if closed.error is None:
            how = f"the phone closed with {closed.code}" + (f": {closed.reason}" if closed.reason else "")
            self._finish(Ending(Party.PHONE, how))
        else:
            self._finish(
                Ending(Party.PHONE, f"the line broke off: {closed.error}", outcome=Outcome.PHONE_LOST)
            )

    # -- what the engine sends ------------------------------------------------------------------------

    def _on_engine_audio(self, ogg: bytes) -> None:
        uplink, downlink = self._line()
        now_s = self._clock()
        self._send_to_phone(downlink.receive(ogg, now_s, uplink))
        if downlink.take_ping(now_s):
            self._socket.ping()
        self._set_wakeup()

    def _on_engine_text(self, piece: str) -> None:
        self.record.words.append(piece)
        self.emit(Kind.WORDS, text=piece)
        if self._spotter is not None:
            self._act(self._spotter.feed(piece), "the agent's words")

    # -- what a conversation needs of its line ----------------------------------------------------------

    @property
    def rate_hz(self) -> int:
        """The line's rate."""
        return self.record.rate_hz

    def connect(self, session: Session, on_close: Callable[[EngineLost | None], None]) -> None:
        """Joins phone and engine, until `disconnect`."""
        uplink, _ = self._line()
        self._session = session
        session.listen(on_audio=self._on_engine_audio, on_text=self._on_engine_text, on_close=on_close)
        session.send_audio(uplink.open(self._clock()))
        self._set_wakeup()

    def disconnect(self) -> None:
        """The engine is gone, or is let go of; what it said last is sent."""
        uplink, downlink = self._line()
        if self._session is not None:
            self._session = None
            now_s = self._clock()
            uplink.close(now_s)
            self._send_to_phone(downlink.engine_gone(now_s))
            self._agent_awaited_s, self._agent_sent = now_s, downlink.stats()["sent"]
            self._set_wakeup()

    def play(self, pcm: NDArray[np.float32]) -> None:
        """Queues sound of the bridge's own: heard while no engine speaks, and ended by one that does."""
        if self._ending.done():
            return
        _, downlink = self._line()
        self._send_to_phone(downlink.play(pcm, self._clock()))
        self._set_wakeup()

    def fade_out(self) -> None:
        """Ends the bridge's own sound with a fade."""
        if self._downlink is not None:
            self._send_to_phone(self._downlink.hush(self._clock()))

    async def wait_played(self, all_but_s: float = 0.0) -> None:
        """Waits until the bridge's own sound has been heard, or all but so much of it."""
        _, downlink = self._line()
        while (left_s := downlink.playing_s(self._clock()) - all_but_s) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)

    @property
    def agent_paused_s(self) -> float:
        """How long the agent has paused; infinity while it has not spoken."""
        _, downlink = self._line()
        paused_s = downlink.paused_s
        return math.inf if paused_s is None else paused_s

    def agent_pauses(self) -> None:
        """Its last word is over, whatever followed it."""
        if self._spotter is not None:
            self._act(self._spotter.pause(), "the agent's words")

    def engine_audio_s(self) -> tuple[float, float]:
        """Seconds of sound that engines were sent, and that came from them."""
        uplink, downlink = self._line()
        rate_hz = self.record.rate_hz
        return uplink.stats()["emitted"] / rate_hz, downlink.stats()["received"] / rate_hz

    def _act(self, action: Action | None, by: str) -> None:
        """Does what a key, a phrase or an operator sets off; what the agent is saying is heard first."""
        if self._ending.done():
            return  # it ends as it was told first, and the flow is told the same
        match action:
            case End():
                self.emit(Kind.ACTION, by=by, action="end")
                self._finish(Ending(Party.BRIDGE, f"ended by {by}", last_words=True, sentence=True))
            case HandOver(numbers=numbers):
                self.emit(Kind.ACTION, by=by, action="hand over")
                self.hand_over(numbers, by)
            case None:
                pass

    def hand_over(self, numbers: tuple[str, ...], by: str) -> None:
        """Sends the caller on to a person: noted for the flow to ask, then the last words, then the close."""
        if self._carrier.behaviour.after_close is not carrier.AfterClose.FLOW_GOES_ON:
            self.emit(Kind.NOTE, text=f"{self._carrier.name} ends the call: nobody else can take it over")
        elif self._handovers is not None:
            self._handovers.decide(self.record.call_id, numbers)
        reason, outcome = f"handed over by {by}", Outcome.HANDED_OVER
        self._finish(Ending(Party.BRIDGE, reason, last_words=True, sentence=True, outcome=outcome))

    # -- the clock ------------------------------------------------------------------------------------

    def _set_wakeup(self) -> None:
        """Notes when Rust wants to be asked if nothing arrives before."""
        if self._uplink is not None and self._downlink is not None:
            self._wakeup.set(min(self._uplink.wake_s, self._downlink.wake_s))

    def _on_wakeup(self) -> None:
        uplink, downlink = self._line()
        now_s = self._clock()
        if uplink.wake_s <= now_s and (ogg := uplink.poll(now_s)) and self._session is not None:
            self._session.send_audio(ogg)
        if downlink.wake_s <= now_s:
            self._send_to_phone(downlink.poll(now_s))
            if downlink.heard_out:
                self._drained.set()
            if downlink.take_ping(now_s):
                self._socket.ping()
        self._set_wakeup()

    def _send_to_phone(self, out: list[bytes]) -> None:
        for message in out:
            self._socket.send(message, text=self._carrier.behaviour.sends_text)
        if out and self._agent_awaited_s is not None and self._session is not None:
            _, downlink = self._line()
            if downlink.stats()["sent"] > self._agent_sent:
                after_s, self._agent_awaited_s = self._clock() - self._agent_awaited_s, None
                self.emit(Kind.HEARD, engine=str(self._session.engine), after_s=after_s)

    def _line(self) -> tuple[Uplink, Downlink]:
        """Both directions of a call that has started."""
        if self._uplink is None or self._downlink is None:
            raise RuntimeError("the call has not started")
        return self._uplink, self._downlink

    # -- what is known --------------------------------------------------------------------------------

    def stats(self) -> dict[str, dict[str, float]]:
        """The line's counters so far: ``uplink`` and ``downlink``; empty before `start`."""
        if self._uplink is None or self._downlink is None:
            return {}
        return {"uplink": self._uplink.stats(), "downlink": self._downlink.stats()}

    def keep_audio(self) -> Callable[[], tuple[Audio, Audio]]:
        """From now on keeps what caller and agent say, for a recording; what it returns fetches it."""
        uplink, downlink = self._line()
        uplink.keep_said()
        downlink.keep_heard()

        def fetch() -> tuple[Audio, Audio]:
            now_s = self._clock()
            return uplink.take_said(now_s), downlink.take_heard(now_s)

        return fetch

    def _enter_leaving(self) -> None:
        self.record.phase = Phase.LEAVING
        self.emit(Kind.PHASE, phase=Phase.LEAVING.value)

    def _close_record(self, ending: Ending) -> None:
        record = self.record
        record.phase = Phase.ENDED
        record.ended_s, record.ending = self._clock(), ending
        record.stats = self.stats()
        self.emit(Kind.ENDED, by=ending.by.value, reason=ending.reason)

    def emit(self, kind: Kind, **detail: Any) -> None:
        """Tells whoever watches."""
        self._subscriber(self.record, Event(kind, self._clock(), detail))
