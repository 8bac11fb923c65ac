"""How late the caller hears the agent's answer, and in which part: computed from the line's counters.

The delay from mouth to ear is the sum of five waits, listed in the order in which a sample passes them. The
model works in frames of 80 ms. The frame's first sample waits for its last one. When the answer is queued at
the carrier, the frame's last sample waits for its first. The queue is measured with the new frame in it, so
the frame is counted once. Of a phone's chunk only the part that fills no frame counts. Networks and codecs
add to this and cannot be measured here (each Opus encoder looks 2.5 ms ahead).
"""

from __future__ import annotations

import math
from array import array
from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from pxbridge.chat_wire import FRAME_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    Direction = Literal["uplink", "downlink"]
    Stats = Mapping[str, Mapping[str, float | None]]
    """Of both directions, as `Call.stats` gives them."""


class Part(NamedTuple):
    """One of the waits.

    Attributes:
        name: The metric's label.
        figure: The JSON key, and the column of a table, for its median in seconds.
        title: The name for people.
        direction: Which of the line's two directions counts it.
        counter: The counter that measures it, in µs.
    """

    name: str
    figure: str
    title: str
    direction: Direction
    counter: str


PARTS = (
    Part("phone_chunk", "delay_phone_chunk_s", "phone's chunk", "uplink", "chunk_us"),
    Part("intake", "delay_intake_s", "intake", "uplink", "delay_us"),
    Part("engine", "delay_engine_s", "engine's round trip", "downlink", "round_trip_us"),
    Part("playout", "delay_playout_s", "playout", "downlink", "queued_us"),
    # The JSON key and the counter are older than the second carrier, and are read by others.
    Part("carrier", "delay_exotel_s", "queue at the carrier", "downlink", "exotel_us"),
)

PUT_IN: Mapping[Direction, tuple[str, ...]] = {
    "uplink": ("inserted",),
    "downlink": ("stretched", "concealed", "noise"),
}
"""Counters of audio that one side did not send and the other got."""

TAKEN_OUT: Mapping[Direction, tuple[str, ...]] = {
    "uplink": ("removed_in_pauses", "removed_in_speech", "cut", "withheld"),
    "downlink": ("removed_in_pauses", "removed_in_speech", "cut", "flushed"),
}
"""Counters of audio that one side sent and the other did not get."""

UNHEARD: Mapping[Direction, tuple[str, ...]] = {"uplink": ("dropped", "gated"), "downlink": ()}
"""Counters of audio that is dropped on purpose: before an engine is ready, and while the line opens."""

EXACT_PPM = 5.0
"""The error of a measurement of one minute."""

_US = 1e-6
_FRAME_US = round(FRAME_S * 1e6)


def _chunk_wait_us(chunk_us: float) -> float:
    """How long a frame's last sample waits for its chunk's last one, averaged over all their positions.

    Frames of 80 ms end at every multiple of the greatest common divisor within chunks of 100: 0, 20, 40, 60
    and 80 ms before a chunk's end. Chunks that fill frames add nothing.
    """
    return (chunk_us - math.gcd(round(chunk_us), _FRAME_US)) / 2


def parts_s(stats: Stats) -> dict[str, float]:
    """The waits now, in seconds, by `Part.name`. Waits that are not known yet are left out."""
    known = {}
    for part in PARTS:
        value = stats.get(part.direction, {}).get(part.counter)
        if value is not None:
            known[part.name] = _US * (_chunk_wait_us(value) if part.name == "phone_chunk" else value)
    return known


def drift(ppm: float) -> str:
    """The phone's clock against ours, in words."""
    if abs(ppm) < EXACT_PPM:
        return "as fast as ours"
    return f"{abs(ppm):.0f} ppm {'fast' if ppm > 0 else 'slow'}"


def changed_s(stats: Stats, counters: Mapping[Direction, tuple[str, ...]], rate_hz: int) -> float:
    """How much audio these counters (`PUT_IN`, `TAKEN_OUT`, `UNHEARD`) count, in seconds."""
    if not rate_hz:
        return 0.0
    total = sum(
        stats.get(direction, {}).get(name) or 0.0 for direction, names in counters.items() for name in names
    )
    return total / rate_hz


@dataclass(slots=True)
class DelayHistory:
    """The delay over a call.

    Attributes:
        samples_s: For each part, and for ``mouth_to_ear``, what was measured, in seconds. They are sorted, so
            that figures of many long calls cost next to nothing.
        newest_s: The newest of each. Empty if the engine has sent nothing since the last reading, because the
            counters then describe no delay that a caller has.
    """

    samples_s: dict[str, array[float]] = field(default_factory=dict)
    newest_s: Mapping[str, float] = field(default_factory=dict)
    _received: float = 0.0

    def add(self, stats: Stats) -> None:
        """Takes the counters as they are now."""
        before, self._received = self._received, stats.get("downlink", {}).get("received") or 0.0
        parts = parts_s(stats)
        self.newest_s = {}
        if self._received <= before or len(parts) < len(PARTS):
            return
        self.newest_s = {**parts, "mouth_to_ear": sum(parts.values())}
        for name, value in self.newest_s.items():
            insort(self.samples_s.setdefault(name, array("f")), value)  # an hour of a call is 100 kB

    def median_s(self, name: str = "mouth_to_ear") -> float | None:
        """The median."""
        return self._quantile_s(name, 0.5)

    def p95_s(self, name: str = "mouth_to_ear") -> float | None:
        """What 95 % of the samples stay below."""
        return self._quantile_s(name, 0.95)

    def _quantile_s(self, name: str, share: float) -> float | None:
        samples = self.samples_s.get(name)
        if not samples:
            return None
        at = share * (len(samples) - 1)
        below = math.floor(at)
        above = min(below + 1, len(samples) - 1)
        return samples[below] + (at - below) * (samples[above] - samples[below])
