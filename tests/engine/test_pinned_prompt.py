"""The prompt that stays in attention, against a cache that never wraps; and the ways that rings are read."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
import torch
from tests.engine.rig import Conversation, alone, by_chance, code_frames, exact_lm_model, prompt

from pxbridge.personaplex import lm_slots, model
from pxbridge.personaplex.attention import Angles, KvCache, Reach, Rope
from pxbridge.personaplex.stepper import Sampling
from pxbridge.personaplex.varlen import Varlen, trial_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pxbridge.personaplex.attention import Attention, Pin
    from pxbridge.personaplex.config import LmConfig

CONTEXT = 40
RINGS = 3


def long_conversation(case: int, steps: int = RINGS * CONTEXT) -> Conversation:
    chance = np.random.default_rng(case)
    return Conversation(prompt(case), code_frames(chance.integers(0, 2048, (steps, 8))))


class UnwrappedCache(KvCache):
    """Holds every position, not rotated; a mask says what a ring would hold.

    Each key is rotated by its distance to the query, which is told for each pair. For one slot.
    """

    positions = 500

    def __init__(
        self, config: LmConfig, slots: int, context: int, pin: Pin, dtype: torch.dtype, *rest: Any
    ) -> None:
        super().__init__(config, slots, self.positions, pin, dtype, *rest)
        self.window = context
        self.turning = Rope(config.head_dim, config.max_period, dtype, torch.device("cpu"))

    def attend(self, layer: int, projected: Tensor, start: int) -> Tensor:
        query, key, value = projected.unbind(2)
        out = []
        for offset in range(query.shape[1]):
            at = start + offset
            self.keys[layer, 0, at], self.values[layer, 0, at] = key[0, offset], value[0, offset]
            pinned = int(self.pinned[0])
            seen = torch.tensor([j for j in range(at + 1) if j < pinned or j > at - (self.window - pinned)])
            distance = at - seen
            if self.pin == "near" and at >= self.window:
                distance = torch.where(seen < pinned, self.window - 1 - seen, distance)
            back = Angles(self.turning.angles(distance[None]).rotation.conj())
            keys = back.turn(self.keys[layer, :1, seen])[0]
            scores = torch.einsum("hd,khd->hk", query[0, offset], keys) / math.sqrt(keys.shape[-1])
            out.append(torch.einsum("hk,khd->hd", scores.softmax(-1), self.values[layer, 0, seen]))
        return torch.stack(out)[None]

    def tick(self, position: Tensor, reach: Reach) -> Attention:
        del reach
        return lambda layer, projected: self.attend(layer, projected, int(position[0]))

    def chunk(self, slot: int, start: int, length: int) -> Attention:
        del slot, length
        return lambda layer, projected: self.attend(layer, projected, start)


@pytest.mark.parametrize("pin", ["near", "absolute", "off"])
@pytest.mark.parametrize("case", range(2))
def test_a_ring_is_an_unwrapped_cache_with_a_mask(pin: Pin, case: int) -> None:
    conversation = long_conversation(case)
    with mock.patch.object(lm_slots, "KvCache", UnwrappedCache):
        reference = alone(exact_lm_model(context=CONTEXT, pin=pin), conversation)
    found = alone(exact_lm_model(context=CONTEXT, pin=pin), conversation)
    np.testing.assert_array_equal(found.tokens, reference.tokens)


def test_the_pins_differ_once_the_ring_is_full_and_not_before() -> None:
    conversation = long_conversation(0)
    pins: list[Pin] = ["near", "absolute", "off"]
    near, absolute, off = (
        alone(exact_lm_model(context=CONTEXT, pin=pin), conversation).tokens for pin in pins
    )
    full = CONTEXT - conversation.prompt.positions  # the first step whose key replaces another
    for one, other in ((near, absolute), (near, off), (absolute, off)):
        np.testing.assert_array_equal(one[:full], other[:full])
        assert (one[full:] != other[full:]).any()


def callers_of_all_lengths() -> list[Conversation]:
    callers = [
        long_conversation(case, steps) for case, steps in ((0, 10), (1, 50), (2, 30), (3, 20), (0, 45))
    ]
    callers[1].sampling = Sampling(0.7, 3, 0.8, 20, seed=1)
    callers[4].sampling = Sampling(seed=2)
    return callers


@pytest.mark.parametrize("pin", ["near", "absolute"])
def test_the_widest_limits_as_a_cuda_graph_has_them_change_nothing(pin: Pin) -> None:
    expected = by_chance(exact_lm_model(slots=3, context=CONTEXT, pin=pin), callers_of_all_lengths(), seed=1)
    with mock.patch.object(lm_slots.LmSlots, "limits", lambda slots, *_: slots.widest):
        found = by_chance(exact_lm_model(slots=3, context=CONTEXT, pin=pin), callers_of_all_lengths(), seed=1)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def varlen_by_its_documentation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: object,
    seqused_k: Tensor,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What `torch.nn.attention.varlen.varlen_attn` computes, for one query each.

    Flash attention gives nothing, and infinity as log-sum-exp, where there are no keys.
    """
    assert (max_q, num_splits) == (1, 1)
    assert return_aux is not None
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == torch.int32
    out, weight = torch.zeros_like(query), query.new_full((query.shape[1], len(query)), torch.inf)
    for row, (start, used) in enumerate(zip(cu_seq_k[:-1].tolist(), seqused_k.tolist(), strict=True)):
        assert cu_seq_q[row] == row
        assert used <= max_k
        if used:
            keys, values = key[start : start + used], value[start : start + used]
            scores = torch.einsum("hd,khd->hk", query[row], keys) / math.sqrt(query.shape[-1])
            weight[:, row] = scores.logsumexp(-1)
            out[row] = torch.einsum("hk,khd->hd", scores.softmax(-1), values)
    return out, weight


def varlen(slots: int, context: int, *_: object) -> Varlen:
    return Varlen(varlen_by_its_documentation, object(), slots, context, torch.device("cpu"))


@pytest.mark.parametrize("pin", ["near", "absolute", "off"])
def test_reading_only_what_is_filled_changes_nothing(pin: Pin) -> None:
    expected = by_chance(exact_lm_model(slots=3, context=CONTEXT, pin=pin), callers_of_all_lengths(), seed=1)
    with mock.patch.object(model, "filled_attention", varlen):
        found = by_chance(exact_lm_model(slots=3, context=CONTEXT, pin=pin), callers_of_all_lengths(), seed=1)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def broken(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    def ignores_what_is_used(*args: Any, seqused_k: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return function(*args, seqused_k=torch.full_like(seqused_k, 5), **options)

    ignores_what_is_used.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return ignores_what_is_used


def test_the_trial_tells_an_attention_that_is_right_from_one_that_is_wrong() -> None:
    device = torch.device("cpu")
    assert trial_error(varlen(2, 64), 4, 16, torch.float32, device) < 1e-5
    assert trial_error(varlen(2, 64), 4, 16, torch.bfloat16, device) < 0.01
    wrong = Varlen(broken(varlen_by_its_documentation), object(), 2, 64, device)
    assert trial_error(wrong, 4, 16, torch.float32, device) > 0.1
