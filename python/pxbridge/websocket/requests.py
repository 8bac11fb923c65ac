"""Requests before any upgrade, and plain answers to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Response

from pxbridge.websocket.connection import WebSocket

MAX_HEAD_BYTES: Final = 16 * 1024
"""Limit of a request's head; a longer head is refused. Exotel's URL has at most 600 characters, and proxies
add about a dozen headers."""

MAX_BODY_BYTES: Final = 16 * 1024
"""Limit of a request's body; a longer body is refused. Exotel posts a form of about twenty fields."""


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request, before any upgrade.

    Attributes:
        path: The path and query as received: untrusted, not decoded, and they may contain a secret.
        headers: The headers; names are case-insensitive.
        method: ``GET`` for an upgrade.
        address: The address of the connection's other side, without its port.
        body: The body of a ``POST``, at most `MAX_BODY_BYTES`.
        is_proxys_own: Whether the address is a proxy's own because its PROXY protocol header names no
            client. Nothing vouches for ``X-Forwarded-For`` then: such a proxy passes on bytes as they come.
    """

    path: str
    headers: Headers
    method: str = "GET"
    address: str = ""
    body: bytes = b""
    is_proxys_own: bool = False


Handler = Callable[[WebSocket], None]
"""Takes over a connection that has just opened: sets its callbacks, immediately or soon."""

Accept = Callable[[Request], Response | Awaitable[Response] | Handler]
"""Decides about a request. Returns an HTTP response, an awaitable of one (within the handshake's timeout), or
the handler that takes the WebSocket."""


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


def options_response(allow: str) -> Response:
    """The answer to ``OPTIONS``. A 204 has no length (RFC 9110 §8.6)."""
    status = HTTPStatus.NO_CONTENT
    fields = Headers([("Allow", allow), ("Cache-Control", "no-store"), ("Connection", "close")])
    return Response(status, status.phrase, fields, b"")
