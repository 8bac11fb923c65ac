"""Where an engine is, and how its certificate is trusted."""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import ssl as tls
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pxbridge.errors import EngineUntrusted

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SystemTrust:
    """Trusts certificates signed by the system's certificate authorities.

    The authorities are loaded on first use. Loading takes 20 ms and blocks the event loop, so all calls stall
    for that time. The result is kept, and engines share it.
    """

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection."""
        return tls.create_default_context()


@dataclass(frozen=True)
class CaFile:
    """Trusts only certificates signed by those in a PEM file.

    Attributes:
        path: The file.
        sha256: Of its contents when the settings were read: a file that was replaced is another trust.
    """

    path: Path
    sha256: str = ""

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection.

        Raises:
            OSError: The file cannot be read.
            ssl.SSLError: There is no certificate in it.
        """
        return tls.create_default_context(cafile=self.path)


@dataclass(frozen=True)
class Pinned:
    """Trusts one certificate. Its issuer and its host name are not checked.

    Attributes:
        sha256: Fingerprint of the certificate, 64 lower-case hex digits.
    """

    sha256: str

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection. The certificate is checked after the TLS handshake."""
        return unchecked_context()


@dataclass(frozen=True)
class Unverified:
    """Checks no certificate, so a man in the middle can listen. For a laboratory. Each connection warns."""

    @functools.cached_property
    def context(self) -> tls.SSLContext:
        """The TLS context for the connection."""
        return unchecked_context()


Trust = SystemTrust | CaFile | Pinned | Unverified


@dataclass(frozen=True)
class EngineAddress:
    """An engine's URL, and how its identity is checked.

    Attributes:
        url: The URL of its `/api/chat`, with the scheme `ws` or `wss`.
        trust: Which certificates are accepted, for `wss`.
        token: The engine's token, a secret; None: it needs none, or the URL has a user and a password.
    """

    url: str
    trust: Trust = field(default_factory=SystemTrust)
    token: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The URL without its user, password and query, so that it may be logged."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def token_hint(self) -> str:
        """The fix if the engine does not let us in."""
        if self.token is None and "@" not in urlsplit(self.url).netloc:
            return "it needs a token: set PXBRIDGE_ENGINE_TOKEN to the one that it was started with"
        return "its token is another one: PXBRIDGE_ENGINE_TOKEN must be the same here and there"

    @property
    def bearer(self) -> list[tuple[str, str]]:
        """The header with the token; none if the URL has a user, who is sent instead of it."""
        if self.token is None or "@" in urlsplit(self.url).netloc:
            return []
        return [("Authorization", f"Bearer {self.token}")]

    @property
    def credentials(self) -> list[tuple[str, str]]:
        """The header that proves who we are, whether by the token or by the URL's user; none without."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return self.bearer
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return [("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")]

    @property
    def tls_context(self) -> tls.SSLContext | None:
        """The TLS context for the connection; None for `ws`.

        Raises:
            OSError: The CA file cannot be read.
            ssl.SSLError: There is no certificate in it.
        """
        return self.trust.context if urlsplit(self.url).scheme == "wss" else None

    def check_certificate(self, certificate: bytes) -> None:
        """Checks the engine's certificate (DER), before anything is sent.

        Raises:
            EngineUntrusted: It is not the pinned certificate.
        """
        match self.trust:
            case Pinned(sha256):
                seen = hashlib.sha256(certificate).hexdigest()
                if seen != sha256:
                    raise EngineUntrusted(
                        f"{self}: its certificate has the SHA-256 fingerprint {seen}, but {sha256} is pinned"
                    )
            case Unverified():
                log.warning("%s: its certificate is not checked; a man in the middle could listen", self)
            case _:
                pass  # the TLS context has checked it


def unchecked_context() -> tls.SSLContext:
    """Connects with any certificate. The caller checks it, or does not need to."""
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = tls.CERT_NONE
    return context
