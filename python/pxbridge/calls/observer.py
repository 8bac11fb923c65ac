"""Tells a simulated phone what its call is like from inside: the agent's words and the line's counters.

Exotel's wire carries sound and nothing else, so `pxbridge call` asks for more with a header of its own when
it dials. Exotel cannot send that header and so never gets these messages, which are not in its protocol.
Who asks learns only about the call that it is a party to.
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
"""Sent with any value by whoever wants to be told."""

OBSERVED_EVENT: Final = "pxbridge"
"""The `event` of every message sent for it: ``{"event": "pxbridge", "kind": ..., "at_s": ..., ...}``.

`kind` is one of `calls.events.Kind`, or ``stats`` with the counters of both directions."""

STATS_EVERY_S: Final = 0.093
"""Often enough for a picture of the call; it is asked for by people who test, not by callers. A tenth of
`pulse.EVERY_S`, for the same reason: what they read is to be the same."""


class Observer:
    """Watches one call for the phone at its other end.

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
        """Whether the one who dialled asked for it."""
        return OBSERVE_HEADER in socket.headers

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Passes an event on; the counters follow by themselves between the first and the last."""
        if event.kind is Kind.STARTED:
            self._began_s = event.at_s
            self._send_stats()
        elif event.kind is Kind.ENDED:
            self._send("stats", self._loop.time(), self._stats())
            if self._timer is not None:
                self._timer.cancel()
        if event.kind is Kind.COUNTERS:
            return  # its own come oftener
        self._send(event.kind.value, event.at_s, dict(event.detail))

    def _send_stats(self) -> None:
        self._send("stats", self._loop.time(), self._stats())
        self._timer = self._loop.call_later(STATS_EVERY_S, self._send_stats)

    def _send(self, kind: str, at_s: float, detail: dict[str, Any]) -> None:
        message = {**detail, "event": OBSERVED_EVENT, "kind": kind, "at_s": round(at_s - self._began_s, 6)}
        self._socket.send(json.dumps(message, default=dict).encode(), text=True)
