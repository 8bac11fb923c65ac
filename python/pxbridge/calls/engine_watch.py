"""Notices an engine that has stopped without closing: it is sent sound, and sends none.

Such an engine may be dead, or its network may be stalled. If another engine is free, it is given up soon. If
none is free, it may come back, so the call waits for it, and the caller meanwhile hears what covers any other
gap.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pxbridge.calls.events import Kind
from pxbridge.errors import EngineLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call_line import CallLine
    from pxbridge.calls.events import Emit
    from pxbridge.calls.waiting import GapCover
    from pxbridge.engines.client import Session
    from pxbridge.engines.pool import EnginePool

CHECK_EVERY_S: Final = 0.5
"""How often a live engine is looked at."""

MIN_FED_S: Final = 0.2
"""An engine that was sent less than this since its last sound need not have answered: its step is 80 ms."""


class EngineWatch:
    """Watches one session while it is live.

    Args:
        session: The session.
        line: What it is connected to.
        engines: Knows whether another engine is free.
        gap: Covers a gap for the caller.
        emit: Given what an operator should know.
        on_pause: Called now and then while the agent says nothing.
        silent_s: An engine that owes an answer for longer is given up if another is free.
        patient_s: The same if no other is free.
    """

    def __init__(
        self,
        session: Session,
        line: CallLine,
        engines: EnginePool,
        gap: GapCover,
        emit: Emit,
        on_pause: Callable[[], None],
        *,
        silent_s: float,
        patient_s: float,
    ) -> None:
        self._session = session
        self._line = line
        self._engines = engines
        self._gap = gap
        self._emit = emit
        self._on_pause = on_pause
        self._silent_s = silent_s
        self._patient_s = patient_s

    async def run(self) -> EngineLost:
        """Returns when the engine has to be given up, and why."""
        sent_s, came_s = self._line.engine_audio_s
        owed_s = 0.0
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            now_sent_s, now_came_s = self._line.engine_audio_s
            if now_came_s > came_s:
                sent_s, came_s, owed_s = now_sent_s, now_came_s, 0.0
            elif now_sent_s - sent_s >= MIN_FED_S:
                owed_s += CHECK_EVERY_S
            if owed_s >= self._silent_s:
                if self._is_lost(owed_s):
                    return EngineLost(
                        f"{self._session.engine}: it is sent sound and has sent none for {owed_s:g} s"
                    )
                self._cover_gap()
            elif self._gap.covered:
                await self._gap.end()  # it is back, and has ended the bridge's own sound
            if self._line.agent_paused_s >= CHECK_EVERY_S:
                self._on_pause()

    def _is_lost(self, owed_s: float) -> bool:
        return owed_s >= self._patient_s or self._engines.has_free_besides(self._session.engine)

    def _cover_gap(self) -> None:
        if not self._gap.covered:
            self._emit(
                Kind.NOTE,
                text=f"{self._session.engine} sends nothing, and no other engine is free: waiting for it",
            )
            self._gap.begin()
