"""The health probe: whether an engine answers, without opening a conversation.

NVIDIA's server has room for one conversation, so a probe must not use `/api/chat`. Any answer to a plain HTTP
request shows that the process runs and that its event loop is not blocked. The content does not matter.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pxbridge.engines.address import Unverified
from pxbridge.errors import EngineUntrusted

if TYPE_CHECKING:
    from pxbridge.engines.address import EngineAddress

PATH: Final = "/"
TIMEOUT_S: Final = 5.0
"""NVIDIA's server runs its model in its event loop, so it answers late while it reads prompts."""

_PORTS: Final = {"ws": 80, "wss": 443}


async def what_is_wrong(engine: EngineAddress, timeout_s: float = TIMEOUT_S) -> str | None:
    """Returns what is wrong with an engine, as words that follow its name in a sentence.

    Returns None if it answers HTTP and its certificate is trusted.
    """
    parts = urlsplit(engine.url)
    port = parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=engine.tls_context)
            try:
                tls = writer.get_extra_info("ssl_object")
                if tls is not None and not isinstance(engine.trust, Unverified):  # the session warns
                    engine.check_certificate(tls.getpeercert(binary_form=True))
                host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
                writer.write(
                    f"GET {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
                )
                if not (await reader.read(5)).startswith(b"HTTP/"):
                    return "does not speak HTTP"
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
        return f"has a host name that is not valid ({problem})"
    except OSError as problem:
        why = os.strerror(problem.errno) if problem.errno and problem.errno > 0 else str(problem)
        return f"does not answer ({why})"
