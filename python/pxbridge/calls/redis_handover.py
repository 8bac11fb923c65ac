"""Which calls are handed over to a person, for all bridges that share a store.

A load balancer may send the flow's question to any bridge. Each decision is a key that expires.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pxbridge.calls.handover import KEPT_S
from pxbridge.redis_store import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pxbridge.redis_store import RedisStore


class RedisHandOverStore:
    """The decisions of several bridges: a `pxbridge.calls.handover.HandOverStore`.

    Args:
        store: The shared store. Its owner closes it.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def put(self, call_sid: str, numbers: Sequence[str] | None) -> None:
        """Stores a decision, or deletes it; raises `StoreUnreachable`."""
        async with self._store.answer():
            if numbers is None:
                await self._store.client.delete(_key(call_sid))
            else:
                await self._store.client.set(_key(call_sid), json.dumps(list(numbers)), ex=round(KEPT_S))

    async def get(self, call_sid: str) -> tuple[str, ...] | None:
        """The decision about a call; raises `StoreUnreachable`."""
        async with self._store.answer():
            told = await self._store.client.get(_key(call_sid))
        return None if told is None else tuple(json.loads(told))

    async def close(self) -> None:
        """Does nothing: the store belongs to its owner."""


def _key(call_sid: str) -> str:
    return f"{PREFIX}handover:{call_sid}"
