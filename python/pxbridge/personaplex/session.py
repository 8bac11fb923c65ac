"""One client, from its upgrade to its end: PersonaPlex's wire on one side, a slot of the engine on the other.

A session is in one state, which holds what belongs to it::

    Waiting ── a slot is free ──▶ Prompting ── prompt read ──▶ Live ◀── start / pause ──▶ Paused
                                      ▲                          └──────── restart ────────┘
                                      └─────────────────────────────────────┘
    and from each of them to Over: the client left, or was sent away.

The client's audio is read in every state, because a decoder needs the first pages of a stream. The last
second before the session is live is kept, so that the agent hears how the caller began.

Control messages (kind 3) come from moshi's protocol, which does not define them for a model that listens
while it talks. Here *pause* stops the model's time until *start*. *restart* begins the same conversation
again in the same slot. *endTurn* changes nothing. In states in which a message does not apply, it is ignored.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from pxbridge import chat_wire, websocket
from pxbridge.audio import OggOpusReader, OggOpusWriter
from pxbridge.chat_wire import FrameReader, Kind
from pxbridge.personaplex.config import FRAME_SAMPLES, SAMPLE_RATE_HZ
from pxbridge.personaplex.scheduler import MOST_FRAMES
from pxbridge.wording import counted, lasted

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pxbridge.personaplex.engine import Engine
    from pxbridge.personaplex.input_recorder import InputRecord
    from pxbridge.personaplex.places import Places
    from pxbridge.personaplex.query import Asked
    from pxbridge.personaplex.scheduler import Conversation, Frame
    from pxbridge.personaplex.stepper import Step
    from pxbridge.websocket import Closed, WebSocket

log = logging.getLogger(__name__)

LIMITS: Final = websocket.Limits(
    max_message_bytes=64 * 1024,
    max_queued_bytes=64 * 1024,
    send_timeout_s=5.0,
    ping_interval_s=20.0,
    pong_timeout_s=20.0,
)
"""Slots are scarce. A client that reads nothing for 5 s, or does not answer a ping within 20 s, loses its
slot. A second of audio is 12 kB."""

BITRATE_BPS: Final = 64_000
COMPLEXITY: Final = 0
PACKET_MS: Final = 20.0
"""Low-delay Opus looks 2.5 ms ahead instead of 6.5, and costs 0.1 ms a frame of 80 ms where the voice mode
that NVIDIA's server uses costs 1.3. Higher complexities cost three times as much and gain 1 dB. All answers
of a tick are encoded at once, so the last of many callers waits for all of it."""

SLICE_BYTES: Final = 2048
"""The part of a message that is decoded at once. A packet of one byte can claim 120 ms, so a message could
claim an hour."""
AHEAD_S: Final = 10.0
"""If a client has sent this much more audio than time has passed, that is a flood. Audio that waits for
longer than a second is cut long before that."""
OWED_S: Final = 40.0
"""How much audio may come late, all at once. A network that stalls for longer has cost the slot (`LIMITS`). A
client that is silent for an hour may not send an hour in a moment: decoding it would delay everybody."""

CONTROL_EVERY_S: Final = 1.0
"""A restart costs as much as a new prompt. Restarts and pings that come more often than this are ignored."""

GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008
INTERNAL_ERROR: Final = 1011


class Control(enum.IntEnum):
    """The payload of a control message."""

    START = 0
    END_TURN = 1
    PAUSE = 2
    RESTART = 3


class Why(enum.StrEnum):
    """Why a session ended, as metrics count it."""

    LEFT = "left"
    DRAINED = "drained"
    FAULT = "fault"
    REFUSED = "refused"


class TextReader(Protocol):
    """Makes text of tokens; see `pxbridge.personaplex.text.Detokenizer`."""

    def feed(self, token: int) -> str:
        """The text that is whole now."""
        ...


@dataclass(frozen=True)
class Waiting:
    """It waits in line for a slot."""


@dataclass(frozen=True)
class Prompting:
    """It has a slot, and its prompt is being read."""

    conversation: Conversation


@dataclass(frozen=True)
class Live:
    """The agent hears the caller and answers."""

    conversation: Conversation


@dataclass(frozen=True)
class Paused:
    """The model is not stepped, and the caller's audio is dropped."""

    conversation: Conversation


@dataclass(frozen=True)
class Over:
    """It has ended and has no slot."""

    why: Why


State = Waiting | Prompting | Live | Paused | Over


@dataclass
class Counts:
    """Counts for a session's log line.

    Attributes:
        steps: Frames that were answered.
        early: Frames that came before it was live and were kept.
        odd: Messages of a kind that clients do not send.
        restarts: How often it was restarted.
    """

    steps: int = 0
    early: int = 0
    odd: int = 0
    restarts: int = 0


class Session:
    """One client's session. It is made when the client is admitted, and gets all events by callbacks.

    Args:
        socket: The client's socket, just upgraded.
        asked: What the client asked for.
        engine: The engine.
        places: The engine's slots, and the line for them.
        text: Makes a reader that turns tokens into text.
        record: Begins a record of its input; None: its input is not recorded.
        over: Called once, with the reason, when the session has ended.
    """

    def __init__(
        self,
        socket: WebSocket,
        asked: Asked,
        engine: Engine,
        places: Places,
        text: Callable[[], TextReader],
        record: Callable[[], InputRecord] | None,
        over: Callable[[Session, Why], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.asked = asked
        self.counts = Counts()
        self.opened_s = loop.time()
        self.state: State = Waiting()
        """See the module."""
        self._loop = loop
        self._socket = socket
        self._engine = engine
        self._places = places
        self._text_of = text
        self._record_of = record
        self._over = over
        self.slot: int | None = None
        self._wire = FrameReader()
        self._reader = OggOpusReader(SAMPLE_RATE_HZ)
        self._frames = _Frames()
        self._ahead_s = 0.0  # audio that came, less time that passed
        self._heard_s = self.opened_s
        self._early: deque[Frame] = deque(maxlen=MOST_FRAMES)
        self._writer: OggOpusWriter | None = None
        self._text = text()
        self._record: InputRecord | None = None
        self._controlled_s = self._ponged_s = -CONTROL_EVERY_S

    @property
    def peer(self) -> str:
        """The client's ``address:port``."""
        return self._socket.peer

    def begin(self) -> None:
        """Takes a slot, or waits in line for one."""
        self._socket.on_message = self._take
        self._socket.on_close = self._closed
        if isinstance(self.state, Over):
            return  # the client left before this
        slot = self._places.take()
        if slot is not None:
            self.admitted(slot)
        else:
            self.moved(self._places.wait(self))

    def end(self, code: int, reason: str, why: Why) -> None:
        """Ends the session and closes the connection with `code`."""
        if isinstance(self.state, Over):
            return
        self._leave(why)
        if code == INTERNAL_ERROR:
            self._socket.send(chat_wire.error(reason))
        self._socket.close(code, reason)

    def abort(self) -> None:
        """Cuts the connection."""
        self._socket.abort("the engine has no more time")

    # Events of the line.

    def moved(self, place: int) -> None:
        """Its place in line is `place` now."""
        self._socket.send(chat_wire.metadata({"queue": {"place": place}}))

    def admitted(self, slot: int) -> None:
        """It has a slot."""
        self.slot = slot
        self._prompt(slot)

    def _prompt(self, slot: int) -> None:
        asked = self.asked
        self._text = self._text_of()
        self.state = Prompting(self._engine.open(slot, asked.prompt, asked.sampling, self))

    # Events of the engine.

    def live(self) -> None:
        """Its prompt is read."""
        if not isinstance(self.state, Prompting):
            return
        self.state = Live(self.state.conversation)
        if self._record_of is not None:
            self._record = self._record_of()
        self._socket.send(chat_wire.handshake())
        if self._writer is None:  # the headers of a stream are sent once, also after a restart
            self._writer = OggOpusWriter(
                SAMPLE_RATE_HZ, bitrate_bps=BITRATE_BPS, complexity=COMPLEXITY, frame_ms=PACKET_MS
            )
            self._socket.send(chat_wire.audio(self._writer.headers()))
        early, self._early = self._early, deque(maxlen=MOST_FRAMES)
        self.counts.early += len(early)
        for frame in early:
            self._engine.hear(self.state.conversation, frame)

    def stepped(self, frame: Frame, step: Step) -> None:
        """A frame was answered."""
        if not isinstance(self.state, Live | Paused) or self._writer is None:
            return
        self.counts.steps += 1
        if self._record is not None:
            self._record.add(frame)
        self._socket.send(chat_wire.audio(self._writer.write(step.sound)))
        if piece := self._text.feed(step.text):
            self._socket.send(chat_wire.text(piece))

    def failed(self, reason: str) -> None:
        """Its prompt cannot be used."""
        log.warning("%s: its prompt cannot be used: %s", self.peer, reason)
        self.end(INTERNAL_ERROR, reason, Why.REFUSED)

    def broken(self) -> None:
        """A fault of ours in this session."""
        self.end(INTERNAL_ERROR, "internal error", Why.FAULT)

    # Messages of the client.

    def _take(self, message: bytes, is_text: bool) -> None:
        frame = None if is_text else self._wire.read(message)
        if frame is None:
            self.counts.odd += 1
            return
        match frame.kind:
            case Kind.AUDIO:
                self._hear(frame.payload)
            case Kind.CONTROL:
                self._control(frame.payload)
            case Kind.PING:
                # At most one a second: two ends that answer each other's pings would never stop.
                if self._may(self._ponged_s):
                    self._ponged_s = self._loop.time()
                    self._socket.send(chat_wire.ping())
            case _:
                self.counts.odd += 1

    def _hear(self, ogg: bytes) -> None:
        for start in range(0, len(ogg), SLICE_BYTES):
            pcm = self._reader.read(ogg[start : start + SLICE_BYTES])
            now_s = self._loop.time()
            owed_s = max(self._ahead_s - (now_s - self._heard_s), -OWED_S)
            self._ahead_s, self._heard_s = owed_s + len(pcm) / SAMPLE_RATE_HZ, now_s
            if self._ahead_s > AHEAD_S:
                log.warning("%s: sent %.0f s more audio than time has passed", self.peer, self._ahead_s)
                self.end(POLICY_VIOLATION, "more audio than time has passed", Why.REFUSED)
                return
            for frame in self._frames.of(pcm):
                self._heard(frame)

    def _heard(self, frame: Frame) -> None:
        match self.state:
            case Live(conversation):
                self._engine.hear(conversation, frame)
            case Waiting() | Prompting():
                self._early.append(frame)

    def _control(self, payload: bytes) -> None:
        match payload[0] if payload else None, self.state:
            case Control.START, Paused(conversation):
                self.state = Live(conversation)
            case Control.PAUSE, Live(conversation):
                self.state = Paused(conversation)
            case Control.RESTART, Live(conversation) | Paused(conversation):
                if self._may(self._controlled_s):
                    self._controlled_s = self._loop.time()
                    self.counts.restarts += 1
                    self._engine.close(conversation)
                    self._close_record()
                    self._prompt(conversation.slot)
            case _:
                pass

    def _may(self, last_s: float) -> bool:
        return self._loop.time() - last_s >= CONTROL_EVERY_S

    # Its end.

    def _closed(self, closed: Closed) -> None:
        self._leave(Why.LEFT)
        log.info(
            "session ended: %s, %s in %s%s",
            self.peer,
            counted(self.counts.steps, "step"),
            lasted(self._loop.time() - self.opened_s),
            f" ({closed.error})" if closed.error else "",
        )

    def _leave(self, why: Why) -> None:
        """Gives back its slot, or its place in line."""
        match self.state:
            case Over():
                return
            case Waiting():
                self._places.leave(self)
            case Prompting(conversation) | Live(conversation) | Paused(conversation):
                self._engine.close(conversation)
        self.state = Over(why)
        self._close_record()
        if self.slot is not None:
            self._places.give_back(self.slot)
        self._over(self, why)

    def _close_record(self) -> None:
        if self._record is not None:
            self._record.close()
            self._record = None


class _Frames:
    """Cuts a stream of samples into the model's frames."""

    def __init__(self) -> None:
        self._frame: NDArray[np.float32] = np.empty(FRAME_SAMPLES, np.float32)
        self._filled = 0

    def of(self, pcm: NDArray[np.float32]) -> list[Frame]:
        """The frames that these samples complete."""
        whole: list[Frame] = []
        while len(pcm):
            taken = pcm[: FRAME_SAMPLES - self._filled]
            self._frame[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            pcm = pcm[len(taken) :]
            if self._filled == FRAME_SAMPLES:
                whole.append(self._frame)
                self._frame, self._filled = np.empty(FRAME_SAMPLES, np.float32), 0
        return whole
