"""int8 weights, bfloat16 and offloaded layers, against float32 on the device.

Logits are compared where both models are given the same tokens (teacher forcing): a token that falls the
other way must not count for all that follow.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from tests.engine import tiny
from tests.engine.rig import CASES, alone, golden_conversation, golden_lm, lm_model, lm_tensors, prompt

from pxbridge.personaplex.attention import KvCache
from pxbridge.personaplex.lm import LanguageModel
from pxbridge.personaplex.prompt import rows_of

if TYPE_CHECKING:
    from torch import Tensor

    from pxbridge.personaplex.linear import Weights

CPU = torch.device("cpu")
LATE = [*range(2, 9), *range(10, 17)]


def golden_rows(case: int) -> Tensor:
    """What goes in at each position of a golden case: [positions, 17]."""
    frames = CASES[f"out_{case}"].astype(np.int64)
    live = frames[1:].copy()
    live[:, LATE] = frames[:-1, LATE]
    rows = rows_of(prompt(case), tiny.LM.existing_text_padding_id)
    return torch.from_numpy(np.concatenate([rows.tokens, live]))


class Logits(NamedTuple):
    """Of all golden cases.

    Attributes:
        hidden: [positions, dim], the temporal transformer's.
        text: [positions, text tokens].
        codes: [positions, 8, codes].
    """

    hidden: Tensor
    text: Tensor
    codes: Tensor


@cache
def model(dtype: torch.dtype = torch.float32, weights: Weights = "full") -> LanguageModel:
    return LanguageModel(tiny.LM, lm_tensors(), dtype=dtype, device=CPU, weights=weights)


@torch.inference_mode()
def logits(of: LanguageModel, hidden: Tensor | None = None) -> Logits:
    """Computes them; the temporal transformer's vectors may be given too."""
    hiddens, rows = [], [golden_rows(case) for case in range(4)]
    for row in rows:
        attention = KvCache(tiny.LM, 1, len(row), "off", of.dtype, CPU).chunk(0, 0, len(row))
        hiddens.append(of.temporal(of.embed(row, torch.arange(len(row)))[None], attention)[0, :-1])
    hidden = torch.cat(hiddens) if hidden is None else hidden
    said = []
    follows = torch.cat([row[1:] for row in rows])

    def given(stream: int, logits: Tensor) -> Tensor:
        said.append(logits.float())
        return follows[:, stream]

    of.codes(hidden, follows[:, 0], given)
    return Logits(hidden.float(), of.text_logits(hidden).float(), torch.stack(said, 1))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_int8_logits_are_within_2_percent() -> None:
    expected = logits(model())
    found = logits(model(weights="int8"))
    assert 0 < relative_error(found.text, expected.text) < 0.02
    found = logits(model(weights="int8"), expected.hidden)
    assert 0 < relative_error(found.codes, expected.codes) < 0.02


def test_the_tiny_depformer_multiplies_what_is_wrong_in_its_input() -> None:
    """Why codes are compared at the same input: float32 makes three times of an error, with these weights."""
    expected = logits(model())
    chance = torch.randn(expected.hidden.shape, generator=torch.Generator().manual_seed(0))
    blurred = expected.hidden + 0.01 * chance * expected.hidden.std()
    found = logits(model(), blurred)
    assert relative_error(found.codes, expected.codes) > 2 * relative_error(blurred, expected.hidden)


def test_bfloat16_logits_are_within_its_precision() -> None:
    expected = logits(model())
    half = model(torch.bfloat16)
    assert 0 < relative_error(logits(half).text, expected.text) < 0.02
    given = expected.hidden.bfloat16()
    assert 0 < relative_error(logits(half, given).codes, logits(model(), given.float()).codes) < 0.02


def test_float32_logits_choose_the_golden_tokens() -> None:
    rows = [golden_rows(case)[1:, 0] for case in range(4)]
    chosen = logits(model()).text.argmax(-1).split([len(row) for row in rows])
    for case in range(4):
        steps = len(golden_lm(case))
        assert torch.equal(chosen[case][-steps:], rows[case][-steps:])


@pytest.mark.parametrize("options", [{"weights": "int8"}, {"dtype": torch.bfloat16}])
def test_a_session_runs_in_less_than_float32(options: dict[str, object]) -> None:
    caller = alone(lm_model(pin="near", context=60, **options), golden_conversation(0))
    assert len(caller.tokens) == 60
    assert (caller.tokens[:, 1:] < 2048).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_offloaded_layers_change_nothing(layers: int) -> None:
    caller = alone(lm_model(offload_layers=layers), golden_conversation(0))
    np.testing.assert_array_equal(caller.tokens[:-1], golden_lm(0))
