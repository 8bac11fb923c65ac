"""Leases that several bridges share, in Redis or Valkey.

Each lease is one key that expires, its value the holder's token and fence. What must not be torn apart
(compare and renew, compare and delete, give and count) is a script that the server runs as a whole. When the
store is gone, calls go on, and only new leases have to wait for it.
"""

from __future__ import annotations

import secrets
from typing import Final

from pxbridge.personaplex.leases import Grant, Renewal
from pxbridge.redis_store import PREFIX, RedisStore

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
    """Leases in a Redis or Valkey server. Every method may raise `pxbridge.errors.StoreUnreachable`.

    Args:
        store: The server. Closed with this.
        ttl_s: A lease's life: so long after a bridge was killed its slots come free.
    """

    def __init__(self, store: RedisStore, *, ttl_s: float) -> None:
        self._store = store
        self._ttl_ms = round(ttl_s * 1000)
        self.renew_every_s = ttl_s / RENEWALS_PER_LIFE

    async def acquire(self, key: str) -> Grant | None:
        """A lease on a slot, or None if somebody holds it."""
        token = secrets.token_hex(16)
        async with self._store.answer():
            fence = await self._store.client.eval(
                _ACQUIRE, 2, _key(key), f"{PREFIX}fence", token, self._ttl_ms
            )
        return None if fence is None else Grant(key, token, int(fence))

    async def renew(self, grant: Grant) -> Renewal:
        """Puts its end off; takes it again if it has expired and nobody else has it."""
        async with self._store.answer():
            held = await self._store.client.eval(_RENEW, 1, _key(grant.key), _value(grant), self._ttl_ms)
        return Renewal.HELD if held else Renewal.LOST

    async def release(self, grant: Grant) -> None:
        """Gives a lease back; one that is somebody else's by now is left alone."""
        async with self._store.answer():
            await self._store.client.eval(_RELEASE, 1, _key(grant.key), _value(grant))

    async def close(self) -> None:
        """Closes the connections."""
        await self._store.close()


def _key(key: str) -> str:
    return f"{PREFIX}lease:{key}"


def _value(grant: Grant) -> str:
    return f"{grant.token} {grant.fence}"
