"""One session with an engine: opened, prompted, talked to, and told apart when it fails.

The one idea: an engine's failures look alike on the wire (it closes, or it says nothing), and what they
mean depends on when they happen. So a session lives in phases, and each phase has errors of its own::

    connecting ──▶ prompting ──▶ live ──▶ ended
        │              │           └─ EngineLost
        │              └─ EngineRejected, EngineBusy
        └─ EngineUnreachable, EngineUntrusted, EngineRefused

Nothing is sent before the engine's handshake: NVIDIA's server throws away what comes earlier, an Ogg header
too, and is deaf from then on. In a live session nothing is awaited per message, in either direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import hashlib
import logging
import ssl as tls
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pxbridge import chat_wire, websocket
from pxbridge.chat_wire import FrameReader, Kind, TextReader
from pxbridge.errors import (
    EngineBusy,
    EngineError,
    EngineLost,
    EngineRefused,
    EngineRejected,
    EngineUnreachable,
    EngineUntrusted,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pxbridge.websocket import Closed, WebSocket

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0
"""For the name's resolution, TCP, TLS and the upgrade."""
HANDSHAKE_TIMEOUT_S: Final = 60.0
"""For the prompts. A long text prompt takes a real engine several seconds; a busy one never answers."""


@dataclass(frozen=True)
class SystemTrust:
    """Trusts what the system's certificate authorities have signed.

    They are read when they are first needed: 20 ms of work, in which no call is heard. Engines share that.
    """

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """What to connect with."""
        return tls.create_default_context()


@dataclass(frozen=True)
class CaFile:
    """Trusts what the certificates in a PEM file have signed, and nothing else."""

    path: Path

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """What to connect with.

        Raises:
            OSError: The file cannot be read.
            ssl.SSLError: There is no certificate in it.
        """
        return tls.create_default_context(cafile=self.path)


@dataclass(frozen=True)
class Pinned:
    """Trusts one certificate, whoever signed it and whatever name it is for.

    Attributes:
        sha256: Fingerprint of the certificate, 64 lower-case hex digits.
    """

    sha256: str

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """What to connect with; the certificate is checked afterwards."""
        return _unchecked_context()


@dataclass(frozen=True)
class Unverified:
    """Trusts anybody, whoever sits between can listen: for a laboratory. Every connection's log says so."""

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """What to connect with."""
        return _unchecked_context()


Trust = SystemTrust | CaFile | Pinned | Unverified


@dataclass(frozen=True)
class EngineAddress:
    """Where an engine is, and how it proves to be that.

    Attributes:
        url: Its `/api/chat`, `ws` or `wss`.
        trust: For `wss`: whose certificate is taken.
    """

    url: str
    trust: Trust = field(default_factory=SystemTrust)

    def __str__(self) -> str:
        """The address as it may be logged: its user, password and query left out."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def tls_context(self) -> tls.SSLContext | None:
        """What to connect with, None for `ws`.

        Raises:
            OSError: The CA file cannot be read.
            ssl.SSLError: There is no certificate in it.
        """
        return self.trust.context if urlsplit(self.url).scheme == "wss" else None

    def check_certificate(self, certificate: bytes) -> None:
        """Takes or refuses the engine's certificate (DER), before anything is sent.

        Raises:
            EngineUntrusted: It is not the pinned one.
        """
        match self.trust:
            case Pinned(sha256):
                seen = hashlib.sha256(certificate).hexdigest()
                if seen != sha256:
                    raise EngineUntrusted(
                        f"{self}: its certificate has the SHA-256 fingerprint {seen}, and {sha256} is pinned"
                    )
            case Unverified():
                log.warning("%s: its certificate is not checked; whoever sits between can listen", self)
            case _:
                pass  # the TLS context has checked it


class _Phase(enum.Enum):
    PROMPTING = enum.auto()
    LIVE = enum.auto()
    ENDED = enum.auto()


# Between the handshake and `listen` an engine sends its header pages and nothing else, as nothing was said
# to it.
_MAX_EARLY_MESSAGES: Final = 64


class Session:
    """A conversation with an engine, live from the moment you get it. Made by :func:`open_session`.

    Attributes:
        engine: Where it is.
        prompt_s: How long the engine took for its prompts, from the upgrade to its handshake.
        frames: Counts messages that were none.
        unexpected: Messages that came as text, or before `listen` and too many.
        reported: What the engine said last in an error message, None while it has not.
    """

    def __init__(self, engine: EngineAddress, connection: WebSocket, voice_prompt: str) -> None:
        loop = asyncio.get_running_loop()
        self.engine = engine
        self.prompt_s = 0.0
        self.frames = FrameReader()
        self.unexpected = 0
        self.reported: str | None = None
        self._connection = connection
        self._voice_prompt = voice_prompt
        self._text = TextReader()
        self._phase = _Phase.PROMPTING
        self._began_s = loop.time()
        self._prompted: asyncio.Future[str | None] = loop.create_future()  # why not; None if it is
        self._closed_by_us = False
        self._end: EngineLost | None = None
        self._early: list[bytes] = []
        self._on_audio: Callable[[bytes], None] | None = None
        self._on_text: Callable[[str], None] = _ignore
        self._on_close: Callable[[EngineLost | None], None] = _ignore
        connection.on_message = self._take
        connection.on_close = self._closed

    @property
    def odd_messages(self) -> int:
        """Messages that no engine should send. Harmless; their number is logged at the end."""
        return self.frames.empty + self.frames.unknown + self.unexpected

    @property
    def is_live(self) -> bool:
        """Whether `send_audio` would send."""
        return self._phase is _Phase.LIVE and self._connection.is_open

    def listen(
        self,
        *,
        on_audio: Callable[[bytes], None],
        on_text: Callable[[str], None],
        on_close: Callable[[EngineLost | None], None],
    ) -> None:
        """Takes the session over. What came before, its header pages, is handed over at once.

        All three are called from inside the event loop's read: they must be quick and must not block.

        Args:
            on_audio: Called with bytes of the engine's Ogg Opus stream.
            on_text: Called with each piece of what the agent says.
            on_close: Called once, when the session has ended; with None if we ended it.
        """
        self._on_audio, self._on_text = on_audio, on_text
        early, self._early = self._early, []
        for message in early:
            self._deliver(message)
        if self._phase is _Phase.ENDED:
            on_close(self._end)
        else:
            self._on_close = on_close

    def send_audio(self, ogg: bytes) -> None:
        """Sends bytes of our Ogg Opus stream: its header pages first. Never waits; nothing once it ended."""
        self._connection.send(_AUDIO + ogg)

    def close(self) -> None:
        """Ends the session; `on_close` tells when it has ended, soon in any case. Nothing else is told."""
        self._closed_by_us = True
        self._on_audio = self._on_text = _ignore  # whoever listened is free to go
        self._connection.close()

    def abort(self) -> None:
        """Cuts a session that is closing, whose engine does not answer."""
        self._connection.abort("the bridge has no more time")

    async def answers(self, timeout_s: float) -> bool:
        """Whether the engine answers a ping in time; nobody hears of it."""
        answered = asyncio.Event()
        self._connection.on_pong = lambda _trip_s: answered.set()
        self._connection.ping()
        try:
            async with asyncio.timeout(timeout_s):
                await answered.wait()
        except TimeoutError:
            return False
        return True

    async def wait_closed(self) -> None:
        """Waits until the session has ended."""
        await self._connection.wait_closed()

    async def prompted(self, timeout_s: float) -> None:
        """Waits for the engine's handshake. For :func:`open_session`.

        Raises:
            EngineRejected: The engine closed or reported an error instead.
            EngineBusy: It said nothing.
        """
        try:
            async with asyncio.timeout(timeout_s):
                rejected = await self._prompted
        except TimeoutError:
            raise EngineBusy(
                f"{self.engine}: no word within {timeout_s:g} s: it has another conversation, or is very slow"
            ) from None
        # Made here: an error that this object kept would keep it, by the frames that it was raised through.
        if rejected is not None:
            raise EngineRejected(f"{self.engine}: {rejected}")

    def _take(self, message: bytes, is_text: bool) -> None:
        if self._on_audio is not None and message[:1] == _AUDIO and not is_text:
            self._on_audio(message[1:])  # nearly every message
        elif is_text:
            self.unexpected += 1
        elif self._on_audio is not None:
            self._deliver(message)
        elif message[:1] == _HANDSHAKE and self._phase is _Phase.PROMPTING:
            self._phase = _Phase.LIVE
            self.prompt_s = asyncio.get_running_loop().time() - self._began_s
            if not self._prompted.done():
                self._prompted.set_result(None)
        elif message[:1] == _ERROR and self._phase is _Phase.PROMPTING:
            self._reject(f"it reported: {_text_of(message[1:])}")
        elif len(self._early) < _MAX_EARLY_MESSAGES:
            self._early.append(message)
        else:
            self.unexpected += 1

    def _deliver(self, message: bytes) -> None:
        frame = self.frames.read(message)
        if frame is None or self._on_audio is None:
            return
        match frame.kind:
            case Kind.AUDIO:
                self._on_audio(frame.payload)
            case Kind.TEXT:
                piece = self._text.read(frame.payload)
                if piece:
                    self._on_text(piece)
            case Kind.ERROR:
                self.reported = _text_of(frame.payload)
                log.warning("%s: it reported: %s", self.engine, self.reported)
            case _:
                pass  # a second handshake, control, metadata, ping: nothing that a caller could notice

    def _reject(self, why: str) -> None:
        if not self._prompted.done():
            self._prompted.set_result(why)

    def _closed(self, closed: Closed) -> None:
        was, self._phase = self._phase, _Phase.ENDED
        if self.odd_messages:
            log.warning(
                "%s: %d of its messages were none that an engine sends: is it PersonaPlex?",
                self.engine,
                self.odd_messages,
            )
        how = _how_it_closed(closed)
        if was is _Phase.PROMPTING:
            self._reject(
                f"it {how} while it read its prompts; the likely reasons: it does not know the voice "
                f"{self._voice_prompt!r}, it could not read the text prompt, or it was restarted"
            )
            return
        if not self._closed_by_us:
            reported = "" if self.reported is None else f", after it reported: {self.reported}"
            self._end = EngineLost(f"{self.engine}: it {how}{reported}")
        # Its owner usually holds this object and is held by its callbacks: let go of each other.
        on_close, self._on_close = self._on_close, _ignore
        on_close(self._end)


_HANDSHAKE: Final = bytes([Kind.HANDSHAKE])
_AUDIO: Final = bytes([Kind.AUDIO])
_ERROR: Final = bytes([Kind.ERROR])


async def open_session(
    engine: EngineAddress,
    voice_prompt: str,
    text_prompt: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    connected: Callable[[], None] | None = None,
    limits: websocket.Limits | None = None,
) -> Session:
    """Connects to an engine and waits until it has read its prompts. Call the session's `listen` next.

    If it is cancelled, the connection is closed, so that the engine is free again.

    Args:
        engine: Where it is and how it is trusted.
        voice_prompt: A voice the engine has, `NATF0.pt`.
        text_prompt: Who the agent is; not empty.
        connect_timeout_s: For everything up to the upgrade.
        handshake_timeout_s: For the prompts.
        connected: Called when it has accepted the upgrade, before its prompts.
        limits: What the connection is held to.

    Raises:
        ValueError: A prompt is empty, or the URL is none.
        EngineUnreachable: No connection.
        EngineUntrusted: Its certificate is not trusted; the error names its fingerprint.
        EngineRefused: It answered the upgrade with an HTTP error.
        EngineBusy: It accepted and said nothing until `handshake_timeout_s` had passed.
        EngineRejected: It closed or reported an error during its prompts.
    """
    url = chat_wire.chat_url(engine.url, voice_prompt, text_prompt)
    connection = await _connect(engine, url, connect_timeout_s, limits)
    session = Session(engine, connection, voice_prompt)
    if connected is not None:
        connected()
    try:
        await session.prompted(handshake_timeout_s)
    except BaseException:
        session.close()
        raise
    return session


async def _connect(
    engine: EngineAddress, url: str, timeout_s: float, limits: websocket.Limits | None
) -> WebSocket:
    try:
        return await websocket.connect(
            url,
            ssl=engine.tls_context,
            check_certificate=None if engine.tls_context is None else engine.check_certificate,
            open_timeout_s=timeout_s,
            limits=limits,
        )
    except EngineError:
        raise
    except tls.SSLCertVerificationError as problem:
        raise EngineUntrusted(
            f"{engine}: its certificate is not trusted ({problem.verify_message})"
            + await _told_fingerprint(engine)
        ) from problem
    except tls.SSLError as problem:
        raise EngineUnreachable(
            f"{engine}: TLS failed ({problem.reason or problem}); does it speak plain ws:// there?"
        ) from problem
    except websocket.HandshakeRefused as problem:
        raise EngineRefused(_refusal(engine, problem, url), problem.status) from problem
    except websocket.HandshakeFailed as problem:
        raise EngineUnreachable(f"{engine}: {problem}") from problem
    except TimeoutError as problem:
        raise EngineUnreachable(f"{engine}: no connection within {timeout_s:g} s") from problem
    except ConnectionResetError as problem:
        hint = "; does it speak plain ws:// there?" if engine.tls_context is not None else ""
        raise EngineUnreachable(f"{engine}: it hung up{hint}") from problem
    except OSError as problem:
        raise EngineUnreachable(f"{engine}: {problem.strerror or problem}") from problem
    except UnicodeError as problem:  # of the codec for host names
        raise EngineUnreachable(f"{engine}: no host can have this name") from problem


# aiohttp, which NVIDIA's server stands on, takes no longer request line; percent-encoding makes nine bytes
# of a letter of most scripts.
_MAX_REQUEST_LINE_BYTES: Final = 8190


def _refusal(engine: EngineAddress, problem: websocket.HandshakeRefused, url: str) -> str:
    hint = ""
    if len(url) > _MAX_REQUEST_LINE_BYTES:
        hint = f"; the text prompt makes a URL of {len(url)} bytes, and it may take {_MAX_REQUEST_LINE_BYTES}"
    elif problem.status == 404:
        hint = f"; an engine answers at {chat_wire.CHAT_PATH}"
    return f"{engine}: {problem}{hint}"


_FINGERPRINT_TIMEOUT_S: Final = 3.0
_TLS_PORT: Final = 443


async def _told_fingerprint(engine: EngineAddress) -> str:
    """What an operator needs to pin an untrusted certificate: after a failed check TLS does not tell it.

    So connect once more, without a check, and send nothing.
    """
    parts = urlsplit(engine.url)
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_FINGERPRINT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or _TLS_PORT, ssl=_unchecked_context()
            )
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
        if certificate:
            seen = hashlib.sha256(certificate).hexdigest()
            return f"; its SHA-256 fingerprint is {seen}: compare that with the engine's own, then pin it"
    return ""


def _unchecked_context() -> tls.SSLContext:
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = tls.CERT_NONE
    return context


def _how_it_closed(closed: Closed) -> str:
    if closed.error is not None:
        return f"is gone ({closed.error})"
    return f"closed with {closed.code}" + (f" ({closed.reason})" if closed.reason else "")


def _text_of(payload: bytes) -> str:
    return payload.decode("utf-8", errors="replace")


def _ignore(*_: object) -> None:
    pass
