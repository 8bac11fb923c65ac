"""Which calls are handed over to a person, for all bridges that share a store.

A load balancer may send the flow's question to any bridge. The last change about each call is a hash that
expires: ``at`` (the server's clock, in microseconds) and ``numbers`` (JSON: a list, or null).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from pxbridge.calls.handover import KEPT_S, Stored
from pxbridge.redis_store import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pxbridge.redis_store import RedisStore

MICROSECONDS: Final = 1_000_000

# KEYS: the hash. ARGV: the numbers, how long it is kept (microseconds), the time of a change that was stored
# before or nothing. Returns the time of the change.
_PUT: Final = """
local told = redis.call('time')
local now = told[1] * 1000000 + told[2]
local last = tonumber(redis.call('hget', KEYS[1], 'at') or '0')
local at = tonumber(ARGV[3]) or math.max(now, last + 1)
local left = math.min(ARGV[2], ARGV[2] - (now - at))
if at > last and left > 0 then
  redis.call('hset', KEYS[1], 'at', string.format('%d', at), 'numbers', ARGV[1])
  redis.call('pexpire', KEYS[1], math.ceil(left / 1000))
end
return string.format('%d', at)
"""


class RedisHandOverStore:
    """The decisions of several bridges: a `pxbridge.calls.handover.HandOverStore`.

    Args:
        store: The shared store. Its owner closes it.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def put(
        self, call_sid: str, numbers: Sequence[str] | None, changed_at: float | None = None
    ) -> float:
        """Stores a change and returns its time; raises `StoreUnreachable`."""
        told = json.dumps(None if numbers is None else list(numbers))
        at = "" if changed_at is None else round(changed_at * MICROSECONDS)
        async with self._store.answer():
            stored_at = await self._store.client.eval(
                _PUT, 1, _key(call_sid), told, round(KEPT_S * MICROSECONDS), at
            )
        return int(stored_at) / MICROSECONDS

    async def get(self, call_sid: str) -> Stored | None:
        """The last change about a call; raises `StoreUnreachable`."""
        async with self._store.answer():
            at, told = await self._store.client.hmget(_key(call_sid), "at", "numbers")
        if at is None or told is None:
            return None
        numbers = json.loads(told)
        return Stored(int(at) / MICROSECONDS, None if numbers is None else tuple(numbers))

    async def close(self) -> None:
        """Does nothing: the store belongs to its owner."""


def _key(call_sid: str) -> str:
    return f"{PREFIX}handed-over:{call_sid}"
