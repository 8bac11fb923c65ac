"""The server's end of one connection: its request, with a body or without, and then the WebSocket.

A request is either answered as plain HTTP or taken over as a WebSocket. There is one request per connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from websockets.exceptions import InvalidHeader
from websockets.http11 import Response
from websockets.server import ServerProtocol

from pxbridge.websocket.connection import TOO_SLOW, Phase, WebSocket, wire_log
from pxbridge.websocket.request_reader import RequestReader
from pxbridge.websocket.requests import MAX_HEAD_BYTES, Request, text_response
from pxbridge.websocket.sockets import address_of, peer_name
from pxbridge.websocket.turned_away import Reason, shown

if TYPE_CHECKING:
    from websockets.http11 import Request as Handshake

    from pxbridge.websocket.limits import Closed, Limits
    from pxbridge.websocket.proxy_protocol import Header
    from pxbridge.websocket.requests import Accept, Handler
    from pxbridge.websocket.serving import Server

log = logging.getLogger(__name__)

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_SLOWEST_READER_BYTES_PER_S: Final = 4096
"""A client that reads a long answer more slowly, such as a file of a web client, is cut."""


class Accepted(WebSocket):
    """A connection on the server's side.

    Args:
        server: The listening socket's owner.
        arrived: The server's key for this connection until it has opened.
        accept: Decides about the request.
        limits: Limits of the WebSocket.
        open_timeout_s: Timeout of the request and its answer.
        header: The PROXY protocol header that came before; None if none was expected.
    """

    def __init__(
        self,
        server: Server,
        arrived: object,
        accept: Accept,
        limits: Limits,
        open_timeout_s: float,
        header: Header | None,
    ) -> None:
        protocol = ServerProtocol(max_size=limits.max_message_bytes, logger=wire_log)
        super().__init__(protocol, limits, open_timeout_s)
        self._server = server
        self.on_flooded = server._count_flood
        self.arrived = arrived
        self._header = header
        self._accept = accept
        self._server_protocol = protocol
        self._address = ""
        self._reader: RequestReader | None = RequestReader()  # until the request is complete
        self._body = b""
        self._early_bytes = b""  # sent before the request is answered
        self._answering: asyncio.Task[None] | None = None  # waits for an asynchronous response
        self._answer_left = 0  # bytes of the answer that the kernel had not taken at the last look

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        super().connection_made(transport)
        self._address = address_of(transport.get_extra_info("peername"))
        if self._header is not None and (client := self._header.client) is not None:
            self._address = client.address
            self.peer = peer_name((client.address, client.port))
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
        elif self._reader is not None:
            self._read_request(self._reader, data)
        elif len(self._early_bytes) <= MAX_HEAD_BYTES:
            self._early_bytes += data  # for the WebSocket, if the answer is one; else nobody reads it

    def _read_request(self, reader: RequestReader, data: bytes) -> None:
        received = reader.receive(data)
        if received is None:
            if reader.wants_continue() and self._transport is not None:
                self._transport.write(_CONTINUE)
            return
        self._reader = None
        if isinstance(received, Response):
            self._server.report(reader.reason, self._address, hint=reader.problem)
            self._answer("", received)
            return
        self._body, self._early_bytes = received.body, received.rest
        self._feed(received.head)  # calls `_handshake`

    def _is_undecided(self) -> bool:
        """Whether the request is neither answered nor found invalid."""
        return self._phase is Phase.OPENING and not self._server_protocol.eof_sent

    def _handshake(self, event: Handshake | Response) -> None:
        request = cast("Handshake", event)
        self.path, self.headers = request.path, request.headers
        is_proxys_own = self._header is not None and self._header.client is None
        asked = Request(
            request.path, request.headers, request.method, self._address, self._body, is_proxys_own
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
        self._upgrade(request, answer)

    def _upgrade(self, request: Handshake, handler: Handler) -> None:
        response = self._server_protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            asked, wrong = shown(request.method, request.path), self._server_protocol.handshake_exc
            if isinstance(wrong, InvalidHeader):
                asked = f"{asked}, header {wrong.name}"
            self._server.report(Reason.NOT_UPGRADED, self._address, asked)
            self._answer(request.method, response)
            return
        self._server_protocol.send_response(response)
        self._flush()
        self._server._opened(self)
        self._begin_open()
        try:
            handler(self)
        except Exception as exc:
            log.exception("%s: the handler of a new WebSocket raised an error", self.peer)
            self._fail(f"the handler raised: {exc!r}")
        early_bytes, self._early_bytes = self._early_bytes, b""
        super()._read(early_bytes)

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
        self._answer_left = self.queued_bytes

    def _due(self, now: float) -> float:
        if self._phase is Phase.CLOSING and now >= self._deadline and self._answer_is_read():
            self._deadline = now + self._limits.close_timeout_s
        return super()._due(now)

    def _answer_is_read(self) -> bool:
        """Whether the client has read enough of a long answer since the last look."""
        before, self._answer_left = self._answer_left, self.queued_bytes
        least = _SLOWEST_READER_BYTES_PER_S * self._limits.close_timeout_s
        return 0 < self._answer_left <= before - least

    def _how_it_ended(self, exc: Exception | None) -> Closed:
        if self._error == TOO_SLOW:
            self._server.report(Reason.TOO_SLOW, self._address)
        closed = super()._how_it_ended(exc)
        if closed.error is not None:
            log.debug("%s: %s", self.peer, closed.error)
        return closed
