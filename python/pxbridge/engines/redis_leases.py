"""Leases that several bridges share, in Redis or Valkey.

Each lease is a hash that expires. It holds the holder's token, the fence and the use. Operations that must be
atomic (compare and renew, compare and delete, grant and count) are scripts that the server runs as a whole.

**A store that loses its data.** A server without persistence is empty after a restart. Then the first bridge
to ask would get an engine whose call goes on at another bridge. So one key records that the store has its
data. The first script that finds the key missing writes it. From then on, no lease is granted for one lease
lifetime. Within that time each holder has renewed its leases, which writes them again, or has lost them. The
fences of renewed leases raise the store's fence counter, so that it never falls below a fence in use.

**A released lease stays released.** A renewal may still be on its way, and may arrive before or after the
release. So the store remembers a released token for one lease lifetime, and refuses to renew it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from pxbridge.engines.leases import Grant, Refusal, Renewal, Use
from pxbridge.redis_store import PREFIX, RedisStore

if TYPE_CHECKING:
    from collections.abc import Sequence

RENEWALS_PER_LIFE: Final = 3
"""Renewals within one lease lifetime: two in a row may fail."""

LONGEST_RENEWAL_S: Final = 1.0
"""A bridge learns at its next renewal that another bridge wants its warm slot: at most this much later."""

WANTED_S: Final = 3.0
"""A request for a warm slot expires unless repeated. Longer than its holder needs to notice and close."""

# Each script run by `_eval` begins with this. Its first two keys are REMEMBERS and SETTLING. Its first
# argument is the lease lifetime in milliseconds.
_NOTICE_LOSS: Final = """
if redis.call('exists', KEYS[1]) == 0 then
  redis.call('set', KEYS[1], 1)
  redis.call('set', KEYS[2], 1, 'PX', ARGV[1])
end
local settling = redis.call('exists', KEYS[2]) == 1
"""
# KEYS: fence, lease, wanted. ARGV: token, use. Returns a number (the fence) or a string (the refusal).
_ACQUIRE: Final = (
    _NOTICE_LOSS
    + """
local use = redis.call('hget', KEYS[4], 'use')
if use then return use end
if settling then return 'settling' end
if ARGV[3] == 'warm' and redis.call('exists', KEYS[5]) == 1 then return 'wanted' end
local fence = redis.call('incr', KEYS[3])
redis.call('hset', KEYS[4], 'holder', ARGV[2], 'fence', fence, 'use', ARGV[3])
redis.call('pexpire', KEYS[4], ARGV[1])
redis.call('del', KEYS[5])
return fence
"""
)
# KEYS: fence, then for each lease: lease, wanted, released. ARGV: for each lease: token, fence, use.
_RENEW: Final = (
    _NOTICE_LOSS
    + """
local answers = {}
local highest = tonumber(redis.call('get', KEYS[3]) or '0')
for n = 1, (#KEYS - 3) / 3 do
  local lease, wanted, released = KEYS[3 * n + 1], KEYS[3 * n + 2], KEYS[3 * n + 3]
  local token, fence, use = ARGV[3 * n - 1], ARGV[3 * n], ARGV[3 * n + 1]
  local holder = redis.call('hget', lease, 'holder')
  if redis.call('exists', released) == 1 or (holder and holder ~= token) then
    answers[n] = 2
  else
    redis.call('hset', lease, 'holder', token, 'fence', fence, 'use', use)
    redis.call('pexpire', lease, ARGV[1])
    if tonumber(fence) > highest then highest = tonumber(fence) end
    answers[n] = redis.call('exists', wanted)
  end
end
redis.call('set', KEYS[3], string.format('%d', highest))
return answers
"""
)
_RENEWALS: Final = (Renewal.HELD, Renewal.WANTED, Renewal.LOST)
# KEYS: leases.
_LOOK: Final = (
    _NOTICE_LOSS
    + """
local answers = {}
for n = 3, #KEYS do
  answers[n - 2] = redis.call('hget', KEYS[n], 'use') or (settling and 'settling') or ''
end
return answers
"""
)
_RELEASE: Final = """
redis.call('set', KEYS[2], 1, 'PX', ARGV[2])
if redis.call('hget', KEYS[1], 'holder') == ARGV[1] then redis.call('del', KEYS[1]) end
"""

REMEMBERS: Final = f"{PREFIX}remembers"
SETTLING: Final = f"{PREFIX}settling"
FENCE: Final = f"{PREFIX}fence"


class RedisLeases:
    """Leases in a Redis or Valkey server. Every method may raise `pxbridge.errors.StoreUnreachable`.

    Args:
        store: The server. Its owner closes it.
        ttl_s: Lease lifetime. Slots of a killed bridge are freed after this long.
    """

    def __init__(self, store: RedisStore, *, ttl_s: float) -> None:
        self._store = store
        self._ttl_ms = round(ttl_s * 1000)
        self.renew_every_s: float | None = min(ttl_s / RENEWALS_PER_LIFE, LONGEST_RENEWAL_S)

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """Returns a lease on a slot, or the reason why it is refused."""
        token = secrets.token_hex(16)
        keys = (FENCE, _lease(key), _wanted(key))
        async with self._store.answer():
            answer = await self._eval(_ACQUIRE, keys, (token, use.value))
        return Grant(key, token, answer) if isinstance(answer, int) else Refusal(answer.decode())

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """Extends leases. An expired lease is taken again if the slot has no other holder."""
        keys: list[str] = [FENCE]
        arguments: list[str] = []
        for grant, use in held:
            keys += (_lease(grant.key), _wanted(grant.key), _released(grant.token))
            arguments += (grant.token, str(grant.fence), use.value)
        async with self._store.answer():
            answers = await self._eval(_RENEW, keys, arguments)
        return [_RENEWALS[answer] for answer in answers]

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """Returns how each of these slots is held."""
        async with self._store.answer():
            answers = await self._eval(_LOOK, [_lease(key) for key in keys], ())
        return [Refusal(answer.decode()) if answer else None for answer in answers]

    async def want(self, key: str) -> None:
        """Asks another bridge to release a slot in which it keeps a session warm."""
        async with self._store.answer():
            await self._store.client.set(_wanted(key), 1, px=round(WANTED_S * 1000))

    async def release(self, grant: Grant) -> None:
        """Releases a lease. Does nothing if the slot has another holder by now."""
        keys = (_lease(grant.key), _released(grant.token))
        async with self._store.answer():
            await self._store.client.eval(_RELEASE, len(keys), *keys, grant.token, self._ttl_ms)

    async def _eval(self, script: str, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        """Runs a script that detects whether the store has lost its data."""
        client = self._store.client
        return await client.eval(script, 2 + len(keys), REMEMBERS, SETTLING, *keys, self._ttl_ms, *arguments)


def _lease(key: str) -> str:
    return f"{PREFIX}lease:{key}"


def _wanted(key: str) -> str:
    return f"{PREFIX}wanted:{key}"


def _released(token: str) -> str:
    return f"{PREFIX}released:{token}"
