"""One session with an engine: it is opened, prompted and used, and its failures are classified.

An engine's failures look alike on the wire: it closes the connection, or it sends nothing. Their meaning
depends on when they happen. So a session has phases, and each phase has its own errors::

    connecting ──▶ prompting ──▶ live ──▶ ended
        │              │           └─ EngineLost
        │              └─ EngineRejected, EngineFull, EngineBusy
        └─ EngineUnreachable, EngineUntrusted, EngineRefused, EngineRejected, EngineFull

Nothing is sent before the engine's handshake. NVIDIA's server discards earlier messages. If it discards the
Ogg header, it cannot decode the rest of the stream. A live session awaits nothing per message, in either
direction.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pxbridge.chat_wire import FrameReader, Kind, TextReader, queue_place
from pxbridge.errors import EngineBusy, EngineFull, EngineLost, EngineRejected
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.engines.address import EngineAddress
    from pxbridge.websocket import Closed, WebSocket

log = logging.getLogger(__name__)


class _Phase(enum.Enum):
    PROMPTING = enum.auto()
    LIVE = enum.auto()
    ENDED = enum.auto()


class _Rejection(NamedTuple):
    """Why an engine did not become live."""

    kind: type[EngineRejected | EngineFull]
    why: str


BUSY_CODES: Final = (1001, 1012, 1013)
"""Going away, service restart, try again later (RFC 6455 §7.4.1, IANA's registry of close codes)."""

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

    def __init__(
        self,
        engine: EngineAddress,
        connection: WebSocket,
        voice_prompt: str,
        moved: Callable[[int], None] | None = None,
    ) -> None:
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
        self._prompted: asyncio.Future[_Rejection | None] = loop.create_future()  # None: ready
        self._moved = moved
        self._limit: asyncio.Timeout | None = None
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
        self._moved = None
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
        """Waits for the engine's handshake, without a limit while in the engine's line. For `open_session`.

        Raises:
            EngineRejected: The engine closed or reported an error instead.
            EngineFull: The same, and it said that it is busy or restarting.
            EngineBusy: It sent nothing in time.
        """
        try:
            self._limit = asyncio.timeout(timeout_s)
            async with self._limit:
                rejected = await self._prompted
        except TimeoutError:
            raise EngineBusy(
                f"{self.engine}: no handshake within {timeout_s:g} s: "
                "it is in another conversation, or very slow"
            ) from None
        finally:
            self._limit = None  # it refers to the task, whose result or error refers to this session
        # Raised here and not stored: a stored error would keep this object alive through its traceback.
        if rejected is not None:
            raise rejected.kind(f"{self.engine}: {rejected.why}")

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
            said = _text_of(message[1:])
            self._reject(_kind_of_words(said), f"it reported an error: {said}")
        elif message[:1] == _METADATA and self._phase is _Phase.PROMPTING and self._moved is not None:
            if (place := queue_place(message[1:])) is not None and not self._prompted.done():
                if self._limit is not None:
                    self._limit.reschedule(None)
                self._moved(place)
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

    def _reject(self, kind: type[EngineRejected | EngineFull], why: str) -> None:
        if not self._prompted.done():
            self._prompted.set_result(_Rejection(kind, why))

    def _closed(self, closed: Closed) -> None:
        was, self._phase = self._phase, _Phase.ENDED
        if self.odd_messages:
            log.warning(
                "%s: received %s that no engine should send; is this PersonaPlex?",
                self.engine,
                counted(self.odd_messages, "message"),
            )
        how = _how_it_closed(closed)
        if was is _Phase.PROMPTING:
            if closed.code in BUSY_CODES and closed.error is None:
                self._reject(EngineFull, f"it {how} before its handshake: it is busy, or restarts")
                return
            self._reject(
                EngineRejected,
                f"it {how} while it read its prompts; likely reasons: it does not know the voice "
                f"{self._voice_prompt!r}, it could not read the text prompt, or it was restarted",
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

_METADATA: Final = bytes([Kind.METADATA])

_ERROR: Final = bytes([Kind.ERROR])


_SAYS_BUSY: Final = re.compile(
    r"\b(busy|full|overloaded|(re)?starting|draining|warming up|shutting down|try again|retry"
    r"|no (free )?(slots?|capacity)|too many)\b",
    re.IGNORECASE,
)


def _kind_of_words(said: str) -> type[EngineRejected | EngineFull]:
    """Whether an error before the handshake means that the engine is busy, or that it rejects the prompts."""
    return EngineFull if _SAYS_BUSY.search(said) else EngineRejected


def _how_it_closed(closed: Closed) -> str:
    if closed.error is not None:
        return f"disconnected ({closed.error})"
    return f"closed with {closed.code}" + (f" ({closed.reason})" if closed.reason else "")


def _text_of(payload: bytes) -> str:
    return payload.decode("utf-8", errors="replace")


def _ignore(*_: object) -> None:
    pass
