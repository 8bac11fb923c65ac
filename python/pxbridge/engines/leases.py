"""Leases: which bridge may use an engine's slot, and the store that records this.

NVIDIA's server takes one conversation at a time. It accepts a second connection and never answers it. So a
bridge that shares engines must hold a slot's lease before it connects. A single bridge keeps its leases in
memory. Several bridges share a store (`pxbridge.engines.redis_leases`). There, a lease expires unless its
holder renews it, so the slots of a killed bridge are freed without help.

Every lease has a *token* and a *fence*. Only the holder knows the token. Renewing and releasing need it. The
fence is a number that rises with every lease granted. A holder that learns that another bridge holds the slot
has been fenced off, and leaves the engine.

A lease also records its use. A lease that only keeps a session warm can be given up for a call of another
bridge. That bridge *wants* the slot. The holder learns this at its next renewal, and releases the lease.
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
    """A lease as the store granted it.

    Attributes:
        key: The name of the slot, which includes its engine.
        token: Known only to the holder.
        fence: Higher than the fence of every earlier lease.
    """

    key: str
    token: str
    fence: int


class Use(StrEnum):
    """What a lease is used for."""

    CALL = "call"
    WARM = "warm"
    """For a session that is prompted before any call needs it."""


class Refusal(StrEnum):
    """Why a lease was not granted."""

    CALL = "call"
    """Another holder uses it for a call."""
    WARM = "warm"
    """Another holder keeps a session warm with it, and would release it for a call."""
    WANTED = "wanted"
    """The slot is free, but reserved for a call."""
    SETTLING = "settling"
    """The store has lost its data, and waits until the holders have renewed their leases."""


class Renewal(Enum):
    """The result of renewing a lease."""

    HELD = "held"
    WANTED = "held, and a call of another bridge waits for it"
    LOST = "lost to another holder"


class LeaseStore(Protocol):
    """Records leases. Every method may raise `pxbridge.errors.StoreUnreachable`."""

    @property
    def renew_every_s(self) -> float | None:
        """How often leases must be renewed. None: never, because no other bridge shares the store."""
        ...

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """Returns a lease on a slot, or the reason why it is refused."""
        ...

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """Extends leases. An expired lease is taken again if the slot has no other holder."""
        ...

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """Returns how each of these slots is held, in their order; None: it is free."""
        ...

    async def want(self, key: str) -> None:
        """Asks the holder of a warm session to release this slot. Repeat it while the slot is needed."""
        ...

    async def release(self, grant: Grant) -> None:
        """Releases a lease. Does nothing if the slot has another holder by now."""
        ...


class MemoryLeases:
    """The store of a bridge that does not share its engines."""

    renew_every_s: float | None = None

    def __init__(self) -> None:
        self._held: dict[str, tuple[Grant, Use]] = {}
        self._fences = itertools.count(1)

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """Returns a lease on a slot, or the reason why it is refused."""
        if key in self._held:
            return Refusal(self._held[key][1])
        grant = Grant(key, secrets.token_hex(8), next(self._fences))
        self._held[key] = grant, use
        return grant

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """Returns whether each lease is still held. Leases in memory never expire."""
        return [
            Renewal.HELD if self._held.get(grant.key, (None,))[0] == grant else Renewal.LOST
            for grant, _ in held
        ]

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """Returns how each of these slots is held."""
        return [Refusal(self._held[key][1]) if key in self._held else None for key in keys]

    async def want(self, key: str) -> None:
        """Does nothing: there is no other bridge."""

    async def release(self, grant: Grant) -> None:
        """Releases a lease."""
        if self._held.get(grant.key, (None,))[0] == grant:
            del self._held[grant.key]


class WatchedLeases:
    """Wraps a store and tracks whether it answers. Logs once when it stops, and once when it answers again.

    Args:
        store: The store.
        clock: Returns seconds, monotonic.

    Attributes:
        gone_since_s: When it stopped answering; None while it answers.
        failures: Number of requests that it did not answer.
    """

    def __init__(self, store: LeaseStore, clock: Callable[[], float]) -> None:
        self.renew_every_s = store.renew_every_s
        self.gone_since_s: float | None = None
        self.failures = 0
        self._store = store
        self._clock = clock

    @property
    def is_shared(self) -> bool:
        """Whether the store is outside this process, so that it can fail."""
        return self.renew_every_s is not None

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        """See `LeaseStore`."""
        return await self._watched(self._store.acquire(key, use))

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        """See `LeaseStore`."""
        return await self._watched(self._store.renew(held))

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        """See `LeaseStore`."""
        return await self._watched(self._store.look(keys))

    async def want(self, key: str) -> None:
        """See `LeaseStore`."""
        await self._watched(self._store.want(key))

    async def release(self, grant: Grant) -> None:
        """See `LeaseStore`."""
        await self._watched(self._store.release(grant))

    async def _watched(self, answer: Awaitable[T]) -> T:
        try:
            result = await answer
        except StoreUnreachable as error:
            self.failures += 1
            if self.gone_since_s is None:
                self.gone_since_s = self._clock()
                log.error("%s: live calls continue; no engine can be leased until it answers", error)
            raise
        if self.gone_since_s is not None:
            log.warning("the lease store answers again, after %.1f s", self._clock() - self.gone_since_s)
            self.gone_since_s = None
        return result
