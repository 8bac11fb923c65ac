"""The console's connections: how many may be open, and which one is closed when there are too many.

A connection uses a file descriptor, and calls need those. So the console keeps only a few connections. One
too many closes the oldest that has no admitted request in progress; if all have one, the newest is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import TYPE_CHECKING, Final, cast

from pxbridge.websocket import Reason, address_of, begins_header, begins_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp import web

    from pxbridge.websocket import Report

MAX_CONNECTIONS: Final = 256
"""Operators and talkers, each with up to eight connections of a browser, and the collectors of metrics."""

DESCRIPTOR_SHARE: Final = 16
"""The console uses at most the process's file descriptors divided by this."""

BACKLOG: Final = 32
"""Connections that are accepted in one turn of the event loop, before the limit is checked."""

_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n%s\n"

HEAD_TIMEOUT_S: Final = 10.0
"""How long a connection may stay open without a whole request."""


def most_connections() -> int:
    """How many connections the console keeps."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, descriptors // DESCRIPTOR_SHARE))


class Connections:
    """Makes the protocol of each new connection, and closes connections that are too many.

    Args:
        report: Is told of connections that begin with another protocol than HTTP.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._most = most_connections()
        self._server: web.Server | None = None
        self._admitted: set[web.RequestHandler] = set()
        self.cut = 0
        """How many connections were closed because there were too many."""

    def serve(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """The factory of protocols for a listening socket.

        Args:
            server: Makes the protocols that answer requests.
        """
        self._server = server
        return self._make

    @contextlib.contextmanager
    def admitted(self, request: web.Request) -> Iterator[None]:
        """Keeps a request's connection open while the block runs."""
        connection = request.protocol
        self._admitted.add(connection)
        try:
            yield
        finally:
            self._admitted.discard(connection)

    def _make(self) -> asyncio.Protocol:
        assert self._server is not None  # noqa: S101  `serve` gave this method away
        known = self._server.connections  # oldest first
        open_now = [each for each in known if each.transport is not None]
        if len(open_now) >= self._most:
            self.cut += 1
            idle = next((each for each in open_now if each not in self._admitted), None)
            if idle is None:
                return _Closed()
            idle.force_close()
        return _FirstBytes(self._server(), self._report)


class _FirstBytes(asyncio.Protocol):
    """Looks at the first bytes of a connection, and gives it over to the library if they may be HTTP.

    The library answers anything else with 400, and says no more about it.
    """

    def __init__(self, library: web.RequestHandler, report: Report) -> None:
        self._library = library
        self._report = report

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._library.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        reason = Reason.TLS if begins_tls(data) else Reason.PROXY_UNEXPECTED if begins_header(data) else None
        if reason is None:
            self._transport.set_protocol(self._library)
            self._library.data_received(data)
            return
        self._report(reason, address_of(self._transport.get_extra_info("peername")))
        self._transport.write(_BAD_REQUEST % reason.encode())
        self._transport.close()

    def eof_received(self) -> None:
        self._library.eof_received()

    def pause_writing(self) -> None:
        self._library.pause_writing()

    def resume_writing(self) -> None:
        self._library.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._library.connection_lost(exc)


class _Closed(asyncio.Protocol):
    """A connection that is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
