"""Leases that several bridges share, in Redis or Valkey.

Each lease is a hash that expires: its holder's token, its fence, what it is used for. What must not be torn
apart (compare and renew, compare and delete, give and count) is a script that the server runs as a whole.

**A store that forgets.** A server that keeps nothing on disk is empty after a restart, and whoever came first
would get the engine of a call that goes on elsewhere. So there is a key that says that the store remembers.
Whoever finds it missing writes it, and from then on nothing is given for as long as a lease lives: by then
each holder has renewed what it holds, which writes it down again, or has lost it. The fences of what is
renewed raise the store's own counter, so that it never falls below what is in use.

**A lease that was given back stays so.** A renewal may be on its way, and overtake nothing or everything:
a token that was released is remembered for a lease's life, and renews nothing any more.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from pxbridge.engines.leases import Grant, Refusal, Renewal, Use
from pxbridge.redis_store import PREFIX, RedisStore

if TYPE_CHECKING:
    from collections.abc import Sequence

RENEWALS_PER_LIFE: Final = 3
"""So two of them in a row may fail."""

LONGEST_RENEWAL_S: Final = 1.0
"""A caller of another bridge waits so long, at most, until a warm session's holder learns of it."""

WANTED_S: Final = 3.0
"""A wish that is not repeated is forgotten: longer than its holder needs to learn of it and to close."""

# Each script begins with this; its first two keys are REMEMBERS and SETTLING, its first argument a lease's
# life in milliseconds.
_NOTICE_LOSS: Final = """
if redis.call('exists', KEYS[1]) == 0 then
  redis.call('set', KEYS[1], 1)
  redis.call('set', KEYS[2], 1, 'PX', ARGV[1])
end
local settling = redis.call('exists', KEYS[2]) == 1
"""
# KEYS: fence, lease, wanted. ARGV: token, use. A number is a fence, a text a refusal.
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
# KEYS: fence, and for each: lease, wanted, released. ARGV: for each: token, fence, use.
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
        store: The server; whoever opened it closes it.
        ttl_s: A lease's life: so long after a bridge was killed its slots come free.
    """

    def __init__(self, store: RedisStore, *, ttl_s: float) -> None:
        self._store = store
        self._ttl_ms = round(ttl_s * 1000)
        self.renew_every_s: float | None = min(ttl_s / RENEWALS_PER_LIFE, LONGEST_RENEWAL_S)

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """A lease on a slot, or why there is none."""
        token = secrets.token_hex(16)
        keys = (FENCE, _lease(key), _wanted(key))
        async with self._store.answer():
            answer = await self._eval(_ACQUIRE, keys, (token, use.value))
        return Grant(key, token, answer) if isinstance(answer, int) else Refusal(answer.decode())

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """Puts leases' ends off; takes one again if it has expired and nobody else has it."""
        keys: list[str] = [FENCE]
        arguments: list[str] = []
        for grant, use in held:
            keys += (_lease(grant.key), _wanted(grant.key), _released(grant.token))
            arguments += (grant.token, str(grant.fence), use.value)
        async with self._store.answer():
            answers = await self._eval(_RENEW, keys, arguments)
        return [_RENEWALS[answer] for answer in answers]

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """Who has these slots."""
        async with self._store.answer():
            answers = await self._eval(_LOOK, [_lease(key) for key in keys], ())
        return [Refusal(answer.decode()) if answer else None for answer in answers]

    async def want(self, key: str) -> None:
        """Asks for a slot in which another bridge keeps a session warm."""
        async with self._store.answer():
            await self._store.client.set(_wanted(key), 1, px=round(WANTED_S * 1000))

    async def release(self, grant: Grant) -> None:
        """Gives a lease back; one that is somebody else's by now is left alone."""
        keys = (_lease(grant.key), _released(grant.token))
        async with self._store.answer():
            await self._store.client.eval(_RELEASE, len(keys), *keys, grant.token, self._ttl_ms)

    async def _eval(self, script: str, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        """Runs a script that notices whether the store has forgotten."""
        client = self._store.client
        return await client.eval(script, 2 + len(keys), REMEMBERS, SETTLING, *keys, self._ttl_ms, *arguments)


def _lease(key: str) -> str:
    return f"{PREFIX}lease:{key}"


def _wanted(key: str) -> str:
    return f"{PREFIX}wanted:{key}"


def _released(token: str) -> str:
    return f"{PREFIX}released:{token}"
