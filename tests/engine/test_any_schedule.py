"""Whatever is done to a model's slots, in whatever order: a conversation is what it is when it is alone."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.rig import Conversation, alone, code_frames, exact_lm_model, prompt, saved_voice, step

from pxbridge.personaplex.stepper import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pxbridge.personaplex.attention import Pin
    from pxbridge.personaplex.model import Model

CONTEXT = 40
"""Prompts take 24 to 28 positions of it, so that rings wrap after 12 to 16 steps."""
STEPS = 48
CALLERS = 6


@cache
def caller(index: int) -> Conversation:
    chance = np.random.default_rng(index)
    case = index % 4
    samplings = (
        Sampling(seed=7),
        Sampling.greedy(),
        Sampling(0.5, 10, 1.2, 500, seed=-1),
        Sampling(1.0, 1, 0.8, 30, seed=2**70),
    )
    voice = saved_voice(case) if index >= 4 else None
    frames = code_frames(chance.integers(0, 2048, (STEPS, 8)))
    return Conversation(prompt(case, voice), frames, samplings[case])


@cache
def expected(index: int, pin: Pin) -> NDArray[np.int64]:
    return alone(exact_lm_model(context=CONTEXT, pin=pin), caller(index)).tokens


class Schedule:
    """Callers in a model's slots; each event does one of the things that can be done now."""

    def __init__(self, model: Model, pin: Pin) -> None:
        self.model = model
        self.pin = pin
        self.callers: dict[int, int] = {}
        self.prefilling: dict[int, Conversation] = {}
        self.live: dict[int, Conversation] = {}

    def event(self, which: int, where: int, amount: int) -> None:
        possible = [self.close] * bool(self.callers) + [self.prefill] * (3 * bool(self.prefilling))
        possible += [self.step] * (5 * bool(self.live))
        possible += [self.open] * (3 * (len(self.callers) < self.model.slots))
        possible[which % len(possible)](where, amount)

    def open(self, where: int, amount: int) -> None:
        slot = nth([slot for slot in range(self.model.slots) if slot not in self.callers], where)
        index = amount % CALLERS
        conversation = caller(index).again()
        self.callers[slot] = index
        left = self.model.open(slot, conversation.prompt, conversation.sampling)
        (self.prefilling if left else self.live)[slot] = conversation

    def prefill(self, where: int, amount: int) -> None:
        slot = nth(sorted(self.prefilling), where)
        if not self.model.prefill(slot, 1 + amount % 30):
            self.live[slot] = self.prefilling.pop(slot)

    def step(self, where: int, amount: int) -> None:
        """Some of the live slots, a few times; the others miss these ticks."""
        first = nth(sorted(self.live), where)
        slots = {first, *(slot for slot in self.live if where >> slot & 8)}
        for _ in range(1 + amount % 16):
            ready = {slot: self.live[slot] for slot in slots if not self.live[slot].done}
            if ready:
                step(self.model, ready)

    def close(self, where: int, amount: int = 0) -> None:
        del amount
        slot = nth(sorted(self.callers), where)
        self.model.close(slot)
        index = self.callers.pop(slot)
        self.prefilling.pop(slot, None)
        if (conversation := self.live.pop(slot, None)) is not None:
            tokens = conversation.tokens
            np.testing.assert_array_equal(tokens, expected(index, self.pin)[: len(tokens)])


def nth(values: list[int], which: int) -> int:
    return values[which % len(values)]


NUMBER = st.integers(0, 2**10 - 1)


@settings(max_examples=20, deadline=None)
@given(
    slots=st.sampled_from([1, 2, 3, 5]),
    pin=st.sampled_from(["near", "absolute", "off"]),
    prefix_bytes=st.sampled_from([0, 40_000, 1 << 30]),
    events=st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=30, max_size=50),
)
def test_any_schedule_gives_what_a_conversation_alone_gives(
    slots: int, pin: Pin, prefix_bytes: int, events: list[tuple[int, int, int]]
) -> None:
    model = exact_lm_model(slots=slots, context=CONTEXT, pin=pin, prefix_bytes=prefix_bytes)
    schedule = Schedule(model, pin)
    for event in events:
        schedule.event(*event)
    while schedule.callers:
        schedule.close(0)


def test_the_callers_of_this_test_differ() -> None:
    assert len({expected(index, "near").tobytes() for index in range(CALLERS)}) == CALLERS
    assert (expected(0, "near") != expected(0, "off")).any()
