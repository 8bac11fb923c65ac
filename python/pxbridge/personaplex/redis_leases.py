"""Leases that several bridges share, in Redis or Valkey: ``pip install pxbridge[redis]``.

Each lease is one key that expires, its value the holder's token and fence. What must not be torn apart
(compare and renew, compare and delete, give and count) is a script that the server runs as a whole. The store
is asked about slots, never for sound: when it is gone, calls go on, and only new leases have to wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Final

from pxbridge.personaplex.leases import Grant, Renewal, StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_TIMEOUT_S: Final = 2.0
"""A store in the same network answers in a millisecond; a call's start waits for it."""

RENEWALS_PER_LIFE: Final = 3
"""So two of them in a row may fail."""

# The fence is counted only when a lease is given, so that it also counts leases.
_ACQUIRE: Final = """
if redis.call('exists', KEYS[1]) == 1 then return nil end
local fence = redis.call('incr', KEYS[2])
redis.call('set', KEYS[1], ARGV[1] .. ' ' .. fence, 'PX', ARGV[2])
return fence
"""
_RENEW: Final = """
local held = redis.call('get', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE: Final = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class RedisLeases:
    """Leases in a Redis or Valkey server.

    Args:
        url: ``redis://host:6379/0``, ``rediss://`` for TLS, ``unix://``; may hold a user and a password.
        ttl_s: A lease's life: so long after a bridge was killed its slots come free.
        prefix: Before every key: bridges that share engines share it.

    Raises:
        ImportError: The extra is not installed.
        ValueError: The URL is none.
    """

    def __init__(self, url: str, *, ttl_s: float, prefix: str = "pxbridge:") -> None:
        # An extra: whoever runs one bridge needs no client library.
        from redis import asyncio as redis
        from redis.exceptions import RedisError

        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=ANSWER_TIMEOUT_S, socket_connect_timeout=ANSWER_TIMEOUT_S
        )
        self._failures = (RedisError, OSError, TimeoutError)
        self._ttl_ms = round(ttl_s * 1000)
        self._prefix = prefix
        self.renew_every_s = ttl_s / RENEWALS_PER_LIFE

    async def acquire(self, key: str) -> Grant | None:
        """A lease on a slot, or None if somebody holds it."""
        token = secrets.token_hex(16)
        async with self._answer():
            fence = await self._client.eval(
                _ACQUIRE, 2, self._key(key), f"{self._prefix}fence", token, self._ttl_ms
            )
        return None if fence is None else Grant(key, token, int(fence))

    async def renew(self, grant: Grant) -> Renewal:
        """Puts its end off; takes it again if it has expired and nobody else has it."""
        async with self._answer():
            held = await self._client.eval(_RENEW, 1, self._key(grant.key), _value(grant), self._ttl_ms)
        return Renewal.HELD if held else Renewal.LOST

    async def release(self, grant: Grant) -> None:
        """Gives a lease back; one that is somebody else's by now is left alone."""
        async with self._answer():
            await self._client.eval(_RELEASE, 1, self._key(grant.key), _value(grant))

    async def close(self) -> None:
        """Closes the connections."""
        with contextlib.suppress(*self._failures):
            await self._client.aclose()

    @contextlib.asynccontextmanager
    async def _answer(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                yield
        except self._failures as error:
            # The error's own text may name the server's address and its user.
            raise StoreUnreachable(f"the lease store does not answer ({type(error).__name__})") from None

    def _key(self, key: str) -> str:
        return f"{self._prefix}lease:{key}"


def _value(grant: Grant) -> str:
    return f"{grant.token} {grant.fence}"
