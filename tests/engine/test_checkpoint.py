"""Checkpoints hold exactly what the model needs, or are refused in one line that names what is wrong."""

from __future__ import annotations

import pickle
import re
import struct
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.engine.tiny import FOLDER, LM, LM_FILE, MIMI, MIMI_FILE

from pxbridge.errors import InputError
from pxbridge.personaplex import checkpoint
from pxbridge.personaplex.checkpoint import Sources, find, open_lm, open_mimi
from pxbridge.personaplex.config import LmConfig
from pxbridge.personaplex.layout import lm_shapes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Tensors = dict[str, torch.Tensor]
IN_PROJ = "depformer.layers.0.self_attn.in_proj_weight"


@pytest.fixture(scope="module")
def lm() -> Tensors:
    found: Tensors = load_file(LM_FILE)
    return found


@pytest.fixture(scope="module")
def mimi() -> Tensors:
    found: Tensors = load_file(MIMI_FILE)
    return found


def saved(folder: Path, tensors: Tensors) -> Path:
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def cut_to_8(tensors: Tensors) -> Tensors:
    """As someone else would cut NVIDIA's file."""
    cut = {}
    for name, tensor in tensors.items():
        step = re.search(r"(?:linears|depformer_in|depformer_emb|gating)\.(\d+)\.", name)
        if step and int(step[1]) >= (7 if name.startswith("depformer_emb") else 8):
            continue
        attention = name.startswith("depformer.") and "self_attn" in name
        cut[name] = tensor.view(16, -1, tensor.shape[1])[:8].flatten(0, 1) if attention else tensor
    return cut


def test_sixteen_depformer_steps_are_cut_to_eight(lm: Tensors) -> None:
    opened = open_lm(LM_FILE, LM)
    expected = cut_to_8(lm)
    assert {name: tuple(tensor.shape) for name, tensor in opened.items()} == lm_shapes(LM, 8)
    assert all(torch.equal(opened[name], expected[name]) for name in expected)


def test_a_file_of_eight_steps_is_the_same_model(lm: Tensors, tmp_path: Path) -> None:
    opened, from_16 = open_lm(saved(tmp_path, cut_to_8(lm)), LM), open_lm(LM_FILE, LM)
    assert set(opened) == set(from_16)
    assert all(torch.equal(opened[name], from_16[name]) for name in opened)


def test_projections_saved_one_by_one_are_put_together(lm: Tensors, mimi: Tensors, tmp_path: Path) -> None:
    def split(tensors: Tensors) -> Tensors:
        out = {}
        for name, tensor in tensors.items():
            packed = re.fullmatch(r"(.*self_attn\.)(in_proj_weight|out_proj\.weight)", name)
            if not packed:
                out[name] = tensor
                continue
            side = packed[2].partition("_")[0]
            steps = 16 if name.startswith("depformer.") else 1
            for step, part in enumerate(tensor.view(steps, -1, tensor.shape[1])):
                out[f"{packed[1]}{side}_projs.{step}.weight"] = part
        return out

    opened, packed_lm = open_lm(saved(tmp_path, split(lm)), LM), open_lm(LM_FILE, LM)
    assert all(torch.equal(opened[name], packed_lm[name]) for name in packed_lm)
    opened, packed_mimi = open_mimi(saved(tmp_path, split(mimi)), MIMI), open_mimi(MIMI_FILE, MIMI)
    assert all(torch.equal(opened[name], packed_mimi[name]) for name in packed_mimi)


def test_eight_of_mimis_codebooks_are_kept(mimi: Tensors) -> None:
    opened = open_mimi(MIMI_FILE, MIMI)
    books = [name for name in opened if name.endswith("embedding_sum")]
    assert len(books) == 8
    assert all(torch.equal(opened[name], mimi[name]) for name in opened)


def test_mimis_older_names_are_understood(mimi: Tensors, tmp_path: Path) -> None:
    old = {"_initialized": "inited", "cluster_usage": "cluster_size", "embedding_sum": "embed_avg"}
    renamed = {}
    for name, tensor in mimi.items():
        at, _, last = name.rpartition(".")
        renamed[f"{at}.{old.get(last, last)}"] = tensor
    opened = open_mimi(saved(tmp_path, renamed), MIMI)
    assert all(torch.equal(opened[name], mimi[name]) for name in opened)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("text_linear.weight"), r"missing: text_linear\.weight$"),
        (lambda t: t.update(lora=torch.zeros(1)), r"not known: lora$"),
        (
            lambda t: t.update({"emb.3.weight": torch.zeros(2049, 31)}),
            r"of another shape: emb\.3\.weight is \[2049, 31\] instead of \[2049, 32\]$",
        ),
        (
            lambda t: (t.pop("out_norm.alpha"), t.update(extra=torch.zeros(1))),
            r"missing: out_norm\.alpha; not known: extra$",
        ),
        (
            lambda t: [t.pop(f"emb.{n}.weight") for n in range(16)],
            r"missing: emb\.0\.weight, .*, emb\.4\.weight and 11 more$",
        ),
        (lambda t: t.update({IN_PROJ: torch.zeros(12 * 48, 16)}), "makes 12 depformer steps of 48; 8 or 16"),
        (lambda t: t.pop(IN_PROJ), "missing: depformer"),
        (lambda t: t.update({IN_PROJ: t[IN_PROJ][: 8 * 48]}), r"not known: .*gating\.8"),
        (lambda t: t.update({"out_norm.alpha": torch.ones(1, 1, 32).to(torch.int8)}), "out_norm.alpha is I8"),
    ],
)
def test_tensors_that_are_not_as_they_should_be_are_named_in_one_line(
    lm: Tensors, tmp_path: Path, change: Callable[[Tensors], object], problem: str
) -> None:
    changed = dict(lm)
    change(changed)
    with pytest.raises(InputError, match=problem) as refused:
        open_lm(saved(tmp_path, changed), LM)
    assert "model.safetensors: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_models_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"tensors missing: .*; not known: "):
        open_lm(MIMI_FILE, LM)
    with pytest.raises(InputError, match="tensors of another shape: "):
        open_lm(LM_FILE, LmConfig(**{**LM.__dict__, "dim": 64}))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"", "cut short to 0 bytes"),
        (struct.pack("<Q", 5000) + b"{}", "cut short within its header"),
        (struct.pack("<Q", 2) + b"[]", "no safetensors file"),
        (struct.pack("<Q", 4) + b"{]}{", "no safetensors file"),
        (b"PK\x03\x04" + bytes(100), "no safetensors file"),
        (pickle.dumps({"a": 1}) + bytes(20), "no safetensors file"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "says nothing sensible of a"),
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"model\.safetensors: .*{problem}"):
        open_lm(file, LM)


@given(kept=st.integers(0, LM_FILE.stat().st_size - 1))
def test_a_file_cut_short_anywhere_is_refused(kept: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("cut") / "model.safetensors"
    file.write_bytes(LM_FILE.read_bytes()[:kept])
    with pytest.raises(InputError, match="cut short"):
        open_lm(file, LM)
    file.unlink()


def test_a_folder_holds_a_checkpoint(tmp_path: Path) -> None:
    for name in (checkpoint.LM_FILE, checkpoint.MIMI_FILE, checkpoint.TOKENIZER_FILE):
        (tmp_path / name).touch()
    told: list[str] = []
    files = find(Sources(folder=tmp_path), told.append)
    assert (files.lm.name, files.mimi.name) == (checkpoint.LM_FILE, checkpoint.MIMI_FILE)
    assert (files.voices, told) == (None, [])
    (tmp_path / "voices.tgz").touch()
    assert find(Sources(folder=tmp_path), told.append).voices == tmp_path / "voices.tgz"
    (tmp_path / "voices").mkdir()
    assert find(Sources(folder=tmp_path), told.append).voices == tmp_path / "voices"
    assert find(Sources(folder=tmp_path, voices=FOLDER), told.append).voices == FOLDER


def test_a_file_that_a_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--checkpoint .*/model\.safetensors: No such file"):
        find(Sources(folder=tmp_path), print)


def test_files_that_were_named_are_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--mimi-weight /no/mimi: No such file"):
        find(Sources(moshi_weight=LM_FILE, mimi_weight=tmp_path.__class__("/no/mimi")), print)
    with pytest.raises(InputError, match=r"--voice-prompt-dir .*: there is no such folder"):
        find(
            Sources(moshi_weight=LM_FILE, mimi_weight=MIMI_FILE, tokenizer=LM_FILE, voices=tmp_path / "none"),
            print,
        )
