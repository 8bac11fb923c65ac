"""What the bridge reports about a simulated call: the agent's words, and the line's counters over time.

Only pxbridge reports this, and only to a phone that asks (`pxbridge.calls.observer`). With any other bridge
it stays empty. Counters only rise: the difference between two readings is what happened in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pxbridge.calls.delay import PARTS, DelayHistory, drift

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pxbridge.calls.delay import Direction

MIN_SHOWN_S = 0.001
"""Shorter changes of the sound are left out of the report."""


class Counters(NamedTuple):
    """The line's counters at one moment, by direction."""

    at_s: float
    uplink: Mapping[str, float | None]
    downlink: Mapping[str, float | None]


@dataclass
class CallTelemetry:
    """Collects what the bridge reports during a call.

    Attributes:
        rate_hz: The sample rate of the line; counters of sound count its samples.
        words: The agent's words, each with its time in seconds.
        counters: Readings of the counters, in order of time.
        ending: Who ended the call and why, as the bridge sees it.
    """

    rate_hz: int
    words: list[tuple[float, str]] = field(default_factory=list)
    counters: list[Counters] = field(default_factory=list)
    ending: str = ""

    def add(self, report: Mapping[str, Any]) -> None:
        """Adds one report of the bridge. Unknown kinds are ignored."""
        match report:
            case {"kind": "stats", "at_s": at_s, "uplink": dict(uplink), "downlink": dict(downlink)}:
                self.counters.append(Counters(at_s, uplink, downlink))
            case {"kind": "words", "at_s": at_s, "text": str(text)}:
                self.words.append((at_s, text))
            case {"kind": "ended", "by": by, "reason": reason}:
                self.ending = f"{by}: {reason}"

    @property
    def times_s(self) -> NDArray[np.float64]:
        """When the counters were read."""
        return np.array([each.at_s for each in self.counters])

    def series(self, direction: Direction, *names: str) -> NDArray[np.float64]:
        """The sum of these counters over time; NaN while one of them is not known."""
        rows = [each.uplink if direction == "uplink" else each.downlink for each in self.counters]
        known = [[row.get(name) for name in names] for row in rows]
        return np.array([np.nan if None in values else sum(values) for values in known], float)  # type: ignore[arg-type]

    def parts(self) -> Sequence[tuple[str, float]]:
        """The parts of the delay that the bridge measures: (title, median in seconds), in the order of a
        sample's way.

        Metrics and records report the same parts. Empty if the engine never answered.
        """
        history = DelayHistory()
        for each in self.counters:
            history.add({"uplink": each.uplink, "downlink": each.downlink})
        median_s = {part: history.median_s(part.name) for part in PARTS}
        return [(part.title, value) for part, value in median_s.items() if value is not None]

    def rows(self) -> list[tuple[str, str]]:
        """The changes of the sound in each direction, as (title, text)."""
        if not self.counters:
            return []
        return [("to the agent", self._uplink()), ("to you", self._downlink())]

    def _uplink(self) -> str:
        texts = []
        if stalls := self._last("uplink", "stalls"):
            longest_s = self._last("uplink", "longest_stall_us") / 1e6
            texts.append(f"{_times(stalls, 'stall')}, the longest {_length(longest_s)}")
        texts += self._changes(
            "uplink",
            inserted="of noise inserted",
            removed_in_pauses="removed from pauses",
            removed_in_speech="removed from speech",
            cut="cut",
        )
        if holds := self._last("uplink", "holds"):
            withheld = _length(self._last("uplink", "withheld") / self.rate_hz)
            texts.append(f"the engine did not answer {_times(holds, 'time')}: {withheld} withheld")
        if slow := self._last("uplink", "slow"):
            texts.append(f"the engine was too slow {_times(slow, 'time')}: it got less than was said")
        texts = texts or ["nothing inserted, nothing removed"]
        drift_ppm = self.counters[-1].uplink.get("drift_ppm")
        if drift_ppm is not None:
            texts.append(f"your clock: {drift(drift_ppm)}")
        texts += self._changes(
            "uplink", dropped="said before an engine was ready", gated="of the line's opening silenced"
        )
        return "; ".join(texts)

    def _downlink(self) -> str:
        texts = []
        if holes := self._last("downlink", "holes"):
            longest_s = self._last("downlink", "longest_hole_us") / 1e6
            texts.append(
                f"the engine's audio was late {_times(holes, 'time')}, by {_length(longest_s)} at most"
            )
        texts += self._changes(
            "downlink",
            stretched="stretched",
            concealed="concealed",
            noise="of noise inserted",
            removed_in_pauses="removed from pauses",
            removed_in_speech="removed from speech",
            cut="cut",
            flushed="dropped at interruptions",
        )
        text = "; ".join(texts) or "nothing inserted, nothing removed"
        return f"{text}; target delay {self._last('downlink', 'target_us') / 1e3:.0f} ms"

    def _changes(self, direction: Direction, **wordings: str) -> list[str]:
        lengths = {name: self._last(direction, name) / self.rate_hz for name in wordings}
        return [
            f"{_length(lengths[name])} {wording}"
            for name, wording in wordings.items()
            if lengths[name] >= MIN_SHOWN_S
        ]

    def _last(self, direction: Direction, name: str) -> float:
        value = getattr(self.counters[-1], direction).get(name)
        return float(value or 0.0)


def _times(count: float, noun: str) -> str:
    return f"{count:.0f} {noun}" if count == 1 else f"{count:.0f} {noun}s"


def _length(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"
