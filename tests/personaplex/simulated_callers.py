"""Callers and an engine in virtual time: the engine that ships, turned by hand; its work puts the clock
forward."""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tests.personaplex.fake_model import Costs, FakeStepper, prompt

from pxbridge.personaplex.config import FRAME_S, FRAME_SAMPLES
from pxbridge.personaplex.engine import Engine
from pxbridge.personaplex.scheduler import Tick
from pxbridge.personaplex.stepper import Sampling
from pxbridge.personaplex.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray

    from pxbridge.personaplex.prompt import Prompt
    from pxbridge.personaplex.scheduler import Work
    from pxbridge.personaplex.stepper import Step

    Frame = NDArray[np.float32]

SPEECH = np.full(FRAME_SAMPLES, 0.1, np.float32)
"""−20 dBFS."""
HUSH = np.full(FRAME_SAMPLES, 0.001, np.float32)
"""−60 dBFS."""


class Answered(NamedTuple):
    """A frame of a caller that was answered: when it was complete, when its tick began, and when that
    was over."""

    said_s: float
    began_s: float
    ended_s: float


class Done(NamedTuple):
    """A piece of the engine's work."""

    began_s: float
    ended_s: float
    work: Work


class Caller:
    """Somebody who comes, waits for its handshake and talks.

    Attributes:
        came_s: When it came.
        live_s: When its prompt was read; None: not yet.
        failed_because: Why its prompt could not be.
        said: Frames it said.
        answered: Those that were answered.
    """

    def __init__(
        self, world: World, slot: int, persona: Callable[[], Prompt], voice_parts_s: Sequence[float]
    ) -> None:
        self.came_s = world.now_s
        self.live_s: float | None = None
        self.failed_because: str | None = None
        self.said = 0
        self.answered: list[Answered] = []
        self.begins: Callable[[], None] = lambda: None
        self._world = world
        self._said_s: dict[int, float] = {}

        def in_parts() -> Generator[None, None, Prompt]:
            for part_s in voice_parts_s:
                world.stepper.spend(part_s)
                yield
            return persona()

        self.conversation = world.engine.open(slot, in_parts, Sampling(), self)

    def live(self) -> None:
        self.live_s = self._world.now_s
        self.begins()

    def failed(self, reason: str) -> None:
        self.failed_because = reason

    def stepped(self, frame: Frame, _step: Step) -> None:
        tick = self._world.done[-1]
        self.answered.append(Answered(self._said_s[id(frame)], tick.began_s, tick.ended_s))

    def broken(self) -> None:
        raise AssertionError("a caller of this file fails in nothing")

    def say(self, frame: Frame = SPEECH) -> None:
        mine = frame.copy()
        self._world.frames.append(mine)  # kept, so that each has an id of its own
        self._said_s[id(mine)] = self._world.now_s
        self.said += 1
        self._world.engine.hear(self.conversation, mine)

    def hang_up(self) -> None:
        self._world.engine.close(self.conversation)

    def waits_s(self, since_s: float = 0.0, until_s: float = float("inf")) -> list[float]:
        """From each frame that was complete in this time to the tick that took it."""
        return [each.began_s - each.said_s for each in self.answered if since_s <= each.said_s < until_s]


class World:
    """See the module.

    Args:
        costs: Of the fake model.
        slots: How many it has.
    """

    def __init__(self, costs: Costs | None = None, slots: int = 32) -> None:
        self.now_s = 0.0
        self.done: list[Done] = []
        self.frames: list[Frame] = []
        self.stepper = FakeStepper(slots, costs or Costs(), self._spend)
        self.engine = Engine(self.stepper, Telemetry(), clock=lambda: self.now_s)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    @property
    def ticks(self) -> list[Done]:
        return [each for each in self.done if isinstance(each.work, Tick)]

    def at(self, at_s: float, what: Callable[[], None]) -> None:
        """Something happens at a time."""
        heapq.heappush(self._due, (at_s, next(self._numbers), what))

    def caller(
        self,
        slot: int,
        *,
        frames: int = 0,
        first_s: float = FRAME_S,
        lateness_s: Callable[[], float] = float,
        frame: Callable[[float], Frame] = lambda _now_s: SPEECH,
        persona: Callable[[], Prompt] = prompt,
        voice_parts_s: Sequence[float] = (),
    ) -> Caller:
        """Somebody comes now, and says so many frames in real time when it is live.

        Args:
            slot: The place it has.
            frames: How many it says.
            first_s: From the handshake to the first.
            lateness_s: Of each; none overtakes another.
            frame: What it says at a time.
            persona: Gives its prompt.
            voice_parts_s: What the parts of its voice cost that nobody has used before.
        """
        caller = Caller(self, slot, persona, voice_parts_s)

        def begin() -> None:
            latest_s = 0.0
            for n in range(frames):
                latest_s = max(latest_s, self.now_s + first_s + n * FRAME_S + lateness_s())
                self.at(latest_s, lambda: caller.say(frame(self.now_s)))

        caller.begins = begin
        return caller

    def run(self, until_s: float) -> None:
        """Turns the engine until then."""
        while self.now_s < until_s:
            self._happen(self.now_s)
            work = self.engine.begin()
            if isinstance(work, float):
                due_s = self._due[0][0] if self._due else until_s
                self.now_s = min(self.now_s + work, max(due_s, self.now_s), until_s)
                continue
            began_s = self.now_s
            result = self.engine.perform(work)
            self.done.append(Done(began_s, self.now_s, work))
            self.engine.finish(work, result)()

    def _spend(self, cost_s: float) -> None:
        """Work takes time; what happens meanwhile happens at its own time."""
        ends_s = self.now_s + cost_s
        self._happen(ends_s)
        self.now_s = ends_s

    def _happen(self, until_s: float) -> None:
        while self._due and self._due[0][0] <= until_s:
            at_s, _, what = heapq.heappop(self._due)
            self.now_s = max(self.now_s, at_s)
            what()


def in_world(test: Callable[[], None]) -> Callable[[], None]:
    """An engine belongs to an event loop, which has nothing to do in these tests."""

    @functools.wraps(test)
    def run() -> None:
        async def main() -> None:
            test()

        asyncio.run(main())

    return run


def percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(np.array(values), percent))
