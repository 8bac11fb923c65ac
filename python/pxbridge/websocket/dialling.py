"""The client's end."""

from __future__ import annotations

import asyncio
import math
import ssl as tls
from typing import TYPE_CHECKING, Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.uri import parse_uri

from pxbridge.errors import HandshakeFailed, HandshakeRefused
from pxbridge.websocket.connection import Limits, WebSocket, wire_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from websockets.http11 import Request as Handshake
    from websockets.http11 import Response

_MAX_QUOTED_BYTES: Final = 200  # of an HTTP error's body, in our error's text


class _Dialled(WebSocket):
    """The client's end."""

    def __init__(
        self,
        protocol: ClientProtocol,
        request: Handshake,
        check_certificate: Callable[[bytes], None] | None,
        limits: Limits,
    ) -> None:
        super().__init__(protocol, limits, math.inf)  # `connect` keeps the time of the opening
        self.path, self.headers = request.path, request.headers
        self._client_protocol = protocol
        self._request = request
        self._check_certificate = check_certificate
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._check_certificate is not None:
            session = transport.get_extra_info("ssl_object")
            try:
                self._check_certificate(session.getpeercert(binary_form=True) or b"")
            except Exception as exc:
                self._refuse(exc)
                return
        # Only now: the request may carry credentials.
        self._client_protocol.send_request(self._request)
        self._flush()

    def eof_received(self) -> None:
        super().eof_received()
        if not self.opened.done():
            self._refuse(HandshakeFailed("the server hung up instead of answering the upgrade"))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.opened.done():
            self.opened.set_exception(
                exc or HandshakeFailed(self._error or "the connection was lost before it was open")
            )

    def _take_events(self) -> None:
        super()._take_events()
        fault = self._protocol.handshake_exc
        if fault is not None and not self.opened.done():
            if isinstance(fault, InvalidStatus):
                response = fault.response
                body = bytes(response.body)[:_MAX_QUOTED_BYTES].decode(errors="replace").strip()
                self._refuse(HandshakeRefused(response.status_code, body))
            else:
                self._refuse(HandshakeFailed(f"not a WebSocket server: {fault}"))

    def _handshake(self, event: Handshake | Response) -> None:
        if self._protocol.handshake_exc is None and not self.opened.done():
            self._begin_open()
            self.opened.set_result(None)

    def _refuse(self, why: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(why)
        self.abort(str(why))


async def connect(
    url: str,
    *,
    ssl: tls.SSLContext | None = None,
    server_hostname: str | None = None,
    check_certificate: Callable[[bytes], None] | None = None,
    headers: Iterable[tuple[str, str]] = (),
    open_timeout_s: float = 10.0,
    limits: Limits | None = None,
) -> WebSocket:
    """Open a WebSocket to `url`. Set its ``on_message`` next: until then nothing is read.

    Args:
        url: ``ws://`` or ``wss://``; ``user:password@`` in it becomes a Basic ``Authorization`` header.
        ssl: For ``wss://``: whom to trust; the system's certificate authorities by default.
        server_hostname: The name the certificate has to be for, where it is not the URL's.
        check_certificate: Called with the server's certificate (DER) before a byte of the request is sent;
            what it raises is raised here. For pinning.
        headers: Added to the request.
        open_timeout_s: For everything from the name's resolution to the upgrade.
        limits: What the open connection is held to.

    Raises:
        ValueError: `url` is not a WebSocket URL, or TLS is asked for and the URL is ``ws://``.
        OSError: No connection: refused, reset, no such host.
        ssl.SSLError: TLS failed; `ssl.SSLCertVerificationError` for a certificate that is not trusted.
        TimeoutError: It took longer than `open_timeout_s`.
        HandshakeRefused: The server answered with an HTTP error.
        HandshakeFailed: The server answered with something else.
    """
    try:
        uri = parse_uri(url)
    except InvalidURI as exc:
        # Without the URL itself: it may hold a password.
        raise ValueError(f"not a WebSocket URL: {exc.msg}") from None
    if not uri.secure and (ssl is not None or check_certificate is not None):
        raise ValueError("TLS needs a wss:// URL")
    context = (ssl or tls.create_default_context()) if uri.secure else None
    held_to = limits or Limits()
    protocol = ClientProtocol(uri, max_size=held_to.max_message_bytes, logger=wire_log)
    request = protocol.connect()
    for name, value in headers:
        request.headers[name] = value
    connection = _Dialled(protocol, request, check_certificate, held_to)
    try:
        async with asyncio.timeout(open_timeout_s):
            await asyncio.get_running_loop().create_connection(
                lambda made=connection: made,
                uri.host,
                uri.port,
                ssl=context,
                server_hostname=(server_hostname or uri.host) if uri.secure else None,
            )
            await connection.opened
        return connection
    except BaseException:
        connection.abort("given up while opening")
        if not connection.opened.cancel() and not connection.opened.cancelled():
            connection.opened.exception()  # else asyncio reports it as never looked at
        raise
    finally:
        del connection  # it keeps the error that is raised here, which keeps this frame
