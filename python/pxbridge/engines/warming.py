"""Which sessions are made ahead of calls: as many for each persona as are wanted, and none too old.

Callers come first: nothing is made ahead while one of them waits for a slot.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pxbridge.engines.breaker import Breaker
from pxbridge.engines.leases import Use
from pxbridge.engines.slots import Preparing, Prompts, Slot, Stage, Warm, rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pxbridge.engines.slot_transitions import SlotTransitions

log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 1.0
"""How often sessions are counted although nothing happened: for their age."""


SPARE_S: Final = 1.0
"""A session that nobody wants stays so long: the call that left it may be back on another connection."""


class Warming:
    """Keeps sessions ready.

    Args:
        transitions: Where.
        max_age_s: A session older than this is replaced.
        callers_wait: Whether somebody needs a slot more.
    """

    def __init__(
        self, transitions: SlotTransitions, max_age_s: float, callers_wait: Callable[[], bool]
    ) -> None:
        self._transitions = transitions
        self._max_age_s = max_age_s
        self._callers_wait = callers_wait
        self._wanted: dict[Prompts, int] = {}
        self._called: dict[Prompts, int] = {}
        """In which order they were called last."""
        self._calls = 0
        self._breakers: dict[Prompts, Breaker] = {}

    def want(self, wanted: Mapping[Prompts, int]) -> None:
        """Keeps so many sessions from now on, by what they are told; those beyond it go."""
        self._wanted = dict(wanted)
        self._drop_surplus(older_than_s=0.0)
        self._transitions.changes.happened()

    def _drop_surplus(self, older_than_s: float) -> None:
        """Lets sessions go beyond those that are wanted."""
        ahead: dict[Prompts, list[tuple[bool, float, Slot]]] = {}
        for slot in self._transitions.slots():
            if isinstance(slot.state, Preparing | Warm) and slot.ahead is not None:
                order = isinstance(slot.state, Preparing), slot.state.since_s, slot  # ready ones stay
                ahead.setdefault(slot.ahead, []).append(order)
        for prompts, slots in ahead.items():
            slots.sort(key=lambda each: each[:2])
            for _, since_s, slot in slots[self._wanted.get(prompts, 0) :]:
                if self._transitions.clock() - since_s >= older_than_s:
                    self._transitions.cool(slot)

    def adopt(self, slot: Slot) -> None:
        """Looks after a session in the making whose call is gone: for a moment, or as one that is wanted."""
        if (preparing := self._transitions.put_ahead(slot)) is not None:
            self._transitions.spawn(self._see_through(slot, preparing))

    def called(self, prompts: Prompts) -> None:
        """There was a call for these. Where engines are few, those that are called last are kept ready."""
        if prompts in self._wanted:
            self._calls += 1
            self._called[prompts] = self._calls

    async def run_once(self) -> None:
        """Makes what is missing, replaces what is old, and waits until there may be more to do."""
        by_call = sorted(self._wanted.items(), key=lambda each: -self._called.get(each[0], 0))
        for prompts, wanted in by_call:
            breaker = self._breakers.setdefault(prompts, Breaker())
            for _ in range(wanted - self._ready(prompts)):
                if self._callers_wait() or not breaker.allows(self._transitions.clock()):
                    break
                if not await self._prepare(prompts):
                    break
        self._drop_surplus(older_than_s=SPARE_S)
        self._renew_oldest()
        await self._transitions.changes.wait(CHECK_EVERY_S)

    async def _prepare(self, prompts: Prompts) -> bool:
        """Begins to prompt a slot that nobody has, if there is one."""
        now_s = self._transitions.clock()
        ranked = [
            (order, slot)
            for slot in self._transitions.slots()
            if slot.ahead is None and (order := rank(slot, prompts, now_s)) is not None
        ]
        for _, slot in sorted(ranked, key=lambda each: each[0]):
            if rank(slot, prompts, now_s) is None or slot.ahead is not None:
                continue  # somebody was quicker
            if (grant := await self._transitions.ask(slot, Use.WARM)) is None:
                continue
            preparing = self._transitions.prepare(slot, grant, prompts)
            if self._ready(prompts) > self._wanted.get(prompts, 0):
                self._transitions.cool(slot)  # the settings changed meanwhile
                return False
            self._transitions.spawn(self._see_through(slot, preparing))
            return True
        return False

    def _ready(self, prompts: Prompts) -> int:
        return sum(slot.ahead == prompts for slot in self._transitions.slots())

    async def _see_through(self, slot: Slot, preparing: Preparing) -> None:
        """From a session's first prompt until its call comes, or it dies."""
        task, prompts = preparing.attempt.task, preparing.attempt.prompts
        await asyncio.wait([task])  # not awaited itself: its error would keep this frame
        if slot.state is not preparing:
            return
        if task.cancelled() or task.exception() is not None:
            why = "" if task.cancelled() else task.exception()
            log.warning("a session could not be prompted ahead: %s", why)
            if prompts in self._wanted:
                self._breakers.setdefault(prompts, Breaker()).failed(self._transitions.clock())
            self._transitions.cool(slot)
            return
        self._breakers.pop(prompts, None)
        await self._keep(slot, self._transitions.warmed(slot, preparing, task.result()))

    async def _keep(self, slot: Slot, warm: Warm) -> None:
        await warm.session.wait_closed()
        if slot.state is warm:
            engine = warm.session.engine
            log.warning("%s: a session that was prompted ahead is gone; another takes its place", engine)
            self._transitions.failed(slot, Stage.AHEAD)
            self._transitions.cool(slot)

    def _renew_oldest(self) -> None:
        """Lets one session go that is too old, if none is just being prompted: never all at once."""
        states = [slot.state for slot in self._transitions.slots()]
        if any(isinstance(state, Preparing) for state in states):
            return
        warm = [
            (slot.state.since_s, slot) for slot in self._transitions.slots() if isinstance(slot.state, Warm)
        ]
        if warm:
            since_s, oldest = min(warm, key=lambda each: each[0])
            if self._transitions.clock() - since_s >= self._max_age_s:
                self._transitions.cool(oldest)
