"""Attention that reads only what each slot has filled, by torch's `varlen_attn`, where torch and the card
have it.

`torch.nn.attention.varlen` came with torch 2.10 and learnt `seqused_k` later; it wants CUDA and half
precision. So it is tried once, on small tensors, and used if it gives what plain attention gives.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

log = logging.getLogger("pxbridge.engine")

TOLERANCE = 0.02
"""The largest relative error in the trial: bfloat16 has 8 bits."""


class FilledAttention(Protocol):
    """One query per slot over the keys that its slot has filled."""

    def __call__(
        self,
        query: Tensor,
        pinned_query: Tensor | None,
        keys: Tensor,
        values: Tensor,
        seen: Tensor,
        pinned: Tensor,
    ) -> Tensor:
        """Attends.

        Args:
            query: [slots, 1, heads, head_dim], rotated.
            pinned_query: The same for the keys that are pinned; None if it is `query` too.
            keys: [slots, context, heads, head_dim], rotated.
            values: The same shape.
            seen: int64 [slots], indices that are filled, at least 1.
            pinned: int64 [slots], of these the first that are pinned.

        Returns:
            [slots, 1, heads, head_dim].
        """


class Varlen:
    """`FilledAttention` by torch's `varlen_attn`.

    Args:
        function: `torch.nn.attention.varlen.varlen_attn`.
        aux: Its `AuxRequest(lse=True)`.
        slots: How many.
        context: Positions of a ring.
        device: Where.
    """

    def __init__(
        self, function: Callable[..., Any], aux: object, slots: int, context: int, device: torch.device
    ) -> None:
        self._function = function
        self._aux = aux
        self._context = context
        # Without splits a slot's result does not depend on how long its neighbours' conversations are.
        self._options = {"num_splits": 1} if "num_splits" in inspect.signature(function).parameters else {}
        self._query_starts = torch.arange(slots + 1, dtype=torch.int32, device=device)
        self._starts = self._query_starts * context
        self._last = torch.zeros(1, dtype=torch.int32, device=device)

    def __call__(
        self,
        query: Tensor,
        pinned_query: Tensor | None,
        keys: Tensor,
        values: Tensor,
        seen: Tensor,
        pinned: Tensor,
    ) -> Tensor:
        """As `FilledAttention` says."""
        if pinned_query is None:
            return self._attend(query, keys, values, self._starts, seen)[0]
        stays = torch.minimum(pinned, seen)
        starts = self._starts + torch.cat([pinned.int(), self._last])
        # In a slot that steps, its own key is seen and not pinned. What another slot gets here is thrown
        # away.
        takes_turns = (seen - stays).clamp_min(1)
        near, near_weight = self._attend(pinned_query, keys, values, self._starts, stays)
        rest, rest_weight = self._attend(query, keys, values, starts, takes_turns)
        share = torch.sigmoid(near_weight - rest_weight)  # of softmax's whole sum
        both = (share * near + (1 - share) * rest).to(query.dtype)
        return torch.where(stays[:, None, None, None] > 0, both, rest)

    def _attend(
        self, query: Tensor, keys: Tensor, values: Tensor, starts: Tensor, used: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the result, and log-sum-exp of the scores as float32 [slots, 1, heads, 1]."""
        result, weight = self._function(
            query[:, 0].contiguous(),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            self._query_starts,
            starts,
            1,
            self._context,
            return_aux=self._aux,
            seqused_k=used.int(),
            **self._options,
        )
        return result[:, None], weight.transpose(0, 1)[:, None, :, None]


def filled_attention(
    slots: int, context: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> FilledAttention | None:
    """The attention to use for these sizes, or None where the whole ring has to be read with a mask."""
    if device.type != "cuda":
        return None
    try:
        module = importlib.import_module("torch.nn.attention.varlen")
        attention = Varlen(module.varlen_attn, module.AuxRequest(lse=True), slots, context, device)
        trial = Varlen(module.varlen_attn, module.AuxRequest(lse=True), 2, 64, device)
        error = trial_error(trial, heads, head_dim, dtype, device)
    # Whatever an older torch or another card raises: the plain way is always there.
    except Exception as problem:
        log.info("attention reads whole rings with a mask: no varlen_attn here (%s)", problem)
        return None
    if not error < TOLERANCE:
        log.warning("attention reads whole rings with a mask: varlen_attn is off by %.3f here", error)
        return None
    return attention


def trial_error(
    attention: FilledAttention, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> float:
    """The relative error of an attention for 2 slots and rings of 64, against plain arithmetic."""
    generator = torch.Generator(device).manual_seed(1)
    query, pinned_query, *cache = (
        torch.randn(2, length, heads, head_dim, generator=generator, device=device).to(dtype)
        for length in (1, 1, 64, 64)
    )
    keys, values = cache
    seen, pinned = torch.tensor([[64, 5], [20, 0]], device=device)
    worst = 0.0
    for near in (pinned_query, None):
        found = attention(query, near, keys, values, seen, pinned)
        expected = torch.empty_like(found)
        for slot in range(2):
            count, stays = int(seen[slot]), int(pinned[slot])
            first = (query if near is None else near)[slot].float()
            k, v = keys[slot, :count].float(), values[slot, :count].float()
            scores = torch.cat(
                [
                    torch.einsum("qhd,khd->hqk", first, k[:stays]),
                    torch.einsum("qhd,khd->hqk", query[slot].float(), k[stays:]),
                ],
                -1,
            )
            weights = (scores * head_dim**-0.5).softmax(-1)
            expected[slot] = torch.einsum("hqk,khd->qhd", weights, v).to(dtype)
        difference = (found.float() - expected.float()).norm() / expected.float().norm()
        worst = max(worst, float(difference))
    return worst
