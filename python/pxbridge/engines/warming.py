"""Warm sessions: keeps the wanted number of sessions prompted ahead for each persona, and replaces old ones.

Callers come first: no session is made ahead while a caller waits for a slot.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pxbridge.engines.breaker import Breaker
from pxbridge.engines.leases import Use
from pxbridge.engines.slots import Preparing, Prompts, Slot, Stage, Warm
from pxbridge.errors import EngineFull

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pxbridge.engines.slot_transitions import SlotTransitions

log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 1.0
"""How often sessions are checked for their age, without any change in the pool."""

SPARE_S: Final = 1.0
"""How long a surplus session is kept. The call that left it may come back on another connection."""


class Warming:
    """Keeps sessions prompted ahead of calls.

    Args:
        transitions: The engines.
        max_age_s: A session older than this is replaced.
        callers_wait: Whether a caller waits for a slot.
    """

    def __init__(
        self, transitions: SlotTransitions, max_age_s: float, callers_wait: Callable[[], bool]
    ) -> None:
        self._transitions = transitions
        self._max_age_s = max_age_s
        self._callers_wait = callers_wait
        self._wanted: dict[Prompts, int] = {}
        self._called: dict[Prompts, int] = {}
        """Prompts, with the sequence number of their last call."""
        self._calls = 0
        self._breakers: dict[Prompts, Breaker] = {}

    def want(self, wanted: Mapping[Prompts, int]) -> None:
        """Sets how many sessions to keep for each pair of prompts. Closes surplus sessions at once."""
        self._wanted = dict(wanted)
        self._drop_surplus(older_than_s=0.0)
        self._transitions.changes.happened()

    def _drop_surplus(self, older_than_s: float) -> None:
        """Closes surplus sessions that are at least this old."""
        ahead: dict[Prompts, list[tuple[bool, float, Slot]]] = {}
        for slot in self._transitions.directory.ahead:
            if isinstance(slot.state, Preparing | Warm) and slot.ahead is not None and not slot.in_line:
                order = isinstance(slot.state, Preparing), slot.state.since_s, slot  # ready ones first
                ahead.setdefault(slot.ahead, []).append(order)
        for prompts, slots in ahead.items():
            slots.sort(key=lambda each: each[:2])
            for _, since_s, slot in slots[self._wanted.get(prompts, 0) :]:
                if self._transitions.clock() - since_s >= older_than_s:
                    self._transitions.cool(slot)

    def adopt(self, slot: Slot) -> None:
        """Takes over a session that is being opened, after its call has ended.

        It is kept as a wanted session, or closed as surplus after `SPARE_S`.
        """
        if (preparing := self._transitions.put_ahead(slot)) is not None:
            self._transitions.spawn(self.see_through(slot, preparing))

    def called(self, prompts: Prompts) -> None:
        """Records a call for these prompts. If engines are few, the most recently called come first."""
        if prompts in self._wanted:
            self._calls += 1
            self._called[prompts] = self._calls

    async def run_once(self) -> None:
        """Starts missing sessions, closes surplus and old ones, then waits for a change in the pool."""
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
        """Starts a session in an idle slot. Returns whether it did."""
        directory, tried = self._transitions.directory, set[Slot]()
        while (slot := directory.best_idle(prompts, self._transitions.clock(), tried=tried)) is not None:
            tried.add(slot)
            if (grant := await self._transitions.ask(slot, Use.WARM)) is None:
                continue
            preparing = self._transitions.prepare(slot, grant, prompts)
            if self._ready(prompts) > self._wanted.get(prompts, 0):
                self._transitions.cool(slot)  # the settings changed meanwhile
                return False
            self._transitions.spawn(self.see_through(slot, preparing))
            return True
        return False

    def _ready(self, prompts: Prompts) -> int:
        return sum(slot.ahead == prompts for slot in self._transitions.directory.ahead)

    async def see_through(self, slot: Slot, preparing: Preparing) -> None:
        """Follows a session from its opening until a call takes it or it ends."""
        task, prompts = preparing.attempt.task, preparing.attempt.prompts
        await asyncio.wait([task])  # do not await the task itself: its error would keep this frame alive
        if slot.state is not preparing:
            return
        if task.cancelled() or task.exception() is not None:
            why = "" if task.cancelled() else task.exception()
            log.warning("a session could not be prompted ahead: %s", why)
            blames_prompts = not isinstance(why, EngineFull) and preparing.attempt.moved is None
            if prompts in self._wanted and blames_prompts:
                self._breakers.setdefault(prompts, Breaker()).failed(self._transitions.clock())
            self._transitions.cool(slot)
            return
        self._breakers.pop(prompts, None)
        await self._keep(slot, self._transitions.warmed(slot, preparing, task.result()))

    async def _keep(self, slot: Slot, warm: Warm) -> None:
        await warm.session.wait_closed()
        if slot.state is warm:
            engine = warm.session.engine
            log.warning("%s: a session prompted ahead was lost; another one replaces it", engine)
            self._transitions.failed(slot, Stage.AHEAD)
            self._transitions.cool(slot)

    def _renew_oldest(self) -> None:
        """Closes the oldest session if it is too old and none is being prompted. So never all at once."""
        ahead = self._transitions.directory.ahead
        if any(isinstance(slot.state, Preparing) for slot in ahead):
            return
        warm = [(slot.state.since_s, slot) for slot in ahead if isinstance(slot.state, Warm)]
        if warm:
            since_s, oldest = min(warm, key=lambda each: each[0])
            if self._transitions.clock() - since_s >= self._max_age_s:
                self._transitions.cool(oldest)
