"""Connections that have not opened yet: how many there may be, and which one is cut for another.

A normal handshake takes one or two round trips. So one handshake too many cuts an old one, and silent
connections keep nobody out. The address with the most handshakes loses its oldest: a flood from one address
cuts its own handshakes and not those of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pxbridge.rate_limit import counted_as

if TYPE_CHECKING:
    from collections.abc import Callable


class Openings:
    """The handshakes in progress.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._addresses: dict[object, str] = {}
        self._cuts: dict[str, dict[object, Callable[[], object]]] = {}  # by address; each oldest first

    def __contains__(self, key: object) -> bool:
        return key in self._addresses

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def are_too_many(self) -> bool:
        """Whether one has to be cut."""
        return len(self) > self._most

    def add(self, key: object, address: str, cut: Callable[[], object]) -> None:
        """Adds a handshake.

        Args:
            key: Names the handshake.
            address: The client's.
            cut: Ends it.
        """
        address = counted_as(address)
        self._addresses[key] = address
        self._cuts.setdefault(address, {})[key] = cut

    def replace(self, key: object, cut: Callable[[], object]) -> None:
        """Changes the function that ends a handshake. It keeps its place."""
        self._cuts[self._addresses[key]][key] = cut

    def move(self, key: object, address: str) -> None:
        """Counts a handshake under another address, which is known only now. It becomes the newest there."""
        cut = self._cuts[self._addresses[key]][key]
        self.remove(key)
        self.add(key, address, cut)

    def remove(self, key: object) -> None:
        """Forgets a handshake, if it is known."""
        address = self._addresses.pop(key, None)
        if address is not None:
            del self._cuts[address][key]
            if not self._cuts[address]:
                del self._cuts[address]

    def cut_one(self) -> None:
        """Cuts the oldest handshake of the address that has the most."""
        oldest_of = max(self._cuts.values(), key=len)
        key, cut = next(iter(oldest_of.items()))
        self.remove(key)
        cut()

    def cut_all(self) -> None:
        """Cuts every handshake."""
        while self._addresses:
            self.cut_one()
