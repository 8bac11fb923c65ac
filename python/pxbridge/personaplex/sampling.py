"""How tokens are drawn: temperature and top-k per slot, by noise that depends on nothing but the
conversation.

The noise of a token is a hash of its conversation's seed, its position and its stream. A caller's tokens are
therefore the same with any neighbours, after a missed tick, and on the CPU as on CUDA. From the probabilities
on everything is whole numbers, so that no order of summation can change a draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pxbridge.personaplex.stepper import MAX_TOP_K

NOISE_BITS = 31
WEIGHT_BITS = 30
"""A token's probability in units of 2⁻³⁰: what is rarer than that is never drawn."""

# splitmix64 (Steele, Lea, Flood 2014), in the signed numbers that torch has.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FACTOR_1 = 0xBF58476D1CE4E5B9 - 2**64
_FACTOR_2 = 0x94D049BB133111EB - 2**64


def noise(seed: Tensor, position: Tensor, streams: int) -> Tensor:
    """The noise of all streams at one position.

    Args:
        seed: int64 [slots].
        position: int64 [slots].
        streams: How many.

    Returns:
        int64 [slots, streams], uniform from 0 to 2³¹ - 1.
    """
    at = _mixed(_mixed(seed) + position * _STEP)
    stream = torch.arange(1, streams + 1, device=seed.device) * _STEP
    return _shifted(_mixed(at[:, None] + stream), 64 - NOISE_BITS)


def draw(logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> Tensor:
    """Draws a token per slot.

    Args:
        logits: [slots, tokens]. What is not a number gives some token; it never fails.
        temperature: float32 [slots]. 0 takes the likeliest token, the first of those that are equal.
        top_k: int64 [slots], 1 to `MAX_TOP_K`.
        noise: int64 [slots], as `noise` gives it for this stream.

    Returns:
        int64 [slots].
    """
    logits = logits.float()
    count = min(MAX_TOP_K, logits.shape[-1])
    best, tokens = logits.topk(count, dim=-1)
    # Relative to the best, so that a tiny temperature overflows towards 0 and not to infinity.
    scaled = (best - best[:, :1]) / temperature.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    probabilities = torch.softmax(scaled, -1)
    allowed = torch.arange(count, device=logits.device) < top_k[:, None]
    weights = torch.where(allowed, probabilities * 2**WEIGHT_BITS, 0).long()
    sums = weights.cumsum(-1)
    target = noise * sums[:, -1] >> NOISE_BITS
    chosen = (sums <= target[:, None]).sum(-1, keepdim=True).clamp_max(count - 1)
    drawn = tokens.gather(-1, chosen)[:, 0]
    # Not the first of topk: it orders equal logits as it likes, and bfloat16 has many.
    return torch.where(temperature > 0, drawn, logits.argmax(-1))


def _mixed(x: Tensor) -> Tensor:
    x = (x + _STEP).bitwise_xor(_shifted(x + _STEP, 30)) * _FACTOR_1
    x = x.bitwise_xor(_shifted(x, 27)) * _FACTOR_2
    return x.bitwise_xor(_shifted(x, 31))


def _shifted(x: Tensor, bits: int) -> Tensor:
    # torch shifts the sign in; the hash needs zeros.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
