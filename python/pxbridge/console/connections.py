"""The console's connections: how many may be open, and which one is closed when there are too many.

A connection uses a file descriptor, and calls need those. So the console keeps only a few connections. One
too many cuts the oldest that has no admitted request in progress; if all have one, the newest is cut.

A connection counts from its arrival, before any TLS handshake, until its descriptor is closed. It is cut
without waiting for the peer, which may never read what was sent to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from typing import TYPE_CHECKING, Final, cast

from pxbridge.websocket import Reason, address_of, begins_header, begins_tls

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Callable, Iterator

    from aiohttp import web

    from pxbridge.websocket import Report

log = logging.getLogger("pxbridge.console")

MAX_CONNECTIONS: Final = 256
"""Operators and talkers, each with up to eight connections of a browser, and the collectors of metrics."""

DESCRIPTOR_SHARE: Final = 16
"""The console uses at most the process's file descriptors divided by this."""

BACKLOG: Final = 32
"""Connections that are accepted in one turn of the event loop, before the limit is checked."""

_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n%s\n"

HEAD_TIMEOUT_S: Final = 10.0
"""How long a connection may stay open without a whole request. A TLS handshake has as long, before that."""


def most_connections() -> int:
    """How many connections the console keeps."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, descriptors // DESCRIPTOR_SHARE))


class Connections:
    """Makes the protocol of each new connection, and cuts connections that are too many.

    Args:
        report: Is told of connections that begin with another protocol than HTTP.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._most = most_connections()
        self._open: dict[_Connection, None] = {}  # oldest first
        self._admitted: set[web.RequestHandler] = set()
        self.cut = 0
        """How many connections were cut because there were too many."""

    def serve(self, server: web.Server, ssl: tls.SSLContext | None) -> Callable[[], asyncio.Protocol]:
        """The factory of protocols for a listening socket of plain TCP.

        Args:
            server: Makes the protocols that answer requests.
            ssl: The context to serve TLS with; None serves plain TCP.
        """
        return lambda: _Connection(self, server, ssl, self._report)

    def close(self) -> None:
        """Cuts the connections that have not ended their TLS handshake. `server` closes the others."""
        for each in [each for each in self._open if each.library is None]:
            each.cut()

    @contextlib.contextmanager
    def admitted(self, request: web.Request) -> Iterator[None]:
        """Keeps a request's connection open while the block runs."""
        connection = request.protocol
        self._admitted.add(connection)
        try:
            yield
        finally:
            self._admitted.discard(connection)

    def _add(self, new: _Connection) -> bool:
        """Counts a connection, and cuts another one for it if needed; False if the new one is too many."""
        for gone in [each for each in self._open if each.is_taken_over]:
            self._remove(gone)
        if len(self._open) >= self._most:
            self.cut += 1
            idle = next((each for each in self._open if each.library not in self._admitted), None)
            if idle is None:
                return False
            self._remove(idle)
            idle.cut()
        self._open[new] = None
        return True

    def _remove(self, connection: _Connection) -> None:
        self._open.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Does the TLS handshake, looks at the first bytes, and gives them to the library if they may be HTTP.

    The library answers anything else with 400, and says no more about it.

    Attributes:
        library: The library's end of the connection; None before the end of the TLS handshake.
    """

    def __init__(
        self, connections: Connections, server: web.Server, ssl: tls.SSLContext | None, report: Report
    ) -> None:
        self._connections = connections
        self._server = server
        self._ssl = ssl
        self._report = report
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""  # what came with the end of the handshake
        self._may_be_http = False
        self.library: web.RequestHandler | None = None

    @property
    def is_taken_over(self) -> bool:
        """Whether a WebSocket has the connection now. Those have limits of their own."""
        return self.library is not None and self._transport.get_protocol() is not self

    def cut(self) -> None:
        """Closes the descriptor at once."""
        if self._handshake is not None:
            self._handshake.cancel()
        self._tcp.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        if not self._connections._add(self):
            self._tcp.abort()
        elif self._ssl is None:
            self._begin(self._tcp)
        else:
            self._tcp.pause_reading()  # `start_tls` reads on
            self._handshake = asyncio.get_running_loop().create_task(self._start_tls(self._ssl))

    async def _start_tls(self, ssl: tls.SSLContext) -> None:
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._tcp, self, ssl, server_side=True, ssl_handshake_timeout=HEAD_TIMEOUT_S
            )
        except OSError as error:  # includes ssl.SSLError and the timeout
            log.debug("a TLS handshake failed: %r", error)
            transport = None
        if transport is None:
            self._connections._remove(self)
            self._tcp.abort()
            return
        self._begin(transport)
        if self._early:
            self.data_received(self._early)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.library = self._server()
        self.library.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.library is None:
            self._early += data
            return
        if not self._may_be_http:
            reason = (
                Reason.TLS if begins_tls(data) else Reason.PROXY_UNEXPECTED if begins_header(data) else None
            )
            if reason is not None:
                self._report(reason, address_of(self._transport.get_extra_info("peername")))
                self._transport.write(_BAD_REQUEST % reason.encode())
                self._transport.close()
                return
            self._may_be_http = True
        self.library.data_received(data)

    def eof_received(self) -> None:
        if self.library is not None:
            self.library.eof_received()

    def pause_writing(self) -> None:
        if self.library is not None:
            self.library.pause_writing()

    def resume_writing(self) -> None:
        if self.library is not None:
            self.library.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections._remove(self)
        if self.library is not None:
            self.library.connection_lost(exc)
