"""Leases that several bridges share, in Redis or Valkey.

Each lease is a hash that expires. It holds the holder's token, the fence and the use. Operations that must be
atomic (compare and renew, compare and delete, grant and count) are scripts that the server runs as a whole.

**A store that loses its data.** After a restart a server is empty, or it has older data: from a snapshot, or
from a log that ends before the newest renewals. Then the first bridge to ask would get an engine whose call
goes on at another bridge. So all data belongs to one run of the server: one key, and each lease, records the
run's id (``run_id`` of INFO). The first script that finds another run's id makes the store *settle*: no lease
is granted for one lease lifetime. Within this time each holder has renewed its leases, which writes them
again, or has lost them.

The store also settles if no bridge reached it for a lease lifetime while slots were held. Those leases have
expired, but their holders may be alive and only cut off from the store. If all bridges stop and release their
leases, the store need not settle at the next start. If the store's user may not call INFO, only this second
rule protects the calls.

While the store settles, the higher fence wins: two bridges may both believe that they hold a slot, and the
higher fence was granted later. A lease of an earlier run gives way to a higher fence at any time. The fences
of renewed leases raise the store's fence counter, so that it never falls below a fence in use.

**A released lease stays released.** A renewal may still be on its way, and may arrive before or after the
release. So the store remembers a released token for one lease lifetime, and refuses to renew it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from pxbridge.engines.leases import Grant, Refusal, Renewal, Use
from pxbridge.errors import StoreUnreachable
from pxbridge.redis_store import PREFIX, RedisStore

if TYPE_CHECKING:
    from collections.abc import Sequence

RENEWALS_PER_LIFE: Final = 3
"""Renewals within one lease lifetime: two in a row may fail."""

LONGEST_RENEWAL_S: Final = 1.0
"""A bridge learns at its next renewal that another bridge wants its warm slot: at most this much later."""

WANTED_S: Final = 3.0
"""A request for a warm slot expires unless repeated. Longer than its holder needs to notice and close."""

# Each script run by `_eval` begins with this. Its first keys are the four named here, its first argument is
# the lease lifetime in milliseconds. `void`: a lease of an earlier run; one of an older version names no run.
_NOTICE_LOSS: Final = """
local remembers, heard, held, settles = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local info = redis.pcall('info', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or 'unknown'
local silent = redis.call('exists', heard) == 0 and redis.call('exists', held) == 1
if silent or redis.call('get', remembers) ~= run then
  redis.call('set', remembers, run)
  redis.call('set', settles, 1, 'PX', ARGV[1])
  redis.call('del', held)
end
redis.call('set', heard, 1, 'PX', ARGV[1])
local settling = redis.call('exists', settles) == 1
local function void(lease_run) return lease_run and lease_run ~= run end
"""
# KEYS: fence, lease, wanted. ARGV: token, use. Returns a number (the fence) or a string (the refusal).
_ACQUIRE: Final = (
    _NOTICE_LOSS
    + """
local fences, lease, wanted, token, use = KEYS[5], KEYS[6], KEYS[7], ARGV[2], ARGV[3]
local found = redis.call('hmget', lease, 'use', 'run')
if found[1] and not void(found[2]) then return found[1] end
if settling then return 'settling' end
if use == 'warm' and redis.call('exists', wanted) == 1 then return 'wanted' end
local fence = redis.call('incr', fences)
redis.call('hset', lease, 'holder', token, 'fence', fence, 'use', use, 'run', run)
redis.call('pexpire', lease, ARGV[1])
redis.call('sadd', held, lease)
redis.call('del', wanted)
return fence
"""
)
# KEYS: fence, then for each lease: lease, wanted, released. ARGV: for each lease: token, fence, use.
_RENEW: Final = (
    _NOTICE_LOSS
    + """
local answers = {}
local highest = tonumber(redis.call('get', KEYS[5]) or '0')
for n = 1, (#KEYS - 5) / 3 do
  local lease, wanted, released = KEYS[3 * n + 3], KEYS[3 * n + 4], KEYS[3 * n + 5]
  local token, fence, use = ARGV[3 * n - 1], tonumber(ARGV[3 * n]), ARGV[3 * n + 1]
  local found = redis.call('hmget', lease, 'holder', 'fence', 'run')
  local gives_way = found[2] and (settling or void(found[3])) and tonumber(found[2]) < fence
  if redis.call('exists', released) == 1 or (found[1] and found[1] ~= token and not gives_way) then
    answers[n] = 2
  else
    redis.call('hset', lease, 'holder', token, 'fence', fence, 'use', use, 'run', run)
    redis.call('pexpire', lease, ARGV[1])
    redis.call('sadd', held, lease)
    if fence > highest then highest = fence end
    answers[n] = redis.call('exists', wanted)
  end
end
redis.call('set', KEYS[5], string.format('%d', highest))
return answers
"""
)
_RENEWALS: Final = (Renewal.HELD, Renewal.WANTED, Renewal.LOST)
# KEYS: leases.
_LOOK: Final = (
    _NOTICE_LOSS
    + """
local answers = {}
for n = 5, #KEYS do
  local found = redis.call('hmget', KEYS[n], 'use', 'run')
  local use = not void(found[2]) and found[1]
  answers[n - 4] = use or (settling and 'settling') or ''
end
return answers
"""
)
# KEYS: lease, released, held. ARGV: token, the lease lifetime.
_RELEASE: Final = """
redis.call('set', KEYS[2], 1, 'PX', ARGV[2])
local holder = redis.call('hget', KEYS[1], 'holder')
if not holder or holder == ARGV[1] then
  redis.call('del', KEYS[1])
  redis.call('srem', KEYS[3], KEYS[1])
end
"""

REMEMBERS: Final = f"{PREFIX}remembers"
"""The id of the server's run that the leases belong to."""
HEARD: Final = f"{PREFIX}heard"
"""Exists while bridges ask. It expires after a lease lifetime without any request."""
HELD: Final = f"{PREFIX}held"
"""The leases that were granted and not released: a set that outlives them."""
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
        self._unanswered: list[Grant] = []  # leases that may have been granted: the answer did not come

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """Returns a lease on a slot, or the reason why it is refused."""
        token = secrets.token_hex(16)
        keys = (FENCE, _lease(key), _wanted(key))
        try:
            async with self._store.answer():
                answer = await self._eval(_ACQUIRE, keys, (token, use.value))
        except StoreUnreachable:
            self._unanswered.append(Grant(key, token, 0))
            raise
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
        """Returns how each of these slots is held. Leases that nobody here knows of are released before."""
        while self._unanswered:
            await self.release(self._unanswered[0])
            del self._unanswered[0]
        async with self._store.answer():
            answers = await self._eval(_LOOK, [_lease(key) for key in keys], ())
        return [Refusal(answer.decode()) if answer else None for answer in answers]

    async def want(self, key: str) -> None:
        """Asks another bridge to release a slot in which it keeps a session warm."""
        async with self._store.answer():
            await self._store.client.set(_wanted(key), 1, px=round(WANTED_S * 1000))

    async def release(self, grant: Grant) -> None:
        """Releases a lease. Does nothing if the slot has another holder by now."""
        keys = (_lease(grant.key), _released(grant.token), HELD)
        async with self._store.answer():
            await self._store.client.eval(_RELEASE, len(keys), *keys, grant.token, self._ttl_ms)

    async def _eval(self, script: str, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        """Runs a script that detects whether the store has lost its data."""
        client = self._store.client
        common = (REMEMBERS, HEARD, HELD, SETTLING)
        return await client.eval(script, len(common) + len(keys), *common, *keys, self._ttl_ms, *arguments)


def _lease(key: str) -> str:
    return f"{PREFIX}lease:{key}"


def _wanted(key: str) -> str:
    return f"{PREFIX}wanted:{key}"


def _released(token: str) -> str:
    return f"{PREFIX}released:{token}"
