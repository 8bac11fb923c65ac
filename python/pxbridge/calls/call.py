"""One phone call, from its socket to its end.

A call is ended exactly once, by whoever comes first: the phone, the engine or the bridge (`Call._finish`).
Everything it owns hangs on one `asyncio.TaskGroup` and is gone when `Call.run` returns.

Audio never waits for a task: each message from either side is handled where it arrives, in one call into
Rust, and what comes out is written to the other socket. An alarm is set to the moment at which Rust wants to
be asked although nothing arrived (a stall to be bridged, a queue about to run dry).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from pxbridge.audio import Downlink, Uplink
from pxbridge.calls.delay import Course
from pxbridge.calls.events import CURRENT_CALL, Event, Kind
from pxbridge.errors import EngineError, EngineLost, NoEngineFree
from pxbridge.exotel import messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.calls.alarm import Alarms
    from pxbridge.calls.events import Watcher
    from pxbridge.calls.persona import Persona, Personas
    from pxbridge.exotel.listener import Arrival
    from pxbridge.personaplex.client import EngineAddress, Session
    from pxbridge.personaplex.pool import EnginePool
    from pxbridge.websocket import Closed

    Audio = tuple[NDArray[np.int16], list[tuple[float, int]]]
    """Samples, and for each of their pieces when it began and how many samples it has."""

    OpenEngine = Callable[[EngineAddress, Persona], Awaitable[Session]]
    """Connects an engine and prompts it."""

log = logging.getLogger("pxbridge.call")

START_TIMEOUT_S = 10.0
"""A phone that says nothing for so long after its handshake is not Exotel: `start` follows at once."""

PHONE_SILENT_S = 30.0
"""Exotel sends media all the time, so a line without any message for so long is dead (half-open)."""

LAST_WORDS_S = 10.0
"""The longest that the end of a call waits for Exotel to say that the last words were heard."""

SENTENCE_PAUSE_S = 0.32
"""Four of the model's frames: pauses within a sentence are shorter, but for a few."""

RATE_CHECK_S = 2.0
"""How much of a call is measured before its sample rate is believed."""

RATE_TOLERANCE = 0.25
"""Rates in use differ by at least 1.5; chunking and jitter over RATE_CHECK_S by far less than this."""


class Party(Enum):
    """Who ended a call."""

    PHONE = "phone"
    ENGINE = "engine"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a call ends.

    Args:
        by: Who ended it.
        reason: For a person, in a log.
        code: The close code the phone's side gets (RFC 6455 §7.4).
        last_words: Whether what the agent has said is to be heard before the socket closes.
    """

    by: Party
    reason: str
    code: int = 1000
    last_words: bool = False


@dataclass(slots=True)
class CallRecord:
    """What is known of a call when it has ended.

    Times are in seconds on the call's clock; `stats` are the line's counters (see `Uplink.stats` and
    `Downlink.stats`).
    """

    call_id: str = "-"
    stream_sid: str = ""
    caller: str = ""
    called: str = ""
    persona: str = ""
    rate_hz: int = 0
    engine: str = ""
    opened_s: float = 0.0
    started_s: float | None = None
    live_s: float | None = None
    ended_s: float = 0.0
    ending: Ending | None = None
    malformed: int = 0
    ignored: int = 0
    dtmf: str = ""
    words: list[str] = field(default_factory=list)
    stats: dict[str, dict[str, float]] = field(default_factory=dict)
    delay: Course = field(default_factory=Course)


class Call:
    """The life of one call.

    Args:
        arrival: How it came in.
        engines: Where engines are leased.
        open_engine: How a leased engine becomes a session.
        personas: Whom the caller can speak with.
        tell: Told everything that happens, with the record as it is then.
        alarms: Of the process.
    """

    def __init__(
        self,
        arrival: Arrival,
        *,
        engines: EnginePool,
        open_engine: OpenEngine,
        personas: Personas,
        tell: Watcher,
        alarms: Alarms,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._arrival = arrival
        self._socket = arrival.socket
        self._engines = engines
        self._open_engine = open_engine
        self._personas = personas
        self._watcher = tell
        self.record = CallRecord(opened_s=self._clock())
        self._uplink: Uplink | None = None
        self._downlink: Downlink | None = None
        self._session: Session | None = None
        self._start: asyncio.Future[messages.Start] = self._loop.create_future()
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._heard_out = asyncio.Event()
        self._rate_check: asyncio.TimerHandle | None = None
        self._alarm = alarms.alarm(self._tick)
        self._phone_heard_s = self.record.opened_s

    def __repr__(self) -> str:
        return f"<Call {self.record.call_id}>"

    # -- life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Lives the call; returns when its socket is closed and nothing of it is left.

        However it ends, by cancellation too, `record` is complete then.
        """
        self._socket.on_message = self._phone_said
        self._socket.on_close = self._phone_gone
        self._socket.on_pong = self._phone_ponged
        ending = Ending(Party.BRIDGE, "cancelled", 1001)
        try:
            async with asyncio.TaskGroup() as tasks:
                conversation = tasks.create_task(self._converse(), name="conversation")
                watch = tasks.create_task(self._watch_phone(), name="watch")
                ending = await self._ending
                conversation.cancel()  # what the engine says from here on is nobody's
                if ending.last_words:
                    await self._let_last_words_out()
                watch.cancel()
        finally:
            self._alarm.cancel()
            if self._rate_check is not None:
                self._rate_check.cancel()
            self._ending.cancel()
            self._start.cancel()
            self._close_record(ending)
            self._socket.close(ending.code, ending.reason)
        await self._socket.wait_closed()

    @property
    def agent_speaking(self) -> bool:
        """Whether the agent is in the middle of a sentence."""
        if self._session is None or self._downlink is None:
            return False
        paused_s = self._downlink.paused_s
        return paused_s is not None and paused_s < SENTENCE_PAUSE_S

    def end(self, reason: str, code: int = 1000, *, last_words: bool = False) -> None:
        """Ends the call from outside (shutdown, a second connection for it)."""
        self._finish(Ending(Party.BRIDGE, reason, code, last_words))

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
        persona, notes = self._personas.choose(self._arrival.persona_name, start.called, start.custom)
        persona, more = persona.for_call(start.custom, caller=start.caller, called=start.called)
        self.record.persona = persona.name
        self._tell(Kind.PERSONA, name=persona.name, record=persona.record)
        for note in (*notes, *more):
            self._tell(Kind.NOTE, text=note)
        try:
            await self._hold_conversation(persona)
        except NoEngineFree as busy:
            self._finish(Ending(Party.BRIDGE, str(busy), 1013))
        except EngineLost as lost:
            self._finish(Ending(Party.ENGINE, str(lost), 1011, last_words=True))
        except EngineError as error:
            self._finish(Ending(Party.ENGINE, str(error), 1011))

    async def _hold_conversation(self, persona: Persona) -> None:
        """Leases engines until one comes up, and stays with it until it goes.

        Raises:
            EngineError: None came up (the last one's error), or the one that did is gone.
        """
        tried: frozenset[EngineAddress] = frozenset()
        failure: EngineError | None = None
        while True:
            try:
                with self._engines.lease(avoid=tried) as address:
                    self.record.engine = str(address)
                    self._tell(Kind.ENGINE_TRIED, engine=str(address))
                    session = await self._open_engine(address, persona)
                    try:
                        raise await self._live(session)
                    finally:
                        session.close()
                        await session.wait_closed()
            except EngineLost:
                raise
            except NoEngineFree as none_free:
                raise failure or none_free from None
            except EngineError as error:
                self._tell(Kind.ENGINE_FAILED, engine=str(address), reason=str(error))
                failure = error
                tried |= {address}

    async def _live(self, session: Session) -> EngineLost:
        """Joins phone and engine until the engine's socket closes; says how it was lost."""
        uplink, _ = self._line()
        lost: asyncio.Future[EngineLost | None] = self._loop.create_future()
        now_s = self._clock()
        if self.record.live_s is None:
            self.record.live_s = now_s
        self._tell(Kind.LIVE, engine=str(session.engine), prompt_s=session.prompt_s)

        def on_close(end: EngineLost | None) -> None:
            if not lost.done():  # it is cancelled when the call ends first
                lost.set_result(end)

        self._session = session
        session.listen(on_audio=self._engine_said, on_text=self._engine_wrote, on_close=on_close)
        session.send_audio(uplink.open(now_s))
        self._arm()
        try:
            loss = await lost or EngineLost(f"{session.engine}: closed from our side")
            self._tell(Kind.ENGINE_LOST, engine=str(session.engine), reason=str(loss))
            return loss
        finally:
            self._session = None
            uplink.close(self._clock())

    async def _let_last_words_out(self) -> None:
        """Waits until Exotel has played what the agent said, or for a bounded time."""
        if self._downlink is None:
            return
        self._send_to_phone(self._downlink.finish(self._clock()))
        if self._downlink.heard_out:  # there were no words
            return
        self._arm()
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._heard_out.wait()
        except TimeoutError:
            self._tell(Kind.NOTE, text="no sign that the last words were heard")

    async def _watch_phone(self) -> None:
        """Ends a call whose line has died without a close."""
        while (left_s := self._phone_heard_s + PHONE_SILENT_S - self._clock()) > 0:  # noqa: ASYNC110
            # No event to wait for instead: setting one per message would cost more than all of this.
            await asyncio.sleep(left_s)
        self._finish(Ending(Party.PHONE, f"nothing from the phone for {PHONE_SILENT_S:.0f} s", 1011))

    # -- what the phone sends -------------------------------------------------------------------------

    def _phone_said(self, message: bytes, _is_text: bool) -> None:
        now_s = self._clock()
        self._phone_heard_s = now_s
        uplink = self._uplink
        if uplink is None:
            self._phone_event(message, now_s)
            return
        ogg = uplink.receive(message, now_s)
        if ogg is None:
            self._phone_event(message, now_s)
        elif ogg and self._session is not None:
            self._session.send_audio(ogg)
        self._arm()

    def _phone_event(self, message: bytes, now_s: float) -> None:
        match messages.parse(message):
            case messages.Start() as start:
                self._phone_started(start, now_s)
            case messages.Mark(name=name) if self._downlink is not None:
                self._downlink.marked(name, now_s)
                if self._downlink.heard_out:
                    self._heard_out.set()
            case messages.Clear() if self._downlink is not None:
                self._send_to_phone(self._downlink.flush(now_s))
            case messages.Dtmf(digit=digit):
                self.record.dtmf += digit
                self._tell(Kind.KEY, digit=digit)
            case messages.Stop(wording=wording):
                self._finish(Ending(Party.PHONE, f"stop: {wording}" if wording else "stop"))
            case messages.Connected():
                pass
            case messages.Malformed(reason=reason):
                self.record.malformed += 1
                log.debug("malformed message: %s", reason)
            case _:
                self.record.ignored += 1

    def _phone_started(self, start: messages.Start, now_s: float) -> None:
        if self._start.done():
            self.record.ignored += 1  # Exotel's retry on the same socket: already under way.
            return
        record = self.record
        CURRENT_CALL.set(record)  # for all that this socket will set off
        rate = messages.line_rate(self._arrival.rate_hz, start)
        record.call_id, record.stream_sid = start.call_id, start.stream_sid
        record.caller, record.called = start.caller, start.called
        record.rate_hz, record.started_s = rate.rate_hz, now_s
        encoding: Literal["pcm16", "mulaw"] = "mulaw" if start.mulaw else "pcm16"
        self._uplink = Uplink(rate.rate_hz, encoding=encoding)
        self._downlink = Downlink(rate.rate_hz, stream_sid=start.stream_sid, encoding=encoding)
        self._tell(Kind.STARTED, caller=start.caller, called=start.called, custom=start.custom)
        for note in rate.notes:
            self._tell(Kind.NOTE, text=note)
        self._send_to_phone(self._downlink.poll(now_s))
        self._rate_check = self._loop.call_later(RATE_CHECK_S, self._check_rate, now_s)
        self._start.set_result(start)
        self._arm()

    def _check_rate(self, since_s: float) -> None:
        """Says so if the line runs at another rate than it claims: then everyone sounds slow and deep."""
        uplink, _ = self._line()
        measured_hz = uplink.stats()["received"] / (self._clock() - since_s)
        if measured_hz and abs(measured_hz / self.record.rate_hz - 1) > RATE_TOLERANCE:
            like_hz = min(messages.LINE_RATES_HZ, key=lambda rate_hz: abs(rate_hz - measured_hz))
            self._tell(
                Kind.NOTE,
                text=f"the phone says {self.record.rate_hz} Hz and sends {measured_hz:.0f} samples a second: "
                "if voices sound slow and deep, or fast and high, "
                f"write ?sample-rate={like_hz} into the applet's URL",
            )

    def _phone_ponged(self, trip_s: float) -> None:
        if self._downlink is not None:
            self._downlink.round_trip(trip_s, self._clock())

    def _phone_gone(self, closed: Closed) -> None:
        self._finish(Ending(Party.PHONE, f"the phone's connection ended: {closed}"))

    # -- what the engine sends ------------------------------------------------------------------------

    def _engine_said(self, ogg: bytes) -> None:
        uplink, downlink = self._line()
        now_s = self._clock()
        self._send_to_phone(downlink.receive(ogg, now_s, uplink))
        if downlink.take_ping(now_s):
            self._socket.ping()
        self._arm()

    def _engine_wrote(self, piece: str) -> None:
        self.record.words.append(piece)
        self._tell(Kind.WORDS, text=piece)

    # -- the clock ------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Notes when Rust wants to be asked if nothing arrives before."""
        if self._uplink is not None and self._downlink is not None:
            self._alarm.set(min(self._uplink.wake_s, self._downlink.wake_s))

    def _tick(self) -> None:
        uplink, downlink = self._line()
        now_s = self._clock()
        if uplink.wake_s <= now_s and (ogg := uplink.poll(now_s)) and self._session is not None:
            self._session.send_audio(ogg)
        if downlink.wake_s <= now_s:
            self._send_to_phone(downlink.poll(now_s))
            if downlink.heard_out:
                self._heard_out.set()
        self._arm()

    def _send_to_phone(self, out: list[bytes]) -> None:
        for message in out:
            self._socket.send(message, text=True)

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

    def _close_record(self, ending: Ending) -> None:
        record = self.record
        record.ended_s, record.ending = self._clock(), ending
        record.stats = self.stats()
        self._tell(Kind.ENDED, by=ending.by.value, reason=ending.reason)

    def _tell(self, kind: Kind, **detail: Any) -> None:
        self._watcher(self.record, Event(kind, self._clock(), detail))
