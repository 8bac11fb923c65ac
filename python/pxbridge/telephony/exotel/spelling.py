"""Exotel's own messages, in every spelling that has been seen: for the simulated phone and the tests."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pxbridge.telephony.exotel.messages import (
    DEFAULT_LINE_RATE_HZ,
    NO_PARAMETERS,
    encode,
    payload_encoding,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pxbridge.telephony.carrier import Encoding


class Base64(enum.Enum):
    """How a payload is encoded. All of these have been observed."""

    PADDED = "padded"
    UNPADDED = "unpadded"
    TRAILING_JUNK = "a line break at its end"
    ODD_LENGTH = "a stray byte at its end"


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a simulated Exotel writes its messages. Each field is a variation observed in real streams.

    Attributes:
        camel_case: ``streamSid`` instead of ``stream_sid``.
        flat: The event's fields are at the top level, without a nested object.
        text_numbers: ``"7"`` instead of ``7``.
        leg_sid: ``leg_sid`` instead of ``call_sid``.
        rate: How the sample rate is written: a format over ``hz`` and ``khz``, such as ``{hz}Hz``,
            ``{khz}kHz``; empty leaves it out.
        encoding: One of Exotel's names for the encoding.
        empty_custom: How "no custom parameters" is written: ``missing``, ``null`` or ``key`` (``{"key":
            ""}``).
        base64: How payloads are written.
        payload: ``payload`` or ``Payload``.
        flat_dtmf: ``{"event": "dtmf", "digit": "5"}``.
        stop_reason: The reason in ``stop``: ``callended``, ``callEnd``, ``closed``, ``stopped``.
        extras: Adds fields that the bridge ignores: ``protocol``, ``version``, ``track``, timestamps.
    """

    camel_case: bool = False
    flat: bool = False
    text_numbers: bool = True
    leg_sid: bool = False
    rate: str = "{hz}"
    encoding: str = "raw/slin"
    empty_custom: str = "null"
    base64: Base64 = Base64.PADDED
    payload: str = "payload"
    flat_dtmf: bool = False
    stop_reason: str = "callended"
    extras: bool = False

    @property
    def payload_encoding(self) -> Encoding:
        """The encoding that `encoding` gives payloads."""
        return payload_encoding(self.encoding).encoding


class Exotel:
    """Builds and numbers one stream's messages as Exotel does.

    Args:
        stream_sid: The stream's SID.
        spelling: How to write them.
    """

    def __init__(self, stream_sid: str, spelling: Spelling = Spelling()) -> None:
        self.stream_sid = stream_sid
        self.spelling = spelling
        self._sequence = 0
        self._chunk = 0

    def connected(self) -> str:
        """The ``connected`` message. It has no sequence number."""
        extras = {"protocol": "Call", "version": "1.0.0"} if self.spelling.extras else {}
        return to_json({"event": "connected", **extras})

    def start(
        self,
        *,
        call_sid: str,
        account_sid: str = "exotel",
        caller: str = "",
        called: str = "",
        custom: Mapping[str, str] = NO_PARAMETERS,
        rate_hz: int = DEFAULT_LINE_RATE_HZ,
    ) -> str:
        """The stream begins."""
        spelling = self.spelling
        fields: dict[str, Any] = {
            "stream_sid": self.stream_sid,
            "leg_sid" if spelling.leg_sid else "call_sid": call_sid,
            "account_sid": account_sid,
            "from": caller,
            "to": called,
            "media_format": {
                "encoding": spelling.encoding,
                "bit_rate": f"{rate_hz * 16 // 1000}kbps",
            },
        }
        if spelling.rate:
            written = spelling.rate.format(hz=rate_hz, khz=rate_hz // 1000)
            fields["media_format"]["sample_rate"] = written
        if custom:
            fields["custom_parameters"] = _Verbatim(custom)
        elif spelling.empty_custom != "missing":
            none = None if spelling.empty_custom == "null" else _Verbatim({"key": ""})
            fields["custom_parameters"] = none
        return self._numbered("start", fields)

    def media(self, payload: bytes, timestamp_ms: int) -> str:
        """The caller's audio.

        Args:
            payload: PCM16LE mono at the line's rate, or G.711 if the spelling's encoding says so.
            timestamp_ms: Time of the payload's first sample since the stream began.
        """
        self._chunk += 1
        fields: dict[str, Any] = {
            "chunk": self._number(self._chunk),
            "timestamp": self._number(timestamp_ms),
            self.spelling.payload: _written(payload, self.spelling.base64),
        }
        if self.spelling.extras:
            fields["track"] = "inbound"
        return self._numbered("media", fields)

    def dtmf(self, digit: str, duration_ms: int = 100) -> str:
        """The caller pressed a key."""
        if self.spelling.flat_dtmf:
            return to_json({"event": "dtmf", "digit": digit})
        return self._numbered("dtmf", {"digit": digit, "duration": self._number(duration_ms)})

    def mark(self, name: str) -> str:
        """The phone has played all audio before one of our marks."""
        return self._numbered("mark", {"name": name})

    def clear(self) -> str:
        """A ``clear`` from Exotel: undocumented in this direction, but observed."""
        return to_json(self._spelt({"event": "clear", "stream_sid": self.stream_sid}))

    def stop(self, *, call_sid: str, account_sid: str = "exotel", reason: str = "callended") -> str:
        """The stream ends."""
        return self._numbered("stop", {"call_sid": call_sid, "account_sid": account_sid, "reason": reason})

    def _numbered(self, event: str, fields: dict[str, Any]) -> str:
        self._sequence += 1
        top: dict[str, Any] = {
            "event": event,
            "sequence_number": self._number(self._sequence),
            "stream_sid": self.stream_sid,
        }
        top |= fields if self.spelling.flat else {event: fields}
        return to_json(self._spelt(top))

    def _number(self, value: int) -> int | str:
        return str(value) if self.spelling.text_numbers else value

    def _spelt(self, fields: dict[str, Any]) -> dict[str, Any]:
        if not self.spelling.camel_case:
            return fields
        return {
            _camel(name): self._spelt(value) if type(value) is dict else value
            for name, value in fields.items()
        }


class _Verbatim(dict[str, str]):
    """An object with the customer's own names, which are never respelt."""


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _written(payload: bytes, how: Base64) -> str:
    match how:
        case Base64.PADDED:
            return encode(payload)
        case Base64.UNPADDED:
            return encode(payload).rstrip("=")
        case Base64.TRAILING_JUNK:
            return encode(payload) + "\r\n"
        case Base64.ODD_LENGTH:
            return encode(payload + b"\x7f")
