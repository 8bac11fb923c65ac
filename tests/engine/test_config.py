"""Configurations are read as Kyutai writes them, and refused where they ask for what is not built."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.engine.tiny import LM, LM_JSON, MIMI, MIMI_JSON

from pxbridge.errors import InputError
from pxbridge.personaplex.config import LmConfig, MimiConfig
from pxbridge.personaplex.layout import lm_shapes, mimi_shapes

if TYPE_CHECKING:
    from pathlib import Path


def test_the_defaults_are_the_published_sizes() -> None:
    def parameters(shapes: dict[str, tuple[int, ...]]) -> int:
        total = 0
        for shape in shapes.values():
            size = 1
            for n in shape:
                size *= n
            total += size
        return total

    assert parameters(lm_shapes(LmConfig(), 16)) == pytest.approx(8.37e9, rel=1e-3)
    assert parameters(mimi_shapes(MimiConfig())) == pytest.approx(96.2e6, rel=1e-3)
    assert (LmConfig().hidden, LmConfig().depformer_hidden) == (11264, 2816)


def test_the_sizes_of_other_models_are_read_from_their_files() -> None:
    assert (LM.dim, LM.num_layers, LM.text_card, LM.hidden, LM.head_dim) == (32, 2, 1000, 88, 8)
    assert (MIMI.seanet.n_filters, MIMI.transformer.context, MIMI.quantizer.dimension) == (4, 25, 16)


def test_a_key_left_out_has_the_published_value(tmp_path: Path) -> None:
    file = tmp_path / "lm.json"
    file.write_text('{"num_layers": 3}')
    assert LmConfig.read(file) == LmConfig(num_layers=3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layers": 3}, "layers: no such key"),
        ({"dim": "32"}, "dim: '32' is not a whole number above 0"),
        ({"dim": True}, "dim: True is not a whole number above 0"),
        ({"context": 0}, "context: 0 is not a whole number above 0"),
        ({"max_period": -1}, "max_period: -1 is not a number above 0"),
        ({"gating": "gelu"}, "gating: 'gelu' is not supported, only 'silu'"),
        ({"delays": [0] * 17}, "delays: .* is not supported"),
        ({"num_heads": 5}, "dim: 32 is not an even number of values for each of 5 heads"),
        ({"dep_q": 4}, "dep_q: 4; 8 or 16"),
        ({"existing_text_padding_id": 1000}, "existing_text_padding_id: 1000 is not a text token"),
    ],
)
def test_a_wrong_key_of_the_language_model_is_one_line_that_names_it(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    file = tmp_path / "lm.json"
    file.write_text(json.dumps(json.loads(LM_JSON.read_text()) | changes))
    with pytest.raises(InputError, match=rf"lm\.json: {problem}"):
        LmConfig.read(file)


@pytest.mark.parametrize(
    ("part", "changes", "problem"),
    [
        ("seanet", {"ratios": [8, 6, 5]}, "seanet.ratios: their product is 240, not 960"),
        ("seanet", {"ratios": 8}, "seanet.ratios: 8 is not a list of whole numbers"),
        ("seanet", {"dimension": 64}, "seanet.dimension: 64 must be the quantizer's and the transformer's"),
        ("quantizer", {"n_q": 7}, "quantizer.n_q: 7; 8 codebooks are used"),
        ("transformer", {"num_heads": 3}, "transformer.d_model: 32 is not an even number"),
        ("transformer", {"norm": "rms_norm"}, "transformer.norm: 'rms_norm' is not supported"),
        ("transformer", {"d_model": 16}, "transformer: input_dimension and output_dimensions must be 16 too"),
    ],
)
def test_a_wrong_key_of_mimi_is_named_with_its_part(
    tmp_path: Path, part: str, changes: dict[str, Any], problem: str
) -> None:
    found = json.loads(MIMI_JSON.read_text())
    found[part] |= changes
    file = tmp_path / "mimi.json"
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match=rf"mimi\.json: {problem}"):
        MimiConfig.read(file)


@pytest.mark.parametrize(("text", "problem"), [("{", "no JSON"), ("[]", "an object is needed")])
def test_what_is_no_configuration_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "lm.json"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"lm\.json: .*{problem}"):
        LmConfig.read(file)


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json: No such file"):
        LmConfig.read(tmp_path / "no.json")
