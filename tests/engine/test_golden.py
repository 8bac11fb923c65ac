"""The model against NVIDIA's and Kyutai's own code: token for token, and sound to 1e-4."""

from __future__ import annotations

import numpy as np
import pytest
from tests.engine.rig import (
    CASES,
    ENGINE_CASES,
    Conversation,
    alone,
    by_chance,
    golden_conversation,
    golden_lm,
    lm_model,
    prompt,
    saved_voice,
    sound_frames,
    tiny_model,
)

LM_CASES = range(4)
CONVERSATIONS = range(2)
SOUND_TOLERANCE = 1e-4


@pytest.mark.parametrize("case", LM_CASES)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_conversation_alone_is_nvidias(case: int, chunk: int) -> None:
    caller = alone(lm_model(), golden_conversation(case), chunk)
    np.testing.assert_array_equal(caller.tokens[:-1], golden_lm(case))


@pytest.mark.parametrize("case", LM_CASES)
def test_a_voice_that_nvidia_saved_gives_nvidias_conversation(case: int) -> None:
    caller = alone(lm_model(), golden_conversation(case, saved_voice(case)), chunk=16)
    np.testing.assert_array_equal(caller.tokens[:-1], golden_lm(case))


@pytest.mark.parametrize("slots", [4, 8])
@pytest.mark.parametrize("prefix_bytes", [0, 1 << 30])
def test_many_conversations_at_once_are_nvidias_each(slots: int, prefix_bytes: int) -> None:
    model = lm_model(slots=slots, prefix_bytes=prefix_bytes)
    voices = (None, saved_voice)
    conversations = [
        golden_conversation(case, make and make(case))
        for case, make in zip([*LM_CASES] * 3, voices * 6, strict=True)
    ]
    callers = by_chance(model, conversations, seed=slots)
    for index, caller in enumerate(callers):
        np.testing.assert_array_equal(caller.tokens[:-1], golden_lm(index % 4), err_msg=f"caller {index}")
    assert (model.counters().prefix_hits > 0) == (prefix_bytes > 0)


def conversation(case: int) -> Conversation:
    return Conversation(prompt(case), sound_frames(ENGINE_CASES[f"pcm_{case}"]))


def assert_golden(caller: Conversation, case: int) -> None:
    np.testing.assert_array_equal(caller.tokens, ENGINE_CASES[f"tokens_{case}"])
    np.testing.assert_allclose(caller.sound, ENGINE_CASES[f"sound_{case}"], rtol=0, atol=SOUND_TOLERANCE)


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_a_whole_conversation_alone_sounds_as_kyutais(case: int) -> None:
    assert_golden(alone(tiny_model(), conversation(case)), case)


def test_whole_conversations_at_once_sound_as_kyutais_each() -> None:
    model = tiny_model(slots=3, prefix_bytes=1 << 30)
    model.warm_up()
    cases = [*CONVERSATIONS] * 3
    callers = by_chance(model, [conversation(case) for case in cases], seed=3)
    for caller, case in zip(callers, cases, strict=True):
        assert_golden(caller, case)
    assert model.counters().frames == sum(len(ENGINE_CASES[f"tokens_{case}"]) for case in cases)


def test_the_golden_cases_are_all_used() -> None:
    assert {f"user_{case}" for case in LM_CASES} == {name for name in CASES.files if name.startswith("user")}
    assert {f"pcm_{case}" for case in CONVERSATIONS} == {
        name for name in ENGINE_CASES.files if name.startswith("pcm")
    }
