"""Asks an engine's HTTP server for one page, beside its conversations."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from websockets.exceptions import SecurityError
from websockets.http11 import Response
from websockets.streams import StreamReader

from pxbridge import chat_wire
from pxbridge.engines.address import Unverified

if TYPE_CHECKING:
    from pxbridge.engines.address import EngineAddress

MAX_ANSWER_BYTES: Final = 1 << 20
BODY_TIMEOUT_S: Final = 2.0
"""How long the rest of an answer may take after its first bytes."""

_PORTS: Final = {"ws": 80, "wss": 443}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer.

    Attributes:
        status: Its status; None if what came after ``HTTP/`` cannot be read.
        body: Its body; empty if it cannot be read.
    """

    status: int | None = None
    body: bytes = b""


async def get(engine: EngineAddress, path: str, timeout_s: float) -> Answer | None:
    """Asks for a page of an engine, with its token. Returns None if what answers does not speak HTTP.

    Args:
        engine: The engine.
        path: The page, such as ``/readyz``; taken from where the engine's ``/api/chat`` is.
        timeout_s: Limit for the connection and the first bytes of the answer.

    Raises:
        TimeoutError: No answer in time.
        OSError: The connection failed; `ssl.SSLError` for TLS.
        EngineUntrusted: Its certificate is not the pinned one.
        UnicodeError: Its host name is not valid.
    """
    parts = urlsplit(engine.url)
    port = parts.port or _PORTS[parts.scheme]
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=engine.tls_context)
        try:
            tls = writer.get_extra_info("ssl_object")
            if tls is not None and not isinstance(engine.trust, Unverified):  # the session warns
                engine.check_certificate(tls.getpeercert(binary_form=True))
            writer.write(_request(engine, path, port))
            head = await reader.read(5)
        except BaseException:
            writer.transport.abort()
            raise
    try:
        return await _read(head, reader) if head.startswith(b"HTTP/") else None
    finally:
        writer.transport.abort()


def _request(engine: EngineAddress, path: str, port: int) -> bytes:
    parts = urlsplit(engine.url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    base = parts.path.removesuffix(chat_wire.CHAT_PATH) if parts.path.endswith(chat_wire.CHAT_PATH) else ""
    lines = [f"GET {base}{path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in engine.credentials]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _read(head: bytes, reader: asyncio.StreamReader) -> Answer:
    """The rest of an answer. One that breaks off or does not end in time has no status."""
    received = StreamReader()
    received.feed_data(head)
    parsing = Response.parse(received.read_line, received.read_exact, received.read_to_eof)
    size = len(head)
    broken = (OSError, EOFError, LookupError, ValueError, NotImplementedError, SecurityError, TimeoutError)
    with contextlib.suppress(*broken):
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while size <= MAX_ANSWER_BYTES:
                try:
                    next(parsing)
                except StopIteration as done:
                    response: Response = done.value
                    return Answer(response.status_code, bytes(response.body))
                data = await reader.read(1 << 16)
                size += len(data)
                received.feed_data(data) if data else received.feed_eof()
    return Answer()
