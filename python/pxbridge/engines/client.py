"""Opens a session with an engine: connects, prompts it, and says what went wrong if that fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl as tls
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pxbridge import chat_wire, websocket
from pxbridge.engines.address import unchecked_context
from pxbridge.engines.session import Session
from pxbridge.errors import (
    EngineError,
    EngineFull,
    EngineRefused,
    EngineRejected,
    EngineUnreachable,
    EngineUntrusted,
)
from pxbridge.wording import os_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.engines.address import EngineAddress
    from pxbridge.websocket import WebSocket

CONNECT_TIMEOUT_S: Final = 10.0
"""Covers name resolution, TCP, TLS and the upgrade."""
HANDSHAKE_TIMEOUT_S: Final = 60.0
"""Covers the prompts. A real engine needs seconds for a long text prompt. A busy one never answers."""


async def open_session(
    engine: EngineAddress,
    voice_prompt: str,
    text_prompt: str,
    sampling: str = "",
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    connected: Callable[[Session], None] | None = None,
    flooded: Callable[[], None] | None = None,
    moved: Callable[[int], None] | None = None,
    limits: websocket.Limits | None = None,
) -> Session:
    """Connects to an engine and waits until it has read its prompts. Call the session's `listen` next.

    Cancelling closes the connection, so that the engine is free again.

    Args:
        engine: Its URL, and how its identity is checked.
        voice_prompt: A voice that the engine has, such as `NATF0.pt`.
        text_prompt: Who the agent is; not empty.
        sampling: How tokens are drawn; see `chat_wire.sampling_query`.
        connect_timeout_s: Limit for everything up to the upgrade.
        handshake_timeout_s: Limit for the prompts.
        connected: Called with the session when the engine has accepted the upgrade and reads its prompts. The
            engine is not free before that session has closed, also if it never gets ready.
        flooded: Called if the connection is closed because the engine sent too much.
        moved: With it, a full engine that has a line puts the session into it, and this is called with each
            place in the line, 1 for the next. There is no limit to the time in the line.
        limits: Limits of the WebSocket connection.

    Raises:
        ValueError: A prompt is empty, or the URL is invalid.
        EngineUnreachable: No connection.
        EngineUntrusted: Its certificate is not trusted. The error names its fingerprint.
        EngineRefused: It answered the upgrade with an HTTP error other than those below.
        EngineFull: It says that it is busy or restarting (503 before the upgrade).
        EngineBusy: It accepted, then sent nothing for `handshake_timeout_s`.
        EngineRejected: It does not take the persona (400, 404), or closed or reported an error during its
            prompts.
    """
    url = chat_wire.chat_url(
        engine.url, voice_prompt, text_prompt, sampling=sampling, queue=moved is not None
    )
    connection = await _connect(engine, url, connect_timeout_s, limits)
    if flooded is not None:
        connection.on_flooded = flooded
    session = Session(engine, connection, voice_prompt, moved)
    if connected is not None:
        connected(session)
    try:
        await session.prompted(handshake_timeout_s)
    except BaseException:
        session.close()
        raise
    return session


async def _connect(
    engine: EngineAddress, url: str, timeout_s: float, limits: websocket.Limits | None
) -> WebSocket:
    try:
        return await websocket.connect(
            url,
            ssl=engine.tls_context,
            check_certificate=None if engine.tls_context is None else engine.check_certificate,
            headers=engine.bearer,
            open_timeout_s=timeout_s,
            limits=limits,
        )
    except EngineError:
        raise
    except tls.SSLCertVerificationError as problem:
        raise EngineUntrusted(
            f"{engine}: its certificate is not trusted ({problem.verify_message})"
            + await _told_fingerprint(engine)
        ) from problem
    except tls.SSLError as problem:
        raise EngineUnreachable(
            f"{engine}: TLS failed ({problem.reason or problem}); does this port speak plain ws://?"
        ) from problem
    except websocket.HandshakeRefused as problem:
        raise _refusal(engine, problem, url) from problem
    except websocket.HandshakeFailed as problem:
        raise EngineUnreachable(f"{engine}: {problem}") from problem
    except TimeoutError as problem:
        raise EngineUnreachable(f"{engine}: no connection within {timeout_s:g} s") from problem
    except ConnectionResetError as problem:
        hint = "; does this port speak plain ws://?" if engine.tls_context is not None else ""
        raise EngineUnreachable(f"{engine}: it closed the connection{hint}") from problem
    except OSError as problem:
        raise EngineUnreachable(f"{engine}: {os_problem(problem)}") from problem
    except UnicodeError as problem:  # from the host name codec (IDNA)
        raise EngineUnreachable(f"{engine}: its host name is not valid") from problem


# NVIDIA's server uses aiohttp, which rejects a longer request line. Percent-encoding makes nine bytes of one
# letter in most scripts.
_MAX_REQUEST_LINE_BYTES: Final = 8190


_UNAUTHORIZED: Final = 401
_BUSY: Final = 503
_REJECTED: Final = (400, 404)


def _refusal(engine: EngineAddress, problem: websocket.HandshakeRefused, url: str) -> EngineError:
    """The meaning of an HTTP error before the upgrade."""
    status, text = problem.status, f"{engine}: {problem}"
    if status == _BUSY:
        return EngineFull(text, problem.retry_after_s)
    if len(url) > _MAX_REQUEST_LINE_BYTES:
        text += f"; the text prompt makes a URL of {len(url)} bytes; the limit is {_MAX_REQUEST_LINE_BYTES}"
    elif status == 404:
        text += f"; an engine's path is {chat_wire.CHAT_PATH}"
    elif status == _UNAUTHORIZED:
        text += f"; {engine.token_hint}"
    if status in _REJECTED:
        return EngineRejected(text, status)
    return EngineRefused(text, status)


_FINGERPRINT_TIMEOUT_S: Final = 3.0
_TLS_PORT: Final = 443


async def _told_fingerprint(engine: EngineAddress) -> str:
    """Returns a hint with the fingerprint of an untrusted certificate, so that an operator can pin it.

    TLS does not reveal a certificate whose check failed. So connect again without a check, and send nothing.
    Returns an empty string if that fails.
    """
    parts = urlsplit(engine.url)
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_FINGERPRINT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or _TLS_PORT, ssl=unchecked_context()
            )
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
        if certificate:
            seen = hashlib.sha256(certificate).hexdigest()
            return f"; its SHA-256 fingerprint is {seen}: compare it with the engine's own, then pin it"
    return ""
