"""WebSockets without a task, queue or timer per message: a shell around `websockets`' sans-I/O protocol.

The protocol object of `websockets` turns bytes into frames and frames into bytes; this file gives it a
transport. A message is handed to ``on_message`` from inside ``data_received``, and ``send`` writes to the
transport before it returns, so a message costs no task switch. What has to be bounded is bounded here: the
handshake, the closing, the size of a message, and how much a peer that does not read may leave queued.
Nothing is ever compressed: speech does not shrink, and the attempt costs more than the call.

Nearly every message in a call is one frame that arrives in one read. That case is read, and every message is
written, by a few lines here: in a paced call the code is never warm, and going through the library's objects
for it cost a third of the whole (benches/bench_websocket.py). Everything else is the protocol object's: the
handshake, fragments, frames in pieces, control frames, and whatever breaks the rules.

A connection lives in four phases, one after the other, and one timer serves them all::

    OPENING ──▶ OPEN ──▶ CLOSING ──▶ CLOSED
       │          │                     ▲
       └──────────┴── abort ────────────┘
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import os
import re
import socket
import ssl as tls
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.protocol import Side
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.uri import parse_uri

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform that websockets has no wheel for
    from websockets.utils import apply_mask

from pxbridge.errors import PxbridgeError

if TYPE_CHECKING:
    from websockets.protocol import Protocol as WireProtocol

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_HEAD_BYTES",
    "MAX_OPENING",
    "NO_PONG",
    "PEER_STOPPED_READING",
    "Closed",
    "Handler",
    "HandshakeFailed",
    "HandshakeRefused",
    "Headers",
    "Limits",
    "Request",
    "Response",
    "Server",
    "WebSocket",
    "connect",
    "serve",
    "text_response",
]

log = logging.getLogger(__name__)

# The library logs every frame with its payload at DEBUG and two lines per connection at INFO. Payloads are
# people's voices and must never be logged.
_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.setLevel(logging.WARNING)

PEER_STOPPED_READING: Final = "peer stopped reading"
"""``Closed.error`` of a connection given up because what we sent was not taken."""
NO_PONG: Final = "peer did not answer a ping"
"""``Closed.error`` of a connection given up after ``Limits.pong_timeout_s``."""

_ABNORMAL: Final = 1006  # RFC 6455 §7.4.1: what is reported where no close frame came; never sent
_INTERNAL_ERROR: Final = 1011
_MAX_CLOSE_REASON_BYTES: Final = 123  # RFC 6455 §5.5: 125 bytes of payload less the code

# How much the kernel may keep for a peer that does not read. Left alone it grows to megabytes: minutes of a
# call. 64 KiB is a second of the fattest line (24 kHz in base64), and over a round trip of 300 ms still three
# times its rate.
_KERNEL_SEND_BUFFER_BYTES: Final = 64 * 1024

# Any byte that the kernel did not take counts as "not drained". One, not zero: with zero, asyncio's TLS
# transport calls pause and resume in turn at every write.
_HIGH_WATER_BYTES: Final = 1

MAX_HEAD_BYTES: Final = 16 * 1024
"""A longer head of a request is refused: Exotel's URL has at most 600 characters, and proxies add a dozen
headers."""
MAX_BODY_BYTES: Final = 16 * 1024
"""A longer body is refused: Exotel posts a form of some twenty fields."""
MAX_OPENING: Final = 512
"""Handshakes under way at the same time. For one more, the oldest is cut: an honest one takes a round trip
or two, and whoever opens connections to say nothing must not keep honest ones out."""

_TEXT: Final = 0x81  # the first byte of a frame that holds a whole text message
_BINARY: Final = 0x82
_HEAD_7 = struct.Struct("!BB")
_HEAD_16 = struct.Struct("!BBH")
_HEAD_64 = struct.Struct("!BBQ")
_PING = struct.Struct("!d")  # a ping carries the time it was sent at, so that its pong tells the round trip


@dataclass(frozen=True, slots=True)
class Limits:
    """What one open connection is held to."""

    max_message_bytes: int = 256 * 1024
    """A longer message, in one frame or many, ends the connection with 1009."""
    max_queued_bytes: int = 256 * 1024
    """More than this waiting to be sent means that the peer has stopped reading."""
    send_timeout_s: float = 5.0
    """The same if the queue did not run empty for so long, however small it is."""
    close_timeout_s: float = 3.0
    """How long a closing handshake may take before the connection is cut."""
    ping_interval_s: float | None = 20.0
    """How often the round trip is measured; ``None``: never."""
    pong_timeout_s: float | None = None
    """Hang up when nothing at all came for so long after a ping; ``None``: never, pings only measure."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for, before any upgrade.

    Attributes:
        path: The path and the query, as they came: untrusted, not decoded, and maybe with a secret in them.
        headers: By name in any case.
        method: ``GET`` for an upgrade.
        address: The address at the other end of the connection, without its port.
        body: Of a ``POST``, at most `MAX_BODY_BYTES`.
    """

    path: str
    headers: Headers
    method: str = "GET"
    address: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended.

    Attributes:
        code: Of the close frame that began the closing, ours or the peer's; 1006 when there was none.
        reason: The text of that frame.
        error: ``None`` after a complete closing handshake, otherwise what went wrong.
        by_peer: Whether the peer began it, by a close frame or by going away.
    """

    code: int
    reason: str
    error: str | None
    by_peer: bool


class HandshakeFailed(PxbridgeError):
    """The other end is reachable and is no WebSocket server that we understand."""


class HandshakeRefused(HandshakeFailed):
    """The server answered the upgrade with an HTTP status other than 101; redirects are not followed.

    Args:
        status: That HTTP status.
        text: The beginning of its answer's body.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the server answered {status}" + (f": {text}" if text else ""))
        self.status = status
        self.text = text


class _Phase(enum.Enum):
    OPENING = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


def _ignore(*_: object) -> None:
    pass


class WebSocket(asyncio.Protocol):
    """One connection, either side. Use it from its event loop only.

    Nothing is read from the peer before ``on_message`` is set, so no message is lost between the opening and
    the moment its owner is ready.

    Attributes:
        path: What the client asked for, query included.
        headers: Of the client's request.
        peer: Who is at the other end, as ``address:port``.
        rtt_s: Round trip of the last ping that was answered, seconds.
        on_pong: Called with that round trip whenever a ping is answered.
    """

    def __init__(self, protocol: WireProtocol, limits: Limits, open_timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.path = ""
        self.headers = Headers()
        self.peer = ""
        self.rtt_s: float | None = None
        self._loop = loop
        self._protocol = protocol
        self._limits = limits
        self._masks = protocol.side is Side.CLIENT
        self._between_frames = False
        self._transport: asyncio.Transport | None = None
        self._phase = _Phase.OPENING
        self._deadline = loop.time() + open_timeout_s  # of the phases OPENING and CLOSING
        self._timer: asyncio.TimerHandle | None = None
        self._undrained_since: float | None = None
        self._pinged_at = loop.time()
        self._heard = True  # anything at all since the ping of `_silent_since`
        self._silent_since = self._pinged_at
        self._partial: bytearray | None = None  # a message whose last fragment has not come yet
        self._partial_is_text = False
        self._early: list[tuple[bytes, bool]] = []  # what came with the handshake, before on_message was set
        self._on_message: Callable[[bytes, bool], None] | None = None
        self._on_close: Callable[[Closed], None] = _ignore
        self.on_pong: Callable[[float], None] = _ignore
        self._error: str | None = None
        self._closed: asyncio.Future[Closed] = loop.create_future()

    def __repr__(self) -> str:
        return f"<WebSocket {self.peer} {self._phase.name.lower()}>"

    # What its owner uses

    @property
    def on_message(self) -> Callable[[bytes, bool], None] | None:
        """Called with every message: its payload, and whether it came as text (its UTF-8 is not checked).

        It is called from inside the event loop's read, so it must be quick and must not block. If it raises,
        this connection, and nothing else, is closed with 1011.
        """
        return self._on_message

    @on_message.setter
    def on_message(self, receive: Callable[[bytes, bool], None]) -> None:
        if self._phase is _Phase.CLOSED:
            return
        first = self._on_message is None
        self._on_message = receive
        if not first or self._phase is _Phase.OPENING:
            return
        early, self._early = self._early, []
        for payload, is_text in early:
            self._hand_over(payload, is_text)
        self._resume_reading()

    @property
    def on_close(self) -> Callable[[Closed], None]:
        """Called once, when the connection is gone; at once if it already is."""
        return self._on_close

    @on_close.setter
    def on_close(self, closed: Callable[[Closed], None]) -> None:
        if self._closed.done():
            closed(self._closed.result())
        else:
            self._on_close = closed

    @property
    def is_open(self) -> bool:
        """Whether ``send`` would send."""
        return self._phase is _Phase.OPEN

    @property
    def queued_bytes(self) -> int:
        """Bytes that were sent here and that the kernel has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, data: bytes, *, text: bool = False) -> None:
        """Send one message; never waits.

        A peer that leaves more than ``max_queued_bytes`` lying, or anything for ``send_timeout_s``, is cut
        off with the error `PEER_STOPPED_READING`. On a connection that is not open the message is dropped:
        ``on_close`` has told, or will.

        Args:
            data: The payload; UTF-8 if `text`.
            text: Send a text message rather than a binary one.
        """
        if self._phase is not _Phase.OPEN:
            return
        transport = self._transport
        if transport is None:
            return
        transport.write(_frame(_TEXT if text else _BINARY, data, masked=self._masks))
        if self._undrained_since is not None and self.queued_bytes > self._limits.max_queued_bytes:
            self.abort(PEER_STOPPED_READING)

    def ping(self) -> None:
        """Measure the round trip now; `on_pong` tells. The next regular ping is an interval later."""
        if self._phase is not _Phase.OPEN:
            return
        self._pinged_at = now = self._loop.time()
        if self._heard:
            self._heard, self._silent_since = False, now
        self._protocol.send_ping(_PING.pack(now))
        self._flush()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake; no message is delivered after this.

        If the peer does not answer within ``close_timeout_s`` the connection is cut.

        Args:
            code: A close code that may be sent (RFC 6455 §7.4).
            reason: Cut to the 123 bytes a close frame can hold.
        """
        if self._phase is _Phase.OPENING:
            self.abort("closed before it was open")
        elif self._phase is _Phase.OPEN:
            short = reason.encode()[:_MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
            self._protocol.send_close(code, short)
            self._flush()
            self._begin_closing()

    def abort(self, error: str) -> None:
        """Cut the connection at once, without a closing handshake.

        Args:
            error: What ``Closed.error`` shall say.
        """
        if self._phase is _Phase.CLOSED:
            return
        self._error = self._error or error
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.CLOSING
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> Closed:
        """Wait until the connection is gone, and tell how it ended."""
        return await asyncio.shield(self._closed)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES, low=0)
        self.peer = _address(transport.get_extra_info("peername"))
        _bound_kernel(transport.get_extra_info("socket"), self._limits.send_timeout_s)
        self._arm(self._deadline)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._heard = True
        if self._between_frames and self._phase is _Phase.OPEN:
            payload = _lone_frame(data, masked=not self._masks)
            if payload is not None and len(payload) <= self._limits.max_message_bytes:
                self._deliver(payload, data[0] == _TEXT)
                return
        self._feed(data)
        self._between_frames = _is_between_frames(self._protocol)

    def eof_received(self) -> None:  # noqa: D102
        if self._phase is _Phase.CLOSED:
            return
        self._protocol.receive_eof()
        self._take_events()
        self._begin_closing()
        # Returning None lets the transport close once what is queued has gone out.

    def pause_writing(self) -> None:  # noqa: D102
        self._undrained_since = self._loop.time()
        self._arm(self._undrained_since + self._limits.send_timeout_s)

    def resume_writing(self) -> None:  # noqa: D102
        self._undrained_since = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._phase = _Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        closed = self._how_it_ended(exc)
        on_close = self._on_close
        # Its owner usually holds this object and is held by its callbacks: let go, so that nothing waits for
        # a garbage collection.
        self._on_close = self._on_message = self.on_pong = _ignore
        self._early.clear()
        self._partial = None
        self._transport = None
        self._protocol.parser.close()  # a generator that refers to the protocol it belongs to
        if not self._closed.done():
            self._closed.set_result(closed)
        try:
            on_close(closed)
        except Exception:
            log.exception("%s: on_close failed", self.peer)

    # Bytes in, events and bytes out

    def _feed(self, data: bytes) -> None:
        if not data or self._phase is _Phase.CLOSED or self._protocol.reader.eof:
            return
        self._protocol.receive_data(data)
        self._take_events()

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                self._handshake(event)
                continue
            opcode = event.opcode
            if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
                if event.fin:
                    self._deliver(bytes(event.data), opcode is Opcode.TEXT)
                else:
                    self._partial = bytearray(event.data)
                    self._partial_is_text = opcode is Opcode.TEXT
            elif opcode is Opcode.CONT:
                if self._partial is not None:
                    self._partial += event.data
                    if event.fin:
                        whole, self._partial = bytes(self._partial), None
                        self._deliver(whole, self._partial_is_text)
            elif opcode is Opcode.PONG:
                self._take_pong(bytes(event.data))
        self._flush()
        if self._protocol.close_expected():
            self._begin_closing()

    def _deliver(self, payload: bytes, is_text: bool) -> None:
        if self._phase is not _Phase.OPEN:
            return
        if self._on_message is None:
            self._early.append((payload, is_text))
            return
        self._hand_over(payload, is_text)

    def _hand_over(self, payload: bytes, is_text: bool) -> None:
        if self._on_message is None:
            return
        try:
            self._on_message(payload, is_text)
        except Exception as exc:
            log.exception("%s: a message could not be handled", self.peer)
            self._fail(f"handling a message failed: {exc!r}")

    def _fail(self, error: str) -> None:
        """Close because of a fault of ours."""
        self._error = self._error or error
        self._protocol.fail(_INTERNAL_ERROR, "internal error")
        self._flush()
        self._begin_closing()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None:
            return
        for data in self._protocol.data_to_send():
            if data:
                transport.write(data)
            elif transport.can_write_eof():
                # Half-closed, not closed: closing with the peer's bytes unread would send a reset, and that
                # would overtake what we still have to say.
                transport.write_eof()
            else:
                transport.close()
        if self._undrained_since is not None and self.queued_bytes > self._limits.max_queued_bytes:
            self.abort(PEER_STOPPED_READING)

    # The phases

    def _handshake(self, event: Handshake | Response) -> None:
        raise NotImplementedError

    def _begin_open(self) -> None:
        self._phase = _Phase.OPEN
        self._pinged_at = self._loop.time()
        if self._limits.ping_interval_s is not None:
            self._arm(self._pinged_at + self._limits.ping_interval_s)
        if self._transport is not None and self._on_message is None:
            self._transport.pause_reading()

    def _begin_closing(self) -> None:
        if self._phase is _Phase.CLOSING or self._phase is _Phase.CLOSED:
            return
        self._phase = _Phase.CLOSING
        self._deadline = self._loop.time() + self._limits.close_timeout_s
        self._arm(self._deadline)
        self._resume_reading()  # the peer's close frame must be read, whether or not messages ever were

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _how_it_ended(self, exc: Exception | None) -> Closed:
        protocol = self._protocol
        received, sent = protocol.close_rcvd, protocol.close_sent
        peer_first = received is not None and (sent is None or bool(protocol.close_rcvd_then_sent))
        first = received if peer_first else sent
        error = self._error
        fault = protocol.parser_exc
        if error is None and fault is not None and not isinstance(fault, EOFError):
            error = f"peer broke the protocol: {fault}"
        if error is None and isinstance(exc, TimeoutError):
            error = PEER_STOPPED_READING  # the kernel gave up sending
        if error is None and (received is None or sent is None):
            if exc is not None:
                error = f"connection lost: {exc}"
            elif sent is not None:
                error = "peer did not answer our close"
            else:
                error = "peer went away without closing"
        by_peer = peer_first or (sent is None and self._error is None)
        if first is None:
            return Closed(_ABNORMAL, "", error, by_peer)
        return Closed(int(first.code), first.reason, error, by_peer)

    # Time

    def _arm(self, at: float) -> None:
        """See to it that `_wake` runs at or before `at`; an earlier wake re-arms by itself."""
        if at == math.inf:
            return
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._arm(self._due(self._loop.time()))

    def _due(self, now: float) -> float:
        """Do what is due at `now`; tell when to look again, infinity for never."""
        limits = self._limits
        if self._phase is _Phase.OPENING:
            if now < self._deadline:
                return self._deadline
            self.abort("the handshake took too long")
            return math.inf
        if self._phase is _Phase.CLOSING:
            if now < self._deadline:
                return self._deadline
            if self._transport is not None:
                self._transport.abort()  # `_how_it_ended` knows whether the closing handshake was complete
            return math.inf
        due = math.inf
        if self._undrained_since is not None:
            due = self._undrained_since + limits.send_timeout_s
            if now >= due:
                self.abort(PEER_STOPPED_READING)
                return math.inf
        if limits.ping_interval_s is None:
            return due
        if now >= self._pinged_at + limits.ping_interval_s:
            self.ping()
        due = min(due, self._pinged_at + limits.ping_interval_s)
        if limits.pong_timeout_s is not None and not self._heard:
            if now >= self._silent_since + limits.pong_timeout_s:
                self.abort(NO_PONG)
                return math.inf
            due = min(due, self._silent_since + limits.pong_timeout_s)
        return due

    def _take_pong(self, payload: bytes) -> None:
        # Only the answer to the newest ping: an older or an unasked one says nothing about the line now.
        if payload == _PING.pack(self._pinged_at):
            self.rtt_s = self._loop.time() - self._pinged_at
            self.on_pong(self.rtt_s)


Handler = Callable[[WebSocket], None]
"""Takes over a connection that has just opened: sets its callbacks, now or soon."""

Accept = Callable[[Request], Response | Handler]
"""Decides about a request: an HTTP answer, or who takes the WebSocket."""


_POST: Final = b"POST "
_HEAD_END: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"(?im)^content-length:[ \t]*([^\r\n]*?)[ \t]*\r\n")


def _content_length(head: bytes) -> int | None:
    """The length of the body that follows a request's head; ``None`` if that is not told in one plain way."""
    found = _CONTENT_LENGTH.findall(head)
    if not found:
        return 0
    return int(found[0]) if len(found) == 1 and re.fullmatch(rb"[0-9]{1,18}", found[0]) else None


class _Accepted(WebSocket):
    """The server's end."""

    def __init__(self, server: Server, accept: Accept, limits: Limits, open_timeout_s: float) -> None:
        protocol = ServerProtocol(max_size=limits.max_message_bytes, logger=_wire_log)
        super().__init__(protocol, limits, open_timeout_s)
        self._server = server
        self._accept = accept
        self._server_protocol = protocol
        self._address = ""
        self._head = bytearray()  # what came of the request, until all of its head has
        self._body: bytearray | None = None  # of a POST, once its head has come
        self._body_bytes = 0
        self._fed = 0  # how much of the head the protocol object has

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self._address = str(name[0]) if isinstance(name, tuple) and name else ""
        self._server._add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server._remove(self)

    def data_received(self, data: bytes) -> None:
        if self._phase is not _Phase.OPENING:
            super().data_received(data)
        elif self._body is not None:
            self._take_body(data)
        else:
            self._take_head(data)

    # The protocol object knows no bodies, and would read what follows the request as frames before we have
    # answered it. So it is given the head alone, as it comes, and that of a POST when the body has come too.

    def _take_head(self, data: bytes) -> None:
        head = self._head
        head += data
        found = head.find(_HEAD_END)
        end = len(head) if found < 0 else found + len(_HEAD_END)
        if head.startswith(_POST):
            if found >= 0 and end <= MAX_HEAD_BYTES:
                self._begin_body(end)
        elif not _POST.startswith(head):
            fit = min(end, MAX_HEAD_BYTES)
            fed, self._fed = self._fed, fit
            rest = bytes(head[end:])
            self._feed(bytes(head[fed:fit]))
            if self._phase is not _Phase.OPENING:
                head.clear()
                self._feed(rest)
        if end > MAX_HEAD_BYTES and self._is_undecided():
            self._answer("", text_response(431, "the request's head is too long\n"))

    def _begin_body(self, end: int) -> None:
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        length = _content_length(head)
        if length is None:
            self._answer("", text_response(411, "a body needs one Content-Length\n"))
        elif length > MAX_BODY_BYTES:
            self._answer("", text_response(413, f"the body is longer than {MAX_BODY_BYTES} bytes\n"))
        else:
            self._head[:] = _CONTENT_LENGTH.sub(b"", head)
            self._body, self._body_bytes = bytearray(), length
            self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        body = self._body
        if body is None:
            return
        body += data
        if len(body) >= self._body_bytes and self._is_undecided():
            del body[self._body_bytes :]
            self._feed(bytes(self._head))

    def _is_undecided(self) -> bool:
        """Whether the request has neither been answered nor been found to be none."""
        return self._phase is _Phase.OPENING and not self._server_protocol.eof_sent

    def _handshake(self, event: Handshake | Response) -> None:
        request = cast("Handshake", event)
        self.path, self.headers = request.path, request.headers
        asked = Request(
            request.path, request.headers, request.method, self._address, bytes(self._body or b"")
        )
        try:
            answer = self._accept(asked)
        except Exception:
            # Without the path: there may be a token in it.
            log.exception("%s: a request could not be answered", self.peer)
            answer = text_response(500, "internal error\n")
        if isinstance(answer, Response):
            self._answer(request.method, answer)
            return
        response = self._server_protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._answer(request.method, response)
            return
        self._server_protocol.send_response(response)
        self._flush()
        self._server._opened(self)
        self._begin_open()
        try:
            answer(self)
        except Exception as exc:
            log.exception("%s: a connection could not be taken over", self.peer)
            self._fail(f"taking over failed: {exc!r}")

    def _answer(self, method: str, response: Response) -> None:
        if method == "HEAD":
            response.body = b""
        self._server_protocol.send_response(response)
        self._flush()
        self._begin_closing()

    def _how_it_ended(self, exc: Exception | None) -> Closed:
        closed = super()._how_it_ended(exc)
        if closed.error is not None:
            log.debug("%s: %s", self.peer, closed.error)
        return closed


class _Dialled(WebSocket):
    """The client's end."""

    def __init__(
        self,
        protocol: ClientProtocol,
        request: Handshake,
        check_certificate: Callable[[bytes], None] | None,
        limits: Limits,
    ) -> None:
        super().__init__(protocol, limits, math.inf)  # `connect` keeps the time of the opening
        self.path, self.headers = request.path, request.headers
        self._client_protocol = protocol
        self._request = request
        self._check_certificate = check_certificate
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._check_certificate is not None:
            session = transport.get_extra_info("ssl_object")
            try:
                self._check_certificate(session.getpeercert(binary_form=True) or b"")
            except Exception as exc:
                self._refuse(exc)
                return
        # Only now: the request may carry credentials.
        self._client_protocol.send_request(self._request)
        self._flush()

    def eof_received(self) -> None:
        super().eof_received()
        if not self.opened.done():
            self._refuse(HandshakeFailed("the server hung up instead of answering the upgrade"))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.opened.done():
            self.opened.set_exception(
                exc or HandshakeFailed(self._error or "the connection was lost before it was open")
            )

    def _take_events(self) -> None:
        super()._take_events()
        fault = self._protocol.handshake_exc
        if fault is not None and not self.opened.done():
            if isinstance(fault, InvalidStatus):
                response = fault.response
                body = bytes(response.body)[:_MAX_QUOTED_BYTES].decode(errors="replace").strip()
                self._refuse(HandshakeRefused(response.status_code, body))
            else:
                self._refuse(HandshakeFailed(f"not a WebSocket server: {fault}"))

    def _handshake(self, event: Handshake | Response) -> None:
        if self._protocol.handshake_exc is None and not self.opened.done():
            self._begin_open()
            self.opened.set_result(None)

    def _refuse(self, why: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(why)
        self.abort(str(why))


_MAX_QUOTED_BYTES: Final = 200  # of an HTTP error's body, in our error's text


class Server:
    """A listening socket and the connections that came in through it."""

    def __init__(self) -> None:
        self._listening: asyncio.Server | None = None
        self._connections: set[_Accepted] = set()
        self._opening: dict[_Accepted, None] = {}  # the oldest first
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def connections(self) -> frozenset[WebSocket]:
        """Connections that are open or closing; those still in their handshake are not among them."""
        return frozenset(c for c in self._connections if c._phase is not _Phase.OPENING)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets."""
        return () if self._listening is None else tuple(self._listening.sockets)

    @property
    def port(self) -> int:
        """The port it listens on: the chosen one where 0 was asked for."""
        return int(self.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept nobody any more. Open connections stay open: how they end is for their owners to say."""
        if self._listening is not None:
            self._listening.close()
        for connection in tuple(self._connections):
            if connection._phase is _Phase.OPENING:
                connection.abort("the server is closing")

    async def wait_closed(self) -> None:
        """Wait until the last connection is gone."""
        await self._empty.wait()

    def _add(self, connection: _Accepted) -> None:
        self._connections.add(connection)
        self._empty.clear()
        self._opening[connection] = None
        if len(self._opening) > MAX_OPENING:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.abort("too many handshakes under way")

    def _opened(self, connection: _Accepted) -> None:
        self._opening.pop(connection, None)

    def _remove(self, connection: _Accepted) -> None:
        self._connections.discard(connection)
        self._opening.pop(connection, None)
        if not self._connections:
            self._empty.set()


async def serve(
    accept: Accept,
    host: str | None,
    port: int,
    *,
    ssl: tls.SSLContext | None = None,
    open_timeout_s: float = 10.0,
    limits: Limits | None = None,
) -> Server:
    """Listen for WebSockets, and for plain HTTP requests that `accept` answers.

    Args:
        accept: Called with each request, before any upgrade. It returns an HTTP answer (see `text_response`),
            after which the connection is closed, or the handler that takes the WebSocket over. If it raises,
            the answer is 500.
        host: Address or name to listen on; ``None`` for all.
        port: Port; 0 for any free one.
        ssl: Serve TLS with it.
        open_timeout_s: For TLS's handshake and then again for the WebSocket's.
        limits: What an open connection is held to.

    Raises:
        OSError: The address cannot be listened on.
    """
    server = Server()
    held_to = limits or Limits()
    server._listening = await asyncio.get_running_loop().create_server(
        lambda: _Accepted(server, accept, held_to, open_timeout_s),
        host,
        port,
        ssl=ssl,
        ssl_handshake_timeout=None if ssl is None else open_timeout_s,
    )
    return server


async def connect(
    url: str,
    *,
    ssl: tls.SSLContext | None = None,
    server_hostname: str | None = None,
    check_certificate: Callable[[bytes], None] | None = None,
    headers: Iterable[tuple[str, str]] = (),
    open_timeout_s: float = 10.0,
    limits: Limits | None = None,
) -> WebSocket:
    """Open a WebSocket to `url`. Set its ``on_message`` next: until then nothing is read.

    Args:
        url: ``ws://`` or ``wss://``; ``user:password@`` in it becomes a Basic ``Authorization`` header.
        ssl: For ``wss://``: whom to trust; the system's certificate authorities by default.
        server_hostname: The name the certificate has to be for, where it is not the URL's.
        check_certificate: Called with the server's certificate (DER) before a byte of the request is sent;
            what it raises is raised here. For pinning.
        headers: Added to the request.
        open_timeout_s: For everything from the name's resolution to the upgrade.
        limits: What the open connection is held to.

    Raises:
        ValueError: `url` is not a WebSocket URL, or TLS is asked for and the URL is ``ws://``.
        OSError: No connection: refused, reset, no such host.
        ssl.SSLError: TLS failed; `ssl.SSLCertVerificationError` for a certificate that is not trusted.
        TimeoutError: It took longer than `open_timeout_s`.
        HandshakeRefused: The server answered with an HTTP error.
        HandshakeFailed: The server answered with something else.
    """
    try:
        uri = parse_uri(url)
    except InvalidURI as exc:
        # Without the URL itself: it may hold a password.
        raise ValueError(f"not a WebSocket URL: {exc.msg}") from None
    if not uri.secure and (ssl is not None or check_certificate is not None):
        raise ValueError("TLS needs a wss:// URL")
    context = (ssl or tls.create_default_context()) if uri.secure else None
    held_to = limits or Limits()
    protocol = ClientProtocol(uri, max_size=held_to.max_message_bytes, logger=_wire_log)
    request = protocol.connect()
    for name, value in headers:
        request.headers[name] = value
    connection: _Dialled | None = None

    def dialled() -> _Dialled:
        nonlocal connection
        connection = _Dialled(protocol, request, check_certificate, held_to)
        return connection

    try:
        async with asyncio.timeout(open_timeout_s):
            _, opening = await asyncio.get_running_loop().create_connection(
                dialled,
                uri.host,
                uri.port,
                ssl=context,
                server_hostname=(server_hostname or uri.host) if uri.secure else None,
            )
            await opening.opened
    except BaseException:
        if connection is not None:
            connection.abort("given up while opening")
            if not connection.opened.cancel() and not connection.opened.cancelled():
                connection.opened.exception()  # else asyncio reports it as never looked at
        raise
    return opening


def text_response(status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A plain-text HTTP answer, after which the connection is closed."""
    body = text.encode()
    fields = Headers(
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            *headers,
        ]
    )
    return Response(status, HTTPStatus(status).phrase, fields, body)


def _frame(first_byte: int, payload: bytes, *, masked: bool) -> bytes:
    """A whole message in one frame (RFC 6455 §5.2)."""
    length = len(payload)
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head = _HEAD_7.pack(first_byte, mask_bit | length)
    elif length < 65_536:
        head = _HEAD_16.pack(first_byte, mask_bit | 126, length)
    else:
        head = _HEAD_64.pack(first_byte, mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + apply_mask(payload, mask)


def _lone_frame(data: bytes, *, masked: bool) -> bytes | None:
    """The payload of `data` if it is one frame holding one message of less than 64 KiB, else ``None``."""
    size = len(data)
    if size < 6 or (data[0] != _TEXT and data[0] != _BINARY):
        return None
    length = data[1] - 0x80 if masked else data[1]  # out of range where the mask bit is wrong
    begin = 2
    if length == 126:
        length = data[2] << 8 | data[3]
        begin = 4
    elif not 0 <= length < 126:
        return None
    if not masked:
        return data[begin:] if begin + length == size else None
    if begin + 4 + length != size:
        return None
    return apply_mask(data[begin + 4 :], data[begin : begin + 4])


def _is_between_frames(protocol: WireProtocol) -> bool:
    """Whether the protocol has taken everything it was fed, and no frame and no message is half-way.

    Its parser is a chain of generators, the innermost of which waits in ``at_eof`` between two frames and
    nowhere else.
    """
    if protocol.reader.buffer or protocol.current_size is not None:
        return False
    waiting: Any = protocol.parser
    while waiting.gi_yieldfrom is not None:
        waiting = waiting.gi_yieldfrom
    return waiting.gi_code is StreamReader.at_eof.__code__


def _address(name: object) -> str:
    """A socket's address for people: ``192.0.2.1:40000``, ``[2001:db8::1]:40000``."""
    if isinstance(name, tuple) and len(name) >= 2:
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(name or "unknown")


def _bound_kernel(sock: socket.socket | None, send_timeout_s: float) -> None:
    """Make the kernel send at once, keep little for a peer that does not read, and give up on it in time."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere send_timeout_s alone has to notice
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout_s * 1000))
