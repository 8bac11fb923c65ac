"""Notices an engine that has stopped without closing: it is sent sound, and sends none.

Such an engine may be dead, or its network may be stalled. If another engine is free, it is given up soon. If
none is free, it may come back. The call then waits for it, and the caller meanwhile hears what covers any
other gap.

The line's event `EngineSilent` cannot be used for this. It comes after a second or more, when the line stops
sending old sound to the engine. The time after which an engine is given up is longer and depends on the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pxbridge.calls.events import Kind
from pxbridge.errors import EngineLost
from pxbridge.wording import lasted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call_line import CallLine
    from pxbridge.calls.events import Emit
    from pxbridge.calls.waiting import GapCover
    from pxbridge.calls.wakeup_timer import WakeupTimer
    from pxbridge.engines.pool import EnginePool
    from pxbridge.engines.session import Session

CHECK_EVERY_S: Final = 0.5
"""How often a live engine is looked at."""

MIN_FED_S: Final = 0.2
"""An engine that was sent less than this since its last sound need not have answered: its step is 80 ms."""


class EngineWatch:
    """Watches one session from its making until `stop`.

    Args:
        session: The session.
        line: The call's line.
        engines: Knows whether another engine is free.
        gap: Covers a gap for the caller.
        wakeups: The process's timer.
        emit: Given what an operator should know.
        on_pause: Called now and then while the agent says nothing.
        on_lost: Called once if the engine has to be given up.
        silent_s: An engine that owes an answer for longer is given up if another is free.
        patient_s: The same if no other is free.
    """

    def __init__(
        self,
        session: Session,
        line: CallLine,
        engines: EnginePool,
        gap: GapCover,
        wakeups: WakeupTimer,
        *,
        emit: Emit,
        on_pause: Callable[[], None],
        on_lost: Callable[[EngineLost], None],
        silent_s: float,
        patient_s: float,
    ) -> None:
        self._session = session
        self._line = line
        self._engines = engines
        self._gap = gap
        self._emit = emit
        self._on_pause = on_pause
        self._on_lost = on_lost
        self._silent_s = silent_s
        self._patient_s = patient_s
        # Below any count of sound: the first check, which comes early, only takes the counts.
        self._sent_s, self._came_s = 0.0, -1.0
        self._outstanding_s = 0.0
        self._wakeup = wakeups.every(CHECK_EVERY_S, self._check)

    def stop(self) -> None:
        """Watches no longer."""
        self._wakeup.cancel()

    def _check(self) -> None:
        sent_s, came_s = self._line.engine_audio_s
        if came_s > self._came_s:
            self._sent_s, self._came_s, self._outstanding_s = sent_s, came_s, 0.0
        elif sent_s - self._sent_s >= MIN_FED_S:
            self._outstanding_s += CHECK_EVERY_S
        if self._outstanding_s >= self._silent_s:
            if self._is_lost():
                self.stop()
                name, outstanding_s = self._session.engine, self._outstanding_s
                self._on_lost(
                    EngineLost(f"{name}: it is sent sound and has sent none for {lasted(outstanding_s)}")
                )
                return
            self._cover_gap()
        else:
            self._gap.end()  # if it was covered: the engine is back, and has ended the bridge's own sound
        if self._line.agent_paused_s >= CHECK_EVERY_S:
            self._on_pause()

    def _is_lost(self) -> bool:
        return self._outstanding_s >= self._patient_s or self._engines.has_free_besides(self._session.engine)

    def _cover_gap(self) -> None:
        if not self._gap.covered:
            self._emit(
                Kind.NOTE,
                text=f"{self._session.engine} sends nothing, and no other engine is free: waiting for it",
            )
            self._gap.begin()
