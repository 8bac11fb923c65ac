"""One connection, either side: a shell around `websockets`' sans-I/O protocol.

A connection goes through four phases. One timer serves all of them::

    OPENING ──▶ OPEN ──▶ CLOSING ──▶ CLOSED
       │          │                     ▲
       └──────────┴── abort ────────────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
import struct
from typing import TYPE_CHECKING, Final, cast

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.protocol import Side

from pxbridge.websocket.allowance import PIECE_BYTES, TURN_BYTES, TURN_FRAMES, Allowance
from pxbridge.websocket.frames import (
    BINARY,
    PING,
    PONG,
    TEXT,
    is_between_frames,
    lone_frame,
    whole_frame,
    whole_frames,
)
from pxbridge.websocket.limits import FLOODED, NO_PONG, PEER_STOPPED_READING, Closed, Limits
from pxbridge.websocket.sockets import bound_kernel, peer_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from websockets.http11 import Request as Handshake
    from websockets.http11 import Response
    from websockets.protocol import Protocol as WireProtocol

log = logging.getLogger(__name__)

# The library logs every frame with its payload at DEBUG, and two lines per connection at INFO. Payloads are
# people's voices and must never be logged.
wire_log = logging.getLogger("pxbridge.websocket.wire")
wire_log.setLevel(logging.WARNING)


_ABNORMAL: Final = 1006  # RFC 6455 §7.4.1: reported if no close frame came; never sent
_POLICY_VIOLATION: Final = 1008
_INTERNAL_ERROR: Final = 1011
_MAX_CLOSE_REASON_BYTES: Final = 123  # RFC 6455 §5.5: 125 bytes of payload, less 2 for the code


# One byte that the kernel did not take counts as "not drained". The value is 1 and not 0: with 0, asyncio's
# TLS transport would call pause and resume in turn at every write.
_HIGH_WATER_BYTES: Final = 1

_READ_BYTES: Final = 64 * 1024
"""The size of asyncio's buffer for one read; its own is 256 KiB. The C library may map a buffer above 128 KiB
again at each read, which costs ten times as much as reading a message."""

TOO_SLOW: Final = "the handshake took too long"
"""``Closed.error`` of a connection that did not open in time."""

_PING_PAYLOAD = struct.Struct("!d")
"""A ping carries the time at which it was sent, so its pong tells the round trip."""


class Phase(enum.Enum):
    """The phase of a connection."""

    OPENING = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


def _ignore(*_: object) -> None:
    pass


class WebSocket(asyncio.Protocol):
    """One connection, either side. Use it from its event loop only.

    Nothing is read from the peer before ``on_message`` is set. So no message is lost between the opening and
    the moment at which the owner is ready.

    Attributes:
        path: The path and query of the client's request.
        headers: The headers of the client's request.
        peer: The other side's ``address:port``.
        rtt_s: Round trip of the last answered ping, seconds; ``None`` before the first.
        on_pong: Called with the round trip when a ping is answered.
        on_flooded: Called if the connection is closed because the peer sent too much.
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
        self._allowance = Allowance(limits, loop.time())
        self._unread = bytearray()  # received and not parsed yet
        self._next_turn: asyncio.Handle | None = None  # reads on; until then the transport is paused
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.OPENING
        self._deadline = loop.time() + open_timeout_s  # of the phase OPENING or CLOSING
        self._timer: asyncio.TimerHandle | None = None
        self._undrained_since: float | None = None
        self._pinged_at = loop.time()
        self._heard = True  # whether any data came since the ping at `_silent_since`
        self._silent_since = self._pinged_at
        self._partial: bytearray | None = None  # a message whose last fragment has not arrived yet
        self._partial_is_text = False
        self._early: list[tuple[bytes, bool]] = []  # messages that arrived before on_message was set
        self._on_message: Callable[[bytes, bool], None] | None = None
        self._on_close: Callable[[Closed], None] = _ignore
        self.on_pong: Callable[[float], None] = _ignore
        self.on_flooded: Callable[[], None] = _ignore
        self._error: str | None = None
        self._closed: asyncio.Future[Closed] = loop.create_future()

    def __repr__(self) -> str:
        return f"<WebSocket {self.peer} {self._phase.name.lower()}>"

    # For the owner of the connection

    @property
    def on_message(self) -> Callable[[bytes, bool], None] | None:
        """Called with the payload of every message, and whether it is text. The UTF-8 is not checked.

        It is called from the event loop: it must be quick and must not block. If it raises, only this
        connection is closed, with 1011.
        """
        return self._on_message

    @on_message.setter
    def on_message(self, receive: Callable[[bytes, bool], None]) -> None:
        if self._phase is Phase.CLOSED:
            return
        first = self._on_message is None
        self._on_message = receive
        if not first or self._phase is Phase.OPENING:
            return
        early, self._early = self._early, []
        for payload, is_text in early:
            self._hand_over(payload, is_text)
        self._read_on()

    @property
    def on_close(self) -> Callable[[Closed], None]:
        """Called once when the connection has ended; immediately if it has already ended."""
        return self._on_close

    @on_close.setter
    def on_close(self, closed: Callable[[Closed], None]) -> None:
        if self._closed.done():
            closed(self._closed.result())
        else:
            self._on_close = closed

    @property
    def is_open(self) -> bool:
        """Whether ``send`` sends."""
        return self._phase is Phase.OPEN

    @property
    def queued_bytes(self) -> int:
        """Bytes that were passed to ``send`` and that the kernel has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, data: bytes, *, text: bool = False) -> None:
        """Send one message. Never waits.

        If more than ``max_queued_bytes`` are queued, or if any byte is queued for ``send_timeout_s``, the
        connection is cut with the error `PEER_STOPPED_READING`. On a connection that is not open, the message
        is dropped: ``on_close`` has been called or will be called.

        Args:
            data: The payload; UTF-8 if `text`.
            text: Send a text message instead of a binary one.
        """
        if self._phase is Phase.OPEN and self._transport is not None:
            self._transport.write(whole_frame(TEXT if text else BINARY, data, masked=self._masks))
            if self._undrained_since is not None and self.queued_bytes > self._limits.max_queued_bytes:
                self.abort(PEER_STOPPED_READING)

    def send_all(self, messages: Sequence[tuple[bytes, bool]]) -> None:
        """Send messages as `send` does, but in one write: one system call for a frame of sound and its mark.

        Args:
            messages: Payloads, and whether each is a text message.
        """
        if not messages or self._phase is not Phase.OPEN or self._transport is None:
            return
        self._transport.write(whole_frames(messages, masked=self._masks))
        if self._undrained_since is not None and self.queued_bytes > self._limits.max_queued_bytes:
            self.abort(PEER_STOPPED_READING)

    def ping(self) -> None:
        """Send a ping now; `on_pong` gets the round trip. The next regular ping is one interval later."""
        if self._phase is not Phase.OPEN or self._transport is None:
            return
        self._pinged_at = now = self._loop.time()
        if self._heard:
            self._heard, self._silent_since = False, now
        self._transport.write(whole_frame(PING, _PING_PAYLOAD.pack(now), masked=self._masks))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake. No message is delivered after this.

        If the peer does not answer within ``close_timeout_s`` the connection is cut.

        Args:
            code: A close code that may be sent (RFC 6455 §7.4).
            reason: Truncated to the 123 bytes that a close frame can hold.
        """
        if self._phase is Phase.OPENING:
            self.abort("closed before it was open")
        elif self._phase is Phase.OPEN:
            short = reason.encode()[:_MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
            self._protocol.send_close(code, short)
            self._flush()
            self._begin_closing()

    def abort(self, error: str) -> None:
        """Cut the connection at once, without a closing handshake.

        Args:
            error: The text for ``Closed.error``.
        """
        if self._phase is Phase.CLOSED:
            return
        self._error = self._error or error
        if self._phase is Phase.OPEN:
            self._phase = Phase.CLOSING
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> Closed:
        """Wait until the connection has ended. Returns how it ended."""
        return await asyncio.shield(self._closed)

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES, low=0)
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
        self.peer = peer_name(transport.get_extra_info("peername"))
        bound_kernel(transport.get_extra_info("socket"), self._limits.send_timeout_s)
        self._arm(self._deadline)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        # The fast path, which nearly every message takes. It makes few function calls: with about fifty
        # messages per second and phone call, no code stays in the CPU's caches. A function
        # call would then cost more than its work.
        self._heard = True
        receive = self._on_message
        if self._between_frames and receive is not None and self._phase is Phase.OPEN:
            payload = lone_frame(data, masked=not self._masks)
            if payload is not None and len(payload) <= self._limits.max_message_bytes:
                allowance = self._allowance
                allowance.bytes_left -= len(data)
                allowance.frames_left -= 1
                if allowance.bytes_left < 0 or allowance.frames_left < 0:
                    self._slow_down()
                if data[0] == PONG:
                    self._take_pong(payload)
                    return
                try:
                    receive(payload, data[0] == TEXT)
                except Exception as exc:
                    self._not_handled(exc)
                return
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Reads all data that is not one message in one frame."""
        self._unread += data
        if self._next_turn is None:
            self._take_turn()

    def _take_turn(self) -> None:
        """Reads this turn's share of what has arrived."""
        self._next_turn = None
        unread, allowance = self._unread, self._allowance
        taken = frames = 0
        while taken < min(len(unread), TURN_BYTES) and frames < TURN_FRAMES and not self._waits_for_owner():
            piece = bytes(unread[taken : taken + PIECE_BYTES])
            taken += len(piece)
            frames += self._feed(piece)
        if self._phase is Phase.CLOSED:
            return
        del unread[:taken]
        self._between_frames = not unread and is_between_frames(self._protocol)
        allowance.bytes_left -= taken
        allowance.frames_left -= frames
        if allowance.bytes_left < 0 or allowance.frames_left < 0:
            self._slow_down()
        self._read_on()

    def _slow_down(self) -> None:
        """Reads nothing for a while if the peer sends too much, and closes if it does so for too long."""
        now_s = self._loop.time()
        pause_s = self._allowance.renew(now_s)
        if pause_s <= 0.0 or self._phase is Phase.CLOSED or self._next_turn is not None:
            return
        self._pause_reading()
        self._next_turn = self._loop.call_later(pause_s, self._take_turn)
        since_s = self._allowance.slowed_since_s
        if since_s is None or now_s < since_s + self._limits.flood_timeout_s:
            return
        if self._phase is Phase.OPEN:
            self._fail(FLOODED, _POLICY_VIOLATION, "too many messages")
            self.on_flooded()

    def _read_on(self) -> None:
        """Reads on, unless a later turn does so, or the owner is not ready."""
        if self._next_turn is not None or self._phase is Phase.CLOSED:
            return
        if self._waits_for_owner():
            self._pause_reading()
        elif self._unread:
            self._pause_reading()
            self._next_turn = self._loop.call_soon(self._take_turn)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _waits_for_owner(self) -> bool:
        return self._phase is Phase.OPEN and self._on_message is None

    def eof_received(self) -> None:  # noqa: D102
        if self._phase is Phase.CLOSED:
            return
        if self._unread:  # a transport that does not stop reading at once
            unread, self._unread = bytes(self._unread), bytearray()
            self._feed(unread)
        self._protocol.receive_eof()
        self._take_events()
        self._begin_closing()
        # Returning None lets the transport close after it has sent its queue.

    def pause_writing(self) -> None:  # noqa: D102
        self._undrained_since = self._loop.time()
        self._arm(self._undrained_since + self._limits.send_timeout_s)

    def resume_writing(self) -> None:  # noqa: D102
        self._undrained_since = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._phase = Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        closed = self._how_it_ended(exc)
        on_close = self._on_close
        # The owner usually refers to this object, and the callbacks here refer to the owner. Drop
        # them, so that the cycle does not wait for garbage collection.
        self._on_close = self._on_message = self.on_pong = self.on_flooded = _ignore
        self._early.clear()
        self._unread.clear()
        self._partial = None
        self._transport = None
        # The protocol refers to itself through a generator and through the tracebacks of raised errors.
        self._protocol.parser.close()
        for fault in (self._protocol.parser_exc, self._protocol.handshake_exc):
            if fault is not None:
                fault.__traceback__ = None
        if not self._closed.done():
            self._closed.set_result(closed)
        try:
            on_close(closed)
        except Exception:
            log.exception("%s: on_close raised an error", self.peer)

    # Bytes in, events and bytes out

    def _feed(self, data: bytes) -> int:
        """Gives bytes to the parser and takes what comes out. Returns the number of frames."""
        if not data or self._phase is Phase.CLOSED or self._protocol.reader.eof:
            return 0
        self._protocol.receive_data(data)
        return self._take_events()

    def _take_events(self) -> int:
        """Takes what the parser has found. Returns the number of frames."""
        events = self._protocol.events_received()
        for event in events:
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
        return len(events)

    def _deliver(self, payload: bytes, is_text: bool) -> None:
        if self._phase is not Phase.OPEN:
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
            self._not_handled(exc)

    def _not_handled(self, exc: Exception) -> None:
        log.error("%s: on_message raised an error; closing the connection", self.peer, exc_info=exc)
        self._fail(f"on_message raised: {exc!r}")

    def _fail(self, error: str, code: int = _INTERNAL_ERROR, reason: str = "internal error") -> None:
        """Close because of a fault: ours, unless the code says otherwise."""
        self._error = self._error or error
        self._protocol.fail(code, reason)
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
                # Half-close only. Closing while bytes of the peer are unread would send a reset, and the peer
                # could lose our last bytes.
                if self._phase is Phase.OPEN:
                    self._begin_closing()  # nothing more may be sent
                with contextlib.suppress(OSError):  # the peer has reset the connection; its loss is told next
                    transport.write_eof()
            else:
                transport.close()
        if self._phase is not Phase.OPEN:
            return  # an answer of HTTP may be larger than what messages may queue: a file of a web client
        if self._undrained_since is not None and self.queued_bytes > self._limits.max_queued_bytes:
            self.abort(PEER_STOPPED_READING)

    # The phases

    def _handshake(self, event: Handshake | Response) -> None:
        raise NotImplementedError

    def _begin_open(self) -> None:
        self._phase = Phase.OPEN
        self._pinged_at = self._loop.time()
        if self._limits.ping_interval_s is not None:
            self._arm(self._pinged_at + self._limits.ping_interval_s)
        if self._on_message is None:
            self._pause_reading()

    def _begin_closing(self) -> None:
        if self._phase is Phase.CLOSING or self._phase is Phase.CLOSED:
            return
        self._phase = Phase.CLOSING
        self._deadline = self._loop.time() + self._limits.close_timeout_s
        self._arm(self._deadline)
        self._read_on()  # to read the peer's close frame, even if on_message was never set

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
        """Ensures that `_wake` runs at or before `at`. An earlier wake re-arms the timer itself."""
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
        """Does the work that is due at `now`. Returns when to check again; infinity for never."""
        limits = self._limits
        if self._phase is Phase.OPENING:
            if now < self._deadline:
                return self._deadline
            self.abort(TOO_SLOW)
            return math.inf
        if self._phase is Phase.CLOSING:
            if now < self._deadline:
                return self._deadline
            if self._transport is not None:
                self._transport.abort()  # `_how_it_ended` reports an incomplete closing handshake
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
        # Only the pong of the newest ping counts. An older or unsolicited pong does not measure the line now.
        if payload == _PING_PAYLOAD.pack(self._pinged_at):
            self.rtt_s = self._loop.time() - self._pinged_at
            self.on_pong(self.rtt_s)
