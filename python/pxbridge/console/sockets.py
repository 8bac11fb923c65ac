"""WebSockets of the console: the HTTP library reads the request, `pxbridge.websocket` has the connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from pxbridge import websocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.websocket import Limits, WebSocket


async def serve_socket(
    request: web.Request, limits: Limits, owner: Callable[[WebSocket], None]
) -> web.StreamResponse:
    """Opens a WebSocket for a request, and returns when it has closed.

    Args:
        request: The upgrade request.
        limits: Limits of the WebSocket.
        owner: Takes the open WebSocket.
    """
    transport, library = request.transport, request.protocol
    if transport is None:
        return web.Response()  # the client is gone already
    opened = websocket.take_over(transport, request.raw_path, request.raw_headers, limits)
    if isinstance(opened, websocket.Response):
        headers = [(name, value) for name, value in opened.headers.raw_items() if name in _KEPT]
        return web.Response(status=opened.status_code, body=bytes(opened.body or b""), headers=headers)
    # The connection is no longer one of the library's, which are few: sockets have limits of their own.
    library.transport = None
    try:
        owner(opened)
        await opened.wait_closed()
    except asyncio.CancelledError:
        opened.abort("the console is closing")
        await opened.wait_closed()
        raise
    finally:
        # The transport told its new protocol that it is gone. The library still has to hear it.
        library.connection_lost(None)
    return web.Response()  # nobody is there to get it


_KEPT = frozenset({"Allow", "Content-Type", "Sec-WebSocket-Version", "Upgrade"})
"""Headers of a refused handshake that the library does not write by itself."""
