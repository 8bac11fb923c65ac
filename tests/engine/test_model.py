"""What the scheduler relies on: slots' states, prefixes, and that no caller can harm another one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.engine.rig import (
    ENGINE_CASES,
    Conversation,
    alone,
    code_frames,
    exact_lm_model,
    golden_conversation,
    golden_lm,
    lm_model,
    open_live,
    prompt,
    saved_voice,
    sound_frames,
    step,
    tiny_model,
    voice_codes,
)

from pxbridge.errors import PromptTooLong
from pxbridge.personaplex.config import FRAME_SAMPLES
from pxbridge.personaplex.model import Model
from pxbridge.personaplex.prompt import Prompt, VoiceCodes, VoiceEmbeddings
from pxbridge.personaplex.stepper import Sampling, SlotMisused, Stepper

SILENT = np.zeros(FRAME_SAMPLES, np.float32)
GREEDY = Sampling.greedy()


def random_conversation(case: int, steps: int = 20, sampling: Sampling = GREEDY) -> Conversation:
    codes = np.random.default_rng(case).integers(0, 2048, (steps, 8))
    return Conversation(prompt(case), code_frames(codes), sampling)


def test_the_model_is_a_stepper() -> None:
    model: Stepper = lm_model(slots=3, context=50)
    assert (model.slots, model.context, model.longest_prompt) == (3, 50, 49)


class TestStates:
    def test_a_slot_prefills_then_steps_then_is_closed(self) -> None:
        model = lm_model()
        total = prompt(0).positions
        assert model.open(0, prompt(0), GREEDY) == total
        assert model.prefill(0, total - 1) == 1
        assert model.prefill(0, 100) == 0
        assert list(model.step({0: SILENT})) == [0]
        model.close(0)
        model.close(0)
        assert model.open(0, prompt(1), GREEDY) == prompt(1).positions

    def test_misuse_is_an_error_that_changes_nothing(self) -> None:
        model = lm_model(slots=2)
        with pytest.raises(SlotMisused):
            model.open(2, prompt(0), GREEDY)
        with pytest.raises(SlotMisused):
            model.prefill(0, 1)
        with pytest.raises(SlotMisused):
            model.step({0: SILENT})
        caller = golden_conversation(0)
        model.open(0, caller.prompt, caller.sampling)
        with pytest.raises(SlotMisused):
            model.open(0, prompt(1), GREEDY)
        with pytest.raises(SlotMisused):
            model.step({0: SILENT})
        with pytest.raises(SlotMisused):
            model.warm_up()
        model.prefill(0, 1000)
        with pytest.raises(SlotMisused):
            model.prefill(0, 1)
        with pytest.raises(SlotMisused):
            model.step({0: caller.frames[0], 1: SILENT})
        with pytest.raises(ValueError, match=r"shape \(100,\)"):
            model.step({0: SILENT[:100]})
        assert model.step({}) == {}
        for _ in range(5):
            step(model, {0: caller})
        np.testing.assert_array_equal(caller.tokens, golden_lm(0)[:5])

    def test_a_prompt_may_fill_all_but_one_position_of_the_context(self) -> None:
        positions = prompt(0).positions
        with pytest.raises(PromptTooLong, match=f"takes {positions} positions"):
            lm_model(context=positions).open(0, prompt(0), GREEDY)
        caller = alone(lm_model(context=positions + 1), golden_conversation(0))
        np.testing.assert_array_equal(caller.tokens[0], golden_lm(0)[0])

    @pytest.mark.parametrize(
        "wrong",
        [
            Prompt(voice_codes(0), (1000 + 1,)),
            Prompt(voice_codes(0), (-1,)),
            Prompt(VoiceCodes("x", np.full((3, 8), 2049)), ()),
            Prompt(VoiceEmbeddings("x", np.zeros((3, 31), np.float32), np.zeros((17, 4), np.int64)), ()),
            Prompt(dataclasses.replace(saved_voice(0), tokens=np.full((17, 4), 2049)), ()),
        ],
    )
    def test_a_prompt_that_does_not_fit_the_model_is_refused(self, wrong: Prompt) -> None:
        model = lm_model()
        with pytest.raises(ValueError, match=r"prompt's text|voice of shape"):
            model.open(0, wrong, GREEDY)
        caller = alone(model, random_conversation(0, steps=3))
        assert len(caller.tokens) == 3

    @pytest.mark.parametrize("options", [{"slots": 0}, {"context": 1}])
    def test_a_model_without_room_is_refused(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="at least 1 slot"):
            lm_model(**options)


class TestPrefixes:
    def test_the_second_call_of_a_persona_copies_its_prompt(self) -> None:
        model = lm_model(prefix_bytes=1 << 30)
        for _ in range(2):
            caller = alone(model, golden_conversation(2))
            np.testing.assert_array_equal(caller.tokens[:-1], golden_lm(2))
        counters = model.counters()
        total = prompt(2).positions
        assert (counters.prefix_misses, counters.prefix_hits) == (1, 1)
        assert (counters.prefilled_positions, counters.copied_positions) == (total, total)

    def test_it_knows_the_prompts_that_were_read_to_their_end_and_no_others(self) -> None:
        model = lm_model(prefix_bytes=1 << 30)
        assert not model.knows(prompt(2))
        model.open(0, prompt(2), GREEDY)
        model.prefill(0, prompt(2).positions - 1)
        assert not model.knows(prompt(2))
        model.prefill(0, 1)
        assert model.knows(prompt(2))
        assert not model.knows(dataclasses.replace(prompt(2), text=(*prompt(2).text, 7)))

    def test_a_persona_with_the_same_voice_copies_as_far_as_the_texts_agree(self) -> None:
        model = lm_model(prefix_bytes=1 << 30)
        known, asked = (prompt(0, voice_codes(1)), prompt(1))
        longer = dataclasses.replace(asked, text=(*asked.text[:2], 5, *asked.text[2:]))
        open_live(model, 0, Conversation(longer, []))
        model.close(0)
        left = model.open(0, asked, GREEDY)
        assert left == asked.positions - (voice_codes(1).positions + 6 + 2)
        model.close(0)
        open_live(model, 0, Conversation(known, []))
        model.close(0)
        caller = alone(model, golden_conversation(1))
        np.testing.assert_array_equal(caller.tokens[:-1], golden_lm(1))
        assert model.counters().prefix_partial_hits == 3

    def test_each_voice_has_prefixes_of_its_own(self) -> None:
        model = lm_model(prefix_bytes=1 << 30)
        for case in range(4):
            for voice in (voice_codes(case), saved_voice(case)):
                caller = golden_conversation(case, voice)
                caller.frames = caller.frames[:10]
                np.testing.assert_array_equal(alone(model, caller).tokens, golden_lm(case)[:10])
        assert model.counters().prefix_misses == 8

    def test_a_prefix_serves_any_sampling(self) -> None:
        model = exact_lm_model(prefix_bytes=1 << 30)
        callers = [random_conversation(1, sampling=Sampling(seed=seed)) for seed in (1, 2)]
        found = [alone(model, caller).tokens for caller in [*callers, *callers]]
        expected = [alone(exact_lm_model(), caller).tokens for caller in callers]
        np.testing.assert_array_equal(found, [*expected, *expected])
        assert (found[0] != found[1]).any()

    def test_the_budget_is_kept_and_the_least_recently_used_goes(self) -> None:
        one = lm_model(prefix_bytes=1 << 30)
        for case in range(4):
            open_live(one, case % 1, golden_conversation(case))
            one.close(0)
        budget = one.counters().prefix_bytes - 1  # one too few for four
        model = lm_model(prefix_bytes=budget)
        for case in (0, 1, 2, 0, 3, 0, 1):
            open_live(model, 0, golden_conversation(case))
            model.close(0)
            assert model.counters().prefix_bytes <= budget
        counters = model.counters()
        assert counters.prefix_hits == 2  # 0, twice; 1 had to go for 3
        assert counters.prefix_evictions == 2

    def test_a_prompt_over_the_budget_is_not_kept_and_evicts_nobody(self) -> None:
        model = lm_model(prefix_bytes=1 << 30)
        open_live(model, 0, golden_conversation(0))
        size = model.counters().prefix_bytes
        assert size > 0
        model = lm_model(prefix_bytes=size)
        longer = dataclasses.replace(prompt(0), text=(*prompt(0).text, 9))
        for what in (prompt(0), longer):
            open_live(model, 0, Conversation(what, []))
            model.close(0)
        assert (model.counters().prefixes, model.counters().prefix_evictions) == (1, 0)


class TestCallersDoNotMeet:
    def test_a_reused_slot_keeps_nothing_of_its_last_caller(self) -> None:
        model = exact_lm_model(context=60)
        alone(model, random_conversation(1, steps=100))
        caller = alone(model, random_conversation(0))
        expected = alone(exact_lm_model(context=60), random_conversation(0))
        np.testing.assert_array_equal(caller.tokens, expected.tokens)

    def test_after_a_call_nothing_of_it_is_in_memory(self) -> None:
        model, fresh = tiny_model(), tiny_model()
        open_live(model, 0, Conversation(prompt(0), []))
        for frame in sound_frames(ENGINE_CASES["pcm_0"])[:5]:
            model.step({0: frame})
        model.close(0)
        for name in ("keys", "values", "pinned"):
            assert not getattr(model._lm.cache, name).any()
        for ours, others in ((model._encoder, fresh._encoder), (model._decoder, fresh._decoder)):
            for layer, other in zip(ours._memory.values(), others._memory.values(), strict=True):
                for one, two in zip(layer, other, strict=True):
                    assert torch.equal(one, two)

    def test_a_slot_gets_its_own_prompt_whoever_else_is_prompted(self) -> None:
        model = lm_model(slots=3)
        callers = [golden_conversation(case) for case in range(3)]
        for slot, caller in enumerate(callers):
            model.open(slot, caller.prompt, caller.sampling)
        left = {0, 1, 2}
        while left:
            left -= {slot for slot in left if not model.prefill(slot, 5)}
        for _ in range(10):
            step(model, dict(enumerate(callers)))
        for case, caller in enumerate(callers):
            np.testing.assert_array_equal(caller.tokens, golden_lm(case)[:10])

    @pytest.mark.parametrize("known", ["nothing", "a part"])
    def test_a_prompt_is_prefilled_while_others_talk(self, known: str) -> None:
        """A tick writes a key in every slot; the one that prefills must not find it among its own.

        At position 0 nobody could notice, because every prompt begins with the same initial tokens.
        """
        model = lm_model(slots=2, prefix_bytes=1 << 30)
        talking, prompted = golden_conversation(0), golden_conversation(1)
        if known == "a part":
            open_live(model, 1, Conversation(prompt(2, voice_codes(1)), []))
            model.close(1)
        open_live(model, 0, talking)
        left = model.open(1, prompted.prompt, prompted.sampling)
        assert (left < prompted.prompt.positions) == (known == "a part")
        while model.prefill(1, 3):
            step(model, {0: talking})
        for _ in range(20):
            step(model, {0: talking, 1: prompted})
        np.testing.assert_array_equal(prompted.tokens, golden_lm(1)[:20])
        np.testing.assert_array_equal(talking.tokens, golden_lm(0)[: len(talking.tokens)])

    def test_a_missed_tick_changes_nothing_of_a_seeded_call(self) -> None:
        seeded, other = (random_conversation(case, sampling=Sampling(seed=case)) for case in range(2))
        expected = alone(exact_lm_model(), seeded).tokens
        model = exact_lm_model(slots=2)
        open_live(model, 0, seeded)
        open_live(model, 1, other)
        for tick in range(12):
            step(model, {1: other} if tick % 3 == 1 else {0: seeded, 1: other})
        np.testing.assert_array_equal(seeded.tokens, expected[:8])

    def test_a_caller_whose_sound_is_no_sound_harms_nobody(self) -> None:
        model = tiny_model(slots=2)
        callers = [
            Conversation(prompt(case), sound_frames(ENGINE_CASES[f"pcm_{case}"])[:8]) for case in range(2)
        ]
        poison = [np.full(FRAME_SAMPLES, value, np.float32) for value in (np.nan, np.inf, 3e38, -3e38)]
        callers[1].frames[4:] = poison
        for slot, caller in enumerate(callers):
            open_live(model, slot, caller)
        for _ in range(8):
            step(model, dict(enumerate(callers)))
        np.testing.assert_array_equal(callers[0].tokens, ENGINE_CASES["tokens_0"][:8])
        np.testing.assert_array_equal(callers[1].tokens[:4], ENGINE_CASES["tokens_1"][:4])
        model.close(1)
        after = Conversation(prompt(1), sound_frames(ENGINE_CASES["pcm_1"])[:8])
        open_live(model, 1, after)
        for _ in range(8):
            step(model, {1: after})
        np.testing.assert_array_equal(after.tokens, ENGINE_CASES["tokens_1"][:8])


def test_greedy_takes_the_first_of_equal_logits() -> None:
    """bfloat16 makes many ties, and topk orders them as it likes: the whole model must take argmax."""
    model = lm_model(dtype=torch.bfloat16)
    heads = [model._lm.model._text_head, *model._lm.model._heads]
    with torch.inference_mode():
        for head in heads:
            head.weight[1:] = head.weight[:1]  # type: ignore[attr-defined]
    caller = alone(model, golden_conversation(0))
    assert not caller.tokens[1:].any()


def test_warming_up_leaves_no_trace() -> None:
    model = lm_model(slots=2, prefix_bytes=1 << 30)
    model.warm_up()
    assert model.counters() == lm_model().counters()
    caller = alone(model, golden_conversation(0))
    np.testing.assert_array_equal(caller.tokens[:-1], golden_lm(0))


def test_a_model_too_small_for_the_shortest_prompt_warms_up_too() -> None:
    Model.warm_up(lm_model(context=10))


def test_counters_count() -> None:
    model = lm_model(slots=2)
    open_live(model, 0, golden_conversation(0), chunk=5)
    open_live(model, 1, golden_conversation(1))
    model.step({0: SILENT, 1: SILENT})
    model.step({1: SILENT})
    counters = model.counters()
    assert (counters.ticks, counters.frames) == (2, 3)
    assert counters.prefilled_positions == prompt(0).positions + prompt(1).positions


def test_what_a_step_gives_is_the_callers_to_keep() -> None:
    model = tiny_model()
    open_live(model, 0, Conversation(prompt(0), []))
    frames = sound_frames(ENGINE_CASES["pcm_0"])
    first = model.step({0: frames[0]})[0]
    codes, sound = first.codes.copy(), first.sound.copy()
    model.step({0: frames[1]})
    np.testing.assert_array_equal(first.codes, codes)
    np.testing.assert_array_equal(first.sound, sound)
    assert (first.codes.dtype.name, first.sound.dtype.name) == ("int16", "float32")
