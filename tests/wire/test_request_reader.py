"""Requests as proxies and tunnels send them: with a body in chunks, in pieces, with frames behind them."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exotel_server import listen
from tests.fault.flooder import frame

from pxbridge.websocket.request_reader import MAX_CHUNKS, MAX_HEADERS, Received, RequestReader
from pxbridge.websocket.requests import MAX_BODY_BYTES, MAX_HEAD_BYTES

if TYPE_CHECKING:
    from pxbridge.telephony.server import Arrival, TelephonyServer
    from pxbridge.websocket import Response

UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)


def in_chunks(body: bytes, size: int, ending: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + ending


def read(data: bytes, cuts: list[int] | None = None) -> Received | Response | None:
    """Reads bytes that arrive in pieces, up to the first result."""
    reader = RequestReader()
    for begin, end in itertools.pairwise([0, *(cuts or []), len(data)]):
        result = reader.receive(data[begin:end])
        if result is not None:
            if isinstance(result, Received):  # what is cut off here has not arrived yet
                return Received(result.method, result.head, result.body, result.rest + data[end:])
            return result
    return None


def status(data: bytes) -> int | None:
    result = read(data)
    return None if result is None or isinstance(result, Received) else result.status_code


async def answer(server: TelephonyServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.transport.abort()


async def echo(arrival: Arrival) -> None:
    arrival.socket.on_message = lambda payload, is_text: arrival.socket.send(payload, text=is_text)
    await arrival.socket.wait_closed()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_health_is_told_to_whoever_asks_as_proxies_do(path: str, version: bytes, method: bytes) -> None:
    framing = b"" if version == b"1.0" else b"Transfer-Encoding: chunked\r\n"
    body = b"" if version == b"1.0" else b"0\r\n\r\n"
    request = b"%s %s HTTP/%s\r\nHost: x\r\n%s\r\n" % (method, path.encode(), version, framing)
    async with listen(echo, "127.0.0.1", 0) as server:
        assert (await answer(server, request + body)).startswith(b"HTTP/1.1 200 ")


async def test_an_upgrade_with_an_empty_body_in_chunks_is_a_call() -> None:
    request = (
        b"GET /exotel HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + UPGRADE + b"\r\n0\r\n\r\n"
    )
    async with listen(echo, "127.0.0.1", 0) as server:
        for eager in (b"", frame(1, b"hello")):  # a client may not, but some send at once
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request + eager)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            writer.write(b"" if eager else frame(1, b"hello"))
            assert await reader.readexactly(7) == b"\x81\x05hello"
            writer.transport.abort()


async def test_a_client_that_waits_before_it_sends_its_body_is_told_to_go_on() -> None:
    async with listen(echo, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"a=b")
        assert (await reader.read()).startswith(b"HTTP/1.1 405 "), "the answer to the whole request"
        writer.transport.abort()


@given(st.binary(max_size=2000), st.integers(20, 500), st.binary(max_size=20), st.data())
def test_a_body_is_the_same_in_chunks_or_with_a_length_however_it_is_cut(
    body: bytes, size: int, rest: bytes, data: st.DataObject
) -> None:
    head = b"POST /exotel/passthru?x=1 HTTP/1.1\r\nHost: x\r\nX-Y: z\r\n"
    wanted = Received("POST", head + b"\r\n", body, rest)
    for framed in (
        b"Transfer-Encoding: chunked\r\n\r\n" + in_chunks(body, size) + rest,
        b"Transfer-Encoding: Chunked\r\n\r\n"
        + in_chunks(body, size, b"000;x=y\r\nX-Trailer: 1\r\n\r\n")
        + rest,
        b"Content-Length: %d\r\n\r\n" % len(body) + body + rest,
    ):
        stream = head + framed
        cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=30).map(sorted))
        assert read(stream, cuts) == wanted


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_any_bytes_are_read_refused_or_waited_for(pieces: list[bytes]) -> None:
    reader = RequestReader()
    for piece in pieces:
        if reader.receive(piece) is not None:
            break


POST = b"POST /form HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * MAX_HEAD_BYTES, 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * MAX_HEADERS + b"\r\n", 431),
        (POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n" + b"a" * (MAX_BODY_BYTES + 1), 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + in_chunks(bytes(MAX_CHUNKS + 1), 1), 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * (MAX_HEAD_BYTES + 1), 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES, 431),
        (b"\x16\x03\x01\x02", 400),
    ],
)
def test_what_is_too_long_is_refused_before_it_is_kept(request_bytes: bytes, answer: int) -> None:
    assert status(request_bytes) == answer


def test_a_request_that_is_not_whole_is_waited_for() -> None:
    for part in (b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", POST + b"Content-Length: 3\r\n\r\nab"):
        assert read(part) is None
