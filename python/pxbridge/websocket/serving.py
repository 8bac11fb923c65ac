"""The server's side: the listening socket, requests before any upgrade, and the limits for unknown clients.

A request is either answered as plain HTTP or taken over as a WebSocket. The body of a ``POST`` is read here
first, because the protocol object does not support bodies.

Connections are accepted here and not by `asyncio`'s own server, which reports a TLS connection only after its
handshake. Here a connection counts as soon as it is accepted, so that silent connections cannot use up the
process's file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import resource
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.server import ServerProtocol

from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.websocket.connection import Closed, Limits, Phase, WebSocket, wire_log

if TYPE_CHECKING:
    import ssl as tls
    from collections import Counter

    from websockets.http11 import Request as Handshake

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 16 * 1024
"""Limit of a request's head; a longer head is refused. Exotel's URL has at most 600 characters, and proxies
add about a dozen headers."""
MAX_BODY_BYTES: Final = 16 * 1024
"""Limit of a request's body; a longer body is refused. Exotel posts a form of about twenty fields."""
MAX_OPENING: Final = 512
"""Limit of simultaneous handshakes, if there are enough file descriptors. One more cuts the oldest handshake:
a normal handshake takes one or two round trips, and silent connections must not keep others out."""

OPENING_SHARE: Final = 4
"""Handshakes use at most the process's file descriptors divided by this. Calls and engines need the rest."""

BACKLOG: Final = 1024
"""Connections that the kernel queues for us. Each turn of the event loop accepts one."""
ACCEPT_AGAIN_S: Final = 0.5
"""Pause in accepting after the process ran out of file descriptors or memory."""

_UNUSABLE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of binding to an address family that this machine does not have; often IPv6."""


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request, before any upgrade.

    Attributes:
        path: The path and query as received: untrusted, not decoded, and they may contain a secret.
        headers: The headers; names are case-insensitive.
        method: ``GET`` for an upgrade.
        address: The address of the connection's other side, without its port.
        body: The body of a ``POST``, at most `MAX_BODY_BYTES`.
    """

    path: str
    headers: Headers
    method: str = "GET"
    address: str = ""
    body: bytes = b""


Handler = Callable[[WebSocket], None]
"""Takes over a connection that has just opened: sets its callbacks, immediately or soon."""

Accept = Callable[[Request], Response | Awaitable[Response] | Handler]
"""Decides about a request. Returns an HTTP response, an awaitable of one (within the handshake's timeout), or
the handler that takes the WebSocket."""


_POST: Final = b"POST "
_HEAD_END: Final = b"\r\n\r\n"
_TRANSFER_ENCODING: Final = re.compile(rb"(?i)\r\ntransfer-encoding[ \t]*:")
_CONTENT_LENGTH: Final = re.compile(rb"(?im)^content-length:[ \t]*([^\r\n]*?)[ \t]*\r\n")


def _content_length(head: bytes) -> int | None:
    """The declared length of a request's body, 0 without one; ``None`` if it is not one plain number."""
    if _TRANSFER_ENCODING.search(head):
        return None
    found = _CONTENT_LENGTH.findall(head)
    if not found:
        return 0
    return int(found[0]) if len(found) == 1 and re.fullmatch(rb"[0-9]{1,18}", found[0]) else None


def _has_body(head: bytes) -> bool:
    """Whether a body follows a request's head. Some clients send a length of 0, which is no body."""
    return bool(_TRANSFER_ENCODING.search(head)) or any(
        length.strip(b"0") for length in _CONTENT_LENGTH.findall(head)
    )


class _Accepted(WebSocket):
    """A connection on the server's side."""

    def __init__(
        self, server: Server, arrived: object, accept: Accept, limits: Limits, open_timeout_s: float
    ) -> None:
        protocol = ServerProtocol(max_size=limits.max_message_bytes, logger=wire_log)
        super().__init__(protocol, limits, open_timeout_s)
        self._server = server
        self.arrived = arrived
        """The server's key for this connection until it has opened."""
        self._accept = accept
        self._server_protocol = protocol
        self._address = ""
        self._head = bytearray()  # the received part of the request, until its head is complete
        self._body: bytearray | None = None  # of a POST, after its head
        self._body_bytes = 0
        self._fed = 0  # length of the head that was given to the protocol object
        self._answering: asyncio.Task[None] | None = None  # waits for an asynchronous response

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self._address = str(name[0]) if isinstance(name, tuple) and name else ""
        self._server._add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server._remove(self)
        if self._answering is not None:
            self._answering.cancel()
            self._answering = None

    def _read(self, data: bytes) -> None:
        if self._phase is not Phase.OPENING:
            super()._read(data)
        elif self._answering is not None:
            pass  # one request per connection
        elif self._body is not None:
            self._take_body(data)
        else:
            self._take_head(data)

    # The protocol object does not support bodies: it would read the bytes after a request's head as frames,
    # before we have answered. So it gets only the head, as the bytes arrive. It gets the head of a POST when
    # the body is complete.

    def _take_head(self, data: bytes) -> None:
        head = self._head
        head += data
        found = head.find(_HEAD_END)
        end = len(head) if found < 0 else found + len(_HEAD_END)
        if head.startswith(_POST):
            if found >= 0 and end <= MAX_HEAD_BYTES:
                self._begin_body(end)
        elif found >= 0 and end <= MAX_HEAD_BYTES and _has_body(bytes(head[:end])):
            self._answer("", text_response(400, "only a POST may have a body\n"))
        elif not _POST.startswith(head):
            fit = min(end, MAX_HEAD_BYTES)
            fed, self._fed = self._fed, fit
            rest = bytes(head[end:])
            self._feed(bytes(head[fed:fit]))
            if self._phase is not Phase.OPENING:
                head.clear()
                self._feed(rest)
        if end > MAX_HEAD_BYTES and self._is_undecided():
            self._answer("", text_response(431, "the request line and headers are too long\n"))

    def _begin_body(self, end: int) -> None:
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        length = _content_length(head)
        if length is None:
            self._answer("", text_response(411, "a body needs exactly one Content-Length header\n"))
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
        """Whether the request is neither answered nor found invalid."""
        return self._phase is Phase.OPENING and not self._server_protocol.eof_sent

    def _handshake(self, event: Handshake | Response) -> None:
        request = cast("Handshake", event)
        self.path, self.headers = request.path, request.headers
        asked = Request(
            request.path, request.headers, request.method, self._address, bytes(self._body or b"")
        )
        try:
            answer = self._accept(asked)
        except Exception:
            # The path is not logged: it may contain a token.
            log.exception("%s: a request could not be answered", self.peer)
            answer = text_response(500, "internal error\n")
        if isinstance(answer, Response):
            self._answer(request.method, answer)
            return
        if isinstance(answer, Awaitable):
            self._answering = asyncio.create_task(self._answer_later(request.method, answer))
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
            log.exception("%s: the handler of a new WebSocket raised an error", self.peer)
            self._fail(f"the handler raised: {exc!r}")

    async def _answer_later(self, method: str, answer: Awaitable[Response]) -> None:
        try:
            response = await answer
        except Exception:
            log.exception("%s: a request could not be answered", self.peer)
            response = text_response(500, "internal error\n")
        if self._is_undecided():
            self._answer(method, response)

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


class Server:
    """A listening socket and its connections.

    Args:
        make: Makes the connection object for an accepted socket.
        ssl: The context to serve TLS with; ``None`` serves plain TCP.
        handshake_s: Timeout of the TLS handshake.
    """

    def __init__(
        self, make: Callable[[Server, object], _Accepted], ssl: tls.SSLContext | None, handshake_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._ssl = ssl
        self._handshake_s = handshake_s
        self.sockets: tuple[socket.socket, ...] = ()
        """The listening sockets."""
        self._connections: set[_Accepted] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        self._opening: dict[object, Callable[[], object]] = {}  # the function that cuts each; oldest first
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_opening = MAX_OPENING
        if descriptors != resource.RLIM_INFINITY:
            self._most_opening = max(1, min(MAX_OPENING, descriptors // OPENING_SHARE))
        self._cut = LogThrottle(_log_cut)
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def connections(self) -> frozenset[WebSocket]:
        """Connections that are open or closing, without those still in their handshake."""
        return frozenset(c for c in self._connections if c._phase is not Phase.OPENING)

    @property
    def port(self) -> int:
        """The TCP port number. If 0 was requested, the port that the kernel chose."""
        return int(self.sockets[0].getsockname()[1])

    async def listen(self, host: str | None, port: int) -> None:
        """Begin to accept connections. Raises `OSError` if the address or port cannot be bound."""
        self.sockets = await _bind(host, port)
        for listening in self.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Stop accepting, and cut handshakes. Open connections stay open until their owners close them."""
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self.sockets = ()
        cuts = tuple(self._opening.values())
        self._opening.clear()
        for cut in cuts:
            cut()

    async def wait_closed(self) -> None:
        """Wait until the last connection has ended."""
        await self._empty.wait()
        if self._arriving:
            await asyncio.wait(self._arriving)
            await self._empty.wait()

    # -- connections before their request --------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        try:
            arrived, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._cut.add(f"could not accept a connection ({error.strerror})")
            if self._opening:
                self._cut_oldest()  # frees its descriptor within a turn or two of the event loop
                return
            self._loop.remove_reader(listening)
            self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again, listening)
            return
        arrived.setblocking(False)
        task = self._loop.create_task(self._arrive(arrived))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        self._opening[arrived] = lambda: _hang_up(arrived)
        if len(self._opening) > self._most_opening:
            self._cut_oldest()
            self._cut.add("cut because of too many handshakes")

    def _cut_oldest(self) -> None:
        cut = self._opening.pop(next(iter(self._opening)))
        cut()

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _arrive(self, arrived: socket.socket) -> None:
        """Turns an accepted socket into a connection that can send a request."""
        handshake_s = None if self._ssl is None else self._handshake_s
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(self, arrived), arrived, ssl=self._ssl, ssl_handshake_timeout=handshake_s
            )
        except OSError as error:  # includes ssl.SSLError and the timeout
            self._opening.pop(arrived, None)
            log.debug("a connection failed before its request: %r", error)

    # -- called by connections -------------------------------------------------------------------------

    def _add(self, connection: _Accepted) -> None:
        self._connections.add(connection)
        self._empty.clear()
        if connection.arrived in self._opening:
            self._opening[connection.arrived] = lambda: connection.abort("cut during its handshake")
        else:
            connection.abort("cut before its request")

    def _opened(self, connection: _Accepted) -> None:
        self._opening.pop(connection.arrived, None)

    def _remove(self, connection: _Accepted) -> None:
        self._connections.discard(connection)
        self._opening.pop(connection.arrived, None)
        if not self._connections:
            self._empty.set()


def _log_cut(counts: Counter[str], _last: str) -> None:
    log.warning("new connections: %s", in_words(counts))


def _hang_up(arrived: socket.socket) -> None:
    """Shuts a socket down. Its transport, which may not exist yet, sees the end and closes it."""
    with contextlib.suppress(OSError):
        arrived.shutdown(socket.SHUT_RDWR)


async def _bind(host: str | None, port: int) -> tuple[socket.socket, ...]:
    """Sockets that listen on every address of `host`, with separate sockets for IPv6 and IPv4.

    Raises:
        OSError: There is no usable address, or one of them cannot be bound.
    """
    bound: list[socket.socket] = []
    unusable: OSError | None = None
    infos = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            try:
                listening = socket.socket(family, kind, protocol)
            except OSError as error:
                unusable = error
                continue
            bound.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listening.bind(address)
            except OSError as error:
                if error.errno not in _UNUSABLE:
                    raise
                unusable = error
                bound.pop().close()
                continue
            listening.listen(BACKLOG)
        if not bound and unusable is not None:
            raise unusable
    except OSError:
        for listening in bound:
            listening.close()
        raise
    return tuple(bound)


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
        accept: Called with each request, before any upgrade. It returns an HTTP response (see
            `text_response`), an awaitable of one, or the handler that takes over the WebSocket. The
            connection is closed after a response. If it raises, the response is 500.
        host: Address or name to listen on; ``None`` for all.
        port: Port; 0 for any free one.
        ssl: The context to serve TLS with; ``None`` serves plain TCP.
        open_timeout_s: Timeout of the TLS handshake, and again of the WebSocket handshake.
        limits: Limits of an open connection.

    Raises:
        OSError: The address or port cannot be bound.
    """
    held_to = limits or Limits()
    server = Server(
        lambda server, arrived: _Accepted(server, arrived, accept, held_to, open_timeout_s),
        ssl,
        open_timeout_s,
    )
    await server.listen(host, port)
    return server


def text_response(status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A plain-text HTTP response. The connection is closed after it."""
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
