from __future__ import annotations

import numpy as np
import pytest
import torch

from pxbridge.personaplex.sampling import draw, noise_keys, uniform
from pxbridge.personaplex.stepper import MAX_TOP_K, Sampling

DRAWS = 40_000


def keys(draws: int = DRAWS, stream: int = 0) -> torch.Tensor:
    return noise_keys(torch.full((draws,), 5), torch.arange(draws), 9)[:, stream]


def drawn(logits: torch.Tensor, temperature: float, top_k: int, draws: int = DRAWS) -> torch.Tensor:
    rows = logits.expand(draws, -1)
    return draw(rows, torch.full((draws,), temperature), torch.full((draws,), top_k), keys(draws))


def test_noise_is_uniform() -> None:
    tokens = torch.arange(25).expand(4000, -1)
    found = uniform(keys(4000), tokens).flatten().sort().values.numpy()
    distance = np.abs(found - (np.arange(len(found)) + 0.5) / len(found)).max()
    assert distance < 1.63 / len(found) ** 0.5  # Kolmogorov and Smirnov, 1 %


@pytest.mark.parametrize("what", ["token", "position", "stream", "seed"])
def test_neighbouring_noise_is_unrelated(what: str) -> None:
    count = 50_000
    there, here = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    seed, position, token = (there if what == name else here for name in ("seed", "position", "token"))
    streams = noise_keys(there if what == "stream" else seed, position, 2)
    one, other = (uniform(streams[:, stream], token[:, None])[:, 0] for stream in range(2))
    if what != "stream":
        one, other = one[:-1], one[1:]
    assert abs(np.corrcoef(one.numpy(), other.numpy())[0, 1]) < 2.58 / count**0.5  # 1 %


def in_plain_integers(seed: int, position: int, stream: int) -> int:
    def mixed(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    step = 0x9E3779B97F4A7C15
    at = mixed((mixed(seed * step % 2**64) + position * step) % 2**64)
    return mixed((at + (stream + 1) * step) % 2**64)


def test_noise_has_the_same_bits_everywhere_and_for_ever() -> None:
    """A seed gives the same call on every machine and in every version."""
    seeds, positions = [0, 1, -1, 2**62], [0, 210, 45_000, 3]
    found = noise_keys(torch.tensor(seeds), torch.tensor(positions), 9)
    expected = [
        [in_plain_integers(seed, position, stream) for stream in range(9)]
        for seed, position in zip(seeds, positions, strict=True)
    ]
    assert [[key % 2**64 for key in row] for row in found.tolist()] == expected
    assert found[0, 0] == -2152535657050944081
    assert (uniform(found[:1, 0], torch.tensor([[0, 31_999]])) * 2**24).tolist() == [[4727171, 12359869]]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.5])
@pytest.mark.parametrize("top_k", [1, 7, 40])
def test_draws_follow_the_softmax_of_the_top_k(temperature: float, top_k: int) -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    best, tokens = logits[0].topk(top_k)
    expected = torch.zeros(40).scatter(0, tokens, (best / temperature).softmax(-1)) * DRAWS
    found = torch.bincount(drawn(logits, temperature, top_k), minlength=40)
    assert found[expected == 0].sum() == 0
    likely = expected > 5
    chi_square = ((found - expected)[likely].square() / expected[likely]).sum()
    degrees = int(likely.sum()) - 1
    assert chi_square <= degrees + 3.5 * (2 * degrees) ** 0.5  # 0.1 % or less


def test_a_temperature_near_zero_is_greedy_without_overflow() -> None:
    logits = torch.tensor([[-3e38, 1.0, 1.5, 3e38]])
    assert set(drawn(logits, 1e-45, 4, 100).tolist()) == {3}


def test_greedy_takes_the_first_of_equals() -> None:
    """bfloat16 logits often tie, and topk orders ties as it likes."""
    logits = torch.zeros(8, 2048).index_fill_(1, torch.tensor([100, 700, 1500]), 2.0)
    found = draw(logits, torch.zeros(8), torch.full((8,), 250), keys(8))
    assert found.tolist() == [100] * 8


def test_a_slots_draw_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(6, 2048, generator=torch.Generator().manual_seed(1))
    temperature, top_k = torch.tensor([0.0, 0.5, 0.8, 1.0, 1.2, 2.0]), torch.tensor([1, 10, 250, 500, 25, 3])
    together = draw(logits, temperature, top_k, keys(6))
    alone = [
        draw(*(part[row : row + 1] for part in (logits, temperature, top_k, keys(6)))) for row in range(6)
    ]
    assert together.tolist() == torch.cat(alone).tolist()


def test_what_is_not_a_number_gives_some_token() -> None:
    logits = torch.full((2, 2048), torch.nan)
    found = draw(logits, torch.tensor([0.0, 0.8]), torch.tensor([25, MAX_TOP_K]), keys(2))
    assert ((found >= 0) & (found < 2048)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"text_temperature": -0.1},
        {"audio_temperature": float("nan")},
        {"audio_temperature": float("inf")},
        {"text_top_k": 0},
        {"audio_top_k": MAX_TOP_K + 1},
    ],
)
def test_sampling_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Sampling(**wrong)  # type: ignore[arg-type]
