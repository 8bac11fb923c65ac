"""A WebSocket on a connection whose request another HTTP server has read.

The console's pages, files and JSON are served by an HTTP library. A call that comes in there needs this
package's connection: its limits, its pings, and no task switch per message. So after the library has read and
checked an upgrade request, its transport gets this connection as its protocol. From then on the library gets
no data of it.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.server import ServerProtocol

from pxbridge.websocket.connection import WebSocket, wire_log
from pxbridge.websocket.frames import is_between_frames
from pxbridge.websocket.requests import text_response

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from pxbridge.websocket.limits import Limits

_AT_ONCE_S: Final = 1.0
"""The opening takes no time: the request is there. This is only the bound that every opening has."""


class TakenOver(WebSocket):
    """A connection on the server's side, which is open from the beginning."""

    def __init__(self, protocol: ServerProtocol, request: Handshake, limits: Limits) -> None:
        super().__init__(protocol, limits, _AT_ONCE_S)
        self.headers = request.headers
        self._server_protocol = protocol

    def open(self, transport: asyncio.Transport, response: Response) -> None:
        """Sends the answer to the handshake, on the transport that this connection takes over."""
        transport.set_protocol(self)
        self.connection_made(transport)
        self._server_protocol.send_response(response)
        self._flush()
        self._begin_open()
        self._between_frames = is_between_frames(self._protocol)


def take_over(
    transport: asyncio.Transport,
    path: str,
    headers: Iterable[tuple[bytes, bytes]],
    limits: Limits,
) -> WebSocket | Response:
    """Opens a WebSocket on a connection that has carried an upgrade request.

    Args:
        transport: The connection's transport. Its protocol gets no more calls from it; whoever owns that
            protocol must call its ``connection_lost`` when the WebSocket has closed.
        path: The request's path and query.
        headers: The request's headers, as they were received.
        limits: Limits of the WebSocket.

    Returns:
        The open WebSocket; or, if the request is no valid handshake, the HTTP response to it.
    """
    protocol = ServerProtocol(max_size=limits.max_message_bytes, logger=wire_log)
    # The library's parser bounds the request line, which has been read already: a short one stands for it.
    lines = (b"%s: %s\r\n" % header for header in headers)
    protocol.receive_data(b"GET / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n")
    request = next((each for each in protocol.events_received() if isinstance(each, Handshake)), None)
    if request is None:
        return text_response(HTTPStatus.BAD_REQUEST, "not a WebSocket handshake\n")
    response = protocol.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        return response
    socket = TakenOver(protocol, request, limits)
    socket.path = path
    socket.open(transport, response)
    return socket
