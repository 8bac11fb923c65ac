"""A conversation on a file: the caller's sound in, the agent's sound, words and tokens out.

As `moshi.offline` of NVIDIA's code does, and by the same model that serves calls, so a call can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pxbridge.personaplex.config import CODEBOOKS, FRAME_SAMPLES
from pxbridge.personaplex.text import Detokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pxbridge.personaplex.prompt import Prompt
    from pxbridge.personaplex.stepper import Sampling, Step, Stepper
    from pxbridge.personaplex.text import Tokenizer

PREFILL_CHUNK = 64
"""Positions of the prompt that are computed at once. More would make reports of progress rare."""
SILENT_TOKENS = {0: "EPAD", 3: "PAD"}
"""How NVIDIA's code writes the text tokens that say nothing."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """The agent's output.

    Attributes:
        tokens: int16 [steps, 9]: text, then eight codes, in upstream moshi's timing.
        sound: float32 [steps · 1920], 24 kHz.
    """

    tokens: NDArray[np.int16]
    sound: NDArray[np.float32]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Spoken:
        """All steps of a conversation together."""
        if not steps:
            return cls(np.empty((0, 1 + CODEBOOKS), np.int16), np.empty(0, np.float32))
        rows = [np.concatenate([[step.text], step.codes]) for step in steps]
        return cls(np.stack(rows).astype(np.int16), np.concatenate([step.sound for step in steps]))


def steps_of(sound: NDArray[np.float32]) -> int:
    """Steps that a sound takes; the last one may not be full."""
    return -(-len(sound) // FRAME_SAMPLES)


def converse(
    stepper: Stepper, prompt: Prompt, sampling: Sampling, sound: NDArray[np.float32]
) -> Iterator[Step | None]:
    """Holds a conversation in slot 0.

    Args:
        stepper: With slot 0 closed; it is closed again at the end.
        prompt: The persona.
        sampling: How tokens are drawn.
        sound: The caller's, float32 at 24 kHz. The last frame is filled with silence.

    Yields:
        None after each chunk of the prompt, then each step. Whoever iterates may stop in between.

    Raises:
        ValueError: The prompt is too long, or does not fit the model.
    """
    try:
        left = stepper.open(0, prompt, sampling)
        while left:
            left = stepper.prefill(0, PREFILL_CHUNK)
            yield None
        frames = np.zeros((steps_of(sound), FRAME_SAMPLES), np.float32)
        frames.reshape(-1)[: len(sound)] = sound
        for frame in frames:
            yield stepper.step({0: frame})[0]
    finally:
        stepper.close(0)


def words_of(tokens: NDArray[np.int16], tokenizer: Tokenizer) -> list[str]:
    """The text of each step, as NVIDIA's code writes it: a piece of the text, `EPAD` or `PAD`.

    A character of several tokens comes with the last of them, and "" with the others.
    """
    detokenizer = Detokenizer(tokenizer)
    words = [SILENT_TOKENS.get(token) or detokenizer.feed(token) for token in tokens[:, 0].tolist()]
    if words and (rest := detokenizer.finish()):
        words[-1] += rest
    return words
