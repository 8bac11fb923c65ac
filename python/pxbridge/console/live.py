"""Live data for the console's pages: snapshots of all calls and engines, five a second, over a WebSocket.

A snapshot is made once and sent to all subscribers. A subscriber that does not read gets no backlog: it
misses snapshots while anything waits to be sent to it, and is closed with 1013 when that lasts. So a slow
console costs a call nothing. Without subscribers no snapshots are made.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pxbridge.websocket import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.console.models import Snapshot
    from pxbridge.websocket import WebSocket

log = logging.getLogger("pxbridge.console")

EVERY_S: Final = 0.2
"""A person sees no more, and meters move smoothly."""

SLOW_S: Final = 5.0
"""A subscriber that reads nothing for this long is sent away."""

MAX_SUBSCRIBERS: Final = 100
"""A snapshot of 50 calls has some 20 kB."""

LIMITS: Final = Limits(
    max_message_bytes=4096, max_queued_bytes=4 * 1024 * 1024, send_timeout_s=15.0, pong_timeout_s=30.0
)
"""The queue is bounded by sending nothing while it holds something; the timeouts are for peers that are
gone."""

TRY_AGAIN_LATER: Final = 1013
POLICY_VIOLATION: Final = 1008


@dataclass(eq=False)
class _Subscriber:
    """One open page.

    Attributes:
        socket: Its socket.
        is_allowed: Whether its session still lives.
        slow_since_s: Since when something has waited to be sent to it; None if nothing waits.
    """

    socket: WebSocket
    is_allowed: Callable[[], bool]
    slow_since_s: float | None = None


class Live:
    """Sends snapshots to subscribers.

    Args:
        snapshot: How everything stands now.

    Attributes:
        skipped: Snapshots that a subscriber missed because it read too slowly.
        sent_away: Subscribers that were closed because they read nothing.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._loop = asyncio.get_running_loop()
        self._snapshot = snapshot
        self._subscribers: set[_Subscriber] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.skipped = 0
        self.sent_away = 0

    @property
    def subscribers(self) -> int:
        """Their number."""
        return len(self._subscribers)

    def subscribe(self, socket: WebSocket, is_allowed: Callable[[], bool]) -> None:
        """Sends snapshots to a socket until it closes, beginning at once.

        Args:
            socket: An open socket without an owner.
            is_allowed: Asked before each snapshot whether it may still be sent.
        """
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            socket.close(TRY_AGAIN_LATER, "too many pages watch this bridge")
            return
        subscriber = _Subscriber(socket, is_allowed)
        self._subscribers.add(subscriber)
        socket.on_message = _ignore
        socket.on_close = lambda _closed: self._leave(subscriber)
        socket.send(self._message(), text=True)
        if self._timer is None:
            self._timer = self._loop.call_later(EVERY_S, self._tick)

    def close(self) -> None:
        """Ends all subscriptions, because the bridge stops."""
        for subscriber in tuple(self._subscribers):
            subscriber.socket.close(1001, "the bridge stops")

    def _leave(self, subscriber: _Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _message(self) -> bytes:
        return self._snapshot().model_dump_json().encode()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(EVERY_S, self._tick)
        try:
            message = self._message()
        except Exception:  # a page that stands still is better than a timer that has stopped
            log.exception("no snapshot could be made")
            return
        now_s = self._loop.time()
        for subscriber in tuple(self._subscribers):
            self._send(subscriber, message, now_s)

    def _send(self, subscriber: _Subscriber, message: bytes, now_s: float) -> None:
        socket = subscriber.socket
        if not subscriber.is_allowed():
            socket.close(POLICY_VIOLATION, "the session is over")
        elif socket.queued_bytes == 0:
            subscriber.slow_since_s = None
            socket.send(message, text=True)
        elif subscriber.slow_since_s is None:
            self.skipped += 1
            subscriber.slow_since_s = now_s
        elif now_s - subscriber.slow_since_s < SLOW_S:
            self.skipped += 1
        elif socket.is_open:
            self.sent_away += 1
            socket.close(TRY_AGAIN_LATER, "this page reads too slowly")


def _ignore(*_: object) -> None:
    pass
