"""One session with an engine: it is opened, prompted and used, and its failures are classified.

An engine's failures look alike on the wire: it closes the connection, or it sends nothing. Their meaning
depends on when they happen. So a session has phases, and each phase has its own errors::

    connecting ──▶ prompting ──▶ live ──▶ ended
        │              │           └─ EngineLost
        │              └─ EngineRejected, EngineBusy
        └─ EngineUnreachable, EngineUntrusted, EngineRefused

Nothing is sent before the engine's handshake. NVIDIA's server discards earlier messages. If it discards the
Ogg header, it cannot decode the rest of the stream. A live session awaits nothing per message, in either
direction.
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
"""Covers name resolution, TCP, TLS and the upgrade."""
HANDSHAKE_TIMEOUT_S: Final = 60.0
"""Covers the prompts. A real engine needs seconds for a long text prompt. A busy one never answers."""


@dataclass(frozen=True)
class SystemTrust:
    """Trusts certificates signed by the system's certificate authorities.

    The authorities are loaded on first use. Loading takes 20 ms and blocks the event loop, so all calls stall
    for that time. The result is kept, and engines share it.
    """

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection."""
        return tls.create_default_context()


@dataclass(frozen=True)
class CaFile:
    """Trusts only certificates signed by those in a PEM file."""

    path: Path

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection.

        Raises:
            OSError: The file cannot be read.
            ssl.SSLError: There is no certificate in it.
        """
        return tls.create_default_context(cafile=self.path)


@dataclass(frozen=True)
class Pinned:
    """Trusts one certificate. Its issuer and its host name are not checked.

    Attributes:
        sha256: Fingerprint of the certificate, 64 lower-case hex digits.
    """

    sha256: str

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection. The certificate is checked after the TLS handshake."""
        return _unchecked_context()


@dataclass(frozen=True)
class Unverified:
    """Checks no certificate, so a man in the middle can listen. For a laboratory. Each connection warns."""

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection."""
        return _unchecked_context()


Trust = SystemTrust | CaFile | Pinned | Unverified


@dataclass(frozen=True)
class EngineAddress:
    """An engine's URL, and how its identity is checked.

    Attributes:
        url: The URL of its `/api/chat`, with the scheme `ws` or `wss`.
        trust: Which certificates are accepted, for `wss`.
    """

    url: str
    trust: Trust = field(default_factory=SystemTrust)

    def __str__(self) -> str:
        """The URL without its user, password and query, so that it may be logged."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def tls_context(self) -> tls.SSLContext | None:
        """The TLS context for the connection; None for `ws`.

        Raises:
            OSError: The CA file cannot be read.
            ssl.SSLError: There is no certificate in it.
        """
        return self.trust.context if urlsplit(self.url).scheme == "wss" else None

    def check_certificate(self, certificate: bytes) -> None:
        """Checks the engine's certificate (DER), before anything is sent.

        Raises:
            EngineUntrusted: It is not the pinned certificate.
        """
        match self.trust:
            case Pinned(sha256):
                seen = hashlib.sha256(certificate).hexdigest()
                if seen != sha256:
                    raise EngineUntrusted(
                        f"{self}: its certificate has the SHA-256 fingerprint {seen}, but {sha256} is pinned"
                    )
            case Unverified():
                log.warning("%s: its certificate is not checked; a man in the middle could listen", self)
            case _:
                pass  # the TLS context has checked it


class _Phase(enum.Enum):
    PROMPTING = enum.auto()
    LIVE = enum.auto()
    ENDED = enum.auto()


# Between the handshake and `listen` an engine sends only its header pages, because it has received no audio.
_MAX_EARLY_MESSAGES: Final = 64


class Session:
    """A conversation with an engine. :func:`open_session` returns it live.

    Attributes:
        engine: The engine's address.
        prompt_s: How long the engine took for its prompts, from the upgrade to its handshake.
        frames: Reads messages, and counts those that are empty or of an unknown kind.
        unexpected: Number of text messages, and of messages beyond the limit before `listen`.
        reported: The engine's last error message; None if it sent none.
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
        self._prompted: asyncio.Future[str | None] = loop.create_future()  # why rejected; None: ready
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
        """Number of messages that no engine should send. They are harmless. Logged at the end."""
        return self.frames.empty + self.frames.unknown + self.unexpected

    @property
    def is_live(self) -> bool:
        """Whether `send_audio` still sends."""
        return self._phase is _Phase.LIVE and self._connection.is_open

    def listen(
        self,
        *,
        on_audio: Callable[[bytes], None],
        on_text: Callable[[str], None],
        on_close: Callable[[EngineLost | None], None],
    ) -> None:
        """Subscribes to the session. Messages that came earlier (header pages) are delivered at once.

        All three are called from the event loop while it reads: they must be quick and must not block.

        Args:
            on_audio: Called with bytes of the engine's Ogg Opus stream.
            on_text: Called with each piece of the agent's text.
            on_close: Called once, when the session has ended. Its argument is None if this side ended it.
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
        """Sends bytes of our Ogg Opus stream, header pages first. Never waits. Ignored after the end."""
        self._connection.send(_AUDIO + ogg)

    def close(self) -> None:
        """Ends the session. `on_close` follows, within a bounded time. No other callback is called."""
        self._closed_by_us = True
        self._on_audio = self._on_text = _ignore  # releases the subscriber's callbacks
        self._connection.close()

    def abort(self) -> None:
        """Cuts the connection of a session whose engine does not answer the close."""
        self._connection.abort("the bridge has no more time")

    async def answers(self, timeout_s: float) -> bool:
        """Whether the engine answers a WebSocket ping in time. The conversation does not notice."""
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
            EngineBusy: It sent nothing in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                rejected = await self._prompted
        except TimeoutError:
            raise EngineBusy(
                f"{self.engine}: no handshake within {timeout_s:g} s: "
                "it is in another conversation, or very slow"
            ) from None
        # Raised here and not stored: a stored error would keep this object alive through its traceback.
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
            self._reject(f"it reported an error: {_text_of(message[1:])}")
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
                log.warning("%s: it reported an error: %s", self.engine, self.reported)
            case _:
                pass  # a second handshake, control, metadata, ping: without effect on the caller

    def _reject(self, why: str) -> None:
        if not self._prompted.done():
            self._prompted.set_result(why)

    def _closed(self, closed: Closed) -> None:
        was, self._phase = self._phase, _Phase.ENDED
        if self.odd_messages:
            log.warning(
                "%s: received %d messages that no engine should send; is this PersonaPlex?",
                self.engine,
                self.odd_messages,
            )
        how = _how_it_closed(closed)
        if was is _Phase.PROMPTING:
            self._reject(
                f"it {how} while it read its prompts; likely reasons: it does not know the voice "
                f"{self._voice_prompt!r}, it could not read the text prompt, or it was restarted"
            )
            return
        if not self._closed_by_us:
            reported = "" if self.reported is None else f", after it reported an error: {self.reported}"
            self._end = EngineLost(f"{self.engine}: it {how}{reported}")
        # Break the reference cycle: the owner holds this object, and the callback holds the owner.
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

    Cancelling closes the connection, so that the engine is free again.

    Args:
        engine: Its URL, and how its identity is checked.
        voice_prompt: A voice that the engine has, such as `NATF0.pt`.
        text_prompt: Who the agent is; not empty.
        connect_timeout_s: Limit for everything up to the upgrade.
        handshake_timeout_s: Limit for the prompts.
        connected: Called when the engine has accepted the upgrade, before it reads its prompts.
        limits: Limits of the WebSocket connection.

    Raises:
        ValueError: A prompt is empty, or the URL is invalid.
        EngineUnreachable: No connection.
        EngineUntrusted: Its certificate is not trusted. The error names its fingerprint.
        EngineRefused: It answered the upgrade with an HTTP error.
        EngineBusy: It accepted, then sent nothing for `handshake_timeout_s`.
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
            f"{engine}: TLS failed ({problem.reason or problem}); does this port speak plain ws://?"
        ) from problem
    except websocket.HandshakeRefused as problem:
        raise EngineRefused(_refusal(engine, problem, url), problem.status) from problem
    except websocket.HandshakeFailed as problem:
        raise EngineUnreachable(f"{engine}: {problem}") from problem
    except TimeoutError as problem:
        raise EngineUnreachable(f"{engine}: no connection within {timeout_s:g} s") from problem
    except ConnectionResetError as problem:
        hint = "; does this port speak plain ws://?" if engine.tls_context is not None else ""
        raise EngineUnreachable(f"{engine}: it closed the connection{hint}") from problem
    except OSError as problem:
        raise EngineUnreachable(f"{engine}: {problem.strerror or problem}") from problem
    except UnicodeError as problem:  # from the host name codec (IDNA)
        raise EngineUnreachable(f"{engine}: its host name is not valid") from problem


# NVIDIA's server uses aiohttp, which rejects a longer request line. Percent-encoding makes nine bytes of one
# letter in most scripts.
_MAX_REQUEST_LINE_BYTES: Final = 8190


def _refusal(engine: EngineAddress, problem: websocket.HandshakeRefused, url: str) -> str:
    hint = ""
    if len(url) > _MAX_REQUEST_LINE_BYTES:
        hint = f"; the text prompt makes a URL of {len(url)} bytes; the limit is {_MAX_REQUEST_LINE_BYTES}"
    elif problem.status == 404:
        hint = f"; an engine's path is {chat_wire.CHAT_PATH}"
    return f"{engine}: {problem}{hint}"


_FINGERPRINT_TIMEOUT_S: Final = 3.0
_TLS_PORT: Final = 443


async def _told_fingerprint(engine: EngineAddress) -> str:
    """Returns a hint with the fingerprint of an untrusted certificate, so that an operator can pin it.

    TLS does not reveal a certificate whose check failed. So connect again without a check, and send nothing.
    Returns an empty string if that fails.
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
            return f"; its SHA-256 fingerprint is {seen}: compare it with the engine's own, then pin it"
    return ""


def _unchecked_context() -> tls.SSLContext:
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = tls.CERT_NONE
    return context


def _how_it_closed(closed: Closed) -> str:
    if closed.error is not None:
        return f"disconnected ({closed.error})"
    return f"closed with {closed.code}" + (f" ({closed.reason})" if closed.reason else "")


def _text_of(payload: bytes) -> str:
    return payload.decode("utf-8", errors="replace")


def _ignore(*_: object) -> None:
    pass
