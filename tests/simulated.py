"""Calls in simulated time: a phone and a bridge without sockets, driven over made-up times."""

from __future__ import annotations

import base64
import json
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pxbridge.simulation.phone import Phone, Wire

if TYPE_CHECKING:
    from numpy.typing import NDArray

VECTORS = Path(__file__).parent / "vectors"


class Bridge(Protocol):
    """The other end of a simulated call."""

    @property
    def next_at_s(self) -> float: ...

    def receive(self, message: str, now_s: float) -> None: ...

    def due(self, now_s: float) -> list[str | bytes]: ...


class EchoBridge:
    """Sends every payload back as it came, `delay_s` later; hears nothing but `start`, `media` and `stop`."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.events: list[dict[str, Any]] = []
        self.arrivals_s: list[float] = []
        self._delay_s = delay_s
        self._queue: deque[tuple[float, str]] = deque()

    @property
    def next_at_s(self) -> float:
        return self._queue[0][0] if self._queue else float("inf")

    def receive(self, message: str, now_s: float) -> None:
        event = json.loads(message)
        self.events.append(event)
        self.arrivals_s.append(now_s)
        if event["event"] == "media":
            answer = {
                "event": "media",
                "stream_sid": event["stream_sid"],
                "media": {"payload": event["media"]["payload"]},
            }
            self._queue.append((now_s + self._delay_s, json.dumps(answer)))

    def due(self, now_s: float) -> list[str | bytes]:
        due: list[str | bytes] = []
        while self._queue and self._queue[0][0] <= now_s:
            due.append(self._queue.popleft()[1])
        return due


class SayingBridge:
    """Says what it was told to say when it was told to: (when, message)."""

    def __init__(self, *sayings: tuple[float, dict[str, Any] | str | bytes]) -> None:
        self.events: list[dict[str, Any]] = []
        self.arrivals_s: list[float] = []
        self._sayings = deque(sayings)

    @property
    def next_at_s(self) -> float:
        return self._sayings[0][0] if self._sayings else float("inf")

    def receive(self, message: str, now_s: float) -> None:
        self.events.append(json.loads(message))
        self.arrivals_s.append(now_s)

    def due(self, now_s: float) -> list[str | bytes]:
        due: list[str | bytes] = []
        while self._sayings and self._sayings[0][0] <= now_s:
            message = self._sayings.popleft()[1]
            due.append(json.dumps(message) if isinstance(message, dict) else message)
        return due

    def named(self, event: str) -> list[dict[str, Any]]:
        return [found for found in self.events if found["event"] == event]


def play(phone: Phone, bridge: Bridge, *, closes_on_stop: bool = True) -> None:
    """Plays a call to its end, jumping from one event to the next."""
    while not phone.is_over:
        now_s = min(phone.next_at_s, bridge.next_at_s)
        for item in phone.due(now_s):
            if isinstance(item, Wire):
                phone.closed(now_s, 1000 if item is Wire.CLOSE else 1006)
                break
            bridge.receive(item, now_s)
            if closes_on_stop and json.loads(item)["event"] == "stop":
                phone.closed(now_s, 1000)
        for message in bridge.due(now_s):
            phone.receive(message, now_s)


def media(pcm: NDArray[np.int16], **fields: Any) -> dict[str, Any]:
    """A bridge's media event."""
    payload = base64.b64encode(pcm.astype("<i2").tobytes()).decode()
    return {"event": "media", "media": {"payload": payload}, **fields}


def tone(
    seconds: float, rate_hz: int = 8000, hz: float = 440.0, amplitude: float = 8000.0
) -> NDArray[np.int16]:
    """A sine."""
    at = np.arange(round(seconds * rate_hz))
    return np.round(amplitude * np.sin(2 * np.pi * hz * at / rate_hz)).astype(np.int16)
