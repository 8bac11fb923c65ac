"""What is loaded where: devices that are not there, memory that does not do, layers that stay on the CPU."""

from __future__ import annotations

import pytest
import torch
from tests.engine.tiny import FOLDER, LM, LM_FILE, MIMI, MIMI_FILE, TOKENIZER_FILE

from pxbridge.errors import InputError
from pxbridge.personaplex import assembly, hub
from pxbridge.personaplex.assembly import assemble, offloaded, require_device, too_large
from pxbridge.personaplex.checkpoint import Sources
from pxbridge.personaplex.config import LmConfig, MimiConfig
from pxbridge.personaplex.model import Options

SOURCES = Sources(moshi_weight=LM_FILE, mimi_weight=MIMI_FILE, tokenizer=TOKENIZER_FILE, voices=FOLDER)
GIB = 1 << 30


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(assembly, "free_bytes", lambda _: size)


def test_a_whole_checkpoint_is_put_together() -> None:
    told: list[str] = []
    found = assemble(SOURCES, LM, MIMI, Options(slots=2, context=64), told.append)
    assert (found.model.slots, found.model.context) == (2, 64)
    assert found.voices.names() == [f"voice-{n}.pt" for n in range(4)]
    assert told == [f"loading {LM_FILE}"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    require_device("cpu")
    with pytest.raises(InputError, match=r"--device cuda: torch .* sees no CUDA device here; it was built"):
        require_device("cuda")


def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free(monkeypatch, 1000)
    with pytest.raises(InputError, match="the memory of cpu is too small: weights take"):
        assemble(SOURCES, LM, MIMI, Options(slots=2, context=64), print)


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        (Options(device="cuda", slots=9), "fewer --slots or --weights int8 takes less"),
        (Options(device="cuda"), "a shorter --context or --weights int8 takes less"),
        (Options(device="cuda", weights="int8"), "; a shorter --context takes less"),
    ],
)
def test_too_small_a_memory_comes_with_what_would_help(options: Options, mend: str) -> None:
    told = too_large(LmConfig(), MimiConfig(), options)
    assert told.startswith("the memory of cuda is too small: weights take ")
    assert told.endswith(mend)


@pytest.mark.parametrize(("free_gib", "layers"), [(40, 0), (16, 6), (8, 27), (1, 32)])
def test_layers_that_do_not_fit_stay_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, free_gib: int, layers: int
) -> None:
    free(monkeypatch, free_gib * GIB)
    assert offloaded(LmConfig(), MimiConfig(), Options(device="cuda")).offload_layers == layers


def test_on_a_cpu_no_layer_is_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, GIB)
    assert offloaded(LmConfig(), MimiConfig(), Options(device="cpu")).offload_layers == 0


@pytest.mark.parametrize(
    ("repo", "licence"),
    [
        ("nvidia/personaplex-7b-v1", "is licensed under the NVIDIA Open Model License and CC BY 4.0"),
        ("kyutai/personaplex-rl-seamless", "is licensed under CC BY-NC 4.0 (no commercial use) and"),
        ("someone/else", "the licence of someone/else is at https://huggingface.co/someone/else"),
    ],
)
def test_the_licence_is_told_before_anything_is_downloaded(
    repo: str, licence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_download(*_: str) -> None:
        raise InputError("there is no network")

    monkeypatch.setattr(hub, "download", no_download)
    told: list[str] = []
    with pytest.raises(InputError, match="there is no network"):
        assemble(Sources(repo=repo), LM, MIMI, Options(), told.append)
    (sentence,) = told
    assert licence in sentence
