"""The interface between a call and a carrier.

A carrier connects phone calls to the bridge over a WebSocket. Every carrier has its own messages and rules.
This module defines what a call uses of any of them. An adapter is a package beside this module, such as
`pxbridge.telephony.exotel`. It makes one `Carrier` for each connection, so an adapter may keep state from
message to message: the stream's id, or a codec.

Some carriers have a person at a screen at their other end, who can be told more than sound: that is what the
notices below are for.

Audio from the carrier, and marks that come back, go through the call's `PhoneLine`, which reads them in Rust
in one step. Every other message goes through `Carrier.parse` and becomes one of the events below. `parse`
never raises: a message that it cannot read becomes `Malformed`, and is counted.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pxbridge.telephony.phone_line import PhoneLine

Encoding = Literal["pcm16", "mulaw", "alaw"]
"""Encoding of a line's audio: 16-bit little-endian PCM, or G.711 µ-law or A-law."""

PlayoutProfile = Literal["standard", "strict", "low-delay"]
"""Size and timing of payloads for an account.

`PlayoutProfile` in `rust/core/src/downlink/playout/config.rs` describes each.
"""

_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


# -- events of a carrier ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """The format of a line's audio; always mono.

    Attributes:
        rate_hz: 8000, 16000 or 24000.
        encoding: Encoding of a payload's bytes, in both directions.
    """

    rate_hz: int
    encoding: Encoding = "pcm16"


@dataclass(frozen=True, slots=True)
class Connected:
    """The carrier's greeting. Some carriers send none."""


@dataclass(frozen=True, slots=True)
class Start:
    """The call begins: the two numbers, and the format of the audio.

    Attributes:
        call_id: The carrier's identifier of the phone call. Two connections of one call have the same
            identifier. Empty if the carrier gave none.
        stream_id: The carrier's identifier of this connection's audio stream.
        caller: The number of the caller; empty if it is withheld.
        called: The number that was dialled.
        parameters: Parameters that the carrier's call flow passes on, by name.
        media: The format of the line's audio.
        notes: Values in the message that could not be used, for the operator; one sentence each.
        refusal: Why the bridge cannot read the line's audio, as a sentence; empty if it can. The call ends.
    """

    call_id: str
    stream_id: str
    caller: str
    called: str
    media: MediaFormat
    parameters: Mapping[str, str] = field(default_factory=lambda: _NO_PARAMETERS, hash=False)
    notes: tuple[str, ...] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Media:
    """Audio. A call gets this event only before `Start`; afterwards Rust reads the audio."""


@dataclass(frozen=True, slots=True)
class Key:
    """The caller pressed a key: one of ``0123456789*#ABCD``."""

    digit: str


@dataclass(frozen=True, slots=True)
class Mark:
    """All audio that was sent before the mark of this name has been played, or was cleared."""

    name: str


@dataclass(frozen=True, slots=True)
class Clear:
    """The carrier asks us to drop the audio that is queued for the caller."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The carrier ends the call.

    Attributes:
        reason: The reason in the carrier's words; may be empty.
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event that the adapter does not know. It is counted and ignored.

    Attributes:
        event: The event's name, printable and bounded.
    """

    event: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is not in the carrier's format. It is counted and ignored."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """The carrier asks for an answer at once, to measure the round trip.

    Attributes:
        answer: The message to send.
        is_text: Whether it is text.
    """

    answer: bytes
    is_text: bool = False


Event = Connected | Start | Media | Key | Mark | Clear | Stop | Ask | Unknown | Malformed


# -- what a carrier can be told beside sound --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """The call has begun, and its persona is chosen.

    Attributes:
        call_id: The call's id, as records have it.
        persona: The persona's name.
        recorded: Whether the call is recorded.
    """

    call_id: str
    persona: str
    recorded: bool


@dataclass(frozen=True, slots=True)
class InLine:
    """The call waits for an engine.

    Attributes:
        place: Its place among those that wait: 1 is the next; 0 if it waits no longer.
    """

    place: int


@dataclass(frozen=True, slots=True)
class Listening:
    """An agent hears the caller from now on: the first one, or another one after `AgentLost`."""


@dataclass(frozen=True, slots=True)
class AgentLost:
    """The engine was lost, and another one is being leased."""


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of what the agent says."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The call ends because something does not work.

    Attributes:
        text: What it is, for the caller.
    """

    text: str


Notice = Begun | InLine | Listening | AgentLost | Said | Failed


# -- how a carrier behaves --------------------------------------------------------------------------------


class AfterClose(enum.Enum):
    """What happens to the phone call when we close the socket."""

    FLOW_GOES_ON = "the carrier's call flow goes on"
    """The next step of the flow runs. That step may connect the caller to a person."""
    HANGS_UP = "the call is over"
    """No step follows, so a call cannot be handed over to a person."""


class PacedBy(enum.Enum):
    """Which side paces the audio, so that it is sent in real time."""

    BRIDGE = "the bridge"
    """Audio that is sent faster than real time queues at the carrier and delays all later audio."""
    CARRIER = "the carrier"
    """The carrier accepts audio at any speed, and reports when its queue is full."""


@dataclass(frozen=True, slots=True)
class PayloadRule:
    """The payloads that a carrier plays without a gap.

    Attributes:
        packet_ms: A payload must be a whole number of packets of this length. A shorter remainder is
            heard as a gap.
        max_bytes: The largest payload, before any text encoding.
    """

    packet_ms: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Facts about a carrier.

    The bridge acts on three of them: `after_close` decides whether a call can be handed over to a person,
    `waits_for_agent` whether a phone that sends nothing is lost, `takes_notices` whether notices are made.
    No code of the bridge reads the others. They document the carrier for the author of an adapter and for
    readers; changing one here changes nothing that is sent. The Rust core implements the behaviour: the
    downlink sends audio in real time and only in whole packets of 20 ms, and the carrier's `MediaWriter`
    writes media, marks and clears. It reports when the carrier has no marks. No code checks
    `PayloadRule.max_bytes`.

    Attributes:
        returns_marks: Whether the carrier sends a mark back once the audio before the mark has been played.
        marks_after_clear: Whether pending marks come back after a clear; None where that is not documented.
        can_clear: Whether the carrier can drop its queued audio when we ask for it.
        paced_by: Which side paces the audio.
        payload: The payloads that the carrier plays without a gap.
        after_close: What happens to the phone call when we close the socket.
        waits_for_agent: Whether the phone sends no audio before `Listening`. Until then, answers to pings
            show that it is there.
        takes_notices: Whether `Carrier.notice` writes messages.
    """

    returns_marks: bool
    marks_after_clear: bool | None
    can_clear: bool
    paced_by: PacedBy
    payload: PayloadRule
    after_close: AfterClose
    waits_for_agent: bool = False
    takes_notices: bool = False


# -- a carrier ----------------------------------------------------------------------------------------------


class Carrier(Protocol):
    """One connection of a carrier: reads its events, opens its line, and states the carrier's behaviour."""

    @property
    def name(self) -> str:
        """The carrier's name as people read it: ``Exotel``."""
        ...

    @property
    def behaviour(self) -> Behaviour:
        """The same for every connection of the carrier."""
        ...

    @property
    def start(self) -> Start | None:
        """The call's start, if the request for the connection says it all; None if a message will."""
        ...

    def notice(self, notice: Notice) -> Sequence[tuple[bytes, bool]]:
        """The messages that tell a carrier this, each with whether it is text; none if it cannot be told."""
        ...

    def parse(self, message: bytes, *, is_text: bool) -> Event:
        """Reads one message that is not audio. Never raises.

        Args:
            message: The message's payload.
            is_text: Whether the message came as a WebSocket text message.
        """
        ...

    def fix_rate(self, rate_hz: int) -> str:
        """What an operator can do about a line with a wrong rate, as the end of a sentence.

        Args:
            rate_hz: The rate that was measured on the line.
        """
        ...

    def open_line(
        self, start: Start, *, profile: PlayoutProfile, gate_ms: int, max_backlog_ms: int
    ) -> PhoneLine:
        """Opens the line of a call that has just begun.

        Args:
            start: The call's `Start`, from `start` or `parse`.
            profile: Size and timing of payloads.
            gate_ms: Length of the phone's first audio that is replaced by silence.
            max_backlog_ms: Upper limit of late audio that is still played.
        """
        ...
