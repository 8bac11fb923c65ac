"""Requests that a proxy and the bridge could read differently, so that one hides in another.

Each is refused, nothing of it is looked at, and what comes behind it is never answered: there is one request
per connection. The cases are those of RFC 9112 §11.2 and of published request smuggling.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.call.rig import bridge
from tests.virtual_time import run
from tests.wire.test_request_reader import UPGRADE

from pxbridge import websocket
from pxbridge.websocket import Request, Response, text_response

HIDDEN = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /form HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /form HTTP/1.1\r\nHost: x\r\n"

SMUGGLED = {
    "CL and TE": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE and CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE and a CL of 0": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two CL": POST + b"Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc" + HIDDEN,
    "two equal CL": POST + b"Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc" + HIDDEN,
    "a list of CL": POST + b"Content-Length: 3, 3\r\n\r\nabc" + HIDDEN,
    "CL with a sign": POST + b"Content-Length: +3\r\n\r\nabc" + HIDDEN,
    "CL in hexadecimal": POST + b"Content-Length: 0x3\r\n\r\nabc" + HIDDEN,
    "CL with an underscore": POST + b"Content-Length: 1_0\r\n\r\nabcdefghij" + HIDDEN,
    "CL in other digits": POST + b"Content-Length: \xc2\xb3\r\n\r\nabc" + HIDDEN,
    "an empty CL": POST + b"Content-Length: \r\n\r\nabc" + HIDDEN,
    "two TE": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE identity": POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE in HTTP/1.0": b"POST /form HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "folded TE": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "folded header": GET + b"X: a\r\n\tb\r\n\r\n" + HIDDEN,
    "folded first": b"GET /form HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n" + HIDDEN,
    "space before a colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "tab before a colon": POST + b"Content-Length\t: 3\r\n\r\nabc" + HIDDEN,
    "no colon": GET + b"X\r\n\r\n" + HIDDEN,
    "no name": GET + b": y\r\n\r\n" + HIDDEN,
    "bare LF in the head": POST + b"X: y\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "bare LF after the request line": b"GET /form HTTP/1.1\nHost: x\r\n\r\n" + HIDDEN,
    "bare CR": GET + b"X: y\rContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "head ends with bare LF": GET + b"X: y\n\n" + HIDDEN,
    "head ends with LF CR LF": GET + b"X: y\n\r\n" + HIDDEN,
    "NUL": GET + b"X: a\x00b\r\n\r\n" + HIDDEN,
    "two Hosts": GET + b"Host: y\r\n\r\n" + HIDDEN,
    "no Host": b"GET /form HTTP/1.1\r\n\r\n" + HIDDEN,
    "blank line first": b"\r\n" + GET + b"\r\n" + HIDDEN,
    "two spaces": b"GET  /form HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "space in the path": b"GET /form HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "chunk with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk with 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk of -1": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "chunk longer than told": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" + HIDDEN,
    "chunk of 2**64": POST
    + b"Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n"
    + HIDDEN * 600,
    "body of a GET": GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "chunks of a GET": GET
    + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(HIDDEN)
    + HIDDEN
    + b"\r\n0\r\n\r\n",
    "body of an upgrade": GET + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
}


@pytest.mark.parametrize("name", SMUGGLED)
@pytest.mark.parametrize("piecewise", [False, True])
def test_a_request_that_could_be_read_differently_is_refused(name: str, piecewise: bool) -> None:
    asked: list[Request] = []

    def accept(request: Request) -> Response:
        asked.append(request)
        return text_response(200, "read\n")

    async def main() -> bytes:
        server = await websocket.serve(accept, "127.0.0.1", 0, open_timeout_s=1.0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        data = SMUGGLED[name]
        for at in range(0, len(data), 7 if piecewise else len(data)):
            writer.write(data[at : at + (7 if piecewise else len(data))])
            await asyncio.sleep(0)
        try:
            got = await reader.read()
        except ConnectionError:
            got = b""
        writer.transport.abort()
        server.close()
        await server.wait_closed()
        return got

    got = run(main())
    assert not asked, "it was looked at"
    assert got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ", b"HTTP/1.1 501 ")) or not got
    assert got.count(b"HTTP/1.1 ") <= 1


def test_what_follows_a_request_is_never_answered_as_another() -> None:
    async def main() -> bytes:
        async with bridge() as b:
            reader, writer = await asyncio.open_connection("127.0.0.1", b.listener.port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN * 10)
            got = await reader.read()
            writer.transport.abort()
            return got

    assert run(main()).count(b"HTTP/1.1 ") == 1
