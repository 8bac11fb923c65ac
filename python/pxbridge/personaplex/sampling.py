"""Draws tokens: temperature and top-k per slot, with noise that depends only on the conversation.

The drawn token is the one with the greatest value of logit / temperature + Gumbel noise, which samples from
softmax. The noise is a hash of the conversation's seed, the position, the stream and the token. So a caller's
tokens do not depend on other callers, missed ticks or the device. A rounding error of a logit matters only if
two tokens are as close as this error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pxbridge.personaplex.stepper import MAX_TOP_K

NOISE_BITS = 23
"""Such numbers plus a half are exact in float32."""

# splitmix64 (Steele, Lea, Flood 2014), in the signed numbers that torch has.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FACTOR_1 = 0xBF58476D1CE4E5B9 - 2**64
_FACTOR_2 = 0x94D049BB133111EB - 2**64


def noise_keys(seed: Tensor, position: Tensor, streams: int) -> Tensor:
    """The keys of the noise of all streams at one position.

    Args:
        seed: int64 [slots].
        position: int64 [slots].
        streams: How many.

    Returns:
        int64 [slots, streams].
    """
    at = _mixed(_mixed(seed * _STEP) + position * _STEP)
    return _mixed(at[:, None] + torch.arange(1, streams + 1, device=seed.device) * _STEP)


def uniform(keys: Tensor, tokens: Tensor) -> Tensor:
    """The noise of tokens, between 0 and 1 and neither of them.

    Args:
        keys: int64 [slots].
        tokens: int64 [slots, tokens].

    Returns:
        float32 [slots, tokens].
    """
    x = keys[:, None] + tokens * _STEP
    x = (x ^ _shifted(x, 30)) * _FACTOR_1
    x = (x ^ _shifted(x, 27)) * _FACTOR_2  # the high bits, which are used, need no further mixing
    return (_shifted(x, 64 - NOISE_BITS).float() + 0.5) * 2.0**-NOISE_BITS


def draw(logits: Tensor, temperature: Tensor, top_k: Tensor, keys: Tensor, most: int = MAX_TOP_K) -> Tensor:
    """Draws a token per slot.

    Args:
        logits: [slots, tokens]. Where they are not numbers, any token is drawn.
        temperature: float32 [slots]. 0 takes the likeliest token, the first of those that are equal.
        top_k: int64 [slots], 1 to `MAX_TOP_K`.
        keys: int64 [slots], those of this stream.
        most: No top_k is greater, of those slots that count and whose temperature is not 0.

    Returns:
        int64 [slots].
    """
    logits = logits.float()
    count = min(most, logits.shape[-1])
    best, tokens = logits.topk(count, dim=-1)
    # Relative to the best, so that a tiny temperature overflows towards 0 and not to infinity.
    scaled = (best - best[:, :1]) / temperature.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    gumbel = -torch.log(-torch.log(uniform(keys, tokens)))
    allowed = torch.arange(count, device=logits.device) < top_k[:, None]
    winner = torch.where(allowed, scaled + gumbel, -torch.inf).argmax(-1, keepdim=True)
    drawn = tokens.gather(-1, winner)[:, 0]
    # Not the first of topk: it orders equal logits as it likes, and bfloat16 has many.
    return torch.where(temperature > 0, drawn, logits.argmax(-1))


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FACTOR_1
    x = (x ^ _shifted(x, 27)) * _FACTOR_2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    # torch shifts the sign in; the hash needs zeros.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
