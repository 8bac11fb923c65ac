"""Signed tokens in a URL's path: they open one call, or the whole telephony port.

A token is ``SCOPE.EXPIRY.PERSONA.NONCE.SIGNATURE``: a letter, seconds since 1970 in hexadecimal, the
persona's name or nothing, 96 random bits, and the HMAC-SHA-256 (RFC 2104) of everything before it. Its holder
can read it and cannot change it. Signatures are compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pxbridge.telephony.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOKEN_PATH: Final = re.compile(r"(?P<prefix>/[^/]+)/t/(?P<token>[^/]*)(?P<rest>/.*)?", re.DOTALL)

_TOKEN: Final = re.compile(
    r"(?P<signed>(?P<scope>[cd])\.(?P<expiry>[0-9a-f]{1,12})\.(?P<persona>[A-Za-z0-9_-]{0,64})"
    r"\.(?P<nonce>[A-Za-z0-9_-]{16}))\.(?P<signature>[A-Za-z0-9_-]{43})"
)

_NONCE_BYTES: Final = 12  # 96 bits: 16 characters of base64


class Scope(StrEnum):
    """What a token gives access to."""

    CALL = "c"
    """The WebSocket of one call."""
    PORT = "d"
    """The WebSockets of all calls, and the webhooks."""


def without_token(path: str) -> str:
    """A path with its token removed."""
    found = TOKEN_PATH.fullmatch(path)
    return path if found is None else found["prefix"] + (found["rest"] or "")


@dataclass(frozen=True, slots=True)
class Token:
    """What a valid token says.

    Attributes:
        scope: What it gives access to.
        persona_name: The persona that it names; None if it names none.
        nonce: Names the token.
        expires_s: When it expires, seconds since 1970.
    """

    scope: Scope
    persona_name: str | None
    nonce: str
    expires_s: float


class Signer:
    """Makes tokens and checks them.

    Args:
        keys: The first key signs. Signatures of all keys are accepted.
        now: Seconds since 1970.
    """

    def __init__(self, keys: Sequence[bytes], now: Callable[[], float]) -> None:
        self._now = now
        self.use(keys)

    def use(self, keys: Sequence[bytes]) -> None:
        """Replace the keys. A token signed with a removed key is refused."""
        if not keys:
            raise ValueError("a signer needs a key")
        self._keys = tuple(keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Identifiers of the keys, the signing key's first. Other bridges compare them. Not secret."""
        return tuple(hmac.digest(key, b"pxbridge mark 1", hashlib.sha256)[:8].hex() for key in self._keys)

    @property
    def key_id(self) -> str:
        """The identifier of the signing key."""
        return self.key_ids[0]

    def make(self, scope: Scope, ttl_s: float, persona_name: str | None = None) -> str:
        """A new token that expires after `ttl_s`."""
        expiry = math.ceil(self._now() + ttl_s)
        signed = f"{scope}.{expiry:x}.{persona_name or ''}.{secrets.token_urlsafe(_NONCE_BYTES)}"
        return f"{signed}.{_sign(self._keys[0], signed)}"

    def check(self, token: str) -> Token | Refused:
        """What a token says, or the reason for which it is refused."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            return Refused.BAD_TOKEN
        good = False
        for key in self._keys:
            good |= hmac.compare_digest(_sign(key, found["signed"]), found["signature"])
        if not good:
            return Refused.BAD_TOKEN
        expires_s = int(found["expiry"], 16)
        if expires_s < self._now():
            return Refused.EXPIRED
        return Token(Scope(found["scope"]), found["persona"] or None, found["nonce"], expires_s)


def _sign(key: bytes, text: str) -> str:
    digest = hmac.digest(key, b"pxbridge token 1\n" + text.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
