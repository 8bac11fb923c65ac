"""A stepper without a model: it keeps the contract of `Stepper` strictly, echoes, and says what its work
would cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pxbridge.errors import PromptTooLong
from pxbridge.personaplex.config import FRAME_SAMPLES
from pxbridge.personaplex.prompt import Prompt, VoiceCodes
from pxbridge.personaplex.stepper import Counters, Sampling, SlotMisused, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from numpy.typing import NDArray

CODES = np.zeros(8, np.int16)


@dataclass
class Costs:
    """What work costs, in seconds."""

    tick_s: float = 0.03
    row_s: float = 0.0
    chunk_s: float = 0.004
    position_s: float = 0.0002
    open_s: float = 0.0005


@dataclass
class _Slot:
    prompt: Prompt
    sampling: Sampling
    left: int
    steps: int = 0


@dataclass
class FakeStepper:
    """See the module.

    Attributes:
        costs: What work costs; may be changed at any time.
        spend: Called with what each piece of work costs.
        raises: Raised by the next step, once.
        opened: Every prompt that was begun, with its sampling and slot.
    """

    slots: int = 4
    costs: Costs = field(default_factory=Costs)
    spend: Callable[[float], None] = lambda _s: None
    context: int = 3000
    longest_prompt: int = 2900
    raises: BaseException | None = None
    opened: list[tuple[int, Prompt, Sampling]] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    warm: bool = False
    _slots: dict[int, _Slot] = field(default_factory=dict)
    _counters: Counters = field(default_factory=Counters)
    _known: set[tuple[str, tuple[int, ...]]] = field(default_factory=set)

    def warm_up(self) -> None:
        assert not self._slots
        self.warm = True

    def encode(self, sound: NDArray[np.float32]) -> Generator[None, None, NDArray[np.int64]]:
        yield from ()
        return np.zeros((-(-len(sound) // FRAME_SAMPLES), 8), np.int64)

    def knows(self, prompt: Prompt) -> bool:
        return (prompt.voice.key, prompt.text) in self._known

    def open(self, slot: int, prompt: Prompt, sampling: Sampling) -> int:
        if not 0 <= slot < self.slots or slot in self._slots:
            raise SlotMisused(f"slot {slot} is not closed")
        if prompt.positions > self.longest_prompt:
            raise PromptTooLong(f"{prompt.positions} positions; {self.longest_prompt} is the most")
        self.opened.append((slot, prompt, sampling))
        key = (prompt.voice.key, prompt.text)
        hit = key in self._known
        self._slots[slot] = _Slot(prompt, sampling, 0 if hit else prompt.positions)
        if hit:
            self._count(prefix_hits=1, copied_positions=prompt.positions)
        else:
            self._count(prefix_misses=1)
        self.spend(self.costs.open_s)
        return self._slots[slot].left

    def prefill(self, slot: int, positions: int) -> int:
        assert positions >= 1
        state = self._slots.get(slot)
        if state is None or not state.left:
            raise SlotMisused(f"slot {slot} is not prefilling")
        read = min(positions, state.left)
        state.left -= read
        if not state.left:
            self._known.add((state.prompt.voice.key, state.prompt.text))
        self._count(prefilled_positions=read)
        self.spend(self.costs.chunk_s + read * self.costs.position_s)
        return state.left

    def step(self, frames: Mapping[int, NDArray[np.float32]]) -> dict[int, Step]:
        error, self.raises = self.raises, None
        if error is not None:
            raise error
        for slot, frame in frames.items():
            if slot not in self._slots or self._slots[slot].left:
                raise SlotMisused(f"slot {slot} is not live")
            if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
                raise ValueError(f"a frame of {frame.shape} {frame.dtype}")
        steps = {}
        for slot, frame in frames.items():
            self._slots[slot].steps += 1
            steps[slot] = Step(self.text(self._slots[slot].steps), CODES, np.nan_to_num(frame))
        if frames:
            self._count(ticks=1, frames=len(frames))
            self.spend(self.costs.tick_s + len(frames) * self.costs.row_s)
        return steps

    def text(self, step: int) -> int:
        """The token of a conversation's step: says something in one step of ten."""
        return 100 + step // 10 % 26 if step % 10 == 0 else 3

    def close(self, slot: int) -> None:
        if self._slots.pop(slot, None) is not None:
            self.closed.append(slot)

    def counters(self) -> Counters:
        return self._counters

    def _count(self, **more: int) -> None:
        self._counters = replace(
            self._counters, **{name: getattr(self._counters, name) + by for name, by in more.items()}
        )


def prompt(voice: str = "NATF0", *text: int, voice_positions: int = 50) -> Prompt:
    return Prompt(VoiceCodes(voice, np.zeros((voice_positions, 8), np.int64)), text)
