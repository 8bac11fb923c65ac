"""Who may use an engine's slot: leases, and the store that remembers them.

NVIDIA's server takes one conversation and keeps a second one waiting without a word, so whoever shares
engines must know that a slot is theirs before they connect. One bridge needs no store for that. Several
bridges share one (`pxbridge.personaplex.redis_leases`), and then a lease is a promise with an end: it expires
unless its holder renews it, so that the slots of a bridge that was killed come free by themselves.

Every lease has a *token*, which nobody else knows, and a *fence*, a number that rises with every lease given.
Only the token's holder can renew or release. A holder who learns that somebody else holds the slot now has
been fenced off, and leaves the engine.
"""

from __future__ import annotations

import itertools
import secrets
from enum import Enum
from typing import NamedTuple, Protocol


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


class Renewal(Enum):
    """What became of an attempt to renew a lease."""

    HELD = "held"
    LOST = "lost to another holder"


class LeaseStore(Protocol):
    """Remembers leases. Every method may raise `pxbridge.errors.StoreUnreachable`."""

    @property
    def renew_every_s(self) -> float | None:
        """How often leases must be renewed; None: never."""
        ...

    async def acquire(self, key: str) -> Grant | None:
        """A lease on a slot, or None if somebody holds it."""
        ...

    async def renew(self, grant: Grant) -> Renewal:
        """Puts a lease's end off. One that has expired is taken again if nobody else has it."""
        ...

    async def release(self, grant: Grant) -> None:
        """Gives a lease back; one that is somebody else's by now is left alone."""
        ...

    async def close(self) -> None:
        """Lets go of the store."""
        ...


class MemoryLeases:
    """The store of a bridge that shares its engines with nobody."""

    renew_every_s = None

    def __init__(self) -> None:
        self._held: dict[str, Grant] = {}
        self._fences = itertools.count(1)

    async def acquire(self, key: str) -> Grant | None:
        """A lease on a slot, or None if somebody holds it."""
        if key in self._held:
            return None
        grant = self._held[key] = Grant(key, secrets.token_hex(8), next(self._fences))
        return grant

    async def renew(self, grant: Grant) -> Renewal:
        """Whether it is still held: it never expires."""
        return Renewal.HELD if self._held.get(grant.key) == grant else Renewal.LOST

    async def release(self, grant: Grant) -> None:
        """Gives a lease back."""
        if self._held.get(grant.key) == grant:
            del self._held[grant.key]

    async def close(self) -> None:
        """Nothing to do."""
