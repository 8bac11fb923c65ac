"""The voices of an engine that tells them: `pxbridge engine` does at ``/voices``, NVIDIA's server does
not.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from pxbridge.engines.address import Unverified
from pxbridge.errors import EngineUntrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pxbridge.engines.address import EngineAddress

PATH: Final = "/voices"
TIMEOUT_S: Final = 2.0
"""A page waits for it, and known voices serve as well."""

MAX_BYTES: Final = 256 * 1024
MAX_VOICES: Final = 1000
MAX_NAME_CHARS: Final = 128

_PORTS: Final = {"ws": 80, "wss": 443}


async def ask_voices(engines: Iterable[EngineAddress], timeout_s: float = TIMEOUT_S) -> list[str] | None:
    """The voices of the first engine that tells them; None if none does in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for engine in engines:
                if (voices := await _voices_of(engine)) is not None:
                    return voices
    return None


async def _voices_of(engine: EngineAddress) -> list[str] | None:
    """The engine's voices; None if it does not tell them."""
    try:
        return _read(await _answer(engine))
    except (OSError, EngineUntrusted, UnicodeError, ValueError, ssl.SSLError, asyncio.IncompleteReadError):
        return None  # the pool's probes tell operators what is wrong with it


async def _answer(engine: EngineAddress) -> bytes:
    """Everything that the engine answers, head and body."""
    parts = urlsplit(engine.url)
    port = parts.port or _PORTS[parts.scheme]
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=engine.tls_context)
    try:
        tls = writer.get_extra_info("ssl_object")
        if tls is not None and not isinstance(engine.trust, Unverified):
            engine.check_certificate(tls.getpeercert(binary_form=True))
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        target = PATH + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {target} HTTP/1.0", f"Host: {host}:{port}", "Connection: close"]
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines.append(f"Authorization: Basic {base64.b64encode(login.encode()).decode()}")
        writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
        answer = bytearray()
        while len(answer) <= MAX_BYTES and (data := await reader.read(65_536)):
            answer += data
        return bytes(answer)
    finally:
        writer.transport.abort()


def _read(answer: bytes) -> list[str] | None:
    """The voices in an answer; None if there are none."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0] + b" " or len(body) > MAX_BYTES:
        return None
    try:
        told = json.loads(body)
    except RecursionError:
        return None
    voices = told.get("voices") if isinstance(told, dict) else None
    if not isinstance(voices, list) or not voices:
        return None
    return [each for each in voices if isinstance(each, str) and len(each) <= MAX_NAME_CHARS][:MAX_VOICES]
