"""The tiny model, and conversations with it: alone or by any schedule."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from tests.engine import tiny

from pxbridge.personaplex import checkpoint
from pxbridge.personaplex import model as model_module
from pxbridge.personaplex.config import CODEBOOKS, FRAME_SAMPLES
from pxbridge.personaplex.model import Model, Options
from pxbridge.personaplex.prompt import Prompt, Voice, VoiceCodes, VoiceEmbeddings
from pxbridge.personaplex.stepper import Sampling, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

CASES = np.load(tiny.FOLDER / "cases.npz")
MIMI_CASES = np.load(tiny.FOLDER / "mimi_cases.npz")
ENGINE_CASES = np.load(tiny.FOLDER / "engine_cases.npz")


@cache
def lm_tensors() -> dict[str, Tensor]:
    return dict(checkpoint.open_lm(tiny.LM_FILE, tiny.LM))


@cache
def mimi_tensors() -> dict[str, Tensor]:
    return dict(checkpoint.open_mimi(tiny.MIMI_FILE, tiny.MIMI))


def tiny_model(**options: Any) -> Model:
    """The model as it ships."""
    return Model(tiny.LM, tiny.MIMI, lm_tensors(), mimi_tensors(), Options(**options))


def lm_model(**options: Any) -> Model:
    """The model without Mimi: a frame begins with the caller's 8 codes, and no sound comes out."""
    with mock.patch.object(model_module, "Mimi", _NoCodec):
        return tiny_model(**options)


def exact_lm_model(**options: Any) -> Model:
    """In float64: rounding differs with the batch, and changes some draw in 100 000 in float32."""
    return lm_model(dtype=torch.float64, **options)


class _NoCodec:
    def __init__(self, *_: object) -> None: ...

    def encoder(self, slots: int) -> _NoStream:
        del slots
        return _NoStream()

    decoder = encoder

    def started_decoder(self) -> _NoStream:
        return _NoStream()

    def encode(self, stream: _NoStream, sound: Tensor, running: Tensor) -> Tensor:
        del stream, running
        return sound[:, :CODEBOOKS].long()

    def decode(self, stream: _NoStream, codes: Tensor, running: Tensor) -> Tensor:
        del stream, running
        return torch.zeros(len(codes), FRAME_SAMPLES)


class _NoStream:
    def copy(self, slot: int, other: _NoStream) -> None: ...


def code_frames(codes: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Frames for `lm_model`, of codes [frames, 8]."""
    frames = np.zeros((len(codes), FRAME_SAMPLES), np.float32)
    frames[:, :CODEBOOKS] = codes
    return list(frames)


def sound_frames(sound: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return list(sound.reshape(-1, FRAME_SAMPLES))


def voice_codes(case: int) -> VoiceCodes:
    return VoiceCodes(f"codes {case}", CASES[f"voice_{case}"].astype(np.int64))


def saved_voice(case: int) -> VoiceEmbeddings:
    found = torch.load(tiny.FOLDER / f"voice-{case}.pt", map_location="cpu", weights_only=True)
    embeddings, tokens = found["embeddings"][:, 0, 0].float().numpy(), found["cache"][0].numpy()
    return VoiceEmbeddings(f"saved {case}", embeddings, tokens)


def prompt(case: int, voice: Voice | None = None) -> Prompt:
    """The prompt of a golden case."""
    return Prompt(voice or voice_codes(case), tuple(int(token) for token in CASES[f"text_{case}"]))


def golden_lm(case: int) -> NDArray[np.int64]:
    """What comes of a golden case's caller, step by step, in moshi's timing: [59, 9]."""
    return CASES[f"out_{case}"][1:, :9].astype(np.int64)


@dataclass(eq=False)
class Conversation:
    """A caller: the prompt, how to sample, what is said; and what the agent did so far."""

    prompt: Prompt
    frames: list[NDArray[np.float32]]
    sampling: Sampling = field(default_factory=Sampling.greedy)
    steps: list[Step] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.steps) == len(self.frames)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """[steps, 9]."""
        return np.array([[step.text, *step.codes] for step in self.steps], np.int64).reshape(-1, 9)

    @property
    def sound(self) -> NDArray[np.float32]:
        return np.concatenate([step.sound for step in self.steps])

    def again(self) -> Conversation:
        """The same caller, before the first step."""
        return dataclasses.replace(self, steps=[])


def golden_conversation(case: int, voice: Voice | None = None) -> Conversation:
    """A case of the language model; for `lm_model`."""
    return Conversation(prompt(case, voice), code_frames(CASES[f"user_{case}"]))


def open_live(model: Model, slot: int, conversation: Conversation, chunk: int = 1000) -> None:
    if model.open(slot, conversation.prompt, conversation.sampling):
        while model.prefill(slot, chunk):
            pass


def alone(model: Model, conversation: Conversation, chunk: int = 1000) -> Conversation:
    """Runs a caller from the beginning to the end in slot 0, with nobody else there."""
    caller = conversation.again()
    open_live(model, 0, caller, chunk)
    for frame in caller.frames:
        caller.steps.append(model.step({0: frame})[0])
    model.close(0)
    return caller


def step(model: Model, callers: Mapping[int, Conversation]) -> None:
    """Each caller, by slot, says the next frame."""
    found = model.step({slot: caller.frames[len(caller.steps)] for slot, caller in callers.items()})
    for slot, caller in callers.items():
        caller.steps.append(found[slot])


def by_chance(model: Model, conversations: list[Conversation], seed: int) -> list[Conversation]:
    """Runs callers as they might come: each when a slot is free, with chunks of prefill between ticks, and
    a frame of each missing now and then.
    """
    chance = np.random.default_rng(seed)
    waiting = [conversation.again() for conversation in conversations]
    callers = list(waiting)
    prefilling: dict[int, Conversation] = {}
    live: dict[int, Conversation] = {}
    while waiting or prefilling or live:
        for slot in range(model.slots):
            if waiting and slot not in prefilling and slot not in live and chance.random() < 0.4:
                caller = waiting.pop(0)
                left = model.open(slot, caller.prompt, caller.sampling)
                (prefilling if left else live)[slot] = caller
        if prefilling:
            slot = next(iter(prefilling))
            if not model.prefill(slot, int(chance.integers(1, 12))):
                live[slot] = prefilling.pop(slot)
        ready = {slot: caller for slot, caller in live.items() if chance.random() < 0.75}
        if ready:
            step(model, ready)
        for slot in [slot for slot, caller in live.items() if caller.done]:
            del live[slot]
            model.close(slot)
    return callers
