"""Who has a slot, and who waits for one.

A slot is taken and given back in the event loop alone, so a client is told at once whether there is one.
Those who asked to wait stand in one line, first come, first served, and each is told whenever its place
changes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Waiting(Protocol):
    """Who waits in the line."""

    def moved(self, place: int) -> None:
        """Its place, 1 for the next, is this now."""
        ...

    def admitted(self, slot: int) -> None:
        """It has a slot now, and stands in the line no more."""
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
        """Slots that somebody who comes now could have."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """How many stand in the line."""
        return len(self._line)

    @property
    def line_is_full(self) -> bool:
        """Whether one more could not wait."""
        return len(self._line) >= self.longest_line

    def take(self) -> int | None:
        """A slot, if one is free. The one that has been free for longest: a stranger's slot is no
        caller's next.
        """
        return self._free.popleft() if self._free else None

    def give_back(self, slot: int) -> None:
        """Somebody has left: the first of the line has its slot."""
        if not self._line:
            self._free.append(slot)
            return
        first = self._line.popleft()
        self._tell(self._line)
        first.admitted(slot)

    def wait(self, who: Waiting) -> int:
        """Stands at the end of the line; its place."""
        self._line.append(who)
        return len(self._line)

    def leave(self, who: Waiting) -> None:
        """Stands in the line no more; nothing if it does not."""
        if who in self._line:
            at = self._line.index(who)
            self._line.remove(who)
            self._tell(list(self._line)[at:], first=at + 1)

    def _tell(self, those: Iterable[Waiting], first: int = 1) -> None:
        for place, who in enumerate(list(those), first):
            who.moved(place)
