"""The bridges that share a store, as places for a call that one of them cannot take.

A bridge that was told by which name the internet reaches it says there how many calls it could take now,
again and again, and is forgotten when it has said nothing for a while. Whoever is asked for a URL by a flow
and has no room itself names the one with the most, and counts the call there: so a burst is spread, though
none of them has spoken meanwhile. Only bridges that accept this one's tokens and know the call's persona
come into question.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any, Final

from pxbridge.errors import StoreUnreachable
from pxbridge.redis_store import PREFIX
from pxbridge.rounds import for_ever

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from pxbridge.exotel.gate import Signer
    from pxbridge.redis_store import RedisStore

log = logging.getLogger(__name__)

EVERY_S: Final = 2.0
"""A bridge says how much room it has."""

LIFE_S: Final = 7.0
"""What it said counts for so long: it may fail to say so twice."""

_NODES: Final = f"{PREFIX}nodes"

# One call less can be taken there; negative: there was no room, or is no such bridge any more.
_TAKE: Final = """
if redis.call('exists', KEYS[1]) == 0 then return -1 end
return redis.call('hincrby', KEYS[1], 'room', -1)
"""


class Nodes:
    """This bridge among those that share a store.

    Args:
        store: Where they tell each other. Closed with this.
        url: By which the internet reaches this one, ``wss://host``.
        signer: Of this one's tokens.
        personas: Names of those that this one knows.
    """

    def __init__(
        self, store: RedisStore, url: str, signer: Signer, personas: Callable[[], Iterable[str]]
    ) -> None:
        self._store = store
        self._url = url
        self._signer = signer
        self._personas = personas
        self._room: Callable[[], int] = lambda: 0

    @contextlib.asynccontextmanager
    async def announced(self, room: Callable[[], int]) -> AsyncIterator[None]:
        """While the block runs, the others know how many calls could come here; not after it."""
        self._room = room
        telling = asyncio.create_task(for_ever("announcements", self._round), name="announcements")
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait([telling])
            await self.leave()
            await self._store.close()

    async def leave(self) -> None:
        """Send no more calls here."""
        self._room = lambda: 0
        await self._announce()

    async def elsewhere(self, persona_name: str | None) -> str | None:
        """Where another bridge takes a call for this persona: its ``wss://host``. The call is counted there.

        None if there is none, or if the store does not answer.
        """
        try:
            async with self._store.answer():
                return await self._find(persona_name)
        except StoreUnreachable as error:
            log.warning("no other bridge is known now: %s", error)
            return None

    async def _find(self, persona_name: str | None) -> str | None:
        client = self._store.client
        others = {member.decode() for member in await client.smembers(_NODES)} - {self._url}
        rooms: list[tuple[int, str]] = []
        for url in others:
            told = await client.hgetall(_key(url))
            if not told:
                await client.srem(_NODES, url)  # forgotten; if it is back it says so itself
            elif (room := self._room_at(told, persona_name)) > 0:
                rooms.append((room, url))
        for _, url in sorted(rooms, reverse=True):
            if await client.eval(_TAKE, 1, _key(url)) >= 0:
                return url
        return None

    def _room_at(self, told: dict[bytes, bytes], persona_name: str | None) -> int:
        """For how many such calls another bridge has room; none if what it said is not understood."""
        try:
            trusts_us = self._signer.mark.encode() in told[b"marks"].split()
            knows = persona_name is None or persona_name in json.loads(told[b"personas"])
            return int(told[b"room"]) if trusts_us and knows else 0
        except (KeyError, TypeError, ValueError):  # another version's
            return 0

    async def _round(self) -> None:
        await self._announce()
        await asyncio.sleep(EVERY_S)

    async def _announce(self) -> None:
        told = {
            "room": self._room(),
            "marks": " ".join(self._signer.marks),
            "personas": json.dumps(sorted(self._personas())),
        }
        with contextlib.suppress(StoreUnreachable):  # whoever leases engines there says so
            async with self._store.answer():
                pipeline: Any = self._store.client.pipeline(transaction=True)
                pipeline.hset(_key(self._url), mapping=told)
                pipeline.pexpire(_key(self._url), round(1000 * LIFE_S))
                pipeline.sadd(_NODES, self._url)
                await pipeline.execute()


def _key(url: str) -> str:
    return f"{PREFIX}node:{url}"
