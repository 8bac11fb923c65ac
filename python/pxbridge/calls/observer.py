"""Sends a simulated phone details of its own call: the agent's words and the line's counters.

A carrier's wire carries sound only, so `pxbridge call` asks for more with a header of its own when it dials.
Carriers do not send that header, and never get these messages, which are not in their protocols. A peer gets
the details of its own call only.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from pxbridge.calls.events import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.websocket import WebSocket

OBSERVE_HEADER: Final = "Pxbridge-Observe"
"""A peer that sends this header, with any value, gets the messages."""

OBSERVED_EVENT: Final = "pxbridge"
"""The `event` of every message sent for it: ``{"event": "pxbridge", "kind": ..., "at_s": ..., ...}``.

`kind` is one of `calls.events.Kind`, or ``stats`` with the counters of both directions. `at_s` counts from
the carrier's start message."""

STATS_EVERY_S: Final = 0.093
"""Often enough to draw the call. Only tests and `pxbridge call` ask for it, no callers."""


class Observer:
    """A subscriber to one call, for the phone at its other end.

    Args:
        socket: The phone's.
        stats: The line's counters as they are now.
    """

    def __init__(self, socket: WebSocket, stats: Callable[[], dict[str, dict[str, float]]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._stats = stats
        self._began_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def wanted(socket: WebSocket) -> bool:
        """Whether the peer asked for it."""
        return OBSERVE_HEADER in socket.headers

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Sends an event. The counters follow on a timer, from the first event to the last."""
        if event.kind is Kind.STARTED:
            self._began_s = event.at_s
            self._send_stats()
        elif event.kind is Kind.ENDED:
            self._send("stats", self._loop.time(), self._stats())
            if self._timer is not None:
                self._timer.cancel()
        if event.kind is Kind.COUNTERS:
            return  # the timer sends them more often
        self._send(event.kind.value, event.at_s, dict(event.detail))

    def _send_stats(self) -> None:
        self._send("stats", self._loop.time(), self._stats())
        self._timer = self._loop.call_later(STATS_EVERY_S, self._send_stats)

    def _send(self, kind: str, at_s: float, detail: dict[str, Any]) -> None:
        message = {**detail, "event": OBSERVED_EVENT, "kind": kind, "at_s": round(at_s - self._began_s, 6)}
        self._socket.send(json.dumps(message, default=dict).encode(), text=True)
