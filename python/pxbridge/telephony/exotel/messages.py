"""Exotel's JSON messages, both directions, without I/O.

Exotel's documentation, its samples and its live streams spell the same field in several ways. So a field is
looked up by its folded name (``stream_sid`` = ``streamSid`` = ``Stream-SID``), first in the event's nested
object, then at the top level. `parse` never raises: an unreadable message becomes `Malformed`, which is
counted.

Audio of a call does not go through this module: Rust reads and writes ``media`` in one step. `Media` and its
builders serve the simulated phone and the tests.
"""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import json
import math
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pxbridge.telephony.carrier import Encoding

LINE_RATES_HZ: Final = (8000, 16000, 24000)
"""The sample rates that Exotel's streams can have."""
DEFAULT_LINE_RATE_HZ: Final = 8000

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""Exotel's largest payload is 100 kB, which is 134 kB in base64. The rest is for the JSON around it."""

_MAX_SID_CHARS: Final = 128  # Exotel's SIDs have 32 to 40
_MAX_VALUE_CHARS: Final = 2048  # a custom parameter came from a URL of at most 600 characters
_MAX_CUSTOM_PARAMETERS: Final = 64
_MAX_EVENT_CHARS: Final = 64
_MAX_TRACKS: Final = 4
_MAX_INTEGER: Final = 2**63 - 1  # a larger number is not a counter

_BOM: Final = "\ufeff"
_DTMF_DIGITS: Final = frozenset("0123456789*#ABCD")
NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


class StopReason(enum.Enum):
    """Why the stream ended, according to Exotel's wording."""

    MOVED_ON = "stopped"
    """The call goes on with the flow's next applet."""
    HUNG_UP = "callended"
    """The call is over."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Connected:
    """The first message of a stream."""

    protocol: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """The stream begins: the two numbers, and the format of the audio.

    Attributes:
        caller: Exotel's ``from``.
        called: Exotel's ``to``.
        custom: Custom parameters that have a value; names as sent.
        encoding: The encoding as sent; `payload_encoding` interprets it.
        sample_rate: The rate in ``media_format``, as sent; `line_rate` interprets it.
        tracks: The tracks that the stream carries, as sent; empty if it names none.
    """

    stream_sid: str = ""
    call_sid: str = ""
    leg_sid: str = ""
    account_sid: str = ""
    caller: str = ""
    called: str = ""
    custom: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS, hash=False)
    encoding: str = ""
    sample_rate: str = ""
    bit_rate: str = ""
    tracks: tuple[str, ...] = ()
    sequence: int | None = None

    @property
    def call_id(self) -> str:
        """The call's identifier: its SID, else its leg's, else the stream's."""
        return self.call_sid or self.leg_sid or self.stream_sid


@dataclass(frozen=True, slots=True)
class Media:
    """Audio.

    Attributes:
        payload: Decoded bytes, up to the first character that is not base64.
        malformed: Whether the payload had such a character, or was missing.
    """

    stream_sid: str = ""
    sequence: int | None = None
    chunk: int | None = None
    timestamp_ms: int | None = None
    payload: bytes = b""
    malformed: bool = False


@dataclass(frozen=True, slots=True)
class Dtmf:
    """A key the caller pressed: one of ``0123456789*#ABCD``."""

    digit: str
    duration_ms: int | None = None
    stream_sid: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """All audio that was sent before the mark of this name has been played."""

    name: str
    stream_sid: str = ""


@dataclass(frozen=True, slots=True)
class Clear:
    """Drop the audio that is queued and not yet playing."""

    stream_sid: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """The stream has ended.

    Attributes:
        wording: The reason as sent.
    """

    reason: StopReason = StopReason.UNKNOWN
    wording: str = ""
    call_sid: str = ""
    account_sid: str = ""
    stream_sid: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event of an unknown name. It is counted and ignored."""

    event: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is not in Exotel's format. It is counted and ignored."""

    reason: str


Event = Connected | Start | Media | Dtmf | Mark | Clear | Stop | Unknown | Malformed


def parse(message: bytes | str) -> Event:
    """Read one message. Never raises: a message that it cannot read is `Unknown` or `Malformed`."""
    if len(message) > MAX_MESSAGE_BYTES:
        return Malformed(f"{len(message)} is more than {MAX_MESSAGE_BYTES} bytes")
    # Invalid UTF-8 in a caller's name must not end the call.
    text = (
        message if isinstance(message, str) else message.decode("utf-8", errors="replace").removeprefix(_BOM)
    )
    try:
        top = json.loads(text)
        if not isinstance(top, dict):
            return Malformed("not a JSON object")
        return _event(top)
    except RecursionError:
        return Malformed("nested too deeply")
    except ValueError:  # JSONDecodeError, and integers of thousands of digits
        return Malformed("not JSON")


def parse_rate(value: object) -> int | None:
    """A sample rate in Hz, read from ``8000``, ``"8000"``, ``"8000Hz"``, ``"16kHz"`` or ``"16k"``; else
    ``None``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    match = _RATE.fullmatch(str(value)[:_MAX_EVENT_CHARS].strip())
    if match is None:
        return None
    return round(float(match["number"]) * (1000 if match["kilo"] else 1))


_RATE: Final = re.compile(
    r"(?P<number>[0-9]{1,7}(\.[0-9]{1,3})?) ?(?P<kilo>k)?(hz)?", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True, slots=True)
class LineRate:
    """The sample rate that is used for a stream.

    Attributes:
        source: Where the rate was found: ``url``, ``media_format``, ``custom_parameters`` or ``default``.
        notes: Rates that could not be used, one sentence each; for the log.
    """

    rate_hz: int
    source: str
    notes: tuple[str, ...] = ()


def line_rate(url_rate: object, start: Start) -> LineRate:
    """The line's sample rate: the first valid one of URL, start message, custom parameter, and 8000.

    Args:
        url_rate: The value of ``sample-rate`` or ``sample_rate`` in the URL's query, or ``None``.
        start: The stream's `Start`.
    """
    custom = next((v for k, v in start.custom.items() if _fold(k) == "samplerate"), None)
    notes: list[str] = []
    said = (("url", url_rate), ("media_format", start.sample_rate or None), ("custom_parameters", custom))
    for source, value in said:
        if value is None:
            continue
        rate_hz = parse_rate(value)
        if rate_hz in LINE_RATES_HZ:
            return LineRate(rate_hz, source, tuple(notes))
        notes.append(f"{source} says {str(value)[:_MAX_EVENT_CHARS]!r}, which is not a sample rate of Exotel")
    return LineRate(DEFAULT_LINE_RATE_HZ, "default", tuple(notes))


_G711: Final[tuple[tuple[re.Pattern[str], Encoding], ...]] = (
    # audio/basic: RFC 2046 §4.3. G711U and G711A: exchanges and telephones.
    (re.compile("mu-?law|[uµμ]-?law|pcmu(?![a-z])|g-?711-?(?:mu|[uµμ])(?![a-z])|audio/basic"), "mulaw"),
    (re.compile("(?<![a-z])a-?law|pcm-?a-?law|pcma(?![a-z])|g-?711-?a(?![a-z])"), "alaw"),
)
_LINEAR: Final = re.compile("raw|slin|linear|lpcm|pcm|l16|s16|base64")
_OTHER_CODECS: Final = tuple(
    (re.compile(f"(?<![a-z0-9])(?:{pattern})"), name)
    for pattern, name in (
        ("g-?711", "G.711 without its law"),
        ("g-?722", "G.722"),
        ("g-?723", "G.723.1"),
        ("g-?726", "G.726"),
        ("g-?728", "G.728"),
        ("g-?729", "G.729"),
        ("opus", "Opus"),
        ("amr", "AMR"),
        ("gsm", "GSM"),
        ("evs", "EVS"),
        ("ilbc", "iLBC"),
        ("isac", "iSAC"),
        ("speex", "Speex"),
        ("silk", "SILK"),
        ("mp3|mpeg", "MP3"),
        ("aac", "AAC"),
        ("vorbis", "Vorbis"),
        ("flac", "FLAC"),
        ("adpcm|dvi-?4", "ADPCM"),
        # The words are FFmpeg's and RFC 3551's. "L16" itself is little-endian here, as Exotel sends it.
        ("(?:pcm-?)?[suif](?:8|24|32|64)(?![0-9])|l(?:8|20|24)(?![0-9])|float", "PCM that has not 16 bits"),
        ("(?:pcm-?)?s16-?be", "big-endian PCM"),
    )
)


@dataclass(frozen=True, slots=True)
class PayloadEncoding:
    """The encoding that is used for a stream's payloads.

    Attributes:
        notes: A word that is not known, as a sentence for the log.
        refusal: Why payloads of this encoding cannot be read, as a sentence; empty if they can.
    """

    encoding: Encoding = "pcm16"
    notes: tuple[str, ...] = ()
    refusal: str = ""


def payload_encoding(sent: str) -> PayloadEncoding:
    """Interprets the encoding in ``media_format``.

    Exotel sends PCM16LE mono and has many names for it. So a word that names no codec means that, too. G.711
    has several names as well: ``audio/x-mulaw``, ``PCMU``, ``audio/x-alaw``, ``pcma``.
    """
    folded = sent.lower().replace("_", "-").replace(" ", "-").replace(".", "")
    for pattern, encoding in _G711:
        if pattern.search(folded):
            return PayloadEncoding(encoding)
    shown = repr(sent[:_MAX_EVENT_CHARS])
    for pattern, name in _OTHER_CODECS:
        if pattern.search(folded):
            refusal = f"the phone sends {name} (encoding {shown}): use linear PCM, mu-law or A-law"
            return PayloadEncoding(refusal=refusal)
    if folded and not _LINEAR.search(folded):
        note = f"the encoding {shown} is not known, so payloads are read as 16-bit PCM"
        return PayloadEncoding(notes=(note,))
    return PayloadEncoding()


def other_tracks(tracks: tuple[str, ...]) -> tuple[str, ...]:
    """A note if the stream carries more than the caller's track, as a sentence for the log."""
    others = [track for track in tracks if _fold(track) != "inbound"]
    if not others:
        return ()
    named = ", ".join(others)
    if len(others) == len(tracks):
        return (f"the stream carries only the track {named}: nothing of the caller will be heard",)
    return (f"the stream also carries the track {named}, which is left out",)


# Reading


def _event(top: dict[str, Any]) -> Event:
    name = next((value for key, value in top.items() if _fold(key) == "event"), None)
    if not isinstance(name, str) or not name:
        return Malformed("no event")
    read = _READERS.get(_fold(name))
    if read is None:
        return Unknown(_text(name, _MAX_EVENT_CHARS))
    return read(_Fields(top, _fold(name)))


class _Fields:
    """One message's fields by folded name. Those of its nested object take precedence over the top level."""

    def __init__(self, top: dict[str, Any], nested: str) -> None:
        outer = _folded(top)
        inner = outer.pop(nested, None)
        self.bare = inner if isinstance(inner, str) else None  # {"event": "mark", "mark": "greeting"}
        self._places = (_folded(inner), outer) if isinstance(inner, dict) else (outer,)

    def get(self, name: str) -> Any:
        """The first value under this folded name that is not null or empty."""
        for place in self._places:
            value = place.get(name)
            if value is not None and value != "":
                return value
        return None

    def sid(self, name: str) -> str:
        return _text(self.get(name), _MAX_SID_CHARS)

    def text(self, name: str) -> str:
        return _text(self.get(name), _MAX_VALUE_CHARS)

    def integer(self, name: str) -> int | None:
        return _integer(self.get(name))


def _read_connected(fields: _Fields) -> Event:
    return Connected(protocol=fields.sid("protocol"), version=fields.sid("version"))


def _read_start(fields: _Fields) -> Event:
    media_format = fields.get("mediaformat")
    audio = _Fields(media_format, "") if isinstance(media_format, dict) else fields
    return Start(
        stream_sid=fields.sid("streamsid"),
        call_sid=fields.sid("callsid"),
        leg_sid=fields.sid("legsid"),
        account_sid=fields.sid("accountsid"),
        caller=fields.sid("from"),
        called=fields.sid("to"),
        custom=_custom(fields.get("customparameters")),
        encoding=audio.sid("encoding"),
        sample_rate=audio.sid("samplerate"),
        bit_rate=audio.sid("bitrate"),
        tracks=_tracks(fields.get("tracks")),
        sequence=fields.integer("sequencenumber"),
    )


def _tracks(sent: object) -> tuple[str, ...]:
    """The names in ``tracks``: a list, or one name."""
    names = sent if isinstance(sent, list) else [sent]
    return tuple(filter(None, (_text(name, _MAX_EVENT_CHARS) for name in names[:_MAX_TRACKS])))


def _read_media(fields: _Fields) -> Event:
    payload, clean = _decode(fields.get("payload"))
    return Media(
        stream_sid=fields.sid("streamsid"),
        sequence=fields.integer("sequencenumber"),
        chunk=fields.integer("chunk"),
        timestamp_ms=fields.integer("timestamp"),
        payload=payload,
        malformed=not clean,
    )


def _read_dtmf(fields: _Fields) -> Event:
    digit = (_text(fields.bare or fields.get("digit"), _MAX_EVENT_CHARS)).upper()
    if digit not in _DTMF_DIGITS:
        return Malformed("dtmf without one digit")
    return Dtmf(digit, duration_ms=fields.integer("duration"), stream_sid=fields.sid("streamsid"))


def _read_mark(fields: _Fields) -> Event:
    name = _text(fields.bare or fields.get("name"), _MAX_VALUE_CHARS)
    return Mark(name, stream_sid=fields.sid("streamsid"))


def _read_clear(fields: _Fields) -> Event:
    return Clear(stream_sid=fields.sid("streamsid"))


def _read_stop(fields: _Fields) -> Event:
    wording = _text(fields.bare, _MAX_VALUE_CHARS) or fields.text("reason")
    return Stop(
        reason=_STOP_REASONS.get(_fold(wording), StopReason.UNKNOWN),
        wording=wording,
        call_sid=fields.sid("callsid") or fields.sid("legsid"),
        account_sid=fields.sid("accountsid"),
        stream_sid=fields.sid("streamsid"),
    )


_READERS: Final = {
    "connected": _read_connected,
    "start": _read_start,
    "media": _read_media,
    "dtmf": _read_dtmf,
    "mark": _read_mark,
    "clear": _read_clear,
    "stop": _read_stop,
}

# ``closed`` is also seen. It says that the stream closed, not why.
_STOP_REASONS: Final = {
    "stopped": StopReason.MOVED_ON,
    "callended": StopReason.HUNG_UP,
    "callend": StopReason.HUNG_UP,
}


def _fold(name: str) -> str:
    """A field's name without what Exotel spells now one way and now another."""
    return _fold_known(name) if len(name) <= _MAX_KNOWN_NAME_CHARS else _fold_any(name)


def _fold_any(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


_fold_known: Final = functools.lru_cache(maxsize=256)(_fold_any)
_MAX_KNOWN_NAME_CHARS: Final = 32
"""Longer names are not remembered, because the peer chooses them."""


def _folded(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` by folded name. If a field has several spellings, the first one with a value is used."""
    folded: dict[str, Any] = {}
    for name, value in fields.items():
        key = _fold(name)
        if folded.get(key) in (None, ""):
            folded[key] = value
    return folded


def _text(value: object, max_chars: int) -> str:
    """A scalar as one printable line, because it is logged and sent back."""
    if value is None or isinstance(value, dict | list | bool):
        return ""
    text = str(value)[:max_chars]  # truncated first, to bound the work
    if not text.isprintable():  # lone surrogates are not
        text = "".join(c if c.isprintable() else " " for c in text)
    return text.strip()


def _integer(value: object) -> int | None:
    if isinstance(value, str):
        digits = value.strip()
        if not re.fullmatch(r"[0-9]{1,19}", digits, re.ASCII):
            return None
        value = int(digits)
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _MAX_INTEGER else None


def _custom(value: object) -> Mapping[str, str]:
    """Custom parameters that have a value. Exotel sends ``{"key": ""}`` if there are none."""
    if isinstance(value, str):
        value = _custom_text(value[:MAX_MESSAGE_BYTES])
    if not isinstance(value, dict):
        return NO_PARAMETERS
    custom: dict[str, str] = {}
    for name, content in value.items():
        if len(custom) == _MAX_CUSTOM_PARAMETERS:
            break
        key, text = _text(name, _MAX_SID_CHARS), _text(content, _MAX_VALUE_CHARS)
        if key and text:
            custom[key] = text
    return MappingProxyType(custom) if custom else NO_PARAMETERS


def _custom_text(value: str) -> object:
    """Custom parameters that were sent as a string: a JSON object, or a query string."""
    if value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    try:
        return dict(parse_qsl(value, max_num_fields=_MAX_CUSTOM_PARAMETERS))
    except ValueError:
        return None


_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*")


def _decode(payload: object) -> tuple[bytes, bool]:
    """The bytes of a base64 text up to the first invalid character, and whether the whole text was valid."""
    if not isinstance(payload, str):
        return b"", False
    text = payload.strip()
    found = _BASE64.match(text)
    digits = found[0] if found else ""
    clean = not text[len(digits) :].strip("=")
    if len(digits) % 4 == 1:  # the last 6 bits are not a byte
        digits, clean = digits[:-1], False
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4)), clean
    except binascii.Error:
        return b"", False


# Building: us → Exotel


def media(stream_sid: str, payload: bytes, *, sequence: int, chunk: int, timestamp_ms: int) -> str:
    """Audio for the caller. In a real call, Rust builds this message.

    Args:
        stream_sid: The SID of the stream, from its `Start`.
        payload: A multiple of 320 bytes; otherwise the caller hears a gap of 20 ms.
        sequence: Number of this message among all messages of the stream, from 1.
        chunk: Number of this message among the stream's media messages, from 1.
        timestamp_ms: Time of the payload's first sample since the stream began.
    """
    audio = {"chunk": str(chunk), "timestamp": str(timestamp_ms), "payload": encode(payload)}
    return to_json(
        {"event": "media", "stream_sid": stream_sid, "sequence_number": str(sequence), "media": audio}
    )


def mark(stream_sid: str, name: str) -> str:
    """Ask Exotel to send a mark back when all audio sent so far has been played."""
    return to_json({"event": "mark", "stream_sid": stream_sid, "mark": {"name": name}})


def clear(stream_sid: str) -> str:
    """Ask Exotel to drop its queued audio."""
    return to_json({"event": "clear", "stream_sid": stream_sid})


def encode(payload: bytes) -> str:
    """A payload in base64."""
    return base64.b64encode(payload).decode("ascii")


def to_json(message: dict[str, Any]) -> str:
    """A message as text, without spaces."""
    return json.dumps(message, separators=(",", ":"))
