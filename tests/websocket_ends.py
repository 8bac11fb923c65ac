"""Both ends of a WebSocket under test: our server, its connections, and raw sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from pxbridge.websocket import (
    Accept,
    Closed,
    Handler,
    Request,
    Response,
    Server,
    WebSocket,
    serve,
    text_response,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


SOON_S = 0.05  # a time limit that is meant to strike
GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"  # TLS where plain HTTP is expected


class Ends:
    """Our ends of the connections a server accepted, what came in through them and how they ended."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[WebSocket] = asyncio.Queue()
        self.messages: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self.closed: asyncio.Queue[Closed] = asyncio.Queue()
        self.requests: list[Request] = []

    def take(self, end: WebSocket) -> None:
        end.on_message = lambda payload, is_text: self.messages.put_nowait((payload, is_text))
        end.on_close = self.closed.put_nowait
        self.opened.put_nowait(end)

    def echo(self, end: WebSocket) -> None:
        end.on_message = lambda payload, is_text: end.send(payload, text=is_text)
        end.on_close = self.closed.put_nowait
        self.opened.put_nowait(end)

    def accept(self, request: Request) -> Response | Handler:
        self.requests.append(request)
        return {"/echo": self.echo, "/take": self.take}.get(request.path) or text_response(404, "not here\n")


@contextlib.asynccontextmanager
async def serving(accept: Accept, **options: Any) -> AsyncIterator[Server]:
    server = await serve(accept, "127.0.0.1", 0, **options)
    try:
        yield server
    finally:
        server.close()
        for connection in server.connections:
            connection.abort("the test is over")
        await server.wait_closed()


def url(server: Server, path: str, scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{server.port}{path}"


class Raw:
    """A TCP connection that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def stop_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def read_on(self) -> None:
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    async def upgraded(self, path: str) -> Raw:
        self.writer.write(upgrade_request(path))
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return self


@contextlib.asynccontextmanager
async def raw(port: int, **options: Any) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def upgrade_request(path: str = "/take") -> bytes:
    client = ClientProtocol(parse_uri(f"ws://127.0.0.1{path}"))
    client.send_request(client.connect())
    return b"".join(client.data_to_send())


def frame(opcode: int, payload: bytes, *, masked: bool = True, fin: bool = True, reserved: int = 0) -> bytes:
    """One frame by hand, with a mask of zeros."""
    assert len(payload) < 126
    head = bytes([(0x80 if fin else 0) | reserved | opcode, (0x80 if masked else 0) | len(payload)])
    return head + (bytes(4) if masked else b"") + payload
