"""Bad networks between a simulated phone and the bridge, described by a line of text.

Media runs over TCP, so a bad network between Exotel and us loses and reorders nothing. It only delivers
later, and what was held up arrives in a burst. A link is therefore one function from the time when a message
is sent to the time when it arrives, and that time never decreases. The same seed gives the same network. The
caller's audio can be lost before it, between the phone and Exotel.

The grammar; separate faults with `;`::

    stall D at T [up|down]              nothing gets through for D, then everything at once
    lose D at T                         what the phone records in D is never sent: hold, mute, lost packets
    jitter D [up|down] [from T to T]    each message takes 0 to D longer, uniformly distributed
    delay D [up|down]                   every message takes D longer
    drift Nppm                          the phone's clock runs fast by N millionths (slow: -N)
    cut at T                            the connection breaks off without a closing handshake

`up` is from the phone to the bridge, `down` from the bridge to the phone. Without either, both are affected.
D and T are durations with a unit: `40ms`, `1.5s` or `2min`. T is the time since the call's `start`. Example::

    stall 1.5s at 8s; jitter 40ms down; drift +100ppm
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn

from pxbridge.errors import InputError

GRAMMAR = (
    "stall D at T [up|down]; lose D at T; jitter D [up|down] [from T to T]; delay D [up|down]; "
    "drift ±Nppm; cut at T (D and T like 40ms, 1.5s, 2min)"
)
MAX_DRIFT_PPM = 10_000.0
"""One percent. Real clocks stay within 100 ppm; a larger difference is a wrong sample rate, not a drift."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "min": 60.0}


class Direction(Enum):
    """The direction of a message."""

    UP = "up"
    DOWN = "down"


BOTH = frozenset(Direction)


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing gets through from `at_s` for `duration_s`; then everything at once."""

    at_s: float
    duration_s: float
    directions: frozenset[Direction] = BOTH


@dataclass(frozen=True, slots=True)
class Loss:
    """The caller's audio from `at_s` for `duration_s` is never sent."""

    at_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class Jitter:
    """Each message sent from `from_s` to `to_s` takes between 0 and `most_s` longer."""

    most_s: float
    from_s: float = 0.0
    to_s: float = math.inf
    directions: frozenset[Direction] = BOTH


@dataclass(frozen=True, slots=True)
class Delay:
    """Every message takes `duration_s` longer."""

    duration_s: float
    directions: frozenset[Direction] = BOTH


@dataclass(frozen=True, slots=True)
class Network:
    """The faults of one call's network; without arguments, a perfect network."""

    stalls: tuple[Stall, ...] = ()
    jitters: tuple[Jitter, ...] = ()
    delays: tuple[Delay, ...] = ()
    drift_ppm: float = 0.0
    cut_at_s: float | None = None
    losses: tuple[Loss, ...] = ()
    text: str = field(default="", compare=False)
    """The text that it was parsed from, for reports."""

    def loses(self, at_s: float) -> bool:
        """Whether audio that is recorded at this time is lost."""
        return any(loss.at_s <= at_s < loss.at_s + loss.duration_s for loss in self.losses)

    def link(self, direction: Direction, seed: int = 0) -> Link:
        """One direction of a call through this network."""
        return Link(self, direction, seed)


class Link:
    """One direction of a call's network: computes when messages arrive."""

    def __init__(self, network: Network, direction: Direction, seed: int = 0) -> None:
        self._delay_s = sum(d.duration_s for d in network.delays if direction in d.directions)
        self._jitters = tuple(j for j in network.jitters if direction in j.directions)
        stalls = (s for s in network.stalls if direction in s.directions)
        self._stalls = tuple(sorted(stalls, key=lambda stall: stall.at_s))
        self._chance = random.Random(f"{direction.value} {seed}")  # noqa: S311 - repeatable on purpose
        self._last_s = -math.inf

    def deliver_at(self, send_s: float) -> float:
        """When a message sent at `send_s` arrives; never before an earlier message."""
        arrives_s = send_s + self._delay_s
        for jitter in self._jitters:
            if jitter.from_s <= send_s < jitter.to_s:
                arrives_s += self._chance.uniform(0.0, jitter.most_s)
        for (
            stall
        ) in self._stalls:  # in order of their start, because one stall may delay a message into the next one
            if stall.at_s <= arrives_s < stall.at_s + stall.duration_s:
                arrives_s = stall.at_s + stall.duration_s
        self._last_s = max(self._last_s, arrives_s)
        return self._last_s


def parse_network(text: str) -> Network:
    """Parses a network in the grammar of this module.

    Raises:
        InputError: A clause is wrong. The text names the clause and the grammar.
    """
    stalls: list[Stall] = []
    losses: list[Loss] = []
    jitters: list[Jitter] = []
    delays: list[Delay] = []
    drift_ppm = 0.0
    cut_at_s: float | None = None
    for clause in filter(None, (part.strip() for part in text.split(";"))):
        words = _Words(clause)
        match words.take("a kind of fault"):
            case "stall":
                duration_s = words.duration()
                words.expect("at")
                at_s = words.duration()
                stalls.append(Stall(at_s, duration_s, words.directions()))
            case "lose":
                duration_s = words.duration()
                words.expect("at")
                losses.append(Loss(words.duration(), duration_s))
            case "jitter":
                most_s = words.duration()
                directions = words.directions()
                from_s, to_s = 0.0, math.inf
                if words.accept("from"):
                    from_s = words.duration()
                    words.expect("to")
                    to_s = words.duration()
                    if to_s <= from_s:
                        words.refuse("it ends before it begins")
                jitters.append(Jitter(most_s, from_s, to_s, directions))
            case "delay":
                duration_s = words.duration()
                delays.append(Delay(duration_s, words.directions()))
            case "drift":
                drift_ppm = words.drift()
            case "cut":
                words.expect("at")
                cut_at_s = words.duration()
            case other:
                words.refuse(f"{other!r} is not a kind of fault")
        words.end()
    return Network(
        tuple(stalls), tuple(jitters), tuple(delays), drift_ppm, cut_at_s, tuple(losses), text.strip()
    )


class _Words:
    """The words of one clause, taken one by one."""

    def __init__(self, clause: str) -> None:
        self._clause = clause
        self._words = clause.lower().split()

    def refuse(self, problem: str) -> NoReturn:
        raise InputError(f"network {self._clause!r}: {problem}; the grammar is: {GRAMMAR}")

    def take(self, what: str) -> str:
        if not self._words:
            self.refuse(f"{what} is missing at the end")
        return self._words.pop(0)

    def accept(self, word: str) -> bool:
        if self._words[:1] == [word]:
            self._words.pop(0)
            return True
        return False

    def expect(self, word: str) -> None:
        found = self.take(repr(word))
        if found != word:
            self.refuse(f"expected {word!r}, found {found!r}")

    def duration(self) -> float:
        word = self.take("a duration")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|min)", word)
        if match is None:
            self.refuse(f"{word!r} is not a duration like 40ms, 1.5s or 2min")
        return float(match[1]) * _UNITS_S[match[2]]

    def drift(self) -> float:
        word = self.take("a drift")
        match = re.fullmatch(r"\+?(-?\d+(?:\.\d+)?)ppm", word.replace("−", "-"))
        if match is None or abs(float(match[1])) > MAX_DRIFT_PPM:
            self.refuse(f"{word!r} is not a drift like +100ppm or -50ppm (at most {MAX_DRIFT_PPM:g})")
        return float(match[1])

    def directions(self) -> frozenset[Direction]:
        for direction in Direction:
            if self.accept(direction.value):
                return frozenset({direction})
        return BOTH

    def end(self) -> None:
        if self._words:
            self.refuse(f"unexpected {' '.join(self._words)!r} at the end")
