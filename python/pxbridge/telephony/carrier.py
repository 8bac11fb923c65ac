"""What a call needs of any carrier.

A carrier brings phone calls to us over a WebSocket. Its messages and its rules differ from every other
carrier's; this module is what they have in common. An adapter is a package beside this module, such as
`pxbridge.telephony.exotel`. It makes one `Carrier` for each connection, so an adapter may keep state from
message to message: the stream's id, or a codec.

A message from the carrier is either sound or an event. Sound goes through the call's `PhoneLine`, which reads
it in Rust in one step. Everything else goes through `Carrier.parse` and becomes one of the events below.
`parse` never raises: what cannot be understood is `Malformed`, and is counted.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.audio import AgentHeard, AllPlayed, EngineSilent, RateMismatch

    LineEvent = AgentHeard | AllPlayed | EngineSilent | RateMismatch
    Audio = tuple[NDArray[np.int16], list[tuple[float, int]]]
    """Samples, and for each of their pieces when it began, in seconds, and how many samples it has."""

LINE_RATES_HZ: Final = (8000, 16000, 24000)
"""The sample rates that a line can have."""

Encoding = Literal["pcm16", "mulaw"]
"""Of a line's sound: 16-bit little-endian PCM, or G.711 µ-law."""

PlayoutProfile = Literal["standard", "strict", "low-delay"]
"""What an account at a carrier wants of payloads; `PlayoutProfile` in `rust/core/src/downlink/playout.rs`."""

_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


# -- what a carrier tells ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """A line's sound; always mono.

    Attributes:
        rate_hz: 8000, 16000 or 24000.
        encoding: Of a payload's bytes, in both directions.
    """

    rate_hz: int
    encoding: Encoding = "pcm16"


@dataclass(frozen=True, slots=True)
class Connected:
    """The carrier's greeting. Some carriers send none."""


@dataclass(frozen=True, slots=True)
class Start:
    """The call begins: who calls whom, and what the sound is.

    Attributes:
        call_id: The carrier's name for the phone call. Two connections for one call have the same; empty if
            the carrier gave none.
        stream_id: The carrier's name for this connection's stream of sound.
        caller: The number that calls; empty if it is withheld.
        called: The number that was dialled.
        parameters: What the carrier's call flow passes on, by name.
        media: The line's sound.
        notes: What an operator should know, one sentence each: what was said and could not be used.
    """

    call_id: str
    stream_id: str
    caller: str
    called: str
    media: MediaFormat
    parameters: Mapping[str, str] = field(default_factory=lambda: _NO_PARAMETERS, hash=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Media:
    """Sound. A call gets this event only before `Start`; afterwards Rust reads the sound."""


@dataclass(frozen=True, slots=True)
class Key:
    """The caller pressed a key: one of ``0123456789*#ABCD``."""

    digit: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Everything that was sent before the mark of this name has been played, or was cleared."""

    name: str


@dataclass(frozen=True, slots=True)
class Clear:
    """The carrier asks us to drop what we have queued for the caller."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The carrier ends the call.

    Attributes:
        reason: In the carrier's words; may be empty.
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event that the adapter does not know. It is counted and ignored.

    Attributes:
        event: Its name, printable and bounded.
    """

    event: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """Not a message of this carrier at all. It is counted and ignored."""

    reason: str


Event = Connected | Start | Media | Key | Mark | Clear | Stop | Unknown | Malformed


# -- how a carrier behaves --------------------------------------------------------------------------------


class AfterClose(enum.Enum):
    """What happens to the phone call when we close the socket."""

    FLOW_GOES_ON = "the carrier's call flow goes on"
    """The flow's next step runs. That step may connect the caller to a person."""
    HANGS_UP = "the call is over"
    """Nothing can follow, so a call cannot be handed over to a person."""


class PacedBy(enum.Enum):
    """Who sends sound at the speed at which it is heard."""

    BRIDGE = "the bridge"
    """What is sent faster than real time queues up at the carrier, and delays all that follows."""
    CARRIER = "the carrier"
    """The carrier takes what it is given, and says when its queue is full."""


@dataclass(frozen=True, slots=True)
class PayloadRule:
    """Which payloads a carrier plays without a gap.

    Attributes:
        packet_ms: A payload is a whole number of packets of this length. A shorter rest costs a gap.
        max_bytes: The largest payload, before any text encoding.
    """

    packet_ms: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a carrier does with what it is sent.

    Attributes:
        returns_marks: Whether the carrier sends a mark back once the sound before it has been played.
        marks_after_clear: Whether pending marks come back after a clear; None where that is not documented.
        can_clear: Whether the carrier can be told to drop what it has queued.
        paced_by: Who keeps the sound at the speed at which it is heard.
        payload: Which payloads it takes.
        after_close: What happens to the phone call when we close the socket.
    """

    returns_marks: bool
    marks_after_clear: bool | None
    can_clear: bool
    paced_by: PacedBy
    payload: PayloadRule
    after_close: AfterClose


# -- a line: the sound of one call --------------------------------------------------------------------------


class LineOutput(Protocol):
    """Everything that follows from one input of a `PhoneLine`."""

    @property
    def to_phone(self) -> Sequence[tuple[bytes, bool]]:
        """Messages for the phone's socket, in their order, and for each whether it is text."""
        ...

    @property
    def to_engine(self) -> bytes:
        """Bytes for the engine; may be none."""
        ...

    @property
    def ping(self) -> bool:
        """Whether to ping the phone's socket now."""
        ...

    @property
    def wake_s(self) -> float:
        """When `PhoneLine.poll` is due if nothing arrives before; infinity for never."""
        ...

    @property
    def events(self) -> Sequence[LineEvent]:
        """What happened."""
        ...


class PhoneLine(Protocol):
    """The sound of one call in both directions, with this carrier's messages on the phone's side.

    `pxbridge.audio.Line` is one, and tells what each method does. Times are on the event loop's clock.
    """

    def phone_message(self, message: bytes, now_s: float, is_text: bool) -> LineOutput | None:
        """A message from the phone; None if it is not sound."""
        ...

    def engine_audio(self, ogg: bytes, now_s: float) -> LineOutput:
        """Bytes of the engine's Ogg Opus stream."""
        ...

    def mark_played(self, name: str, now_s: float) -> LineOutput:
        """The phone has played everything before this mark."""
        ...

    def pong(self, rtt_s: float, now_s: float) -> LineOutput:
        """A ping of the phone's socket came back after `rtt_s`."""
        ...

    def poll(self, now_s: float) -> LineOutput:
        """What is due although nothing arrived."""
        ...

    def open_engine(self, now_s: float) -> LineOutput:
        """An engine is ready."""
        ...

    def close_engine(self, now_s: float) -> LineOutput:
        """The engine is gone."""
        ...

    def play(self, pcm: NDArray[np.float32], now_s: float) -> LineOutput:
        """Queues the bridge's own sound, at the line's rate."""
        ...

    def fade_out(self, now_s: float) -> LineOutput:
        """Ends the bridge's own sound."""
        ...

    def flush(self, now_s: float) -> LineOutput:
        """Drops what the caller has not heard."""
        ...

    def finish(self, now_s: float) -> LineOutput:
        """Nothing more will be said."""
        ...

    def playing_s(self, now_s: float) -> float:
        """How long the bridge's own sound will still be heard."""
        ...

    @property
    def paused_s(self) -> float | None:
        """How long the agent has paused; None while it has not spoken."""
        ...

    @property
    def exchanged_s(self) -> tuple[float, float]:
        """Seconds of sound that engines were sent, and that came from them."""
        ...

    def keep_audio(self) -> None:
        """From now on keeps what caller and agent say."""
        ...

    def take_said(self, now_s: float) -> Audio:
        """What the caller has said since the last time."""
        ...

    def take_heard(self, now_s: float) -> Audio:
        """What the caller has heard since the last time."""
        ...

    def stats(self) -> dict[str, dict[str, float]]:
        """Counters so far: ``uplink`` and ``downlink``."""
        ...


# -- a carrier ----------------------------------------------------------------------------------------------


class Carrier(Protocol):
    """One connection of a carrier's: reads its events, carries its sound, and says how it behaves."""

    @property
    def name(self) -> str:
        """The carrier, for people: ``Exotel``."""
        ...

    @property
    def behaviour(self) -> Behaviour:
        """The same for every connection of the carrier."""
        ...

    def parse(self, message: bytes, *, is_text: bool) -> Event:
        """Reads one message that is not sound. Never raises.

        Args:
            message: The message's payload.
            is_text: Whether it came as a WebSocket text message.
        """
        ...

    def fix_rate(self, rate_hz: int) -> str:
        """What an operator can do about a line with a wrong rate, as the end of a sentence.

        Args:
            rate_hz: The rate that the line seems to have.
        """
        ...

    def open_line(
        self, start: Start, *, profile: PlayoutProfile, gate_ms: int, max_backlog_ms: int
    ) -> PhoneLine:
        """The line of a call that has just begun.

        Args:
            start: What `parse` gave for the call's first event.
            profile: How large payloads are, and how close to their time they are sent.
            gate_ms: How much of the phone's first audio is replaced by silence.
            max_backlog_ms: The most of late audio that is still worth hearing.
        """
        ...
