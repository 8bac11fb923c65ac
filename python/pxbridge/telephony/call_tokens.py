"""Which call each token has been used for: a token for one call admits one call.

A token is used up when a call starts with it, by the carrier's identifier of the call. The handshake alone
does not use it up: a carrier repeats a handshake that it thinks has failed, and may then have two connections
for the same call. So the same call may come again with its token; any other call is refused.

Bridges that share a store ask it too, so a token is used once for all of them. A bridge whose store does not
answer knows only its own calls.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.errors import StoreUnreachable
from pxbridge.redis_store import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.redis_store import RedisStore

log = logging.getLogger(__name__)

HANDSHAKES: Final = 4
"""Handshakes with one token: a carrier tries a handshake twice, and a proxy may repeat each attempt once."""

MAX_TOKENS: Final = 100_000
"""Tokens that are remembered: at the highest rate of requests, all tokens of one minute."""

KEPT_S: Final = 60.0
"""How long the store remembers a token after its expiry: a handshake and a start message may follow it."""


class SharedTokens(Protocol):
    """Where several bridges remember the tokens that were used."""

    async def claim(self, nonce: str, call_id: str, kept_s: float) -> bool:
        """Uses a token for a call. False if it has been used for another call.

        Raises:
            StoreUnreachable: The store does not answer.
        """
        ...


class RedisTokens:
    """The used tokens in a shared store: `SharedTokens`.

    Args:
        store: The shared store. Its owner closes it.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def claim(self, nonce: str, call_id: str, kept_s: float) -> bool:
        """Uses a token for a call; raises `StoreUnreachable`."""
        key = f"{PREFIX}token:{nonce}"
        async with self._store.answer():
            if await self._store.client.set(key, call_id, nx=True, px=max(1, round(1000 * kept_s))):
                return True
            # Without an identifier nobody can tell whether it is the same call.
            return bool(call_id) and await self._store.client.get(key) == call_id.encode()


@dataclass(slots=True)
class _Used:
    """What is known of one token."""

    handshakes: int = 0
    call_id: str | None = None


class CallTokens:
    """The tokens of calls that have come to this bridge.

    Args:
        now: Seconds since 1970.
        shared: The tokens of all bridges; None for a bridge alone.
    """

    def __init__(self, now: Callable[[], float], shared: SharedTokens | None = None) -> None:
        self._now = now
        self._shared = shared
        self._used: dict[str, _Used] = {}

    def handshake(self, nonce: str) -> bool:
        """Counts a handshake. False if the token has had too many."""
        used = self._used.pop(nonce, None) or _Used()
        self._used[nonce] = used
        if len(self._used) > MAX_TOKENS:
            del self._used[next(iter(self._used))]
        used.handshakes += 1
        return used.handshakes <= HANDSHAKES

    def claim(self, nonce: str, call_id: str) -> bool:
        """Uses a token for a call that starts. False if it has been used for another call here."""
        used = self._used.setdefault(nonce, _Used())
        if used.call_id is None:
            used.call_id = call_id
            return True
        # Without an identifier nobody can tell whether it is the same call.
        return bool(call_id) and used.call_id == call_id

    async def claim_shared(self, nonce: str, call_id: str, expires_s: float) -> bool:
        """Uses a token for a call on all bridges. False if one of them has used it for another call."""
        if self._shared is None:
            return True
        try:
            good = await self._shared.claim(nonce, call_id, expires_s + KEPT_S - self._now())
        except StoreUnreachable:
            return True  # a lost store ends no call
        if not good and (used := self._used.get(nonce)) is not None:
            used.call_id = None  # the call that has the token may still come here
        return good


def _ignore() -> None:
    pass


@dataclass(frozen=True, slots=True)
class TokenUse:
    """The use of a token by one connection.

    Attributes:
        tokens: Where it is remembered.
        nonce: Names the token.
        expires_s: When it expires, seconds since 1970.
        refused: Called when the token has been used for another call.
    """

    tokens: CallTokens
    nonce: str
    expires_s: float
    refused: Callable[[], None] = field(default=_ignore, compare=False)

    def begin(self, call_id: str) -> bool:
        """Uses the token for a call that starts. False: the call must end."""
        return self._checked(self.tokens.claim(self.nonce, call_id))

    async def confirm(self, call_id: str) -> bool:
        """The same on all bridges, before the call gets an engine. False: the call must end."""
        return self._checked(await self.tokens.claim_shared(self.nonce, call_id, self.expires_s))

    def _checked(self, good: bool) -> bool:
        if not good:
            self.refused()
        return good
