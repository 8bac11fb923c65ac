"""Informs a caller at a screen about the call: the agent's words, the place in line, a lost engine.

It is a subscriber to the events of one call. The call's carrier writes the messages, in its own protocol.
Carriers of telephones have none, and such calls have no subscriber of this kind.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pxbridge.calls.call_state import Outcome, Phase
from pxbridge.calls.events import Kind
from pxbridge.calls.summary import outcome
from pxbridge.telephony import carrier

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.telephony.server import Arrival

LOOK_EVERY_S: Final = 0.5
"""How often the place in line is looked up while a call waits."""

FAILURES: Final = {
    Outcome.NO_ENGINE: "All agents are busy. Please try again later.",
    Outcome.ENGINE_FAILED: "No agent can be reached. Please try again later.",
    Outcome.ENGINE_LOST: "The agent was lost, and no other one can be reached.",
    Outcome.STOPPED: "The service restarts. Please call again.",
    Outcome.FAULT: "An error of the service ended the call. It is in the service's log.",
}
"""What a caller is told of a call that failed. The details are for operators."""


class Notices:
    """Makes notices of a call's events.

    Args:
        arrival: The call's connection.
        place_in_line: The call's place among those that wait; 0 if it does not.
    """

    def __init__(self, arrival: Arrival, place_in_line: Callable[[], int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._carrier = arrival.carrier
        self._socket = arrival.socket
        self._place_in_line = place_in_line
        self._place = 0
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Tells what the event means to the caller."""
        match event.kind:
            case Kind.PERSONA:
                self._notify(
                    carrier.Begun(record.call_id, event.detail["name"], bool(event.detail["record"]))
                )
            case Kind.PHASE if event.detail["phase"] == Phase.WAITING:
                self._look()
            case Kind.PHASE if event.detail["phase"] == Phase.FAILOVER:
                self._notify(carrier.AgentLost())
            case Kind.LIVE:
                self._stop_looking()
                self._notify(carrier.Listening())
            case Kind.WORDS:
                self._notify(carrier.Said(event.detail["text"]))
            case Kind.ENDED:
                self._stop_looking()
                if (failure := FAILURES.get(outcome(record))) is not None:
                    self._notify(carrier.Failed(failure))
            case _:
                pass

    def _look(self) -> None:
        """Tells the place in line, if it has changed, and looks again later."""
        self._stop_looking()  # a call may begin to wait a second time
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        place = self._place_in_line()
        if place != self._place:
            self._place = place
            self._notify(carrier.InLine(place))

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _notify(self, notice: carrier.Notice) -> None:
        self._socket.send_all(self._carrier.notice(notice))
