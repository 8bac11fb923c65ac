"""Mimi's layers, frame by frame: each keeps what it needs of the past for every slot, in place.

A layer holds weights alone. What it remembers lies in a `Stream`, one direction of a codec's slots, so that
one set of weights serves many of them. A slot that has no frame keeps its memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # as everywhere in torch code

from pxbridge.personaplex.attention import Rope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pxbridge.personaplex.config import MimiTransformerConfig

NORM_EPSILON = 1e-5


class Layer(Protocol):
    """A part of the codec."""

    def memory(self, slots: int, device: torch.device) -> list[Tensor]:
        """The layer's memory of a fresh stream: zeros [slots, …] each, of its weights' type."""

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """One frame of every slot: float32 [slots, channels, positions] to the same with others."""


class Stream:
    """One direction of a codec for a number of slots.

    Args:
        layers: All layers; those within a `Residual` are found.
        slots: How many.
        device: Where.

    Attributes:
        frames: int64 [slots], frames so far.
        running: bool [slots], the slots that have a frame now. The others' memory stays.
    """

    def __init__(self, layers: Sequence[Layer], slots: int, device: torch.device) -> None:
        self.frames = torch.zeros(slots, dtype=torch.int64, device=device)
        self.running = torch.zeros(slots, dtype=torch.bool, device=device)
        remembering: list[Layer] = []
        for layer in layers:
            remembering += layer.parts if isinstance(layer, Residual) else [layer]
        self._memory = {layer: layer.memory(slots, device) for layer in remembering}

    def memory(self, layer: Layer) -> list[Tensor]:
        """A layer's memory."""
        return self._memory[layer]

    def remember(self, memory: Tensor, new: Tensor) -> None:
        """Replaces the memory of the running slots; both [slots, …]."""
        running = self.running.view(-1, *[1] * (memory.dim() - 1))
        torch.where(running, new, memory, out=memory)

    def run(self, layers: Sequence[Layer], x: Tensor, running: Tensor) -> Tensor:
        """One frame through layers; to be called once a frame."""
        self.running = running
        for layer in layers:
            x = layer(x, self)
        self.frames.add_(running)
        return x

    def copy(self, slot: int, other: Stream) -> None:
        """Puts a slot where the only slot of another stream of the same layers is."""
        self.frames[slot] = other.frames[0]
        for layer, memory in self._memory.items():
            for mine, others in zip(memory, other.memory(layer), strict=True):
                mine[slot] = others[0]


class Elu:
    """The activation between convolutions."""

    def memory(self, slots: int, device: torch.device) -> list[Tensor]:
        """Nothing."""
        del slots, device
        return []

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """Any shape."""
        del stream
        return F.elu(x)


class Conv:
    """A causal convolution.

    Args:
        weight: float32 [out, in, kernel].
        bias: float32 [out], or None.
        stride: Its stride; a frame's positions must be a multiple of it.
        repeat_first: Before the first position stands the first one again, instead of zeros.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: int = 1, *, repeat_first: bool = False
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._stride = stride
        self._repeat_first = repeat_first
        self._kept = weight.shape[2] - stride

    def memory(self, slots: int, device: torch.device) -> list[Tensor]:
        """The last positions that came in: [slots, in, kernel - stride]."""
        return [self._weight.new_zeros(slots, self._weight.shape[1], self._kept, device=device)]

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """[slots, in, positions] to [slots, out, positions / stride]."""
        if self._kept:
            (last,) = stream.memory(self)
            before = last
            if self._repeat_first:
                before = torch.where(stream.frames[:, None, None] > 0, last, x[..., :1])
            x = torch.cat([before, x], -1)
            stream.remember(last, x[..., -self._kept :])
        return F.conv1d(x, self._weight, self._bias, self._stride)


class ConvTranspose:
    """A causal transposed convolution; overlapping output is added up from frame to frame.

    Args:
        weight: float32 [in, out / groups, kernel].
        bias: float32 [out], or None.
        stride: Its stride.
        groups: 1, or the number of channels.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int, groups: int = 1) -> None:
        self._weight = weight
        self._bias = None if bias is None else bias[:, None]
        self._stride = stride
        self._groups = groups
        self._kept = weight.shape[2] - stride

    def memory(self, slots: int, device: torch.device) -> list[Tensor]:
        """The part of the output that the next frame adds to: [slots, out, kernel - stride]."""
        channels = self._weight.shape[1] * self._groups
        return [self._weight.new_zeros(slots, channels, self._kept, device=device)]

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """[slots, in, positions] to [slots, out, positions · stride]."""
        y = F.conv_transpose1d(x, self._weight, None, self._stride, groups=self._groups)
        (overlap,) = stream.memory(self)
        y[..., : self._kept] += overlap
        stream.remember(overlap, y[..., -self._kept :])
        y = y[..., : -self._kept]
        return y if self._bias is None else y + self._bias


class Residual:
    """Two convolutions, each after an activation, added to what came in.

    Args:
        first: [channels] to fewer.
        second: Back to [channels].
    """

    def __init__(self, first: Conv, second: Conv) -> None:
        self.parts = (first, second)

    def memory(self, slots: int, device: torch.device) -> list[Tensor]:
        """Nothing; its convolutions do."""
        del slots, device
        return []

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """[slots, channels, positions], both ways."""
        first, second = self.parts
        return x + second(F.elu(first(F.elu(x), stream)), stream)


class Transformer:
    """Layers that attend to the last `context` positions, each with a ring of keys and values.

    Args:
        config: Sizes.
        layers: Each layer's weights by the checkpoint's names without the layer's own.
        device: Where.
        dtype: The weights' type.
    """

    def __init__(
        self,
        config: MimiTransformerConfig,
        layers: Sequence[Mapping[str, Tensor]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config = config
        self._layers = layers
        self._dtype = dtype
        self._rope = Rope(config.head_dim, config.max_period, dtype, device)

    def memory(self, slots: int, device: torch.device) -> list[Tensor]:
        """Keys and values, layer by layer, each [slots, context, heads, head_dim]."""
        config = self._config
        shape = (slots, config.context, config.num_heads, config.head_dim)
        return [torch.zeros(shape, dtype=self._dtype, device=device) for _ in range(2 * len(self._layers))]

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """[slots, d_model, positions], both ways."""
        heads, context = self._config.num_heads, self._config.context
        x = x.transpose(1, 2)
        slots, count, width = x.shape
        steps = torch.arange(count, device=x.device)
        positions = stream.frames[:, None] * count + steps  # [slots, positions]
        angles = self._rope.angles(positions)
        # A slot that has no frame is written to as well, where its next frame writes again.
        first = torch.arange(slots, device=x.device)[:, None] * context
        index = (first + positions % context).flatten()
        # The position that stands at each index once this frame is written; below 0 there is none yet.
        last = positions[:, -1:]
        held = last - (last - torch.arange(context, device=x.device)) % context
        visible = (held >= 0)[:, None] & (held[:, None] <= positions[:, :, None])

        memory = stream.memory(self)
        for weights, keys, values in zip(self._layers, memory[::2], memory[1::2], strict=True):
            normed = F.layer_norm(x, (width,), weights["norm1.weight"], weights["norm1.bias"], NORM_EPSILON)
            projected = F.linear(normed, weights["self_attn.in_proj_weight"]).unflatten(-1, (3, heads, -1))
            query, key = angles.turn(projected[:, :, :2]).unbind(2)
            keys.flatten(0, 1).index_copy_(0, index, key.flatten(0, 1))
            values.flatten(0, 1).index_copy_(0, index, projected[:, :, 2].flatten(0, 1))
            heads_first = (part.transpose(1, 2) for part in (query, keys, values))
            attended = F.scaled_dot_product_attention(*heads_first, attn_mask=visible[:, None])
            out = F.linear(attended.transpose(1, 2).flatten(2), weights["self_attn.out_proj.weight"])
            x = x + weights["layer_scale_1.scale"] * out
            normed = F.layer_norm(x, (width,), weights["norm2.weight"], weights["norm2.bias"], NORM_EPSILON)
            out = F.linear(F.gelu(F.linear(normed, weights["linear1.weight"])), weights["linear2.weight"])
            x = x + weights["layer_scale_2.scale"] * out
        return x.transpose(1, 2)
