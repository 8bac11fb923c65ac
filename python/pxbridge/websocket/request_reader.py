"""Reads one HTTP request from bytes as they arrive: its head, and its body if it has one.

`h11` reads it. The protocol object of `websockets` then gets the head again, without its body's framing,
because it does not support bodies.

h11 accepts some requests that proxies and servers read differently: a line feed without a carriage return, a
header continued on the next line, two lengths, a length beside a transfer coding. Where two readers differ,
one request can hide in another (request smuggling), so all of these are refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import h11

from pxbridge.websocket.proxy_protocol import begins_header
from pxbridge.websocket.requests import MAX_BODY_BYTES, MAX_HEAD_BYTES, text_response
from pxbridge.websocket.turned_away import Reason

if TYPE_CHECKING:
    from websockets.http11 import Response

MAX_HEADERS: Final = 128
"""Lines of a head. Each costs some microseconds, and proxies add about a dozen."""

MAX_REQUEST_LINE_BYTES: Final = 8 * 1024
"""The usual limit of HTTP servers (RFC 9112 §3)."""

MAX_CHUNKS: Final = 128
"""Chunks of a body. A body of 16 KiB comes in a few; in thousands it would only cost time."""

_HEAD_END: Final = b"\r\n\r\n"

_TLS_HANDSHAKE: Final = b"\x16"
"""The first byte of a TLS connection (RFC 8446 §5.1: the record's type)."""


def begins_tls(data: bytes | bytearray) -> bool:
    """Whether bytes are the beginning of a TLS connection. No request begins like it."""
    return data.startswith(_TLS_HANDSHAKE)


@dataclass(frozen=True, slots=True)
class Received:
    """A whole request.

    Attributes:
        method: Its method.
        head: Its head, without the headers that frame the body.
        body: Its body, decoded.
        rest: The bytes that came after it.
    """

    method: str
    head: bytes
    body: bytes
    rest: bytes


class RequestReader:
    """Reads one request. Give it bytes with `receive` until it returns something else than None.

    Attributes:
        reason: Why the request was refused, once it was.
    """

    def __init__(self) -> None:
        self._head = bytearray()  # until it is complete
        self._searched = 0
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._chunks = 0
        self._continued = False
        self.reason = Reason.INVALID_REQUEST
        self.problem = ""
        """What is wrong with a refused request, unless its reason says it. One of few texts."""

    def receive(self, data: bytes) -> Received | Response | None:
        """Takes the next bytes.

        Returns:
            The request when it is whole, the answer that refuses it, or None if more bytes are needed.
        """
        try:
            if self._request is None:
                self._take_head(data)
            else:
                self._connection.receive_data(data)
            return None if self._request is None else self._take_body(self._request)
        except _Refused as refused:
            self.reason = refused.reason
            self.problem = {refused.reason.value: "", _NOT_HTTP: _OTHER}.get(str(refused), str(refused))
            return text_response(refused.status, f"{refused}\n")
        except h11.RemoteProtocolError as error:
            status, self.problem = error.error_status_hint, _OTHER
            return text_response(status, f"{_NOT_HTTP}\n")

    def wants_continue(self) -> bool:
        """Whether the client waits for ``100 Continue`` before it sends its body; true once."""
        if self._continued or not self._connection.they_are_waiting_for_100_continue:
            return False
        self._continued = True
        return True

    def _take_head(self, data: bytes) -> None:
        head = self._head
        head += data
        _check_protocol(head)
        found = head.find(_HEAD_END, max(0, self._searched - len(_HEAD_END)))
        self._searched = len(head)
        end = len(head) if found < 0 else found + len(_HEAD_END)
        if end > MAX_HEAD_BYTES:
            if not 0 <= head.find(b"\r\n") <= MAX_REQUEST_LINE_BYTES:
                raise _Refused(414, "the request line is too long")
            raise _Refused(431, "the request line and headers are too long")
        if found < 0:
            if head[:1] < b"!" and head:
                raise _Refused(400, _NOT_HTTP)
            return
        _check(bytes(head[:found]))
        self._connection.receive_data(bytes(head))
        head.clear()
        event = self._connection.next_event()
        if not isinstance(event, h11.Request):
            raise _Refused(400, _NOT_HTTP)
        self._request = event
        self._check_framing(event)

    def _check_framing(self, request: h11.Request) -> None:
        """Refuses a body that is too long, not expected or framed in two ways (RFC 9112 §6.1 and §6.3)."""
        framing = {name: value for name, value in request.headers if name in _FRAMING}
        if len(framing) > 1:
            raise _Refused(400, "a request has a length or a transfer coding, not both")
        if b"transfer-encoding" in framing and request.http_version < b"1.1":
            raise _Refused(400, "HTTP/1.0 has no transfer codings")
        if int(framing.get(b"content-length", b"0")) > MAX_BODY_BYTES:
            raise _Refused(413, _TOO_LONG)
        if int(framing.get(b"content-length", b"0")) and request.method != b"POST":
            raise _Refused(400, _NO_BODY)

    def _take_body(self, request: h11.Request) -> Received | None:
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Data):
                self._body += event.data
                self._chunks += event.chunk_start
                if request.method != b"POST":
                    raise _Refused(400, _NO_BODY)
                if len(self._body) > MAX_BODY_BYTES or self._chunks > MAX_CHUNKS:
                    raise _Refused(413, _TOO_LONG)
            elif isinstance(event, h11.EndOfMessage):
                rest, _ = self._connection.trailing_data
                return Received(request.method.decode(), _plain_head(request), bytes(self._body), rest)
            else:
                return None


_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

_TOO_LONG: Final = f"the body is longer than {MAX_BODY_BYTES} bytes, or in more than {MAX_CHUNKS} chunks"

_NOT_HTTP: Final = "the request is not valid HTTP"

_OTHER: Final = "it is not HTTP/1.1"
_HTTP_2: Final = "this is HTTP/2, and this port speaks HTTP/1.1: set the proxy to HTTP/1.1"
_HTTP_2_PREFACE: Final = b"PRI * HTTP/2"
"""How HTTP/2 begins without TLS (RFC 9113 §3.4)."""

_NO_BODY: Final = "only a POST may have a body"


class _Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        why: The answer's text.
        reason: How it is counted.
    """

    def __init__(self, status: int, why: str, reason: Reason = Reason.INVALID_REQUEST) -> None:
        super().__init__(why)
        self.status = status
        self.reason = reason


def _check_protocol(head: bytearray) -> None:
    """Refuses the beginnings of other protocols, by name."""
    if begins_tls(head):
        raise _Refused(400, Reason.TLS.value, Reason.TLS)
    if head.startswith(_HTTP_2_PREFACE):
        raise _Refused(505, _HTTP_2)
    if begins_header(head):
        raise _Refused(400, Reason.PROXY_UNEXPECTED.value, Reason.PROXY_UNEXPECTED)


def _check(head: bytes) -> None:
    """Refuses a head that another server could read differently (RFC 9112 §2.2, §5.2 and §6.3)."""
    lines = head.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise _Refused(431, f"the request has more than {MAX_HEADERS} headers")
    if len(lines[0]) > MAX_REQUEST_LINE_BYTES:
        raise _Refused(414, "the request line is too long")
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise _Refused(400, "a line ends without CR LF")
    if any(line[:1] in (b" ", b"\t") for line in lines):
        raise _Refused(400, "a header is folded")
    lengths = [
        value
        for name, _, value in (line.partition(b":") for line in lines)
        if name.lower() == b"content-length"
    ]
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        raise _Refused(400, "more than one Content-Length")


def _plain_head(request: h11.Request) -> bytes:
    """The request's head without a body's framing."""
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [
        b"%s: %s" % (name, value)
        for name, value in request.headers.raw_items()
        if name.lower() not in _FRAMING
    ]
    return b"\r\n".join(lines) + _HEAD_END
