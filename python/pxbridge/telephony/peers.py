"""The bridges that share a store, as places for a call that one of them cannot take.

A bridge that was told by which name the internet reaches it says there how many calls it could take now,
again and again, and is forgotten when it has said nothing for a while. Whoever is asked for a URL by a flow
and has no room itself names the one with the most, and counts the call there until that one speaks again: so
a burst is spread. It is a good guess and no promise, as bridges that share engines tell of the same free
ones: a caller who comes in vain waits there. Only bridges that accept this one's tokens and know the call's
persona come into question.
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
from pxbridge.periodic import repeat
from pxbridge.redis_store import ANSWER_TIMEOUT_S, PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from pxbridge.redis_store import RedisStore
    from pxbridge.telephony.access import Signer

log = logging.getLogger(__name__)

ANNOUNCE_EVERY_S: Final = 2.0
"""A bridge says how much room it has."""

LIFETIME_INTERVALS: Final = 3.5
"""What it said counts for so many times as long: it may fail to say so twice."""

WITHDRAW_TIMEOUT_S: Final = 0.3
"""A bridge that ends tells the others, if that takes no longer; else it is forgotten."""

_BRIDGES: Final = f"{PREFIX}nodes"
_URL: Final = re.compile(r"wss?://[^\s/?#]+(?:/[^\s?#]*)?")

# One call less can be taken there; negative: there was no room, or is no such bridge any more.
_TAKE: Final = """
if redis.call('exists', KEYS[1]) == 0 then return -1 end
return redis.call('hincrby', KEYS[1], 'room', -1)
"""


class PeerBridges:
    """This bridge among those that share a store.

    Args:
        store: Where they tell each other; whoever opened it closes it.
        url: By which the internet reaches this one, ``wss://host``; several may have the same, behind a
            balancer.
        signer: Of this one's tokens.
        personas: Names of those that this one knows.
        every_s: How often it says how much room it has.
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
        """While the block runs, the others know how many calls could come here; not after it."""
        self._room = room
        telling = asyncio.create_task(repeat("announcements", self._run_once), name="announcements")
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait([telling])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
                    await self._withdraw()

    def leave(self) -> None:
        """Send no more calls here: the others learn of it at once."""
        self._room = None
        self._left.set()

    async def elsewhere(self, persona_name: str | None) -> str | None:
        """Where another bridge takes a call for this persona: its ``wss://host``. The call is counted there.

        None if there is none, or if the store does not answer.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._find(persona_name)
        except (StoreUnreachable, TimeoutError):
            log.warning("no other bridge is known now: the lease store does not answer")
            return None

    async def _find(self, persona_name: str | None) -> str | None:
        client = self._store.client
        async with self._store.answer():
            names = {member.decode(errors="replace") for member in await client.smembers(_BRIDGES)}
        rooms: list[tuple[int, str, str]] = []
        for name in names - {self._name}:
            with contextlib.suppress(StoreUnreachable):  # another version's; or gone, which shows below
                async with self._store.answer():
                    told = await client.hgetall(_key(name))
                    if not told:
                        await client.srem(_BRIDGES, name)  # forgotten; if it is back it says so itself
                    elif (room := self._room_of(told, persona_name)) > 0:
                        rooms.append((room, name, told[b"url"].decode()))
        for _, name, url in sorted(rooms, reverse=True):
            with contextlib.suppress(StoreUnreachable):
                async with self._store.answer():
                    if await client.eval(_TAKE, 1, _key(name)) >= 0:
                        return url
        return None

    def _room_of(self, told: dict[bytes, bytes], persona_name: str | None) -> int:
        """For how many such calls another bridge has room; none if what it said is not understood."""
        try:
            trusts_us = self._signer.key_id.encode() in told[b"marks"].split()
            knows = persona_name is None or persona_name in json.loads(told[b"personas"])
            is_url = _URL.fullmatch(told[b"url"].decode()) is not None
            return int(told[b"room"]) if trusts_us and knows and is_url else 0
        except (KeyError, TypeError, ValueError, RecursionError):  # another version's
            return 0

    async def _run_once(self) -> None:
        if self._room is None:
            await self._withdraw()
            await asyncio.Event().wait()  # there is no more to say
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
        with contextlib.suppress(StoreUnreachable):  # whoever leases engines there says so
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
