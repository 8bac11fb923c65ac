"""The speech of the rehearsal engine: a greeting, and then a repetition of the caller in each pause.

Like the model that it replaces, it takes a block of 80 ms and returns a block; it has no other clock. It
always
listens: the caller's words during the greeting or a repetition are an utterance like any other. An utterance
interrupts a repetition.
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
    """The result of a step: `BLOCK_SAMPLES` of sound, and its text, which is often empty."""

    pcm: Pcm
    text: str


class Speaker(Protocol):
    """Decides what to say, in place of the model."""

    def step(self, heard: Pcm) -> Said:
        """Takes a block of the caller and returns a block of the agent, both of `BLOCK_SAMPLES`."""
        ...


class Echo:
    """Says in each step what it hears in it, for measuring delays."""

    def step(self, heard: Pcm) -> Said:
        """Takes a block of the caller and returns it."""
        return Said(heard, "")


@dataclass(frozen=True)
class Speech:
    """Recorded speech.

    Attributes:
        pcm: Samples at 24 kHz, a whole number of blocks.
        words: For each word, the block in which it begins, and its text with a leading space.
    """

    pcm: Pcm
    words: tuple[tuple[int, str], ...]


def whole_blocks(pcm: Pcm) -> Pcm:
    """`pcm`, with silence added up to a whole number of blocks."""
    return np.pad(pcm, (0, -len(pcm) % BLOCK_SAMPLES)).astype(np.float32, copy=False)


@functools.cache
def greeting() -> Speech:
    """The greeting that the package contains."""
    assets = resources.files("pxbridge") / "assets"
    words = json.loads((assets / "greeting.json").read_text(encoding="utf-8"))["words"]
    packets = PageReader().read((assets / "greeting.ogg").read_bytes())
    decoder = OpusDecoder(ENGINE_RATE_HZ)
    pcm = whole_blocks(np.concatenate([decoder.decode(packet) for packet in packets]))
    pcm.setflags(write=False)  # all sessions share it
    return Speech(pcm, tuple((word["at_ms"] // BLOCK_MS, word["text"]) for word in words))


# Levels are measured in quarters of a block, because 80 ms may contain a syllable and the gap after it.
_QUARTERS: Final = 4
# The floor estimates the background level. It falls at once and rises slowly, so that speech, which is quiet
# between syllables, does not raise it.
_FLOOR_RISE_DB: Final = 0.15  # per block, nearly 2 dB per second: a new noise is learnt within ten seconds
_FLOOR_RANGE_DBFS: Final = (-70.0, -35.0)
_SPEECH_OVER_FLOOR_DB: Final = 9.0
_SPEECH_AT_LEAST_DBFS: Final = -48.0  # a quiet caller; quieter sound is the line's noise
_SILENCE_POWER: Final = 1e-12


@dataclass
class VoiceActivity:
    """Tells speech from background noise by its level."""

    _floor_dbfs: float | None = None

    def hears_speech(self, block: Pcm) -> bool:
        """Whether this block contains speech, given the blocks before it."""
        power = np.square(block.reshape(_QUARTERS, -1), dtype=np.float64).mean(axis=1)
        quarters_dbfs = 10.0 * np.log10(power + _SILENCE_POWER)
        lowest = float(quarters_dbfs.min())
        floor = lowest if self._floor_dbfs is None else min(lowest, self._floor_dbfs + _FLOOR_RISE_DB)
        self._floor_dbfs = min(max(floor, _FLOOR_RANGE_DBFS[0]), _FLOOR_RANGE_DBFS[1])
        threshold = max(self._floor_dbfs + _SPEECH_OVER_FLOOR_DB, _SPEECH_AT_LEAST_DBFS)
        return float(quarters_dbfs.max()) > threshold


_SPOKEN_BLOCKS: Final = 2  # anything shorter is a click, which neither interrupts nor is repeated
_PAUSE_BLOCKS: Final = 9  # 0.72 s: longer than gaps in a sentence, and a short wait for the caller
_MARGIN_BLOCKS: Final = 2  # repeated before and after the speech, whose edges are below the threshold
_LONGEST_UTTERANCE_BLOCKS: Final = 375  # 30 s; of a longer utterance only the end is repeated


@dataclass
class UtteranceDetector:
    """Cuts what it hears into utterances, exact to the sample."""

    _activity: VoiceActivity = field(default_factory=VoiceActivity)
    _before: deque[Pcm] = field(default_factory=lambda: deque(maxlen=_MARGIN_BLOCKS))
    _utterance: deque[Pcm] = field(default_factory=lambda: deque(maxlen=_LONGEST_UTTERANCE_BLOCKS))
    _spoken: int = 0
    _silent: int = 0

    @property
    def caller_speaks(self) -> bool:
        """Whether an utterance is in progress: enough speech, and no pause since."""
        return self._spoken >= _SPOKEN_BLOCKS

    def hear(self, block: Pcm) -> Pcm | None:
        """Takes a block; returns the utterance that ends with it, or None."""
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


_FADE_SAMPLES: Final = ENGINE_RATE_HZ * 5 // 1000  # 5 ms: an interruption must not click
_FADE: Final[Pcm] = np.linspace(1.0, 0.0, _FADE_SAMPLES, dtype=np.float32)
_QUIET: Final[Pcm] = np.zeros(BLOCK_SAMPLES, dtype=np.float32)
_QUIET.setflags(write=False)


@dataclass
class _Greets:
    """Says the greeting to its end, and remembers what it heard meanwhile."""

    speech: Speech
    block: int = 0
    heard: Pcm | None = None


@dataclass
class _Listens:
    """Is silent until the caller has said something and pauses."""


@dataclass
class _Repeats:
    """Repeats what it heard, to the end or until it is interrupted."""

    speech: Speech
    block: int = 0


class Parrot:
    """Greets, listens, repeats::

    greets ──▶ listens ◀──▶ repeats
      └──────────────────────▲
    """

    def __init__(self, first_words: Speech) -> None:
        self._state: _Greets | _Listens | _Repeats = _Greets(first_words)
        self._detector = UtteranceDetector()

    def step(self, heard: Pcm) -> Said:
        """Takes a block of the caller and returns a block of the agent."""
        utterance = self._detector.hear(heard)
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
                if self._detector.caller_speaks:
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
