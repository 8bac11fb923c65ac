"""What the bridge itself tells of a simulated call: the agent's words, and the line's counters over time.

Only pxbridge tells it, and only a phone that asks (`calls/observer.py`); with any other bridge there is
nothing here, and nobody misses it. Counters only rise; what happened in a stretch of a call is their
difference.
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

WORTH_TELLING_S = 0.001


class Counters(NamedTuple):
    """The line's counters at one moment, as `Uplink.stats` and `Downlink.stats` give them."""

    at_s: float
    uplink: Mapping[str, float | None]
    downlink: Mapping[str, float | None]


@dataclass
class CallTelemetry:
    """Collects what comes during a call.

    Attributes:
        rate_hz: The line's, in whose samples the counters count.
        words: (when, what) the agent said, piece by piece.
        counters: In order of time.
        ending: Who ended the call and why, as the bridge sees it.
    """

    rate_hz: int
    words: list[tuple[float, str]] = field(default_factory=list)
    counters: list[Counters] = field(default_factory=list)
    ending: str = ""

    def tell(self, told: Mapping[str, Any]) -> None:
        """Takes one thing that the bridge told; what is not understood is left."""
        match told:
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
        """The sum of these counters over time; NaN where one is not known yet."""
        rows = [each.uplink if direction == "uplink" else each.downlink for each in self.counters]
        known = [[row.get(name) for name in names] for row in rows]
        return np.array([np.nan if None in values else sum(values) for values in known], float)  # type: ignore[arg-type]

    def parts(self) -> Sequence[tuple[str, float]]:
        """Of the delay, what the bridge knows: (where, usual seconds), in the order of a sample's way.

        They are what metrics and records call so; nothing, if the engine never answered.
        """
        course = DelayHistory()
        for each in self.counters:
            course.add({"uplink": each.uplink, "downlink": each.downlink})
        usual_s = {part: course.median_s(part.name) for part in PARTS}
        return [(part.title, value) for part, value in usual_s.items() if value is not None]

    def rows(self) -> list[tuple[str, str]]:
        """What was done to the sound in each direction, as (title, text)."""
        if not self.counters:
            return []
        return [("to the agent", self._uplink()), ("to you", self._downlink())]

    def _uplink(self) -> str:
        said = []
        if stalls := self._last("uplink", "stalls"):
            longest_s = self._last("uplink", "longest_stall_us") / 1e6
            said.append(f"{_times(stalls, 'stall')}, the longest {_length(longest_s)}")
        said += self._changes(
            "uplink",
            inserted="of noise put in",
            removed_in_pauses="taken out of pauses",
            removed_in_speech="out of speech",
            cut="cut",
        )
        if holds := self._last("uplink", "holds"):
            withheld = _length(self._last("uplink", "withheld") / self.rate_hz)
            said.append(f"the engine did not answer {_times(holds, 'time')}: {withheld} withheld")
        if slow := self._last("uplink", "slow"):
            said.append(f"the engine was behind {_times(slow, 'time')}: it got less than was said")
        said = said or ["nothing put in, nothing taken out"]
        drift_ppm = self.counters[-1].uplink.get("drift_ppm")
        if drift_ppm is not None:
            said.append(f"your clock: {drift(drift_ppm)}")
        said += self._changes(
            "uplink", dropped="said before an engine was ready", gated="of the line's opening silenced"
        )
        return "; ".join(said)

    def _downlink(self) -> str:
        said = []
        if holes := self._last("downlink", "holes"):
            longest_s = self._last("downlink", "longest_hole_us") / 1e6
            said.append(
                f"the engine's audio was late {_times(holes, 'time')}, by {_length(longest_s)} at most"
            )
        said += self._changes(
            "downlink",
            stretched="stretched",
            concealed="concealed",
            noise="of noise put in",
            removed_in_pauses="taken out of pauses",
            removed_in_speech="out of speech",
            cut="cut",
            flushed="dropped when interrupted",
        )
        text = "; ".join(said) or "nothing put in, nothing taken out"
        return f"{text}; held back {self._last('downlink', 'target_us') / 1e3:.0f} ms against lateness"

    def _changes(self, direction: Direction, **wordings: str) -> list[str]:
        lengths = {name: self._last(direction, name) / self.rate_hz for name in wordings}
        return [
            f"{_length(lengths[name])} {wording}"
            for name, wording in wordings.items()
            if lengths[name] >= WORTH_TELLING_S
        ]

    def _last(self, direction: Direction, name: str) -> float:
        value = getattr(self.counters[-1], direction).get(name)
        return float(value or 0.0)


def _times(count: float, noun: str) -> str:
    return f"{count:.0f} {noun}" if count == 1 else f"{count:.0f} {noun}s"


def _length(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"
