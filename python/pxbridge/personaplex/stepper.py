"""The model as the scheduler, the server and offline work see it: slots that are stepped together.

A slot is *closed*, *prefilling* or *live*::

    closed ── open ──▶ prefilling ── prefill, until none is left ──▶ live ── step, step, … ── close ──▶ closed
                └────────── the whole prompt was in a prefix ─────────▲

`close` is possible in every state. All methods are called from one thread, the one that owns torch; none
may be called while another runs. Chunks of prefill may go between any two steps: other slots do not notice.
Needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.personaplex.prompt import Prompt

T = TypeVar("T")

MAX_TOP_K = 500
"""The end of the slider in NVIDIA's web client."""


@dataclass(frozen=True)
class Sampling:
    """How a conversation's tokens are drawn. Equal sampling, prompt and caller's sound give equal tokens.

    Attributes:
        text_temperature: 0 takes the likeliest token.
        text_top_k: Only this many of the likeliest tokens are drawn from, 1 to 500.
        audio_temperature: The same for the agent's codes.
        audio_top_k: The same for the agent's codes.
        seed: Any integer; 64 bits of it count.

    Raises:
        ValueError: A temperature that is negative or not finite, or a top-k out of range.
    """

    text_temperature: float = 0.7
    text_top_k: int = 25
    audio_temperature: float = 0.8
    audio_top_k: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("text_temperature", "audio_temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} {value}: a number from 0 on is needed")
        for name in ("text_top_k", "audio_top_k"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_TOP_K:
                raise ValueError(f"{name} {value}: 1 to {MAX_TOP_K} is needed")

    @classmethod
    def greedy(cls) -> Self:
        """Takes the likeliest token everywhere."""
        return cls(text_temperature=0, audio_temperature=0)


@dataclass(frozen=True, eq=False)
class Step:
    """The output of one step for one slot: the frame that is complete now, in upstream moshi's timing.

    Attributes:
        text: The text token; EPAD (0) or PAD (3) if nothing is said.
        codes: int16 [8], the agent's codes.
        sound: float32 [1920], the agent's sound at 24 kHz, full scale ±1.0. Values may lie a little outside
            of it.
    """

    text: int
    codes: NDArray[np.int16]
    sound: NDArray[np.float32]


@dataclass(frozen=True)
class Counters:
    """Counts since the start; `prefixes` and `prefix_bytes` are the present values.

    Attributes:
        ticks: Calls of `step` that had a frame.
        frames: Frames stepped, over all slots.
        prefilled_positions: Positions of prompts that were computed.
        copied_positions: Positions of prompts that were copied from a prefix instead.
        prefix_hits: Sessions that found their whole prompt in a prefix.
        prefix_partial_hits: Sessions that found the beginning of it.
        prefix_misses: Sessions that found nothing.
        prefix_evictions: Prefixes dropped to stay within the budget.
        prefixes: Prefixes held.
        prefix_bytes: Their size.
    """

    ticks: int = 0
    frames: int = 0
    prefilled_positions: int = 0
    copied_positions: int = 0
    prefix_hits: int = 0
    prefix_partial_hits: int = 0
    prefix_misses: int = 0
    prefix_evictions: int = 0
    prefixes: int = 0
    prefix_bytes: int = 0


def finished(work: Generator[None, None, T]) -> T:
    """Runs a generator to its end, and returns its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


class SlotMisused(RuntimeError):
    """A bug of the calling code: the slot does not exist, or is not in the state that the call needs."""


class Stepper(Protocol):
    """PersonaPlex for a fixed number of slots."""

    @property
    def slots(self) -> int:
        """Conversations that can be held at once: slots 0 to `slots` - 1."""

    @property
    def context(self) -> int:
        """Positions of 80 ms that stay in attention."""

    @property
    def longest_prompt(self) -> int:
        """The most positions a prompt may take: less than the context."""

    def warm_up(self) -> None:
        """Runs everything once, so that the first callers do not wait for it. All slots must be closed."""

    def encode(self, sound: NDArray[np.float32]) -> Generator[None, None, NDArray[np.int64]]:
        """Encodes a sound as Mimi's codes, from a fresh state and beside all slots: a voice from a WAV.

        It yields after each frame: a long sound takes longer than callers can wait for a tick.

        Args:
            sound: float32 [samples] at 24 kHz, full scale ±1.0. A last frame that is not full is filled
                with zeros.

        Returns:
            int64 [frames, 8].
        """

    def knows(self, prompt: Prompt) -> bool:
        """Whether all of a prompt is in a prefix: a slot that is opened with it is live at once."""

    def open(self, slot: int, prompt: Prompt, sampling: Sampling) -> int:
        """Starts a conversation in a closed slot.

        Returns:
            Positions of the prompt that are left to prefill. 0: the prompt was known and the slot is live.

        Raises:
            SlotMisused: The slot is not closed.
            PromptTooLong: Nothing was changed.
            ValueError: A token or a voice that does not fit this model. Nothing was changed.
        """

    def prefill(self, slot: int, positions: int) -> int:
        """Computes at most this many further positions of a slot's prompt (at least 1).

        Returns:
            Positions that are left. 0: the slot is live.

        Raises:
            SlotMisused: The slot is not prefilling.
        """

    def step(self, frames: Mapping[int, NDArray[np.float32]]) -> dict[int, Step]:
        """Steps each slot that has a frame by 80 ms; the others stand still.

        Args:
            frames: Per live slot the caller's sound, float32 [1920] at 24 kHz, full scale ±1.0. Samples
                that are not finite count as 0. Empty: nothing is done.

        Returns:
            One `Step` per slot in `frames`. Its arrays are the caller's to keep.

        Raises:
            SlotMisused: A slot is not live. Nothing was changed.
            ValueError: A frame of another shape. Nothing was changed.
        """

    def close(self, slot: int) -> None:
        """Ends a slot's conversation, in whatever state. Closing a closed slot does nothing."""

    def counters(self) -> Counters:
        """Counts since the start."""
