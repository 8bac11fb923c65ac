"""The memory that the model takes, computed from its sizes before anything is loaded. Needs no torch.

Weights are there once; each slot adds the KV cache of its whole context and Mimi's state. What a device's
libraries and a tick's intermediate results take is an allowance, not worked out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pxbridge.personaplex.config import CODEBOOKS
from pxbridge.personaplex.layout import lm_shapes, mimi_shapes

if TYPE_CHECKING:
    from pxbridge.personaplex.config import LmConfig, MimiConfig
    from pxbridge.personaplex.linear import Weights

ALLOWANCE_BYTES = 3 << 29
"""1.5 GiB: CUDA's own context, the libraries' workspaces, captured graphs, a tick's intermediate results. Not
measured yet."""
FLOAT_BYTES = 4
"""Mimi is float32."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of each part.

    Attributes:
        layer: One layer of the temporal transformer.
        layers: How many of them there are.
        rest: The language model without them: embeddings, heads, depformer.
        embeddings: The part of `rest` of which a tick reads a few rows.
        mimi: Mimi.
        slot: The bytes that each slot adds.
        position: The part of `slot` that one position of its context takes.
        context: Positions of a slot.
    """

    layer: int
    layers: int
    rest: int
    embeddings: int
    mimi: int
    slot: int
    position: int
    context: int

    @property
    def weights(self) -> int:
        """All that is there once."""
        return self.layers * self.layer + self.rest + self.mimi

    def total(self, slots: int) -> int:
        """Weights and slots."""
        return self.weights + slots * self.slot

    def read_in_a_tick(self, slots: int, positions: int) -> int:
        """The least bytes that a tick of `slots` must read, each with `positions` of context."""
        state = self.slot - self.context * self.position
        return self.weights - self.embeddings + slots * (positions * self.position + state)

    def slots(self, free_bytes: int, prefix_bytes: int = 0) -> int:
        """Slots that fit into so much free memory beside the weights, the allowance and kept prompts."""
        return max(0, (free_bytes - self.weights - ALLOWANCE_BYTES - prefix_bytes) // self.slot)

    def layers_that_do_not_fit(self, free_bytes: int, slots: int, prefix_bytes: int = 0) -> int:
        """Layers that have to stay on the CPU, so that the others and so many slots fit.

        One more layer's memory is kept free: the layers on the CPU come into it in turn.
        """
        over = self.total(slots) + ALLOWANCE_BYTES + prefix_bytes - free_bytes
        if over <= 0:
            return 0
        return min(self.layers, math.ceil((over + self.layer) / self.layer))


def footprint(
    lm: LmConfig, mimi: MimiConfig, *, context: int, weights: Weights = "full", item_bytes: int = 2
) -> Footprint:
    """What a model takes.

    Args:
        lm: The language model's sizes.
        mimi: Mimi's sizes.
        context: Positions that a slot keeps.
        weights: How the layers' matrices are kept.
        item_bytes: Bytes of one value of the language model: 2 for bfloat16, 4 for float32.
    """
    first_layer = rest = embeddings = 0
    for name, shape in lm_shapes(lm, CODEBOOKS).items():
        items = math.prod(shape)
        matrix = "self_attn." in name or "gating." in name or name.startswith("depformer_in.")
        packed = items + 2 * shape[0] * item_bytes  # a scale and a middle per output channel
        size = packed if matrix and weights == "int8" else items * item_bytes
        if name.startswith("transformer.layers.0."):
            first_layer += size
        elif not name.startswith("transformer."):
            rest += size
            embeddings += size if "emb" in name else 0
    coded = sum(math.prod(shape) for shape in mimi_shapes(mimi, CODEBOOKS).values())
    position = lm.kv_values * item_bytes
    return Footprint(
        layer=first_layer,
        layers=lm.num_layers,
        rest=rest,
        embeddings=embeddings,
        mimi=coded * FLOAT_BYTES,
        slot=context * position + _mimi_state(mimi) * FLOAT_BYTES,
        position=position,
        context=context,
    )


def _mimi_state(mimi: MimiConfig) -> int:
    """Values that a slot of Mimi keeps: both transformers' caches. The convolutions' few are left out."""
    transformer = mimi.transformer
    return 2 * transformer.num_layers * 2 * transformer.context * transformer.d_model
