"""How the rehearsal engine makes its sound: a machine turns the caller's packets into steps of 80 ms."""

from __future__ import annotations

import enum
import functools
import itertools
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np

from pxbridge.audio import OpusDecoder, OpusEncoder
from pxbridge.simulation import strict_ogg
from pxbridge.simulation.parrot import BLOCK_MS, BLOCK_SAMPLES, Echo, Parrot, Pcm, Speaker, greeting
from pxbridge.simulation.strict_ogg import ENGINE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence


class Mode(enum.StrEnum):
    """What the rehearsal engine says."""

    PARROT = "parrot"
    """Greets, then repeats what the caller said."""
    ECHO = "echo"
    """Says in each step what it hears in it, for measuring delays."""
    CANNED = "canned"
    """Repeats the greeting, without decoding or encoding: the cheapest."""
    RELAY = "relay"
    """Echoes packets, without decoding or encoding, for the delays of many calls at the same time."""


class Step(NamedTuple):
    """The result of one step: Opus packets of 80 ms in all, and its text, which is often empty."""

    packets: Sequence[bytes]
    text: str


# sphn 0.1 uses the defaults of libopus: VOIP, complexity 9, and 60 bits per frame plus one bit per sample,
# which for 80 ms at 24 kHz is this rate. It is variable: speech needs some 14 kbit/s.
_BITRATE_BPS: Final = 60 * 1000 // BLOCK_MS + ENGINE_RATE_HZ
_COMPLEXITY: Final = 9


def _engine_encoder() -> OpusEncoder:
    return OpusEncoder(
        ENGINE_RATE_HZ,
        application="voip",
        bitrate_bps=_BITRATE_BPS,
        complexity=_COMPLEXITY,
        frame_ms=BLOCK_MS,
    )


class Machine(Protocol):
    """Turns the caller's packets into steps."""

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        ...

    def is_ready(self) -> bool:
        """Whether the caller has sent enough for a step."""
        ...

    def step(self) -> Step:
        """Uses 80 ms of the caller's audio and returns 80 ms of the agent's."""
        ...


class CodecMachine:
    """Decodes the caller, asks a speaker, and encodes its answer as `sphn` 0.1 does."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._decoder = OpusDecoder(ENGINE_RATE_HZ)
        self._encoder = _engine_encoder()
        self._heard: list[Pcm] = []
        self._heard_samples = 0

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        pcm = self._decoder.decode(packet)
        self._heard.append(pcm)
        self._heard_samples += len(pcm)

    def is_ready(self) -> bool:
        """Whether there are 1920 samples of the caller."""
        return self._heard_samples >= BLOCK_SAMPLES

    def step(self) -> Step:
        """Uses a block of the caller and returns the speaker's."""
        pcm = np.concatenate(self._heard)
        self._heard = [pcm[BLOCK_SAMPLES:]]
        self._heard_samples -= BLOCK_SAMPLES
        said = self._speaker.step(pcm[:BLOCK_SAMPLES])
        return Step([self._encoder.encode(said.pcm)], said.text)


class CannedMachine:
    """Counts the caller's samples by the headers of packets, and answers with packets made beforehand."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = itertools.cycle(steps)
        self._heard_samples = 0

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        self._heard_samples += strict_ogg.packet_samples(packet)

    def is_ready(self) -> bool:
        """Whether there are 1920 samples of the caller."""
        return self._heard_samples >= BLOCK_SAMPLES

    def step(self) -> Step:
        """Uses a block and returns the next packet."""
        self._heard_samples -= BLOCK_SAMPLES
        return next(self._steps)


class RelayMachine:
    """Answers with the caller's own packets. Those of a step are joined into one, if that is possible."""

    def __init__(self) -> None:
        self._heard: deque[tuple[bytes, int]] = deque()
        self._heard_samples = 0

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        samples = strict_ogg.packet_samples(packet)
        self._heard.append((packet, samples))
        self._heard_samples += samples

    def is_ready(self) -> bool:
        """Whether there are 1920 samples of the caller."""
        return self._heard_samples >= BLOCK_SAMPLES

    def step(self) -> Step:
        """Uses the packets of a block and returns them."""
        taken: list[bytes] = []
        left = BLOCK_SAMPLES
        while left > 0:
            packet, samples = self._heard.popleft()
            taken.append(packet)
            left -= samples
            self._heard_samples -= samples
        joined = strict_ogg.join_packets(taken)
        return Step(taken if joined is None else [joined], "")


@functools.cache
def _canned_steps() -> tuple[Step, ...]:
    encoder = _engine_encoder()
    speech = greeting()
    blocks = speech.pcm.reshape(-1, BLOCK_SAMPLES)
    words = dict(speech.words)
    return tuple(Step([encoder.encode(block)], words.get(number, "")) for number, block in enumerate(blocks))


def make_machine(mode: Mode) -> Machine:
    """The machine of a new session."""
    match mode:
        case Mode.PARROT:
            return CodecMachine(Parrot(greeting()))
        case Mode.ECHO:
            return CodecMachine(Echo())
        case Mode.CANNED:
            return CannedMachine(_canned_steps())
        case Mode.RELAY:
            return RelayMachine()
