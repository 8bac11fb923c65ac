"""The language model's KV cache: one ring per slot, in which the prompt can stay for the whole call.

The key of position p is at index p until the ring is full. From then on the first `pinned` positions keep
their indices, and the others share the rest of the ring: index = pinned + (p - pinned) % (context - pinned).
Queries see all keys in the ring. `pinned` is the prompt's length; with the pin off it is 0 and the ring is a
plain one.

RoPE makes scores depend on the distance between query and key. *near* keeps the distance to pinned keys as it
was when the ring first filled, which is within the range of the training: their query always has position
context - 1. *absolute* lets the distance grow.

A tick writes a key in every slot, also in slots that do not step. There it is written at the slot's next
position, where the next step or the next chunk of prefill overwrites it. So a slot's position must follow its
prefill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # as everywhere in torch code

from pxbridge.personaplex.linear import wide

if TYPE_CHECKING:
    from torch import Tensor

    from pxbridge.personaplex.config import LmConfig
    from pxbridge.personaplex.varlen import FilledAttention

Pin = Literal["near", "absolute", "off"]
"""What becomes of the prompt once the ring is full; see above."""

REACH_STEP = 64
"""Kernels want the keys that are read in multiples of this."""


class Attention(Protocol):
    """The attention of a transformer layer: writes its keys and values, and attends."""

    def __call__(self, layer: int, projected: Tensor) -> Tensor:
        """Query, key and value [slots, positions, 3, heads, head_dim], not rotated yet.

        Returns:
            [slots, positions, heads, head_dim].
        """


@dataclass(frozen=True)
class Reach:
    """How much of the rings a tick has to read. Known on the host, it saves reading what is empty.

    Attributes:
        keys: Number of indices, from the first one.
        wrapped: A ring may have wrapped.
    """

    keys: int
    wrapped: bool


class Rope:
    """Rotary positions on interleaved pairs.

    Args:
        head_dim: Even.
        max_period: Longest period, in positions.
        dtype: Type of the rotated tensors. `wide` gives the type of the computation.
        device: The device.
    """

    def __init__(self, head_dim: int, max_period: float, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = wide(dtype).to_complex()
        pairs = torch.arange(head_dim // 2, device=device, dtype=torch.float32)
        self._frequencies = torch.exp(pairs * (-math.log(max_period) * 2 / head_dim)).double()

    def angles(self, positions: Tensor) -> Angles:
        """Of int64 [slots, positions]. Turned in float64: in float32, positions of an hour blur."""
        turns = positions[:, :, None] * self._frequencies
        return Angles(torch.polar(torch.ones_like(turns), turns).to(self._dtype))


@dataclass(frozen=True, eq=False)
class Angles:
    """The rotations of a set of positions.

    Attributes:
        rotation: Complex, [slots, positions, head_dim / 2].
    """

    rotation: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """Rotates [slots, positions, …, head_dim]; of x's type, computed in the rotation's."""
        pairs = torch.view_as_complex(x.to(self.rotation.dtype.to_real()).unflatten(-1, (-1, 2)))
        shape = (*self.rotation.shape[:2], *[1] * (x.dim() - 3), -1)
        return torch.view_as_real(pairs * self.rotation.view(shape)).flatten(-2).to(x.dtype)


class KvCache:
    """Keys and values of all slots and layers, in place.

    Args:
        config: The model's sizes.
        slots: How many.
        context: Positions of a ring.
        pin: What happens to the prompt when the ring is full.
        dtype: Type of keys and values.
        device: Their device.
        filled: Attention that reads only what is filled, where the device has it.

    Attributes:
        keys: [layers, slots, context, heads, head_dim], rotated.
        values: The same shape.
        pinned: int64 [slots], positions of each slot that stay.
    """

    def __init__(
        self,
        config: LmConfig,
        slots: int,
        context: int,
        pin: Pin,
        dtype: torch.dtype,
        device: torch.device,
        filled: FilledAttention | None = None,
    ) -> None:
        self.context = context
        self.pin = pin
        shape = (config.num_layers, slots, context, config.num_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.pinned = torch.zeros(slots, dtype=torch.int64, device=device)
        self._rope = Rope(config.head_dim, config.max_period, dtype, device)
        self._indices = torch.arange(context, device=device)
        self._first = torch.arange(slots, device=device) * context
        self._filled = filled

    @property
    def whole(self) -> Reach:
        """All of the rings: right at any time, and the same shapes at any time, as a CUDA graph needs
        them.
        """
        return Reach(self.context, wrapped=True)

    def reach(self, positions: int) -> Reach:
        """How much a tick has to read if no slot that steps is beyond this position."""
        keys = -(-(positions + 1) // REACH_STEP) * REACH_STEP
        return Reach(min(keys, self.context), wrapped=positions >= self.context)

    def tick(self, position: Tensor, reach: Reach) -> Attention:
        """Attention for one new position in every slot.

        Args:
            position: int64 [slots].
            reach: The part of the rings that is read.
        """
        angles = self._rope.angles(position[:, None])
        ring = self.pinned + (position - self.pinned) % (self.context - self.pinned)
        index = self._first + torch.where(position < self.context, position, ring)
        seen = (position + 1).clamp_max(self.context)
        back = None
        if self.pin == "near" and reach.wrapped:
            back = self._rope.angles(position.clamp_max(self.context - 1)[:, None])
        indices = self._indices[: reach.keys]
        visible = indices < seen[:, None]
        pinned = indices < self.pinned[:, None]

        def attend(layer: int, projected: Tensor) -> Tensor:
            query, key = angles.turn(projected[:, :, :2]).unbind(2)
            keys, values = self.keys[layer], self.values[layer]
            keys.flatten(0, 1).index_copy_(0, index, key[:, 0])
            values.flatten(0, 1).index_copy_(0, index, projected[:, 0, 2])
            pinned_query = None if back is None else back.turn(projected[:, :, 0])
            if self._filled is not None:
                return self._filled(query, pinned_query, keys, values, seen, self.pinned)
            keys, values = keys[:, : reach.keys], values[:, : reach.keys]
            if pinned_query is None:
                return _attend(query, keys, values, visible[:, None, None])
            return _attend_near(query, pinned_query, keys, values, visible, pinned)

        return attend

    def chunk(self, slot: int, start: int, length: int) -> Attention:
        """Attention for consecutive positions of one slot, all before its ring wraps.

        Args:
            slot: The slot's number.
            start: The first position.
            length: How many, at least 1, up to the context.
        """
        end = start + length
        angles = self._rope.angles(self._indices[None, start:end])
        visible = self._indices[:end] <= self._indices[start:end, None]

        def attend(layer: int, projected: Tensor) -> Tensor:
            query, key = angles.turn(projected[:, :, :2]).unbind(2)
            keys, values = self.keys[layer, slot, :end], self.values[layer, slot, :end]
            keys[start:] = key[0]
            values[start:] = projected[0, :, 2]
            return _attend(query, keys[None], values[None], visible)

        return attend

    def clear(self, slot: int) -> None:
        """Removes a slot's conversation."""
        self.keys[:, slot].zero_()
        self.values[:, slot].zero_()
        self.pinned[slot] = 0


def _attend(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    heads_first = (x.transpose(1, 2) for x in (query, keys, values))
    return F.scaled_dot_product_attention(*heads_first, attn_mask=visible).transpose(1, 2)


def _attend_near(
    query: Tensor, pinned_query: Tensor, keys: Tensor, values: Tensor, visible: Tensor, pinned: Tensor
) -> Tensor:
    """One query a slot, and another one for its pinned keys; visible and pinned are bool [slots, keys]."""
    queries = torch.cat([query, pinned_query], 1).transpose(1, 2)  # [slots, heads, 2, head_dim]
    scores = queries @ keys.permute(0, 2, 3, 1) * query.shape[-1] ** -0.5
    score = torch.where(pinned[:, None], scores[:, :, 1], scores[:, :, 0])
    weights = score.masked_fill(~visible[:, None], -math.inf).softmax(-1, wide(score.dtype))
    weights = weights.to(values.dtype)
    return (weights[:, :, None] @ values.transpose(1, 2)).transpose(1, 2)
