"""A call's share of the pool: first its place among the calls that wait for an engine, then one slot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pxbridge.engines.slots import Live
from pxbridge.errors import EngineLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.session import Session
    from pxbridge.engines.slot_transitions import SlotTransitions
    from pxbridge.engines.slots import Slot


REJECTED_FOR_S: Final = 5.0
"""For this long a call does not ask an engine that has rejected it. Then it may: an engine that was restarted
while it read the prompts looks the same."""


@dataclass(eq=False, slots=True)
class Place:
    """A call's place in the queue for an engine. An earlier call has a lower number.

    Attributes:
        since_s: When it began to wait; None while it does not wait.
        in_line: Its place in the line of an engine, 1 for the next; None while it stands in none.
        rejected_s: Engines that rejected the call's prompts, and when each last did.
    """

    number: int
    since_s: float | None = None
    in_line: int | None = None
    rejected_s: dict[EngineAddress, float] = field(default_factory=dict)

    def avoids(self, now_s: float) -> frozenset[EngineAddress]:
        """The engines that the call does not ask now."""
        if not self.rejected_s:
            return frozenset()
        return frozenset(engine for engine, at_s in self.rejected_s.items() if now_s < at_s + REJECTED_FOR_S)


class Lease:
    """One slot, held by one call until `release` or `lost`, or until another bridge takes over its lease.

    Attributes:
        engine: The engine that the slot belongs to.
        warm: Whether its session was prompted ahead of the call.
    """

    def __init__(self, transitions: SlotTransitions, slot: Slot, leave: Callable[[Slot], None]) -> None:
        self.engine = slot.engine.address
        self.warm = isinstance(slot.state, Live)
        self._transitions = transitions
        self._slot: Slot | None = slot
        self._grant = slot.grant
        self._leave = leave

    @property
    def _held(self) -> Slot | None:
        """The slot, while this lease holds it."""
        slot = self._slot
        return slot if slot is not None and slot.grant == self._grant else None

    async def session(self) -> Session:
        """Returns the slot's prompted session. Call its `listen` next.

        Raises:
            EngineError: It could not be opened. This counts against the engine.
        """
        if (slot := self._held) is None:
            raise EngineLost(f"{self.engine}: its lease went to another bridge, or was released")
        return await self._transitions.session(slot)

    def lost(self) -> None:
        """Releases the slot after its live session was lost. This counts against the engine."""
        if (slot := self._held) is not None:
            self._transitions.lost(slot)
        self._slot = None

    def release(self) -> None:
        """Releases the slot. An open session is closed. One that is being opened may serve another call."""
        if (slot := self._held) is not None:
            self._leave(slot)
        self._slot = None

    def cancel(self) -> None:
        """Releases the slot at once. A session that is being opened ends."""
        if (slot := self._held) is not None:
            self._transitions.leave(slot)
        self._slot = None

    def outrun(self) -> None:
        """Releases the slot at once, as another engine was ready sooner although it was asked later.

        This counts against the engine: it hangs, or is in another conversation.
        """
        if (slot := self._held) is not None:
            self._transitions.outrun(slot)
        self._slot = None
