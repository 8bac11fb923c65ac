"""The phone as a state machine, without a socket and without a clock.

Its owner asks which messages are due now (`due`), passes messages in (`receive`), and asks again at
`next_at_s`. There are two clocks: the wall clock, which network and bridge use, and the phone's own, which
may drift. Media and playing follow the phone's clock.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter, deque
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from pxbridge.simulation.network import Direction, Network
from pxbridge.simulation.phone.caller import Caller, Mood, Script
from pxbridge.simulation.phone.g711 import decode_a_law, decode_mu_law, encode_a_law, encode_mu_law
from pxbridge.simulation.phone.line import HangUp, Line
from pxbridge.simulation.player import SILENT_DBFS, Player, level_dbfs
from pxbridge.telephony.exotel.spelling import Exotel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PAYLOAD_UNIT = 320
"""Each payload must be a multiple of this number of bytes."""
PAYLOAD_LIMIT = 100_000
"""Exotel's largest payload, in bytes."""
STOP_LINGER_S = 1.0
"""After `stop`, Exotel waits this long for the bridge to close, then closes itself."""
STOP_TIMEOUT_S = 5.0
"""How long a phone that never closes waits for the bridge to close."""
BROKEN_OFF = 1006
"""The close code of a connection that ended without a closing handshake (RFC 6455 §7.1.5)."""


class Fault(StrEnum):
    """Errors of a bridge in Exotel's protocol."""

    NOT_TEXT = "binary messages"
    NOT_JSON = "messages that are no JSON object"
    UNKNOWN_EVENT = "unknown events"
    BEFORE_START = "messages before start"
    WRONG_STREAM = "messages with another stream's sid"
    OUT_OF_SEQUENCE = "sequence numbers that do not rise"
    BAD_PAYLOAD = "payloads that are no base64"
    EMPTY_PAYLOAD = "empty payloads"
    UNEVEN_PAYLOAD = "payloads that are no multiple of 320 bytes"
    LARGE_PAYLOAD = "payloads over 100 kB"
    TOO_FAR_AHEAD = "media sent too far ahead"
    NAMELESS_MARK = "marks without a name"
    LEFT_OPEN = "connections left open after stop"
    DOES_NOT_READ = "times the bridge stopped reading"


class Ended(Enum):
    """Who ended the call."""

    BY_CALLER = "the caller hung up"
    BY_BRIDGE = "the bridge hung up"
    BY_NETWORK = "the network cut the call"


class Wire(Enum):
    """What the phone asks of its socket besides sending text."""

    CLOSE = "close"
    ABORT = "abort"


class _State(Enum):
    CONNECTED = "connected is still to come"
    STARTING = "start is still to come"
    TALKING = "in the call"
    STOPPING = "stop is sent, the bridge may close"
    ENDED = "over"


class Phone:
    """One simulated call from Exotel's side.

    Times are seconds since `start` was sent, on the wall clock. They are negative before it, if the line
    waits between `connected` and `start`. The times of the caller and the player are on the phone's clock,
    which differs from the wall clock by the network's drift.
    """

    def __init__(
        self, script: Script, line: Line | None = None, network: Network | None = None, seed: int = 0
    ) -> None:
        self.line = line or Line()
        self.network = network or Network()
        self.player = Player(self.line.rate_hz, self.line.cleared_marks)
        self.caller = Caller(script, self.player)
        self.faults: Counter[Fault] = Counter()
        self.ended: Ended | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.duration_s = 0.0
        self.chunks_sent = 0
        self.media_received = 0
        self.bytes_received = 0
        self.payloads: Counter[int] = Counter()
        """The number of received payloads, by their size in bytes."""
        self.marks_received = 0
        self.clears_received = 0
        self.said_dbfs = SILENT_DBFS
        """The level of the caller's last chunk."""
        self._state = _State.CONNECTED
        self._speed = 1.0 + self.network.drift_ppm * 1e-6
        self._said: list[NDArray[np.int16]] = []
        self._exotel = Exotel(self.line.stream_sid, self.line.spelling)
        self._encoding = self.line.spelling.payload_encoding
        self._last_seen_sequence = -1
        self._dtmf = deque(sorted(self.line.dtmf))
        self._up = self.network.link(Direction.UP, seed)
        self._down = self.network.link(Direction.DOWN, seed)
        self._outbox: deque[tuple[float, str | Wire]] = deque()
        self._inbox: deque[tuple[float, str | bytes]] = deque()
        self._give_up_at_s: float | None = None

    @property
    def starts_at_s(self) -> float:
        """When the connection must be open: 0, or earlier if the line waits before `start`."""
        return -self.line.start_after_s

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be sent or played."""
        return self._state is _State.ENDED and not self._outbox

    @property
    def spoken_s(self) -> float:
        """The duration of the call so far, on the phone's clock."""
        return self.chunks_sent * self.line.chunk_samples / self.line.rate_hz

    @property
    def said(self) -> NDArray[np.int16]:
        """All audio of the caller since the call's start, silence included."""
        return np.concatenate(self._said) if self._said else np.zeros(0, np.int16)

    @property
    def next_at_s(self) -> float:
        """When `due` must be called next."""
        at_s = min((at for at, _ in self._events()), default=float("inf"))
        return min(at_s, self._outbox[0][0]) if self._outbox else at_s

    def due(self, now_s: float) -> list[str | Wire]:
        """What must be sent by `now_s`, in order."""
        while True:
            events = list(self._events())
            at_s, act = min(events, key=lambda event: event[0]) if events else (float("inf"), None)
            if act is None or at_s > now_s:
                break
            act(at_s)
        due: list[str | Wire] = []
        while self._outbox and self._outbox[0][0] <= now_s:
            due.append(self._outbox.popleft()[1])
        return due

    def receive(self, message: str | bytes, now_s: float) -> None:
        """Takes a message that the bridge sent at `now_s`; call `due` afterwards."""
        if self._state is not _State.ENDED:
            self._inbox.append((self._down.deliver_at(now_s), message))

    def closed(self, now_s: float, code: int, reason: str = "") -> None:
        """Notes that the socket is closed. Audio in Exotel's queue is lost."""
        self.due(now_s)
        self._outbox.clear()
        self.close_code, self.close_reason = code, reason
        self._end(now_s, Ended.BY_BRIDGE)
        self._state = _State.ENDED

    def _events(self) -> list[tuple[float, Callable[[float], None]]]:
        """The next events and their times. Of two at the same time, the first one listed comes first."""
        match self._state:
            case _State.CONNECTED:
                return [(self.starts_at_s, self._connect)]
            case _State.STARTING:
                events: list[tuple[float, Callable[[float], None]]] = [(0.0, self._start)]
            case _State.TALKING:
                next_chunk_s = (self.chunks_sent + 1) * self.line.chunk_samples / self.line.rate_hz
                events = [(next_chunk_s / self._speed, self._send_media)]
                if self._dtmf:
                    events.append((self._dtmf[0][0], self._send_dtmf))
                mark_s = self.player.next_mark_s
                if mark_s is not None:
                    events.append((mark_s / self._speed, self._return_marks))
                if self.network.cut_at_s is not None:
                    events.append((self.network.cut_at_s, self._cut))
            case _State.STOPPING:
                events = [(self._give_up_at_s or 0.0, self._give_up)]
            case _State.ENDED:
                return []
        if self._inbox:
            events.insert(0, (self._inbox[0][0], self._handle))
        return events

    def _connect(self, at_s: float) -> None:
        self._put(self._exotel.connected(), at_s)
        self._state = _State.STARTING

    def _start(self, at_s: float) -> None:
        self._state = _State.TALKING
        line = self.line
        start = self._exotel.start(
            call_sid=line.call_sid,
            account_sid=line.account_sid,
            caller=line.from_number,
            called=line.to_number,
            custom=line.custom_parameters,
            rate_hz=line.rate_hz,
        )
        self._put(start, at_s)

    def _send_media(self, at_s: float) -> None:
        samples = self.line.chunk_samples
        from_s = self.spoken_s
        self.player.advance(from_s)
        pcm = self.caller.speak(samples, from_s)
        self._said.append(pcm)
        self.said_dbfs = level_dbfs(pcm)
        self.chunks_sent += 1
        if not self.network.loses(from_s):
            self._put(self._exotel.media(self._encode(pcm), round(from_s * 1000)), at_s)
        if self.caller.mood is Mood.GONE:
            self._hang_up(at_s)

    def _encode(self, pcm: NDArray[np.int16]) -> bytes:
        match self._encoding:
            case "pcm16":
                return pcm.astype("<i2").tobytes()
            case "mulaw":
                return encode_mu_law(pcm).tobytes()
            case "alaw":
                return encode_a_law(pcm).tobytes()

    def _decode(self, payload: bytes) -> NDArray[np.int16]:
        match self._encoding:
            case "pcm16":
                return np.frombuffer(payload[: len(payload) // 2 * 2], "<i2").astype(np.int16)
            case "mulaw":
                return decode_mu_law(np.frombuffer(payload, np.uint8))
            case "alaw":
                return decode_a_law(np.frombuffer(payload, np.uint8))

    def _send_dtmf(self, at_s: float) -> None:
        _, digit = self._dtmf.popleft()
        self._put(self._exotel.dtmf(digit), at_s)

    def _return_marks(self, at_s: float) -> None:
        # The time was converted between the clocks twice. Half a sample makes up for the rounding.
        for mark in self.player.advance(at_s * self._speed + 0.5 / self.line.rate_hz):
            self._put(self._exotel.mark(mark.name), at_s)

    def _hang_up(self, at_s: float) -> None:
        self._end(at_s, Ended.BY_CALLER)
        line = self.line
        if line.hang_up in (HangUp.STOP, HangUp.STOP_ONLY):
            stop = self._exotel.stop(
                call_sid=line.call_sid, account_sid=line.account_sid, reason=line.spelling.stop_reason
            )
            self._put(stop, at_s)
            closes_itself = self.line.hang_up is HangUp.STOP
            self._give_up_at_s = at_s + (STOP_LINGER_S if closes_itself else STOP_TIMEOUT_S)
            self._state = _State.STOPPING
        else:
            self._put(Wire.CLOSE if self.line.hang_up is HangUp.CLOSE_ONLY else Wire.ABORT, at_s)
            self._state = _State.ENDED

    def _give_up(self, at_s: float) -> None:
        if self.line.hang_up is HangUp.STOP_ONLY:
            self.faults[Fault.LEFT_OPEN] += 1
            self._put(Wire.ABORT, at_s)
        else:
            self._put(Wire.CLOSE, at_s)
        self._state = _State.ENDED

    def _cut(self, at_s: float) -> None:
        self._end(at_s, Ended.BY_NETWORK)
        self._outbox.clear()
        self._outbox.append((at_s, Wire.ABORT))
        self._state = _State.ENDED

    def _end(self, at_s: float, by: Ended) -> None:
        if self.ended is None:
            self.ended = by
            self.duration_s = max(0.0, at_s)
            self.player.advance(self.duration_s * self._speed)

    def _handle(self, at_s: float) -> None:
        _, message = self._inbox.popleft()
        if self._state is _State.STOPPING:
            return  # the phone has hung up
        if isinstance(message, bytes):
            self.faults[Fault.NOT_TEXT] += 1
            return
        try:
            event = json.loads(message)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self.faults[Fault.NOT_JSON] += 1
            return
        if self._state is _State.STARTING:
            self.faults[Fault.BEFORE_START] += 1
            return
        self._check(event)
        now_s = at_s * self._speed
        match event.get("event"):
            case "media":
                self._handle_media(event.get("media"), now_s)
            case "mark":
                body = event.get("mark")
                name = body.get("name") if isinstance(body, dict) else None
                if isinstance(name, str):
                    self.marks_received += 1
                    self.player.mark(name, now_s)
                else:
                    self.faults[Fault.NAMELESS_MARK] += 1
            case "clear":
                self.clears_received += 1
                self.player.clear(now_s)
            case _:
                self.faults[Fault.UNKNOWN_EVENT] += 1

    def _check(self, event: dict[str, Any]) -> None:
        if event.get("stream_sid", self.line.stream_sid) != self.line.stream_sid:
            self.faults[Fault.WRONG_STREAM] += 1
        try:
            sequence = int(event["sequence_number"])
        except KeyError:
            return  # the number is optional
        except (TypeError, ValueError):
            sequence = -1
        if sequence <= self._last_seen_sequence:
            self.faults[Fault.OUT_OF_SEQUENCE] += 1
        self._last_seen_sequence = max(sequence, self._last_seen_sequence)

    def _handle_media(self, body: object, now_s: float) -> None:
        payload = body.get("payload") if isinstance(body, dict) else None
        try:
            raw = base64.b64decode(payload, validate=True) if isinstance(payload, str) else None
        except binascii.Error:
            raw = None
        if raw is None:
            self.faults[Fault.BAD_PAYLOAD] += 1
            return
        self.media_received += 1
        self.bytes_received += len(raw)
        self.payloads[len(raw)] += 1
        if not raw:
            self.faults[Fault.EMPTY_PAYLOAD] += 1
            return
        unit = PAYLOAD_UNIT if self._encoding == "pcm16" else PAYLOAD_UNIT // 2
        if len(raw) % unit:
            self.faults[Fault.UNEVEN_PAYLOAD] += 1
        if len(raw) > PAYLOAD_LIMIT:
            self.faults[Fault.LARGE_PAYLOAD] += 1
        self.player.push(self._decode(raw), now_s)
        if self.player.depth_s > self.line.ahead_limit_s:
            self.faults[Fault.TOO_FAR_AHEAD] += 1

    def _put(self, item: str | Wire, at_s: float) -> None:
        self._outbox.append((self._up.deliver_at(at_s), item))
