"""Whether an engine is there at all, asked without opening a conversation.

NVIDIA's server has room for one conversation, so its `/api/chat` is not for asking. Any answer to a plain
HTTP request means that the process lives and its event loop turns; what it answers does not matter.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pxbridge.engines.client import Unverified
from pxbridge.errors import EngineUntrusted

if TYPE_CHECKING:
    from pxbridge.engines.client import EngineAddress

PATH: Final = "/"
TIMEOUT_S: Final = 5.0
"""NVIDIA's server runs its model in its event loop: while it reads somebody's prompts it answers late."""

_PORTS: Final = {"ws": 80, "wss": 443}


async def what_is_wrong(engine: EngineAddress, timeout_s: float = TIMEOUT_S) -> str | None:
    """What is wrong with an engine, in words that go on from its name.

    None if it answers HTTP, and proves to be the one that is trusted.
    """
    parts = urlsplit(engine.url)
    port = parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=engine.tls_context)
            try:
                tls = writer.get_extra_info("ssl_object")
                if tls is not None and not isinstance(engine.trust, Unverified):  # whose use warns
                    engine.check_certificate(tls.getpeercert(binary_form=True))
                host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
                writer.write(
                    f"GET {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
                )
                if not (await reader.read(5)).startswith(b"HTTP/"):
                    return "speaks no HTTP"
                return None
            finally:
                writer.transport.abort()
    except EngineUntrusted as problem:
        return f"is not trusted ({str(problem).removeprefix(f'{engine}: ')})"
    except ssl.SSLCertVerificationError as problem:
        return f"is not trusted (its certificate: {problem.verify_message})"
    except TimeoutError:
        return f"does not answer within {timeout_s:g} s"
    except ssl.SSLError as problem:
        return f"does not answer (TLS: {problem.reason or problem})"
    except UnicodeError as problem:
        return f"has no name that can be looked up ({problem})"
    except OSError as problem:
        why = os.strerror(problem.errno) if problem.errno and problem.errno > 0 else str(problem)
        return f"does not answer ({why})"
