"""The client's side of a WebSocket."""

from __future__ import annotations

import asyncio
import json
import math
import ssl as tls
from typing import TYPE_CHECKING, Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.uri import parse_uri

from pxbridge.errors import HandshakeFailed, HandshakeRefused
from pxbridge.websocket.connection import WebSocket, wire_log
from pxbridge.websocket.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from websockets.http11 import Request as Handshake
    from websockets.http11 import Response

_MAX_QUOTED_BYTES: Final = 200  # length of an HTTP error's body in our error's text
_MAX_REASON_CHARS: Final = 500  # the same for a reason in JSON: it may list what would be right


class _Dialled(WebSocket):
    """A connection on the client's side."""

    def __init__(
        self,
        protocol: ClientProtocol,
        request: Handshake,
        check_certificate: Callable[[bytes], None] | None,
        limits: Limits,
    ) -> None:
        super().__init__(protocol, limits, math.inf)  # `connect` limits the time of the opening
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
        # Only after the check: the request may contain credentials.
        self._client_protocol.send_request(self._request)
        self._flush()

    def eof_received(self) -> None:
        super().eof_received()
        if not self.opened.done():
            self._refuse(HandshakeFailed("the server closed the connection without answering the upgrade"))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.opened.done():
            self.opened.set_exception(
                exc or HandshakeFailed(self._error or "the connection was lost before it was open")
            )

    def _take_events(self) -> int:
        taken = super()._take_events()
        fault = self._protocol.handshake_exc
        if fault is not None and not self.opened.done():
            if isinstance(fault, InvalidStatus):
                response = fault.response
                said, again_s = _said(bytes(response.body)), _retry_after_s(response)
                self._refuse(HandshakeRefused(response.status_code, said, again_s))
            else:
                self._refuse(HandshakeFailed(f"not a WebSocket server: {fault}"))
        return taken

    def _handshake(self, event: Handshake | Response) -> None:
        if self._protocol.handshake_exc is None and not self.opened.done():
            self._begin_open()
            self.opened.set_result(None)

    def _refuse(self, why: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(why)
        self.abort(str(why))


def _said(body: bytes) -> str:
    """What the body of an HTTP error says: the ``reason`` of a JSON object, else its beginning."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and isinstance(told.get("reason"), str):
        about = told.get("parameter")
        text = f"{about} {told['reason']}" if isinstance(about, str) else told["reason"]
        return " ".join(text[:_MAX_REASON_CHARS].split())
    return body[:_MAX_QUOTED_BYTES].decode(errors="replace").strip()


def _retry_after_s(response: Response) -> float | None:
    """The seconds of a Retry-After header (RFC 9110 §10.2.3); None for a date or none."""
    values = response.headers.get_all("Retry-After")
    if len(values) == 1 and values[0].isascii() and values[0].isdigit() and len(values[0]) <= 6:
        return float(values[0])
    return None


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
    """Open a WebSocket to `url`. Then set its ``on_message``: nothing is read before.

    Args:
        url: ``ws://`` or ``wss://``; ``user:password@`` in it becomes a Basic ``Authorization`` header.
        ssl: TLS context for ``wss://``; by default, the system's certificate authorities are trusted.
        server_hostname: The name in the certificate, if it is not the URL's host.
        check_certificate: For pinning. Called with the server's certificate (DER) before any byte of the
            request is sent. Its exception is raised from here.
        headers: Further headers of the request.
        open_timeout_s: Timeout for everything from name resolution to the upgrade.
        limits: Limits of the open connection.

    Raises:
        ValueError: `url` is not a WebSocket URL, or a TLS option is given with a ``ws://`` URL.
        OSError: The connection failed: refused, reset, or unknown host.
        ssl.SSLError: TLS failed; `ssl.SSLCertVerificationError` for a certificate that is not trusted.
        TimeoutError: Opening took longer than `open_timeout_s`.
        HandshakeRefused: The server answered with an HTTP error.
        HandshakeFailed: The server answered with anything else, or the connection was lost.
    """
    try:
        uri = parse_uri(url)
    except InvalidURI as exc:
        # The text leaves out the URL: it may contain a password.
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
            connection.opened.exception()  # else asyncio logs that the exception was never retrieved
        raise
    finally:
        del connection  # it refers to the raised error, which refers to this frame
