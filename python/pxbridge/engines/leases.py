"""Who may use an engine's slot: leases, and the store that remembers them.

NVIDIA's server takes one conversation and keeps a second one waiting without a word, so whoever shares
engines must know that a slot is theirs before they connect. One bridge needs no store for that. Several
bridges share one (`pxbridge.engines.redis_leases`), and then a lease is a promise with an end: it expires
unless its holder renews it, so that the slots of a bridge that was killed come free by themselves.

Every lease has a *token*, which nobody else knows, and a *fence*, a number that rises with every lease given.
Only the token's holder can renew or release. A holder who learns that somebody else holds the slot now has
been fenced off, and leaves the engine.

A lease also says what it is used for. One that only keeps a session warm goes to a call of another bridge
that has none: that bridge *wants* it, its holder learns so with the next renewal, and gives it back.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from pxbridge.errors import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger(__name__)

T = TypeVar("T")


class Grant(NamedTuple):
    """A lease as the store gave it.

    Attributes:
        key: Which slot of which engine.
        token: Known to its holder alone.
        fence: Higher than that of every lease given before it.
    """

    key: str
    token: str
    fence: int


class Use(StrEnum):
    """What a lease is used for."""

    CALL = "call"
    WARM = "warm"
    """For a session that no call has yet."""


class Refusal(StrEnum):
    """Why a lease is not to be had."""

    CALL = "call"
    """Somebody has it for a call."""
    WARM = "warm"
    """Somebody keeps a session warm with it, and would give it back to a call."""
    WANTED = "wanted"
    """It is free, and promised to a call."""
    SETTLING = "settling"
    """The store has forgotten who has what, and is being told."""


class Renewal(Enum):
    """What became of an attempt to renew a lease."""

    HELD = "held"
    WANTED = "held, and a call of another bridge waits for it"
    LOST = "lost to another holder"


class LeaseStore(Protocol):
    """Remembers leases. Every method may raise `pxbridge.errors.StoreUnreachable`."""

    @property
    def renew_every_s(self) -> float | None:
        """How often leases must be renewed; None: never, for nobody shares the store."""
        ...

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """A lease on a slot, or why there is none."""
        ...

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """Puts leases' ends off. One that has expired is taken again if nobody else has it."""
        ...

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """Who has these slots, one by one; None: nobody."""
        ...

    async def want(self, key: str) -> None:
        """Asks whoever keeps a session warm in this slot to give it back; to be repeated while it is so."""
        ...

    async def release(self, grant: Grant) -> None:
        """Gives a lease back; one that is somebody else's by now is left alone."""
        ...


class MemoryLeases:
    """The store of a bridge that shares its engines with nobody."""

    renew_every_s: float | None = None

    def __init__(self) -> None:
        self._held: dict[str, tuple[Grant, Use]] = {}
        self._fences = itertools.count(1)

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """A lease on a slot, or why there is none."""
        if key in self._held:
            return Refusal(self._held[key][1])
        grant = Grant(key, secrets.token_hex(8), next(self._fences))
        self._held[key] = grant, use
        return grant

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """Whether they are still held: they never expire."""
        return [
            Renewal.HELD if self._held.get(grant.key, (None,))[0] == grant else Renewal.LOST
            for grant, _ in held
        ]

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """Who has these slots."""
        return [Refusal(self._held[key][1]) if key in self._held else None for key in keys]

    async def want(self, key: str) -> None:
        """Nothing to do: there is nobody else."""

    async def release(self, grant: Grant) -> None:
        """Gives a lease back."""
        if self._held.get(grant.key, (None,))[0] == grant:
            del self._held[grant.key]


class WatchedLeases:
    """A store, and whether it answers; said once when it stops to, and once when it does again.

    Args:
        store: The store.
        clock: Seconds, monotonic.

    Attributes:
        gone_since_s: When it stopped to answer; None while it does.
        failures: How often it did not answer.
    """

    def __init__(self, store: LeaseStore, clock: Callable[[], float]) -> None:
        self.renew_every_s = store.renew_every_s
        self.gone_since_s: float | None = None
        self.failures = 0
        self._store = store
        self._clock = clock

    @property
    def is_shared(self) -> bool:
        """Whether it is outside of this process, and may be gone."""
        return self.renew_every_s is not None

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """As `LeaseStore` says."""
        return await self._watched(self._store.acquire(key, use))

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """As `LeaseStore` says."""
        return await self._watched(self._store.renew(held))

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """As `LeaseStore` says."""
        return await self._watched(self._store.look(keys))

    async def want(self, key: str) -> None:
        """As `LeaseStore` says."""
        await self._watched(self._store.want(key))

    async def release(self, grant: Grant) -> None:
        """As `LeaseStore` says."""
        await self._watched(self._store.release(grant))

    async def _watched(self, answer: Awaitable[T]) -> T:
        try:
            result = await answer
        except StoreUnreachable as error:
            self.failures += 1
            if self.gone_since_s is None:
                self.gone_since_s = self._clock()
                log.error("%s: calls go on, and no engine is leased until it does", error)
            raise
        if self.gone_since_s is not None:
            log.warning("the lease store answers again, after %.1f s", self._clock() - self.gone_since_s)
            self.gone_since_s = None
        return result
