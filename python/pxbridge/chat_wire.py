"""PersonaPlex's wire: binary WebSocket messages of `GET /api/chat`, read and built without a socket.

The one idea: a message is a first byte that says what it is, and a payload. Moshi's protocol has seven kinds;
NVIDIA's server sends three of them (handshake, audio, text) and reads one (audio).
"""

from __future__ import annotations

import codecs
import enum
import json
import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

CHAT_PATH: Final = "/api/chat"


class Kind(enum.IntEnum):
    """What a message is: its first byte."""

    HANDSHAKE = 0
    """From the engine, once: its prompts are read, the caller's audio may come."""
    AUDIO = 1
    """Either way: bytes of one Ogg Opus stream, mono, 24 kHz."""
    TEXT = 2
    """From the engine: a UTF-8 piece of what the agent says."""
    CONTROL = 3
    METADATA = 4
    """JSON."""
    ERROR = 5
    """UTF-8, for people."""
    PING = 6


class Frame(NamedTuple):
    """One message, taken apart."""

    kind: Kind
    payload: bytes


_KINDS: Final = {int(kind): kind for kind in Kind}


class FrameReader:
    """Takes messages apart; what cannot be one is counted and skipped, never raised.

    Attributes:
        unknown: Messages whose first byte is none of ours.
        empty: Messages without a first byte.
    """

    __slots__ = ("empty", "unknown")

    def __init__(self) -> None:
        self.unknown = 0
        self.empty = 0

    def read(self, message: bytes) -> Frame | None:
        """Returns the message's kind and payload, or None where there is nothing to act on."""
        if not message:
            self.empty += 1
            return None
        kind = _KINDS.get(message[0])
        if kind is None:
            self.unknown += 1
            return None
        return Frame(kind, message[1:])


# sentencepiece writes a space as U+2581. NVIDIA's server has turned it into a space already, other servers of
# Moshi's protocol have not.
_SPACE_MARK: Final = "\u2581"
# What sentencepiece has no piece for, it spells byte by byte: "é" may come as <0xC3>, <0xA9>.
_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TextReader:
    """Puts text payloads together: spaces for sentencepiece's marks, characters for its byte pieces.

    A character spelled in several messages comes out with the last of them.
    """

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, payload: bytes) -> str:
        """Returns what the piece adds to the transcript: a word with its space, a syllable, maybe nothing."""
        piece = payload.decode("utf-8", errors="replace")
        byte = _BYTE_PIECE.fullmatch(piece)
        if byte is not None:
            return self._bytes.decode(bytes([int(byte[1], 16)]))
        broken_off = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return broken_off + piece.replace(_SPACE_MARK, " ")


def handshake() -> bytes:
    """The engine is ready."""
    return b"\x00"


def audio(ogg: bytes) -> bytes:
    """Some bytes of the sender's Ogg Opus stream."""
    return b"\x01" + ogg


def text(piece: str) -> bytes:
    """A piece of what the agent says, as NVIDIA's server sends it: marks turned into spaces."""
    return b"\x02" + piece.replace(_SPACE_MARK, " ").encode()


def metadata(value: object) -> bytes:
    """Anything that JSON can hold."""
    return b"\x04" + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error(message: str) -> bytes:
    """Why the engine cannot go on, for people."""
    return b"\x05" + message.encode()


def ping() -> bytes:
    """Moshi's own keep-alive; NVIDIA's server ignores it."""
    return b"\x06"


def chat_url(url: str, voice_prompt: str, text_prompt: str) -> str:
    """Returns what to connect to for one session.

    Both prompts are mandatory: NVIDIA's server accepts a client without one, then crashes its session.

    Args:
        url: The engine's, `wss://host:8998/api/chat`. Its query is kept (a proxy's token, say).
        voice_prompt: A voice the engine has: `NATF0.pt`, or a `.wav` of its own.
        text_prompt: Who the agent is. The server wraps it in `<system>` itself.

    Raises:
        ValueError: A prompt is empty, or the URL sets a prompt or a seed.
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
    query = "&".join(filter(None, (parts.query, prompts)))
    return urlunsplit(parts._replace(query=query, fragment=""))


_RESERVED: Final = {
    "voice_prompt": "it comes with each session",
    "text_prompt": "it comes with each session",
    "seed": "it crashes the session in NVIDIA's server",
}
