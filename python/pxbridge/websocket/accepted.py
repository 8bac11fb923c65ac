"""The server's end of one connection: its request, with a body or without, and then the WebSocket.

A request is either answered as plain HTTP or taken over as a WebSocket. The body of a ``POST`` is read here
first, because the protocol object does not support bodies.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from websockets.http11 import Response
from websockets.server import ServerProtocol

from pxbridge.websocket.connection import Phase, WebSocket, wire_log
from pxbridge.websocket.requests import MAX_BODY_BYTES, MAX_HEAD_BYTES, Request, text_response

if TYPE_CHECKING:
    from websockets.http11 import Request as Handshake

    from pxbridge.websocket.limits import Closed, Limits
    from pxbridge.websocket.requests import Accept
    from pxbridge.websocket.serving import Server

log = logging.getLogger(__name__)

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


class Accepted(WebSocket):
    """A connection on the server's side."""

    def __init__(
        self, server: Server, arrived: object, accept: Accept, limits: Limits, open_timeout_s: float
    ) -> None:
        protocol = ServerProtocol(max_size=limits.max_message_bytes, logger=wire_log)
        super().__init__(protocol, limits, open_timeout_s)
        self._server = server
        self.on_flooded = server._count_flood
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self._address = str(name[0]) if isinstance(name, tuple) and name else ""
        self._server._add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
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
                super()._read(rest)
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
