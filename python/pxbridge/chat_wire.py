"""PersonaPlex's protocol: binary WebSocket messages of `GET /api/chat`, parsed and built without a socket.

A message is one byte for its kind, then a payload. Moshi's protocol has seven kinds. NVIDIA's server sends
three of them (handshake, audio, text) and reads one (audio).
"""

from __future__ import annotations

import codecs
import enum
import json
import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT_PATH: Final = "/api/chat"
ENGINE_HZ: Final = 24_000
"""The sample rate of the audio in both directions."""
FRAME_SAMPLES: Final = 1920
"""The model's step: it reads and writes 80 ms at a time."""
FRAME_S: Final = FRAME_SAMPLES / ENGINE_HZ

_FAMILIES: Final = (("NATF", 4), ("NATM", 4), ("VARF", 5), ("VARM", 5))
NVIDIAS_VOICES: Final = tuple(f"{family}{n}.pt" for family, count in _FAMILIES for n in range(count))
"""The voices that come with PersonaPlex: natural or varied, female or male."""


class Kind(enum.IntEnum):
    """The kind of a message: its first byte."""

    HANDSHAKE = 0
    """From the engine, once: it has read its prompts, and audio may be sent."""
    AUDIO = 1
    """In both directions: bytes of an Ogg Opus stream, mono, 24 kHz."""
    TEXT = 2
    """From the engine: a piece of the agent's text, in UTF-8."""
    CONTROL = 3
    METADATA = 4
    """JSON."""
    ERROR = 5
    """An error message for people, in UTF-8."""
    PING = 6


class Frame(NamedTuple):
    """One parsed message."""

    kind: Kind
    payload: bytes


_KINDS: Final = {int(kind): kind for kind in Kind}


class FrameReader:
    """Parses messages. Invalid messages are counted and skipped, without an error.

    Attributes:
        unknown: Number of messages of an unknown kind.
        empty: Number of empty messages.
    """

    __slots__ = ("empty", "unknown")

    def __init__(self) -> None:
        self.unknown = 0
        self.empty = 0

    def read(self, message: bytes) -> Frame | None:
        """Returns the message's kind and payload, or None for an invalid message."""
        if not message:
            self.empty += 1
            return None
        kind = _KINDS.get(message[0])
        if kind is None:
            self.unknown += 1
            return None
        return Frame(kind, message[1:])


# SentencePiece writes a space as U+2581. NVIDIA's server replaces it by a space. Other servers of Moshi's
# protocol do not.
_SPACE_MARK: Final = "\u2581"
# SentencePiece spells a character without a piece of its own in bytes: "é" may come as <0xC3>, <0xA9>.
_BYTE_PIECE: Final = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


class TextReader:
    """Decodes text payloads: space marks become spaces, and byte pieces become characters.

    A character that is spelled or split over several messages is returned with the last of them. One reader
    serves one session.
    """

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, payload: bytes) -> str:
        """Returns the text that a payload adds to the transcript: a word and space, a part, or nothing."""
        byte = _BYTE_PIECE.fullmatch(payload)
        piece = self._bytes.decode(payload if byte is None else bytes([int(byte[1], 16)]))
        return piece.replace(_SPACE_MARK, " ")


def handshake() -> bytes:
    """Builds a handshake: the engine has read its prompts."""
    return b"\x00"


def audio(ogg: bytes) -> bytes:
    """Builds an audio message from bytes of the sender's Ogg Opus stream."""
    return b"\x01" + ogg


def text(piece: str) -> bytes:
    """Builds a text message as NVIDIA's server sends it: space marks become spaces."""
    return b"\x02" + piece.replace(_SPACE_MARK, " ").encode()


def metadata(value: object) -> bytes:
    """Builds a metadata message from a value that JSON can represent."""
    return b"\x04" + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def queue_place(payload: bytes) -> int | None:
    """Returns the place in an engine's line, 1 for the next, of a metadata payload that tells it.

    `pxbridge engine` sends ``{"queue": {"place": 2}}``. Returns None for any other metadata.
    """
    try:
        place = json.loads(payload)["queue"]["place"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    is_place = isinstance(place, int) and not isinstance(place, bool) and place >= 1
    return place if is_place else None


def error(message: str) -> bytes:
    """Builds an error message: why the engine cannot continue, for people."""
    return b"\x05" + message.encode()


def ping() -> bytes:
    """Builds a ping, the keep-alive of Moshi's protocol. NVIDIA's server ignores it."""
    return b"\x06"


MOST_TEMPERATURE: Final = 10.0
MOST_TOP_K: Final = 500
"""`pxbridge.personaplex.stepper.MAX_TOP_K`."""
MOST_SEED: Final = 2**63 - 1
ANY_SEED: Final = -1
"""The seed of clients that want none."""

SAMPLING: Final = {
    "text_temperature": 0.7,
    "text_topk": 25,
    "audio_temperature": 0.8,
    "audio_topk": 250,
    "seed": ANY_SEED,
}
"""Parameters of a session that say how the model draws its tokens, each with its default."""


def sampling_query(given: Mapping[str, str]) -> str:
    """Checks how tokens are to be drawn, and returns it as a query. What is the default is left out.

    So sessions that differ in nothing have equal queries, and clients that always send the defaults get
    sessions that were prompted ahead.

    Args:
        given: The parameters of `SAMPLING`, as they were written; others are ignored.

    Raises:
        ValueError: A value cannot be used. The text names it and says what can.
    """
    chosen: dict[str, str] = {}
    for name, default in SAMPLING.items():
        written = given.get(name, "").strip()
        if not written:
            continue
        value = _number(name, written)
        if value != default:
            chosen[name] = f"{value:.10g}" if isinstance(value, float) else str(value)
    return urlencode(chosen)


def _number(name: str, written: str) -> float | int:
    least, most = {"seed": (ANY_SEED, MOST_SEED)}.get(name, (1, MOST_TOP_K))
    if name.endswith("_temperature"):
        if _DECIMAL.fullmatch(written) and float(written) <= MOST_TEMPERATURE:
            return float(written)
        raise ValueError(
            f"{name} is {written[:_SHOWN_CHARS]!r}, and no number from 0 to {MOST_TEMPERATURE:g}"
        )
    if _WHOLE.fullmatch(written) and least <= int(written) <= most:
        return int(written)
    raise ValueError(f"{name} is {written[:_SHOWN_CHARS]!r}, and no whole number from {least} to {most}")


_DECIMAL: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{0,40})?|\.[0-9]{1,40}")
_WHOLE: Final = re.compile(r"-?[0-9]{1,20}")
_SHOWN_CHARS: Final = 40


def chat_url(
    url: str, voice_prompt: str, text_prompt: str, *, sampling: str = "", queue: bool = False
) -> str:
    """Returns the URL for one session.

    Both prompts are mandatory. NVIDIA's server accepts a client without one, then crashes the session.

    Args:
        url: The engine's URL, `wss://host:8998/api/chat`. Its query is kept, for example a proxy's token.
        voice_prompt: A voice that the engine has: `NATF0.pt`, or a `.wav` file on the engine.
        text_prompt: Who the agent is. The server wraps it in `<system>` tags.
        sampling: How tokens are drawn (`sampling_query`). Only `pxbridge engine` knows this.
        queue: Whether to wait in line if the engine is full. Only `pxbridge engine` knows this.

    Raises:
        ValueError: A prompt is empty, or the URL sets a prompt, a seed or the queue.
    """
    if not voice_prompt.strip():
        raise ValueError("voice_prompt is empty, which crashes NVIDIA's server; try NATF0.pt")
    if not text_prompt.strip():
        raise ValueError("text_prompt is empty, which crashes NVIDIA's server; say who the agent is")
    parts = urlsplit(url)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name in _RESERVED:
            raise ValueError(f"an engine's URL cannot set {name}: {_RESERVED[name]}")
    prompts = urlencode({"voice_prompt": voice_prompt, "text_prompt": text_prompt})
    query = "&".join(filter(None, (parts.query, prompts, sampling, "queue=1" if queue else "")))
    return urlunsplit(parts._replace(query=query, fragment=""))


_RESERVED: Final = {
    "voice_prompt": "it comes with each session",
    "text_prompt": "it comes with each session",
    "seed": "it crashes the session in NVIDIA's server",
    "queue": "the bridge asks for it when all engines are full",
}
