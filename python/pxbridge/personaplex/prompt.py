"""The prompt of a conversation: a voice and a text, laid out position by position.

The order is PersonaPlex's: voice, 6 silent frames, the text one token a position, 6 silent frames. Text is
PAD outside the text phase, the agent speaks the voice's codes or is silent, and the caller hums a sine
throughout. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pxbridge.personaplex.config import CODEBOOKS, STREAMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENCE = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
"""Mimi's codes of a silent frame, as PersonaPlex was trained with them."""
SINE = (430, 1268, 381, 1611, 1095, 1495, 56, 472)
"""Mimi's codes of a frame of a sine: the caller's side of every prompt."""
SILENT_FRAMES = 6
"""0.5 s, after the voice and after the text."""
VOICE_TOKEN_POSITIONS = 4
"""Positions that a `.pt` voice's token rows are a ring of."""


@dataclass(frozen=True, eq=False)
class VoiceCodes:
    """A voice as Mimi's codes, as made from a WAV.

    Attributes:
        key: Names this voice's content. Prompts with equal keys share prefixes, so two different voices
            must not have one.
        codes: int64 [frames, 8], each 0 to 2047.
    """

    key: str
    codes: NDArray[np.int64]

    @property
    def positions(self) -> int:
        """Positions of the language model that the voice takes."""
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class VoiceEmbeddings:
    """A voice as NVIDIA's `.pt` files hold it: embeddings of all positions but the last, and tokens around
    the last.

    Attributes:
        key: As in `VoiceCodes`.
        embeddings: float32 [positions - 1, dim], summed over all streams.
        tokens: int64 [17, 4]: what goes in at position p stands in column p % 4. The columns of the last
            position and of the one after it are used.
    """

    key: str
    embeddings: NDArray[np.float32]
    tokens: NDArray[np.int64]

    @property
    def positions(self) -> int:
        """Positions of the language model that the voice takes."""
        return len(self.embeddings) + 1


Voice = VoiceCodes | VoiceEmbeddings


@dataclass(frozen=True)
class Prompt:
    """A persona: its voice and its text prompt.

    Attributes:
        voice: How it sounds.
        text: Text tokens, taken as they are. `<system>` must be around them already.
    """

    voice: Voice
    text: tuple[int, ...] = ()

    @property
    def positions(self) -> int:
        """Positions of the language model, 80 ms each, that the prompt takes."""
        return self.voice.positions + SILENT_FRAMES + len(self.text) + SILENT_FRAMES


@dataclass(frozen=True, eq=False)
class PromptRows:
    """What goes in at each position, from `first` on: acoustic codes already stand one position late.

    Attributes:
        first: The position of row 0; a `.pt` voice gives those before it as embeddings.
        tokens: int64 [rows, 17]: text, 8 agent codes, 8 caller's codes.
    """

    first: int
    tokens: NDArray[np.int64] = field(repr=False)


def rows_of(prompt: Prompt, padding: int) -> PromptRows:
    """Lays a prompt out.

    Positions 0 (and 1 for acoustic codes) have no frame before them: what stands there is replaced by the
    initial token where rows are embedded.

    Args:
        prompt: The persona.
        padding: The text token that means "nothing said".
    """
    voice = prompt.voice
    texts = [padding] * SILENT_FRAMES + list(prompt.text) + [padding] * SILENT_FRAMES
    spoken = np.tile(np.array(SILENCE), (len(texts), 1))
    before = np.array([*SILENCE[1:], *SINE[1:]])  # replaced by the initial token where nothing comes before
    head = np.empty((0, STREAMS), np.int64)
    first = 0
    if isinstance(voice, VoiceCodes):
        texts = [padding] * len(voice.codes) + texts
        spoken = np.concatenate([voice.codes, spoken])
    else:
        first = len(voice.embeddings)
        last, after = (voice.tokens[:, at % VOICE_TOKEN_POSITIONS] for at in (first, first + 1))
        head = last[None]
        before = np.concatenate([after[2 : 1 + CODEBOOKS], after[2 + CODEBOOKS :]])
    heard = np.tile(np.array(SINE), (len(texts), 1))
    rows = np.concatenate([np.array(texts, np.int64)[:, None], spoken, heard], axis=1)
    late = [*range(2, 1 + CODEBOOKS), *range(2 + CODEBOOKS, STREAMS)]
    rows[:, late] = np.concatenate([before[None], rows[:-1, late]])
    return PromptRows(first, np.concatenate([head, rows]))
