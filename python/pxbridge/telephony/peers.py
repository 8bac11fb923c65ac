"""Bridges that share a store: a full bridge sends a call to another one.

A bridge that knows its public URL announces in the store, at short intervals, how many calls it can take. An
announcement expires if it is not renewed. When a call flow asks a full bridge for a URL, that bridge returns
the URL of the bridge with the most room, and subtracts the call from that room. The next announcement sets
the room again. So a burst of calls is spread. The room is an estimate, not a reservation: bridges that share
engines announce the same free engines. A caller who finds no free engine waits at the other bridge. Only
bridges that accept this bridge's tokens and know the call's persona are considered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
from typing import TYPE_CHECKING, Any, Final

from pxbridge.errors import StoreUnreachable
from pxbridge.periodic import repeat, stop
from pxbridge.redis_store import ANSWER_TIMEOUT_S, PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from pxbridge.redis_store import RedisStore
    from pxbridge.telephony.tokens import Signer

log = logging.getLogger(__name__)

ANNOUNCE_EVERY_S: Final = 2.0
"""Interval of the announcements."""

LIFETIME_INTERVALS: Final = 3.5
"""Lifetime of an announcement in such intervals: two announcements in a row may fail."""

WITHDRAW_TIMEOUT_S: Final = 0.3
"""Timeout for withdrawing the announcement when a bridge stops. Without it, the announcement expires."""

_BRIDGES: Final = f"{PREFIX}nodes"
_URL: Final = re.compile(r"wss?://[^\s/?#]+(?:/[^\s?#]*)?")

# Subtracts one call from a bridge's room. Negative: the bridge has no room, or no longer exists.
_TAKE: Final = """
if redis.call('exists', KEYS[1]) == 0 then return -1 end
return redis.call('hincrby', KEYS[1], 'room', -1)
"""


class PeerBridges:
    """This bridge, among the bridges that share a store.

    Args:
        store: The shared store. The caller that opened it closes it.
        url: Public URL of this bridge, ``wss://host``. Bridges behind one load balancer may share a URL.
        signer: Makes this bridge's tokens.
        personas: Returns the names of the personas that this bridge knows.
        every_s: Interval of the announcements.
    """

    def __init__(
        self,
        store: RedisStore,
        url: str,
        signer: Signer,
        personas: Callable[[], Iterable[str]],
        every_s: float = ANNOUNCE_EVERY_S,
    ) -> None:
        self._store = store
        self._url = url
        self._signer = signer
        self._personas = personas
        self._every_s = every_s
        self._name = secrets.token_hex(8)
        self._room: Callable[[], int] | None = None
        self._left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def announced(self, room: Callable[[], int]) -> AsyncIterator[None]:
        """Announces this bridge's room while the block runs, and withdraws the announcement at its end."""
        self._room = room
        telling = asyncio.create_task(repeat("announcements", self._run_once), name="announcements")
        try:
            yield
        finally:
            await stop([telling])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
                    await self._withdraw()

    def leave(self) -> None:
        """Withdraws the announcement at once, so that the other bridges send no more calls here."""
        self._room = None
        self._left.set()

    async def elsewhere(self, persona_name: str | None, *, reserve: bool = True) -> str | None:
        """The ``wss://host`` of another bridge that has room for a call with this persona.

        Args:
            persona_name: The persona; None for the default.
            reserve: Whether the call is subtracted from that bridge's room.

        Returns:
            None if there is no such bridge, or if the store does not answer.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._find(persona_name, reserve=reserve)
        except (StoreUnreachable, TimeoutError):
            log.warning("the lease store does not answer: calls cannot be sent to other bridges")
            return None

    async def _find(self, persona_name: str | None, *, reserve: bool) -> str | None:
        client = self._store.client
        async with self._store.answer():
            names = {member.decode(errors="replace") for member in await client.smembers(_BRIDGES)}
        rooms: list[tuple[int, str, str]] = []
        for name in names - {self._name}:
            with contextlib.suppress(StoreUnreachable):  # an unreadable entry, or the store is down
                async with self._store.answer():
                    told = await client.hgetall(_key(name))
                    if not told:
                        await client.srem(_BRIDGES, name)  # expired; if it returns, it adds itself again
                    elif (room := self._room_of(told, persona_name)) > 0:
                        rooms.append((room, name, told[b"url"].decode()))
        for _, name, url in sorted(rooms, reverse=True):
            if not reserve:
                return url
            with contextlib.suppress(StoreUnreachable):
                async with self._store.answer():
                    if await client.eval(_TAKE, 1, _key(name)) >= 0:
                        return url
        return None

    def _room_of(self, told: dict[bytes, bytes], persona_name: str | None) -> int:
        """Number of such calls that another bridge can take; 0 if its announcement cannot be used."""
        try:
            trusts_us = self._signer.key_id.encode() in told[b"marks"].split()
            knows = persona_name is None or persona_name in json.loads(told[b"personas"])
            is_url = _URL.fullmatch(told[b"url"].decode()) is not None
            return int(told[b"room"]) if trusts_us and knows and is_url else 0
        except (KeyError, TypeError, ValueError, RecursionError):  # of another version
            return 0

    async def _run_once(self) -> None:
        if self._room is None:
            await self._withdraw()
            await asyncio.Event().wait()  # nothing more to announce
        else:
            await self._announce(self._room())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._left.wait()

    async def _announce(self, room: int) -> None:
        told = {
            "url": self._url,
            "room": room,
            "marks": " ".join(self._signer.key_ids),
            "personas": json.dumps(sorted(self._personas())),
        }
        with contextlib.suppress(StoreUnreachable):  # the lease code logs that the store is down
            async with self._store.answer():
                pipeline: Any = self._store.client.pipeline(transaction=True)
                pipeline.hset(_key(self._name), mapping=told)
                pipeline.pexpire(_key(self._name), round(1000 * LIFETIME_INTERVALS * self._every_s))
                pipeline.sadd(_BRIDGES, self._name)
                await pipeline.execute()

    async def _withdraw(self) -> None:
        with contextlib.suppress(StoreUnreachable):
            async with self._store.answer():
                await self._store.client.delete(_key(self._name))
                await self._store.client.srem(_BRIDGES, self._name)


def _key(name: str) -> str:
    return f"{PREFIX}node:{name}"
