"""The slots of an engine, and the line of clients that wait for one.

Slots are taken and given back in the event loop only, so a client gets its answer at once. Clients that asked
to wait are served in the order in which they came. Each is told when its place changes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Waiting(Protocol):
    """A client that waits in the line."""

    def moved(self, place: int) -> None:
        """Its place changed. 1 is the next."""
        ...

    def admitted(self, slot: int) -> None:
        """It has left the line and has this slot."""
        ...


class Places:
    """The slots of an engine and the line in front of them.

    Args:
        slots: How many there are.
        longest_line: How many may wait at most.
    """

    def __init__(self, slots: int, longest_line: int) -> None:
        self.slots = slots
        self.longest_line = longest_line
        self._free = deque(range(slots))
        self._line: deque[Waiting] = deque()

    @property
    def free(self) -> int:
        """Slots that are free."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """How many wait in the line."""
        return len(self._line)

    @property
    def line_is_full(self) -> bool:
        """Whether no further client may wait."""
        return len(self._line) >= self.longest_line

    def take(self) -> int | None:
        """Takes the slot that has been free for longest; None if none is free.

        So a slot is not given to the next caller right after another one has left it.
        """
        return self._free.popleft() if self._free else None

    def give_back(self, slot: int) -> None:
        """A client has left its slot: the first in the line gets it."""
        if not self._line:
            self._free.append(slot)
            return
        first = self._line.popleft()
        self._tell(self._line)
        first.admitted(slot)

    def wait(self, who: Waiting) -> int:
        """Adds a client at the end of the line, and returns its place."""
        self._line.append(who)
        return len(self._line)

    def leave(self, who: Waiting) -> None:
        """Removes a client from the line, if it is in it."""
        if who in self._line:
            at = self._line.index(who)
            self._line.remove(who)
            self._tell(list(self._line)[at:], first=at + 1)

    def _tell(self, those: Iterable[Waiting], first: int = 1) -> None:
        for place, who in enumerate(list(those), first):
            who.moved(place)
