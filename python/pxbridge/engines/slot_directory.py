"""Finds slots without going through all idle ones.

A bridge may have thousands of slots and hundreds of engines, and few calls. So two lists are kept up to date
when slots and engines change: the slots in use, and the engines with an idle slot, best first. The cost of a
question grows with the number of used slots and of failing engines, but not with the number of idle slots.

An engine is *sound* if it has no problem. Whether another engine may be used can depend on the time and on
its trial session, so those engines are checked one by one.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from pxbridge.engines.leases import Refusal
from pxbridge.engines.slots import Elsewhere, Engine, Idle, Preparing, Slot, SlotState, Taken, Warm, rank

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.slots import Prompts

NO_SLOTS: Final[frozenset[Slot]] = frozenset()


class _Position(NamedTuple):
    """Where a sound engine is among the others: the order of `rank`, without the prompts.

    Attributes:
        failures: 0 or 1: an engine with more is not sound.
        busy: See `Engine`.
        turn: See `Engine`.
        number: Engines that are equal otherwise are in the order in which they were added.
    """

    failures: int
    busy: int
    turn: int
    number: int


class _Kept(NamedTuple):
    """What was entered for a sound engine, to be taken out again."""

    position: _Position
    loaded: Prompts | None
    idle: int


class _Order:
    """Sound engines with an idle slot, best first."""

    def __init__(self) -> None:
        self._positions: list[_Position] = []
        self._engines: dict[int, Engine] = {}

    def __bool__(self) -> bool:
        return bool(self._positions)

    def __iter__(self) -> Iterator[Engine]:
        return (self._engines[position.number] for position in self._positions)

    def add(self, position: _Position, engine: Engine) -> None:
        bisect.insort(self._positions, position)
        self._engines[position.number] = engine

    def remove(self, position: _Position) -> None:
        del self._positions[bisect.bisect_left(self._positions, position)]
        del self._engines[position.number]


class SlotDirectory:
    """All engines and slots, arranged for the questions of the pool.

    Attributes:
        engines: All engines, each with its number.
        used: The slots that this bridge uses.
        ahead: The used slots with a session that is made ahead of calls.
        elsewhere: The slots that other bridges hold.
        taken: The slots in which engines have conversations of others.
    """

    def __init__(self) -> None:
        self.engines: dict[Engine, int] = {}
        self.used: dict[Slot, None] = {}
        self.ahead: dict[Slot, None] = {}
        self.elsewhere: dict[Slot, None] = {}
        self.taken: dict[Slot, None] = {}
        self._numbers = itertools.count()
        self._changed: dict[Engine, None] = {}  # to be arranged before the next question
        self._broken: dict[Engine, None] = {}  # engines that are not sound
        self._kept: dict[Engine, _Kept] = {}
        self._order = _Order()
        self._loaded: dict[Prompts | None, _Order] = {}
        self._idle = 0  # idle slots of sound engines

    # -- what changes ----------------------------------------------------------------------------------

    def add(self, address: EngineAddress) -> Engine:
        """Adds an engine without slots."""
        engine = Engine(address, self)
        self.engines[engine] = next(self._numbers)
        self.engine_changed(engine)
        return engine

    def forget_retired(self) -> None:
        """Forgets engines that were removed from the settings, once none of their slots is used."""
        self._arrange()
        for engine in [engine for engine in self._broken if engine.retired and not engine.used]:
            del self._broken[engine], self.engines[engine]
            for slot in engine.slots:
                self.slot_removed(slot)

    def slot_moved(self, slot: Slot) -> None:
        """A slot has changed its state."""
        known = slot.engine in self.engines
        for group, belongs in (
            (self.used, not isinstance(slot.state, Idle | Elsewhere | Taken)),
            (self.ahead, isinstance(slot.state, Preparing | Warm)),
            (self.elsewhere, isinstance(slot.state, Elsewhere) and known),
            (self.taken, isinstance(slot.state, Taken) and known),
        ):
            if belongs:
                group[slot] = None
            else:
                group.pop(slot, None)
        self.engine_changed(slot.engine)

    def slot_removed(self, slot: Slot) -> None:
        """A slot that this bridge does not use no longer exists."""
        self.elsewhere.pop(slot, None)
        self.taken.pop(slot, None)

    def engine_changed(self, engine: Engine) -> None:
        """Something that the order depends on has changed."""
        self._changed[engine] = None

    def _arrange(self) -> None:
        changed, self._changed = self._changed, {}
        for engine in changed:
            if (kept := self._kept.pop(engine, None)) is not None:
                self._take_out(kept)
            self._broken.pop(engine, None)
            if engine not in self.engines:
                continue
            if engine.is_sound:
                self._enter(engine)
            else:
                self._broken[engine] = None

    def _enter(self, engine: Engine) -> None:
        if not engine.idle:
            return
        position = _Position(engine.breaker.failures, engine.busy, engine.turn, self.engines[engine])
        self._kept[engine] = _Kept(position, engine.loaded, len(engine.idle))
        self._idle += len(engine.idle)
        self._order.add(position, engine)
        self._loaded.setdefault(engine.loaded, _Order()).add(position, engine)

    def _take_out(self, kept: _Kept) -> None:
        self._idle -= kept.idle
        self._order.remove(kept.position)
        loaded = self._loaded[kept.loaded]
        loaded.remove(kept.position)
        if not loaded:
            del self._loaded[kept.loaded]

    # -- questions -------------------------------------------------------------------------------------

    def best(
        self, prompts: Prompts, now_s: float, avoid: Collection[EngineAddress], tried: Collection[Slot]
    ) -> Slot | None:
        """The slot that suits a call with these prompts best; see `rank`.

        Args:
            prompts: The call's.
            now_s: The time.
            avoid: Engines that must not be used.
            tried: Slots that must not be used.
        """
        slots = [slot for slot in self.ahead if slot not in tried and slot.engine.address not in avoid]
        if (idle := self.best_idle(prompts, now_s, avoid, tried)) is not None:
            slots.append(idle)
        return _first(slots, prompts, now_s)

    def best_idle(
        self,
        prompts: Prompts,
        now_s: float,
        avoid: Collection[EngineAddress] = (),
        tried: Collection[Slot] = NO_SLOTS,
    ) -> Slot | None:
        """As `best`, among idle slots only."""
        self._arrange()
        found = [self._first_idle(self._order, avoid, tried)]
        if (loaded := self._loaded.get(prompts)) is not None:
            found.append(self._first_idle(loaded, avoid, tried))
        found += [self._first_idle((engine,), avoid, tried) for engine in self._broken]
        return _first([slot for slot in found if slot is not None], prompts, now_s)

    @staticmethod
    def _first_idle(
        engines: _Order | tuple[Engine], avoid: Collection[EngineAddress], tried: Collection[Slot]
    ) -> Slot | None:
        for engine in engines:
            if engine.address not in avoid:
                for slot in engine.idle:
                    if slot not in tried:
                        return slot
        return None

    def free_idle(self, now_s: float) -> int:
        """Number of idle slots that a session may be opened in now."""
        self._arrange()
        return self._idle + sum(len(engine.idle) for engine in self._broken if engine.is_healthy(now_s))

    def has_idle_besides(self, address: EngineAddress, now_s: float) -> bool:
        """Whether a session may be opened with another engine now."""
        self._arrange()
        return any(engine.address != address for engine in self._order) or any(
            engine.idle and engine.address != address and engine.is_healthy(now_s) for engine in self._broken
        )

    def kept_warm_elsewhere(self, now_s: float) -> list[Slot]:
        """Slots in which other bridges only keep sessions warm, and that a session may be opened in."""
        return [
            slot
            for slot in self.elsewhere
            if isinstance(slot.state, Elsewhere)
            and slot.state.refusal is Refusal.WARM
            and slot.engine.is_healthy(now_s)
        ]

    def states(self, now_s: float) -> Counter[SlotState]:
        """The number of slots in each state as they are shown."""
        self._arrange()
        states = Counter(
            slot.shown(now_s) for group in (self.used, self.elsewhere, self.taken) for slot in group
        )
        for engine in self._broken:
            healthy = engine.is_healthy(now_s)
            states[SlotState.IDLE if healthy else SlotState.UNHEALTHY] += len(engine.idle)
        states[SlotState.IDLE] += self._idle
        return +states


def _first(slots: list[Slot], prompts: Prompts, now_s: float) -> Slot | None:
    """The slot with the lowest rank."""
    ranked = [(order, slot) for slot in slots if (order := rank(slot, prompts, now_s)) is not None]
    return min(ranked, key=lambda each: each[0])[1] if ranked else None
