"""The listening socket, and the limits for clients that have not shown yet who they are.

Connections are accepted here and not by `asyncio`'s own server, which reports a TLS connection only after its
handshake. Here a connection counts as soon as it is accepted, so that silent connections cannot use up the
process's file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import resource
import socket
import ssl as tls
from typing import TYPE_CHECKING, Final

from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.websocket.accepted import Accepted
from pxbridge.websocket.connection import Phase, WebSocket
from pxbridge.websocket.limits import Limits
from pxbridge.websocket.openings import Openings
from pxbridge.websocket.proxy_protocol import (
    begins_header,
    peek,
    read_header,
    sends_no_header,
)
from pxbridge.websocket.requests import MAX_HEAD_BYTES
from pxbridge.websocket.sockets import address_of, bind
from pxbridge.websocket.turned_away import Reason, unreported

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from pxbridge.websocket.proxy_protocol import Header
    from pxbridge.websocket.requests import Accept
    from pxbridge.websocket.turned_away import Report

log = logging.getLogger(__name__)

MAX_OPENING: Final = 512
"""Limit of simultaneous handshakes, if there are enough file descriptors. One more cuts another one
(`pxbridge.websocket.openings`)."""

OPENING_SHARE: Final = 4
"""Handshakes use at most the process's file descriptors divided by this. Calls and engines need the rest."""

_HTTP_REQUEST: Final = re.compile(rb"[A-Z]{3,16} ")
_NEED_TLS: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n%s\n"

ACCEPT_AGAIN_S: Final = 0.5
"""Pause in accepting after the process ran out of file descriptors or memory."""


class Server:
    """A listening socket and its connections.

    Args:
        make: Makes the connection object for an accepted socket.
        ssl: The context to serve TLS with; ``None`` serves plain TCP.
        handshake_s: Timeout of the first bytes, and again of the TLS handshake.
        sends_header: Whether an address is a proxy's that sends the PROXY protocol's header.
        report: Is told of what is turned away before `make`'s connection decides.
    """

    def __init__(
        self,
        make: Callable[[Server, object, Header | None], Accepted],
        ssl: tls.SSLContext | None,
        handshake_s: float,
        sends_header: Callable[[str], bool] = sends_no_header,
        report: Report = unreported,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._ssl = ssl
        self._handshake_s = handshake_s
        self._sends_header = sends_header
        self.report = report
        self.sockets: tuple[socket.socket, ...] = ()
        """The listening sockets."""
        self._connections: set[Accepted] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most_opening = MAX_OPENING
        if descriptors != resource.RLIM_INFINITY:
            most_opening = max(1, min(MAX_OPENING, descriptors // OPENING_SHARE))
        self._openings = Openings(most_opening)
        self.flooded = 0
        """Connections that were closed because the peer sent too much."""
        self.crowded = 0
        """Connections that were cut because there were too many handshakes."""
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
        self.sockets = await bind(host, port)
        for listening in self.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Stop accepting, and cut handshakes. Open connections stay open until their owners close them."""
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self.sockets = ()
        self._openings.cut_all()

    async def wait_closed(self) -> None:
        """Wait until the last connection has ended."""
        await self._empty.wait()
        if self._arriving:
            await asyncio.wait(self._arriving)
            await self._empty.wait()

    # -- connections before their request --------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        try:
            arrived, name = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self._cut.add(f"could not accept a connection ({error.strerror})")
            if self._openings:
                self._openings.cut_one()  # frees its descriptor within a turn or two of the event loop
                return
            self._loop.remove_reader(listening)
            self._loop.call_later(ACCEPT_AGAIN_S, self._accept_again, listening)
            return
        arrived.setblocking(False)
        task = self._loop.create_task(self._arrive(arrived, address_of(name)))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        self._openings.add(arrived, address_of(name), lambda: _hang_up(arrived))
        if self._openings.are_too_many:
            self._openings.cut_one()
            self.crowded += 1
            self._cut.add("cut because of too many handshakes")

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _arrive(self, arrived: socket.socket, address: str) -> None:
        """Turns an accepted socket into a connection that can send a request."""
        header: Header | None = None
        try:
            if self._sends_header(address):
                header = await self._read_header(arrived)
                if header.client is not None:
                    address = header.client.address
                    if arrived in self._openings:
                        self._openings.move(arrived, address)
            if self._ssl is not None:
                await self._expect_tls(arrived)
        except (_TurnedAway, OSError) as error:
            self._failed(arrived, address, error)
            arrived.close()
            return
        handshake_s = None if self._ssl is None else self._handshake_s
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make(self, arrived, header),
                arrived,
                ssl=self._ssl,
                ssl_handshake_timeout=handshake_s,
            )
        except OSError as error:  # includes ssl.SSLError and the timeout; the socket is its transport's
            self._failed(arrived, address, error)

    async def _read_header(self, arrived: socket.socket) -> Header:
        try:
            async with asyncio.timeout(self._handshake_s):
                header = await read_header(arrived)
        except ValueError as error:
            raise _TurnedAway(Reason.PROXY_INVALID, str(error)) from None
        except TimeoutError:
            raise _TurnedAway(Reason.PROXY_INVALID, "it did not come in time") from None
        if header is None:
            raise ConnectionResetError("it ended before it sent anything")  # as some health checks do
        return header

    async def _expect_tls(self, arrived: socket.socket) -> None:
        """Turns away what is evidently not TLS; OpenSSL's own error would say less."""
        async with asyncio.timeout(self._handshake_s):
            first = await peek(arrived, MAX_HEAD_BYTES)
        if begins_header(first):
            raise _TurnedAway(Reason.PROXY_UNEXPECTED)
        if _HTTP_REQUEST.match(first):
            with contextlib.suppress(OSError):
                arrived.recv(MAX_HEAD_BYTES)  # bytes left unread would make the kernel drop the answer
                arrived.send(_NEED_TLS % Reason.PLAIN_HTTP.encode())
            raise _TurnedAway(Reason.PLAIN_HTTP)

    def _failed(self, arrived: socket.socket, address: str, error: Exception) -> None:
        log.debug("a connection failed before its request: %r", error)
        if arrived not in self._openings:
            return  # it was cut for another one
        self._openings.remove(arrived)
        match error:
            case _TurnedAway():
                self.report(error.reason, address, error.detail)
            case TimeoutError():
                self.report(Reason.TOO_SLOW, address)
            case tls.SSLEOFError():
                pass  # the client went away
            case tls.SSLError():
                self.report(Reason.TLS_FAILED, address, error.reason or "")
            case ConnectionAbortedError():  # asyncio's timeout of the TLS handshake
                self.report(Reason.TOO_SLOW, address)

    # -- called by connections -------------------------------------------------------------------------

    def _add(self, connection: Accepted) -> None:
        self._connections.add(connection)
        self._empty.clear()
        if connection.arrived in self._openings:
            self._openings.replace(connection.arrived, lambda: connection.abort("cut during its handshake"))
        else:
            connection.abort("cut before its request")

    def _count_flood(self) -> None:
        self.flooded += 1

    def _opened(self, connection: Accepted) -> None:
        self._openings.remove(connection.arrived)

    def _remove(self, connection: Accepted) -> None:
        self._connections.discard(connection)
        self._openings.remove(connection.arrived)
        if not self._connections:
            self._empty.set()


class _TurnedAway(Exception):
    """A connection that is turned away before there is a transport for it.

    Args:
        reason: Why.
        detail: More about it, safe to log.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail


def _log_cut(counts: Counter[str], _last: str) -> None:
    log.warning("new connections: %s", in_words(counts))


def _hang_up(arrived: socket.socket) -> None:
    """Shuts a socket down. Its transport, which may not exist yet, sees the end and closes it."""
    with contextlib.suppress(OSError):
        arrived.shutdown(socket.SHUT_RDWR)


async def serve(
    accept: Accept,
    host: str | None,
    port: int,
    *,
    ssl: tls.SSLContext | None = None,
    open_timeout_s: float = 10.0,
    limits: Limits | None = None,
    sends_header: Callable[[str], bool] = sends_no_header,
    report: Report = unreported,
) -> Server:
    """Listen for WebSockets, and for plain HTTP requests that `accept` answers.

    Args:
        accept: Called with each request, before any upgrade. It returns an HTTP response (see
            `text_response`), an awaitable of one, or the handler that takes over the WebSocket. The
            connection is closed after a response. If it raises, the response is 500.
        host: Address or name to listen on; ``None`` for all.
        port: Port; 0 for any free one.
        ssl: The context to serve TLS with; ``None`` serves plain TCP.
        open_timeout_s: Timeout of the first bytes, of the TLS handshake, and of the WebSocket handshake.
        limits: Limits of an open connection.
        sends_header: Whether an address is a proxy's that sends the PROXY protocol's header, before TLS. From
            such an address nothing else is accepted; from another one no header is.
        report: Is told of each connection that is turned away, and each request that `accept` does not see or
            whose upgrade fails.

    Raises:
        OSError: The address or port cannot be bound.
    """
    held_to = limits or Limits()
    server = Server(
        lambda server, arrived, header: Accepted(server, arrived, accept, held_to, open_timeout_s, header),
        ssl,
        open_timeout_s,
        sends_header,
        report,
    )
    await server.listen(host, port)
    return server
