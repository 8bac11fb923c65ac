"""What the bridge reports about a simulated call: what happened, the agent's words, the line's counters.

Only pxbridge reports this, and only to a phone that asks (`pxbridge.calls.observer`). With any other bridge
it stays empty. Counters only rise: the difference between two readings is what happened in between.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pxbridge.calls.delay import PARTS, DelayHistory, drift
from pxbridge.wording import counted, lasted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pxbridge.calls.delay import Direction

FILLS = ("concealed", "noise")
"""Counters of what the bridge plays in place of missing audio."""
MIN_SHOWN_S = 0.001
"""Shorter changes of the sound are left out of the report."""


class Counters(NamedTuple):
    """The line's counters at one moment, by direction."""

    at_s: float
    uplink: Mapping[str, float | None]
    downlink: Mapping[str, float | None]


class Happening(NamedTuple):
    """Something that happened to the call, for people."""

    at_s: float
    text: str


class Fill(NamedTuple):
    """A stretch in which the bridge played noise or concealment, because the engine's audio was missing.

    Attributes:
        at_s: When it began to be heard, to a reading of the counters.
        duration_s: How much was played.
    """

    at_s: float
    duration_s: float


@dataclass
class Loss:
    """An engine that was lost during the call.

    Attributes:
        at_s: When.
        reason: What the bridge says of it.
        until_s: When the first sound of another engine went to the phone; None if there was none.
    """

    at_s: float
    reason: str
    until_s: float | None = None


@dataclass
class CallTelemetry:
    """Collects what the bridge reports during a call.

    Attributes:
        rate_hz: The sample rate of the line; counters of sound count its samples.
        words: The agent's words, each with the time at which it is heard by the bridge's estimate, in order.
        counters: Readings of the counters, in order of time.
        happenings: What else happened, in order.
        losses: The engines that were lost.
        reports: Whether the bridge reports at all.
        was_live: Whether an engine was connected.
        first_sound_s: When the first sound of an engine, maybe silence, went to the phone; None before.
        waited_because: Why no engine was free; empty if the call did not wait.
        ending: Who ended the call and why, as the bridge sees it.
    """

    rate_hz: int
    words: list[tuple[float, str]] = field(default_factory=list)
    counters: list[Counters] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    reports: bool = False
    was_live: bool = False
    first_sound_s: float | None = None
    waited_because: str = ""
    ending: str = ""

    def add(self, report: Mapping[str, Any]) -> None:
        """Adds one report of the bridge. Unknown kinds are ignored."""
        match report:
            case {"kind": "stats", "at_s": at_s, "uplink": dict(uplink), "downlink": dict(downlink)}:
                self.counters.append(Counters(at_s, uplink, downlink))
            case {"kind": "words", "at_s": at_s, "text": str(text)}:
                heard_s = at_s + self._ahead_s()
                self.words.append((max(heard_s, self.words[-1][0]) if self.words else heard_s, text))
            case {"kind": "started"}:
                self.reports = True
            case {"kind": "phase", "phase": "waiting", "at_s": at_s, **rest}:
                self.waited_because = str(rest.get("reason", ""))
                self._happened(at_s, "you wait: no engine is free")
            case {"kind": "live", "at_s": at_s, "engine": engine}:
                if self.losses:
                    self._happened(at_s, f"an engine takes over: {engine}")
                self.was_live = True
            case {"kind": "heard", "at_s": at_s, "after_s": after_s}:
                if self.losses:
                    self.losses[-1].until_s = self.losses[-1].until_s or at_s
                elif self.first_sound_s is None:
                    self.first_sound_s = after_s
            case {"kind": "engine lost", "at_s": at_s, "reason": reason}:
                self.losses.append(Loss(at_s, str(reason)))
                self._happened(at_s, f"the engine is lost: {reason}")
            case {"kind": "engine failed", "at_s": at_s, "reason": reason}:
                self._happened(at_s, f"an engine cannot be used: {reason}")
            case {"kind": "action", "at_s": at_s, "by": by, "action": action}:
                self._happened(at_s, f"action: {action}, by {by}")
            case {"kind": "note", "at_s": at_s, "text": text}:
                self._happened(at_s, f"note: {text}")
            case {"kind": "ended", "by": by, "reason": reason}:
                self.ending = f"{by}: {reason}"

    def _happened(self, at_s: float, text: str) -> None:
        self.happenings.append(Happening(at_s, text))

    def _ahead_s(self) -> float:
        """How long audio that is queued now waits in the bridge and at the carrier."""
        downlink = self.counters[-1].downlink if self.counters else {}
        return ((downlink.get("queued_us") or 0.0) + (downlink.get("exotel_us") or 0.0)) * 1e-6

    def fills(self) -> list[Fill]:
        """Where the engine's audio was missing, in order."""
        found: list[Fill] = []
        filling = False
        for before, after in itertools.pairwise(self.counters):
            samples = sum((after.downlink.get(n) or 0.0) - (before.downlink.get(n) or 0.0) for n in FILLS)
            if samples > 0:
                ahead_s = (before.downlink.get("exotel_us") or 0.0) * 1e-6
                last = found.pop() if filling else Fill(before.at_s + ahead_s, 0.0)
                found.append(Fill(last.at_s, last.duration_s + samples / self.rate_hz))
            filling = samples > 0
        return found

    def delay(self) -> tuple[float, float] | None:
        """The delay from mouth to ear as the bridge measures it: median and 95th percentile, in seconds.

        The networks are not in it. None if the engine never answered.
        """
        history = self._delays()
        median_s, p95_s = history.median_s(), history.p95_s()
        return None if median_s is None or p95_s is None else (median_s, p95_s)

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
        history = self._delays()
        median_s = {part: history.median_s(part.name) for part in PARTS}
        return [(part.title, value) for part, value in median_s.items() if value is not None]

    def _delays(self) -> DelayHistory:
        history = DelayHistory()
        for each in self.counters:
            history.add({"uplink": each.uplink, "downlink": each.downlink})
        return history

    def last(self, direction: Direction, name: str) -> float:
        """A counter's last reading; 0 without one."""
        value = getattr(self.counters[-1], direction).get(name) if self.counters else None
        return float(value or 0.0)

    def rows(self) -> list[tuple[str, str]]:
        """The changes of the sound in each direction, as (title, text)."""
        if not self.counters:
            return []
        return [("to the agent", self._uplink()), ("to you", self._downlink())]

    def _uplink(self) -> str:
        texts = []
        if stalls := self.last("uplink", "stalls"):
            longest_s = self.last("uplink", "longest_stall_us") / 1e6
            texts.append(f"{counted(stalls, 'stall')}, the longest {lasted(longest_s)}")
        texts += self._changes(
            "uplink",
            inserted="of noise inserted",
            removed_in_pauses="removed from pauses",
            removed_in_speech="removed from speech",
            cut="cut",
        )
        if holds := self.last("uplink", "holds"):
            withheld = lasted(self.last("uplink", "withheld") / self.rate_hz)
            texts.append(f"the engine did not answer {counted(holds, 'time')}: {withheld} withheld")
        if slow := self.last("uplink", "slow"):
            texts.append(f"the engine was too slow {counted(slow, 'time')}: it got less than was said")
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
        if holes := self.last("downlink", "holes"):
            longest_s = self.last("downlink", "longest_hole_us") / 1e6
            texts.append(
                f"the engine's audio was late {counted(holes, 'time')}, by {lasted(longest_s)} at most"
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
        return f"{text}; target delay {self.last('downlink', 'target_us') / 1e3:.0f} ms"

    def _changes(self, direction: Direction, **wordings: str) -> list[str]:
        lengths = {name: self.last(direction, name) / self.rate_hz for name in wordings}
        return [
            f"{lasted(lengths[name])} {wording}"
            for name, wording in wordings.items()
            if lengths[name] >= MIN_SHOWN_S
        ]
