"""Checks whether an engine speaks PersonaPlex's protocol: one suite, for any URL.

It holds a few short conversations in the ways of the bridge, `sphn` and browsers. A reader as strict as the
strictest of these checks every byte that comes back. An engine with one slot gets one conversation at a time.
An engine with more slots needs only one free slot.

The behaviour of NVIDIA's server is not reported as a fault, because every client has to accept it. It is
noted where other engines do better.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np

from pxbridge import chat_wire, websocket
from pxbridge.audio import OggOpusReader, OggOpusWriter
from pxbridge.chat_wire import FRAME_SAMPLES
from pxbridge.doctor.finding import Finding, good, note, wrong
from pxbridge.simulation.strict_ogg import ENGINE_RATE_HZ, PageReader
from pxbridge.wording import lasted, os_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from numpy.typing import NDArray

    from pxbridge.engines.address import EngineAddress
    from pxbridge.websocket import Closed

    Pcm = NDArray[np.float32]

PROMPTS_S: Final = 60.0
"""How long the handshake may take: for a long prompt, or another client's conversation on NVIDIA's server."""
ANSWER_S: Final = 5.0
QUIET_S: Final = 1.0
REFUSAL_S: Final = 3.0
"""An engine that does not refuse at once, and says nothing, will say nothing."""
TALK_FRAMES: Final = 25
SLOW_S: Final = 0.25
"""If the median answer is later than this, the engine is overloaded or far away."""

_SPOILT: Final = (
    "lost_pages",
    "backward_pages",
    "crc_errors",
    "junk_bytes",
    "broken_packets",
    "malformed_packets",
)
"""Counters of `OggOpusReader` that stay at 0 on a stream that is whole."""

_BYTE_PIECE: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Target:
    """The engine that is looked at.

    Attributes:
        engine: Where it is, and how it is trusted.
        voice: A voice that it has.
        text: A text prompt.
        token: Shown as a bearer token.
    """

    engine: EngineAddress
    voice: str = "NATF0.pt"
    text: str = "You enjoy having a good conversation."
    token: str | None = None

    def url(self, query: Mapping[str, str] | None = None) -> str:
        """What a client connects to."""
        asked = {"voice_prompt": self.voice, "text_prompt": self.text} if query is None else query
        parts = urlsplit(self.engine.url)
        return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(asked))))))


class _NotSo(Exception):
    """What was expected did not happen; the text says what did."""


async def examine_wire(target: Target) -> AsyncIterator[Finding]:
    """Checks everything, and yields each finding when it is known."""
    for name, check in _CHECKS:
        try:
            yield good(name, await check(target))
        except _Noted as told:
            yield note(name, str(told))
        except _NotSo as told:
            yield wrong(name, str(told), _MEND)
        except websocket.HandshakeRefused as told:
            yield wrong(name, f"it refuses: {told}", _MEND)
        except (OSError, websocket.HandshakeFailed) as told:
            why = os_problem(told) if isinstance(told, OSError) else str(told)
            yield wrong(name, f"no conversation: {why}", _MEND)


_MEND: Final = "see docs/engine.md for what PersonaPlex's clients expect of an engine"


class _Noted(Exception):
    """Worth knowing, and no fault."""


@dataclass(eq=False)
class _Client:
    """A client of the protocol that keeps everything that it receives."""

    socket: websocket.WebSocket
    kinds: list[int] = field(default_factory=list)
    handshakes: int = 0
    ogg: list[bytes] = field(default_factory=list)
    text: list[bytes] = field(default_factory=list)
    strict: PageReader = field(default_factory=PageReader)
    reader: OggOpusReader = field(default_factory=lambda: OggOpusReader(ENGINE_RATE_HZ))
    heard_samples: int = 0
    heard_s: float = 0.0
    closed: Closed | None = None
    writer: OggOpusWriter = field(default_factory=lambda: OggOpusWriter(ENGINE_RATE_HZ))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def listen(self) -> None:
        self.socket.on_message = self._take
        self.socket.on_close = self._gone

    def _take(self, message: bytes, is_text: bool) -> None:
        self._changed.set()
        self.kinds.append(-1 if is_text or not message else message[0])
        match self.kinds[-1]:
            case 0:
                self.handshakes += 1
            case 1:
                self.ogg.append(message[1:])
                self.strict.read(message[1:])
                self.heard_samples += len(self.reader.read(message[1:]))
                self.heard_s = asyncio.get_running_loop().time()
            case 2:
                self.text.append(message[1:])

    def _gone(self, closed: Closed) -> None:
        self.closed = closed
        self._changed.set()

    async def until(self, what: Callable[[], bool], within_s: float, expected: str) -> None:
        """Waits for something; raises _NotSo if it does not come."""
        try:
            async with asyncio.timeout(within_s):
                while not what():
                    if self.closed is not None:
                        how = f"{self.closed.code} {self.closed.reason}".strip()
                        raise _NotSo(f"it closed with {how} where {expected} was expected")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise _NotSo(f"{expected} did not come within {within_s:g} s") from None

    async def live(self, within_s: float = PROMPTS_S) -> None:
        await self.until(lambda: self.handshakes > 0, within_s, "a handshake")

    def send(self, ogg: bytes) -> None:
        self.socket.send(chat_wire.audio(ogg))

    async def heard(self, samples: int) -> None:
        """Waits for this many samples of the agent's sound."""
        wanted_s = samples / ENGINE_RATE_HZ
        try:
            await self.until(
                lambda: self.heard_samples >= samples, ANSWER_S, f"an answer of {wanted_s:.2f} s"
            )
        except _NotSo as told:
            raise _NotSo(f"{told}; {self.heard_samples / ENGINE_RATE_HZ:.2f} s came") from None


@contextlib.asynccontextmanager
async def _client(target: Target, query: Mapping[str, str] | None = None) -> AsyncIterator[_Client]:
    """A client that was let in. One that finds the engine full waits a moment: the last one's slot is
    freed.
    """
    headers = [] if target.token is None else [("Authorization", f"Bearer {target.token}")]
    tls = target.engine.tls_context
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + ANSWER_S
    while True:
        try:
            socket = await websocket.connect(
                target.url(query),
                ssl=tls,
                check_certificate=None if tls is None else target.engine.check_certificate,
                headers=headers,
            )
            break
        except websocket.HandshakeRefused as refused:
            if refused.status != 503 or query is not None or loop.time() > give_up_s:
                raise
            await asyncio.sleep(0.2)
    client = _Client(socket)
    client.listen()
    try:
        yield client
    finally:
        socket.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await socket.wait_closed()


def _speech(frames: int) -> Pcm:
    """A real voice, at the engine's rate."""
    spoken = OggOpusReader(ENGINE_RATE_HZ).read(
        (resources.files("pxbridge") / "assets" / "caller.ogg").read_bytes()
    )
    return np.resize(spoken, frames * FRAME_SAMPLES).astype(np.float32)


async def _say(client: _Client, pcm: Pcm, packet_samples: int = 480) -> float:
    """Sends this in real time, `packet_samples` in a message. Returns when the last message was sent."""
    loop = asyncio.get_running_loop()
    began_s = sent_s = loop.time()
    for start in range(0, len(pcm), packet_samples):
        client.send(client.writer.write(pcm[start : start + packet_samples]))
        sent_s = loop.time()
        due_s = began_s + (start + packet_samples) / ENGINE_RATE_HZ
        await asyncio.sleep(max(0.0, due_s - loop.time()))
    return sent_s


# The checks.


async def _handshake(target: Target) -> str:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with _client(target) as client:
        await client.live()
        if client.kinds[0] != 0:
            raise _NotSo(f"a message of kind {client.kinds[0]} came before the handshake")
        if client.handshakes != 1:
            raise _NotSo(f"{client.handshakes} handshakes came")
    return f"a handshake comes first, {loop.time() - began_s:.1f} s after the connection"


async def _sound(target: Target) -> str:
    async with _client(target) as client:
        await client.live()
        client.send(client.writer.headers())
        await _say(client, _speech(TALK_FRAMES))
        await client.heard((TALK_FRAMES - 1) * FRAME_SAMPLES)
        first = client.ogg[0]
        if b"OpusHead" not in first:
            raise _NotSo("its stream begins without its header page")
        if client.strict.deaf_because is not None:
            raise _NotSo(f"sphn 0.1 goes deaf on its stream: {client.strict.deaf_because}")
        if first[first.index(b"OpusHead") + 9] != 1:
            raise _NotSo("its stream is not mono")
        stats = client.reader.stats()
        spoilt = {name.replace("_", " "): stats[name] for name in _SPOILT if stats[name]}
        if spoilt or stats["streams"] != 1:
            told = ", ".join(f"{count} {name}" for name, count in spoilt.items())
            raise _NotSo(f"it sends {stats['streams']} streams, {told or 'where one is expected'}")
    return "its Ogg Opus stream can be read by the strictest of clients"


async def _clock(target: Target) -> str:
    async with _client(target) as client:
        await client.live()
        await asyncio.sleep(QUIET_S)
        if client.heard_samples:
            raise _NotSo(f"{client.heard_samples} samples came before the caller had said anything")
        client.send(client.writer.headers())
        await _say(client, _speech(TALK_FRAMES))
        await client.heard((TALK_FRAMES - 1) * FRAME_SAMPLES)
        await asyncio.sleep(QUIET_S)
        answered = client.heard_samples / FRAME_SAMPLES
        if abs(answered - TALK_FRAMES) > 1:
            raise _NotSo(f"it answered {TALK_FRAMES} frames of 80 ms with {answered:.1f}")
    return "it answers 80 ms for 80 ms, and nothing without a caller"


async def _pace(target: Target) -> str:
    waits_s: list[float] = []
    async with _client(target) as client:
        await client.live()
        client.send(client.writer.headers())
        pcm = _speech(TALK_FRAMES)
        await _say(client, pcm[: 5 * FRAME_SAMPLES])
        await client.heard(4 * FRAME_SAMPLES)
        await asyncio.sleep(QUIET_S)  # until all is answered that will be
        behind = client.heard_samples
        for n in range(5, TALK_FRAMES):
            asked_s = await _say(client, pcm[n * FRAME_SAMPLES : (n + 1) * FRAME_SAMPLES])
            behind += FRAME_SAMPLES
            await client.heard(behind)
            waits_s.append(client.heard_s - asked_s)
    median_s = float(np.median(waits_s))
    if median_s > SLOW_S:
        raise _NotSo(f"a frame is answered after {lasted(median_s)} at the median")
    return f"a frame is answered after {lasted(median_s)} at the median, {lasted(max(waits_s))} at most"


async def _packets(target: Target) -> str:
    async with _client(target) as client:
        await client.live()
        client.send(client.writer.headers())
        await _say(client, _speech(5), FRAME_SAMPLES)  # four pages a message
        halves = client.writer.write(_speech(5))
        for start in range(0, len(halves), 100):  # pages in pieces
            client.send(halves[start : start + 100])
        await client.heard(9 * FRAME_SAMPLES)
    return "it reads several pages in a message, and pages in several messages"


async def _long_packets(target: Target) -> str:
    async with _client(target) as client:
        await client.live()
        client.writer = OggOpusWriter(ENGINE_RATE_HZ, frame_ms=40.0, application="audio")
        client.send(client.writer.headers())
        await _say(client, _speech(10), 960)
        await client.heard(9 * FRAME_SAMPLES)
    return "it reads packets of 40 ms, as browsers send them"


async def _words(target: Target) -> str:
    async with _client(target) as client:
        await client.live()
        client.send(client.writer.headers())
        await _say(client, _speech(2 * TALK_FRAMES))
        await client.heard((2 * TALK_FRAMES - 1) * FRAME_SAMPLES)
        if not client.text:
            raise _Noted("it said no word in 4 s; whether its text is readable is not known")
        byte_pieces = 0
        for piece in client.text:
            try:
                read = piece.decode()
            except UnicodeDecodeError:
                raise _NotSo(f"a piece of its text is not UTF-8: {piece[:20]!r}") from None
            byte_pieces += _BYTE_PIECE.fullmatch(read) is not None
            if "\u2581" in read:
                raise _NotSo(f"SentencePiece's mark for a space is in its text: {read!r}")
    if byte_pieces:
        raise _Noted("it spells some characters as byte pieces, <0xE2>: clients show them so")
    return f"its text is UTF-8: {b''.join(client.text).decode()[:60].strip()!r}"


async def _odd_messages(target: Target) -> str:
    async with _client(target) as client:
        await client.live()
        client.send(client.writer.headers())
        await _say(client, _speech(3))
        for odd in (
            b"",
            b"\x00",
            b"\x02hm",
            b"\x03\x00",
            b"\x03\x01",
            b"\x04{}",
            b"\x05hm",
            b"\x06",
            b"\x07",
        ):
            client.socket.send(odd)
        client.socket.send(b"hello", text=True)
        await _say(client, _speech(5))
        await client.heard(7 * FRAME_SAMPLES)
    return "messages of other kinds, empty ones and text change nothing"


async def _again(target: Target) -> str:
    loop = asyncio.get_running_loop()
    async with _client(target) as client:
        await client.live()
    began_s = loop.time()
    async with _client(target) as client:
        await client.live()
    return f"who leaves gives the slot back: the next one is live after {loop.time() - began_s:.1f} s"


async def _early(target: Target) -> str:
    async with _client(target) as client:
        client.send(client.writer.headers())
        await _say(client, _speech(5))
        await client.live()
        await _say(client, _speech(5))
        try:
            await client.heard(4 * FRAME_SAMPLES)
        except _NotSo:
            raise _Noted(
                "it throws away what comes before its handshake, headers too: clients must wait"
            ) from None
    return "what is said before the handshake is not lost"


async def _refusals(target: Target) -> str:
    silent: list[str] = []
    closed: list[str] = []
    served: list[str] = []
    queries = {
        "no voice_prompt": {"text_prompt": target.text},
        "no text_prompt": {"voice_prompt": target.voice},
        "an unknown voice": {"voice_prompt": "no-such-voice.pt", "text_prompt": target.text},
        "a voice outside of its folder": {"voice_prompt": "../no-such-voice.pt", "text_prompt": target.text},
    }
    for what, query in queries.items():
        try:
            async with _client(target, query) as client:
                try:
                    await client.live(REFUSAL_S)
                    served.append(what)
                except _NotSo:
                    (silent if client.closed is None else closed).append(what)
        except websocket.HandshakeRefused as refused:
            if not 400 <= refused.status < 500:
                raise _NotSo(
                    f"{what} is answered with {refused.status}, which is no client's fault"
                ) from None
    if "a voice outside of its folder" in served:
        raise _NotSo("it takes a voice from outside of its folder")
    if silent:
        raise _NotSo(f"it says nothing to a client with {', '.join(silent)}")
    if closed:
        raise _Noted(f"it upgrades and hangs up on a client with {', '.join(closed)}, without a reason")
    return "what it cannot serve is refused before the upgrade"


async def _second(target: Target) -> str:
    async with _client(target) as first:
        await first.live()
        try:
            query = {"voice_prompt": target.voice, "text_prompt": target.text}
            async with _client(target, query) as second:
                try:
                    await second.live(REFUSAL_S)
                except _NotSo:
                    raise _Noted("a second client is let in and waits without a word") from None
        except websocket.HandshakeRefused as refused:
            if refused.status != 503:
                raise _NotSo(f"a second client is refused with {refused.status} instead of 503") from None
            return "a second client is told at once that the engine is full"
    return "it takes a second conversation beside the first"


_CHECKS: Final[tuple[tuple[str, Callable[[Target], Awaitable[str]]], ...]] = (
    ("handshake", _handshake),
    ("stream", _sound),
    ("clock", _clock),
    ("pace", _pace),
    ("packets", _packets),
    ("browsers", _long_packets),
    ("words", _words),
    ("odd", _odd_messages),
    ("leaving", _again),
    ("early", _early),
    ("refusals", _refusals),
    ("second", _second),
)
