"""What the rehearsal engine says: a greeting, then what the caller said, when the caller pauses.

The one idea: like the model it stands in for, it is asked once per 80 ms, hears a block and says a block;
there is no other time. Hearing never stops: what is said during the greeting or over a repetition is an
utterance like any other, and one of those interrupts a repetition.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from dataclasses import dataclass, field
from importlib import resources
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pxbridge.audio import OpusDecoder
from pxbridge.simulation.strict_ogg import ENGINE_RATE_HZ, PageReader

Pcm = npt.NDArray[np.float32]

BLOCK_SAMPLES: Final = 1920
"""One step of the model: 80 ms at 24 kHz."""
BLOCK_MS: Final = 80


class Said(NamedTuple):
    """What a step brings: `BLOCK_SAMPLES` of sound and the text that belongs to it, often none."""

    pcm: Pcm
    text: str


class Mind(Protocol):
    """Stands where the model stands."""

    def step(self, heard: Pcm) -> Said:
        """Takes a block of the caller, returns a block of the agent; both of `BLOCK_SAMPLES`."""
        ...


class Echo:
    """Says in each step what it hears in the same step. For measuring delays."""

    def step(self, heard: Pcm) -> Said:
        """Takes a block of the caller and returns it."""
        return Said(heard, "")


@dataclass(frozen=True)
class Speech:
    """Something to say.

    Attributes:
        pcm: Samples at 24 kHz, a whole number of blocks.
        words: The block in which each word begins, and the word with its leading space.
    """

    pcm: Pcm
    words: tuple[tuple[int, str], ...]


def whole_blocks(pcm: Pcm) -> Pcm:
    """Returns `pcm` with silence added up to a whole number of blocks."""
    return np.pad(pcm, (0, -len(pcm) % BLOCK_SAMPLES)).astype(np.float32, copy=False)


@functools.cache
def greeting() -> Speech:
    """Returns the greeting that is shipped with the package."""
    assets = resources.files("pxbridge") / "assets"
    words = json.loads((assets / "greeting.json").read_text(encoding="utf-8"))["words"]
    packets = PageReader().read((assets / "greeting.ogg").read_bytes())
    decoder = OpusDecoder(ENGINE_RATE_HZ)
    pcm = whole_blocks(np.concatenate([decoder.decode(packet) for packet in packets]))
    pcm.setflags(write=False)  # all sessions share it
    return Speech(pcm, tuple((word["at_ms"] // BLOCK_MS, word["text"]) for word in words))


# A block is judged by its quarters: in 80 ms a syllable and the gap after it would melt into one.
_QUARTERS: Final = 4
# The floor is the lowest level met lately: it follows downwards at once and upwards slowly, so that speech,
# which dips between syllables, does not lift it.
_FLOOR_RISE_DB: Final = 0.15  # per block, nearly 2 dB a second: a new noise is learnt within ten seconds
_FLOOR_RANGE_DBFS: Final = (-70.0, -35.0)
_SPEECH_OVER_FLOOR_DB: Final = 9.0
_SPEECH_AT_LEAST_DBFS: Final = -48.0  # a quiet caller; what is below is the line
_SILENCE_POWER: Final = 1e-12


@dataclass
class VoiceActivity:
    """Tells speech from background by its level."""

    _floor_dbfs: float | None = None

    def hears_speech(self, block: Pcm) -> bool:
        """Whether there is speech in this block, given those before it."""
        power = np.square(block.reshape(_QUARTERS, -1), dtype=np.float64).mean(axis=1)
        quarters_dbfs = 10.0 * np.log10(power + _SILENCE_POWER)
        lowest = float(quarters_dbfs.min())
        floor = lowest if self._floor_dbfs is None else min(lowest, self._floor_dbfs + _FLOOR_RISE_DB)
        self._floor_dbfs = min(max(floor, _FLOOR_RANGE_DBFS[0]), _FLOOR_RANGE_DBFS[1])
        threshold = max(self._floor_dbfs + _SPEECH_OVER_FLOOR_DB, _SPEECH_AT_LEAST_DBFS)
        return float(quarters_dbfs.max()) > threshold


_SPOKEN_BLOCKS: Final = 2  # less is a click or a knock, which neither interrupts nor is repeated
_PAUSE_BLOCKS: Final = 9  # 0.72 s: longer than the gaps inside a sentence, short enough not to seem dead
_MARGIN_BLOCKS: Final = 2  # repeated before and after the speech itself, as its edges are below the threshold
_LONGEST_UTTERANCE_BLOCKS: Final = 375  # 30 s; of a longer one the end is repeated


@dataclass
class TelephonyServer:
    """Cuts what it hears into utterances, exact to the sample."""

    _activity: VoiceActivity = field(default_factory=VoiceActivity)
    _before: deque[Pcm] = field(default_factory=lambda: deque(maxlen=_MARGIN_BLOCKS))
    _utterance: deque[Pcm] = field(default_factory=lambda: deque(maxlen=_LONGEST_UTTERANCE_BLOCKS))
    _spoken: int = 0
    _silent: int = 0

    @property
    def caller_speaks(self) -> bool:
        """Whether an utterance is under way: speech long enough to be one, and no pause since."""
        return self._spoken >= _SPOKEN_BLOCKS

    def hear(self, block: Pcm) -> Pcm | None:
        """Takes a block; returns the utterance that ended with it, if one did."""
        if self._activity.hears_speech(block):
            if not self._spoken:
                self._utterance.extend(self._before)
            self._spoken += 1
            self._silent = 0
        elif self._spoken:
            self._silent += 1
        else:
            self._before.append(block)
            return None
        self._utterance.append(block)
        return self._end() if self._silent == _PAUSE_BLOCKS else None

    def _end(self) -> Pcm | None:
        blocks = list(self._utterance)[: _MARGIN_BLOCKS - _PAUSE_BLOCKS]
        whole = np.concatenate(blocks) if self.caller_speaks else None
        self._before.extend(self._utterance)
        self._utterance.clear()
        self._spoken = self._silent = 0
        return whole


_FADE_SAMPLES: Final = ENGINE_RATE_HZ * 5 // 1000  # 5 ms: breaking off must not click
_FADE: Final[Pcm] = np.linspace(1.0, 0.0, _FADE_SAMPLES, dtype=np.float32)
_QUIET: Final[Pcm] = np.zeros(BLOCK_SAMPLES, dtype=np.float32)
_QUIET.setflags(write=False)


@dataclass
class _Greets:
    """Its first words: it finishes them, and remembers what it heard meanwhile."""

    speech: Speech
    block: int = 0
    heard: Pcm | None = None


@dataclass
class _Listens:
    """Silent until the caller has said something and pauses."""


@dataclass
class _Repeats:
    """Says what it heard, until the end or until it is interrupted."""

    speech: Speech
    block: int = 0


class Parrot:
    """Greets, listens, repeats::

    greets ──▶ listens ◀──▶ repeats
      └──────────────────────▲
    """

    def __init__(self, first_words: Speech) -> None:
        self._state: _Greets | _Listens | _Repeats = _Greets(first_words)
        self._listener = TelephonyServer()

    def step(self, heard: Pcm) -> Said:
        """Takes a block of the caller, returns a block of the agent."""
        utterance = self._listener.hear(heard)
        match self._state:
            case _Greets() as state:
                if utterance is not None:
                    state.heard = utterance
                return self._say(state, then=state.heard)
            case _Listens():
                if utterance is None:
                    return Said(_QUIET, "")
                self._state = _Repeats(_repetition(utterance))
                return self._say(self._state, then=None)
            case _Repeats() as state:
                if self._listener.caller_speaks:
                    self._state = _Listens()
                    return Said(_broken_off(_block(state.speech, state.block)), "")
                return self._say(state, then=None)

    def _say(self, state: _Greets | _Repeats, then: Pcm | None) -> Said:
        now = state.block
        state.block += 1
        if state.block * BLOCK_SAMPLES >= len(state.speech.pcm):
            self._state = _Listens() if then is None else _Repeats(_repetition(then))
        text = "".join(word for at, word in state.speech.words if at == now)
        return Said(_block(state.speech, now), text)


def _block(speech: Speech, number: int) -> Pcm:
    return speech.pcm[number * BLOCK_SAMPLES : (number + 1) * BLOCK_SAMPLES]


def _broken_off(block: Pcm) -> Pcm:
    faded = np.zeros_like(block)
    faded[:_FADE_SAMPLES] = block[:_FADE_SAMPLES] * _FADE
    return faded


def _repetition(utterance: Pcm) -> Speech:
    return Speech(utterance, ((0, f" [repeats {len(utterance) / ENGINE_RATE_HZ:.1f} s]"),))
