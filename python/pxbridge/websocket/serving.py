"""The listening socket, and the limits for clients that have not shown yet who they are.

Connections are accepted here and not by `asyncio`'s own server, which reports a TLS connection only after its
handshake. Here a connection counts as soon as it is accepted, so that silent connections cannot use up the
process's file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from typing import TYPE_CHECKING, Final

from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.websocket.accepted import Accepted
from pxbridge.websocket.connection import Phase, WebSocket
from pxbridge.websocket.limits import Limits
from pxbridge.websocket.openings import Openings
from pxbridge.websocket.sockets import address_of, bind

if TYPE_CHECKING:
    import ssl as tls
    from collections import Counter
    from collections.abc import Callable

    from pxbridge.websocket.requests import Accept


log = logging.getLogger(__name__)

MAX_OPENING: Final = 512
"""Limit of simultaneous handshakes, if there are enough file descriptors. One more cuts another one
(`pxbridge.websocket.openings`)."""

OPENING_SHARE: Final = 4
"""Handshakes use at most the process's file descriptors divided by this. Calls and engines need the rest."""

ACCEPT_AGAIN_S: Final = 0.5
"""Pause in accepting after the process ran out of file descriptors or memory."""


class Server:
    """A listening socket and its connections.

    Args:
        make: Makes the connection object for an accepted socket.
        ssl: The context to serve TLS with; ``None`` serves plain TCP.
        handshake_s: Timeout of the TLS handshake.
    """

    def __init__(
        self, make: Callable[[Server, object], Accepted], ssl: tls.SSLContext | None, handshake_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._ssl = ssl
        self._handshake_s = handshake_s
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
        task = self._loop.create_task(self._arrive(arrived))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        self._openings.add(arrived, address_of(name), lambda: _hang_up(arrived))
        if self._openings.are_too_many:
            self._openings.cut_one()
            self._cut.add("cut because of too many handshakes")

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
            self._openings.remove(arrived)
            log.debug("a connection failed before its request: %r", error)

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
        lambda server, arrived: Accepted(server, arrived, accept, held_to, open_timeout_s),
        ssl,
        open_timeout_s,
    )
    await server.listen(host, port)
    return server
