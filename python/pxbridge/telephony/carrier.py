"""What a call needs of any carrier.

A carrier brings phone calls to us over a WebSocket. Its messages and its rules differ from every other
carrier's; this module is what they have in common. An adapter is a package beside this module, such as
`pxbridge.telephony.exotel`. It makes one `Carrier` for each connection, so an adapter may keep state from
message to message: the stream's id, or a codec.

A message from the carrier is either sound or an event. Sound is read in Rust, in one step, and Python sees
nothing of it. Everything else goes through `Carrier.parse` and becomes one of the events below. `parse` never
raises: what cannot be understood is `Malformed`, and is counted.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE_RATES_HZ: Final = (8000, 16000, 24000)
"""The sample rates that a line can have."""

Encoding = Literal["pcm16", "mulaw"]
"""Of a line's sound: 16-bit little-endian PCM, or G.711 µ-law."""

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
        sends_text: Whether our messages to the carrier are WebSocket text messages; else they are binary.
        returns_marks: Whether the carrier sends a mark back once the sound before it has been played.
        marks_after_clear: Whether pending marks come back after a clear; None where that is not documented.
        can_clear: Whether the carrier can be told to drop what it has queued.
        paced_by: Who keeps the sound at the speed at which it is heard.
        payload: Which payloads it takes.
        after_close: What happens to the phone call when we close the socket.
    """

    sends_text: bool
    returns_marks: bool
    marks_after_clear: bool | None
    can_clear: bool
    paced_by: PacedBy
    payload: PayloadRule
    after_close: AfterClose


class Carrier(Protocol):
    """One connection of a carrier's: reads its events, and says how it behaves."""

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
