"""What a soak promises, and which of its promises a run broke."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gate import MOST_LATE_MS
from pxbridge.wording import counted
from soak_callers import GAP_S, CallOutcome, Gap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from soak_processes import Sample
    from soak_troubles import Troubles


LOST_S = 1.5
"""The most that a failure may cost when a slot was free."""
BELONGS_S = 4.0
"""A gap that begins within this time after a kill was caused by it."""
FLAT_MEMORY = 0.05
"""Growth up to this share comes from the allocator and is not a leak.

From the median of the run's third minute to that of its last two. Only samples count at which nearly all
callers were in a call.
"""
WARM_UP_S = 120.0
"""Memory is not judged before this, as some growth happens once in a process's life.

The last caller joins; the heap and Python's arenas grow to the most that the calls ever need at once (when an
engine dies); the console is asked for the first time and keeps its hundred latest calls; SQLite's page cache
grows to its 2 MB.
"""
BASE_S = 60.0
LAST_S = 120.0
FULL_HOUSE = 0.9
"""A sample counts when this share of the callers were in a call."""
FLAT_DESCRIPTORS = 4
"""More descriptors than before are no leak up to this: probes and scrapes may be under way."""
BRIDGES = 2
WORSE = 2.0
"""How many times as much of the agent callers may miss beside the troubles as before them."""
SLACK = 0.005
"""And this share of the time more: five milliseconds of a second."""
STARVED_MS = 50.0
"""If this process was later than this once in a hundred wake-ups, nothing is judged: calls time out."""
HEARD = 0.85
"""The least share of what the phone that holds says that must come back. A bridge that takes the length of
each hold out of what is said afterwards sends back four fifths of it, in the short form less than half."""


@dataclass
class Kill:
    """An engine's death.

    Attributes:
        at_s: Its time.
        live: The engine's conversations.
        warm: Sessions prompted ahead on other engines.
        idle: The other engines' idle slots.
        lost_s: How much of the agent each caller lost, of those who lost some.
    """

    at_s: float
    live: int
    warm: int
    idle: int
    lost_s: list[float] = field(default_factory=list)

    @property
    def room(self) -> str:
        if self.warm >= self.live:
            return "prompted ahead"
        return "to be prompted" if self.warm + self.idle >= self.live else "none for all"


@dataclass
class Neighbours:
    """What callers heard who had no trouble of their own.

    Attributes:
        talked_s: The time in calls.
        gaps_s: Stretches without the agent.
        firsts_s: From the start of each call to the agent's first sound.
    """

    talked_s: float
    gaps_s: list[float]
    firsts_s: list[float]

    @property
    def share(self) -> float:
        """The share of the time in which the agent was missed."""
        return sum(self.gaps_s) / self.talked_s if self.talked_s else 0.0


@dataclass
class Soak:
    """The result of a run."""

    minutes: float
    calls: int
    short: bool
    troubles: Troubles | None = None
    with_store: bool = False
    late_ms: float = 0.0
    holder: CallOutcome | None = None
    floods_closed: int = 0
    live: int = 0
    outcomes: list[CallOutcome] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    idle: Sample | None = None
    after: Sample | None = None
    counted: dict[str, int] = field(default_factory=dict)
    slots_after: dict[str, int] = field(default_factory=dict)
    cpu_of_a_core: float = 0.0
    lag: dict[float, float] = field(default_factory=dict)
    slowest_answer_s: float = 0.0
    gaps_without_a_kill: list[Gap] = field(default_factory=list)

    def assign(self) -> None:
        """Finds which kill caused which gap."""
        for outcome in self.outcomes:
            for gap in outcome.gaps:
                begins_s = gap.at_s + GAP_S
                causes = [kill for kill in self.kills if 0 <= begins_s - kill.at_s < BELONGS_S]
                if causes:
                    causes[-1].lost_s.append(gap.duration_s)
                else:
                    self.gaps_without_a_kill.append(gap)

    def neighbours(self, *, troubled: bool) -> Neighbours:
        """What the callers heard before the troubles or beside them, kills of engines apart."""
        assert self.troubles is not None
        from_s = self.troubles.from_s if troubled else 0.0
        until_s = math.inf if troubled else self.troubles.from_s
        spans = (min(o.ended_s, until_s) - max(o.began_s, from_s) for o in self.outcomes)
        gaps = [gap.duration_s for gap in self.gaps_without_a_kill if from_s <= gap.at_s < until_s]
        firsts = [o.first_s for o in self.outcomes if o.first_s is not None and from_s <= o.began_s < until_s]
        return Neighbours(sum(span for span in spans if span > 0), gaps, firsts)

    @property
    def too_busy(self) -> bool:
        """Whether callers here got the processor too late to judge what they heard."""
        return self.late_ms > MOST_LATE_MS

    def broken_promises(self) -> list[str]:
        """Every promise that did not hold, of those that can be judged."""
        if self.late_ms > STARVED_MS:
            return []
        broken = [] if self.too_busy else self._broken_at_the_ear()
        broken += self._broken_by_troubles()
        odd = Counter(outcome.ended for outcome in self.outcomes if outcome.ended != "hung up")
        if odd:
            broken.append(f"calls that their callers did not end: {listed(odd)}")
        placed = len(self.outcomes) + (self.troubles.floods + 1 if self.troubles else 0)
        if sum(self.counted.values()) != placed:
            told = listed(self.counted)
            broken.append(f"calls placed: {placed}; the bridges tell of {told}")
        if (grew := self.memory()) is not None and grew[1] > grew[0] * (1 + FLAT_MEMORY):
            broken.append(f"memory grew from {grew[0] / 1e6:.1f} to {grew[1] / 1e6:.1f} MB")
        if (
            self.idle
            and self.after
            and self.after.descriptors > self.idle.descriptors + BRIDGES * FLAT_DESCRIPTORS
        ):
            broken.append(f"{self.after.descriptors} descriptors afterwards, {self.idle.descriptors} before")
        if busy := {s: n for s, n in self.slots_after.items() if n and s not in ("idle", "warm")}:
            broken.append(f"slots that are not free afterwards: {listed(busy)}")
        return broken

    def _broken_at_the_ear(self) -> list[str]:
        broken = []
        worst_s = max((s for k in self.kills if k.room != "none for all" for s in k.lost_s), default=0.0)
        if worst_s > LOST_S and not self.short:
            broken.append(f"{worst_s:.2f} s of the agent lost in a failure although a slot was free")
        if self.troubles is not None:
            calm, troubled = (self.neighbours(troubled=each) for each in (False, True))
            if troubled.share > WORSE * calm.share + SLACK:
                broken.append(
                    f"neighbours missed {troubled.share:.2%} of the agent beside the troubles, "
                    f"{calm.share:.2%} before"
                )
        return broken

    def _broken_by_troubles(self) -> list[str]:
        if self.troubles is None:
            return []
        broken = []
        if self.floods_closed != self.troubles.floods:
            floods = counted(self.troubles.floods, "flood")
            broken.append(f"{floods}, of which {self.floods_closed} were closed as such")
        if self.holder is not None:
            if self.holder.ended != "hung up":
                broken.append(f"the call that was held ended: {self.holder.ended}")
            if self.holder.heard_s < HEARD * self.holder.said_s:
                broken.append(
                    f"of the {self.holder.said_s:.1f} s that a phone said which holds, "
                    f"{self.holder.heard_s:.1f} s came back"
                )
        return broken

    def memory(self) -> tuple[float, float] | None:
        """The bridge's after the warm-up and at the end, in bytes; None if the run is too short to tell."""
        end_s = self.minutes * 60
        if end_s < WARM_UP_S + BASE_S + LAST_S:
            return None

        def median(from_s: float, to_s: float) -> float:
            full = [s for s in self.samples if s.live >= FULL_HOUSE * self.calls and from_s <= s.at_s < to_s]
            return float(np.median([sample.memory_bytes for sample in full]))

        return median(WARM_UP_S, WARM_UP_S + BASE_S), median(end_s - LAST_S, end_s)


def listed(counts: Mapping[str, float]) -> str:
    """Counts by name, the largest first: "33 hung up, 2 cut off"."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:.0f} {name.replace('_', ' ')}" for name, count in ranked) or "none"
