"""PersonaPlex's language model: weights and arithmetic, without any state of a conversation.

A position p is 80 ms and has 17 tokens: text, 8 codes of the agent and 8 of the caller. Acoustic codes (all
but the first of each 8) are one position late. The temporal transformer makes one vector of all positions so
far. The text token of p + 1 is drawn from this vector. Then the depformer draws, one by one, the agent's
semantic code of p + 1 and its acoustic codes of p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # as everywhere in torch code

from pxbridge.personaplex.config import CODEBOOKS, DELAYS, STREAMS
from pxbridge.personaplex.linear import Keeping, wide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pxbridge.personaplex.attention import Attention
    from pxbridge.personaplex.config import LmConfig
    from pxbridge.personaplex.linear import Linear, Weights

NORM_EPSILON = 1e-8


class Draw(Protocol):
    """Draws a token per row."""

    def __call__(self, stream: int, logits: Tensor) -> Tensor:
        """Draws from logits [rows, tokens] of a stream (0: text, 1 to 8: the agent's codes): int64 [rows]."""


@dataclass(frozen=True, eq=False)
class _Block:
    """The weights of a transformer layer, or of one depformer step in a layer."""

    attention_norm: Tensor
    gating_norm: Tensor
    query_key_value: Linear
    attention_out: Linear
    gating_in: Linear
    gating_out: Linear


class LanguageModel:
    """The language model's weights, and the computations with them.

    Args:
        config: Sizes.
        tensors: By the checkpoint's names, with 8 depformer steps (`dep_q` of the configuration does not
            matter here). Each is copied.
        dtype: Type of weights and activations.
        device: Their device.
        weights: How the matrices of the layers are kept. Embeddings and output heads stay as they are.
        offload_layers: How many of the last layers keep their matrices on the CPU.
    """

    def __init__(
        self,
        config: LmConfig,
        tensors: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        weights: Weights = "full",
        offload_layers: int = 0,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.device = device
        kept = Keeping(dtype, device, weights)
        kept_whole = Keeping(dtype, device)
        waiting = Keeping(dtype, device, weights, offloaded=True)

        def plain(name: str) -> Tensor:
            return tensors[name].to(device, dtype, copy=True)

        def norm(name: str) -> Tensor:
            return plain(name).to(wide(dtype)).flatten()

        def block(at: str, gating: str, attention: tuple[Tensor, Tensor], keeping: Keeping) -> _Block:
            feed_forward = (tensors[f"{gating}linear_{side}.weight"] for side in ("in", "out"))
            matrices = [keeping.matrix(weight) for weight in (*attention, *feed_forward)]
            return _Block(norm(f"{at}norm1.alpha"), norm(f"{at}norm2.alpha"), *matrices)

        def attention(at: str) -> tuple[Tensor, Tensor]:
            return tensors[f"{at}self_attn.in_proj_weight"], tensors[f"{at}self_attn.out_proj.weight"]

        # One table for all streams: text first, then agent and caller, codebook by codebook.
        tables = [plain("text_emb.weight"), *(plain(f"emb.{stream}.weight") for stream in range(STREAMS - 1))]
        rows = [len(table) for table in tables]
        self._embeddings = torch.cat(tables)
        self._first_rows = torch.tensor([sum(rows[:stream]) for stream in range(STREAMS)], device=device)
        self._initial = torch.tensor([row - 1 for row in rows], device=device)
        self._delays = torch.tensor(DELAYS, device=device)

        self._layers = []
        for index in range(config.num_layers):
            at = f"transformer.layers.{index}."
            keeping = waiting if index >= config.num_layers - offload_layers else kept
            self._layers.append(block(at, f"{at}gating.", attention(at), keeping))
        self._out_norm = norm("out_norm.alpha")
        self._text_head = kept_whole.matrix(tensors["text_linear.weight"])

        # [layer][step]: a depformer step has weights of its own in each layer.
        self._depformer = []
        for index in range(config.depformer_num_layers):
            at = f"depformer.layers.{index}."
            steps = zip(*(stacked.chunk(CODEBOOKS) for stacked in attention(at)), strict=True)
            self._depformer.append(
                [block(at, f"{at}gating.{step}.", pair, kept) for step, pair in enumerate(steps)]
            )
        inputs = torch.cat([tensors[f"depformer_in.{step}.weight"] for step in range(CODEBOOKS)])
        self._depformer_in = kept.matrix(inputs)
        self._depformer_embeddings = [
            plain("depformer_text_emb.weight"),
            *(plain(f"depformer_emb.{step}.weight") for step in range(CODEBOOKS - 1)),
        ]
        self._heads = [kept_whole.matrix(tensors[f"linears.{step}.weight"]) for step in range(CODEBOOKS)]

    def embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Embeds the input of each position.

        Args:
            tokens: int64 […, 17]. Where no frame came before, the initial token takes their place.
            position: int64 […].

        Returns:
            […, dim].
        """
        tokens = torch.where(position[..., None] <= self._delays, self._initial, tokens)
        return F.embedding(tokens + self._first_rows, self._embeddings).sum(-2)

    def temporal(self, x: Tensor, attention: Attention) -> Tensor:
        """Runs the temporal transformer.

        Args:
            x: [slots, positions, dim], embedded.
            attention: Attends to what was before, too.

        Returns:
            [slots, positions, dim].
        """
        heads = self.config.num_heads
        for index, layer in enumerate(self._layers):
            attended = attention(index, _projected(layer, x, heads))
            x = _gated(layer, x + layer.attention_out(attended.flatten(2)))
        return _normed(x, self._out_norm)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] of the temporal transformer to [rows, text tokens] of the next position."""
        return self._text_head(hidden)

    def codes(self, hidden: Tensor, text: Tensor, draw: Draw, count: int = CODEBOOKS) -> Tensor:
        """Draws the agent's codes one by one.

        Args:
            hidden: [rows, dim] of the temporal transformer.
            text: int64 [rows], the next position's text token.
            draw: Draws each code.
            count: How many: the semantic code of the next position, then acoustic codes of this one.

        Returns:
            int64 [rows, count].
        """
        heads = self.config.depformer_num_heads
        inputs = self._depformer_in(hidden).unflatten(-1, (CODEBOOKS, -1))
        keys: list[list[Tensor]] = [[] for _ in self._depformer]
        values: list[list[Tensor]] = [[] for _ in self._depformer]
        previous = text
        codes = []
        for step in range(count):
            x = (inputs[:, step] + F.embedding(previous, self._depformer_embeddings[step]))[:, None]
            for index, layer in enumerate(self._depformer):
                query, key, value = _projected(layer[step], x, heads).unbind(2)
                keys[index].append(key)
                values[index].append(value)
                attended = F.scaled_dot_product_attention(
                    query.transpose(1, 2),
                    torch.cat(keys[index], 1).transpose(1, 2),
                    torch.cat(values[index], 1).transpose(1, 2),
                )
                x = x + layer[step].attention_out(attended.transpose(1, 2).flatten(2))
                x = _gated(layer[step], x)
            previous = draw(1 + step, self._heads[step](x[:, 0]))
            codes.append(previous)
        return torch.stack(codes, 1)


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm, in the weight's type."""
    return F.rms_norm(x.to(weight.dtype), (x.shape[-1],), weight, NORM_EPSILON).to(x.dtype)


def _projected(block: _Block, x: Tensor, heads: int) -> Tensor:
    """Query, key and value of [rows, positions, dim]: [rows, positions, 3, heads, head_dim]."""
    return block.query_key_value(_normed(x, block.attention_norm)).unflatten(-1, (3, heads, -1))


def _gated(block: _Block, x: Tensor) -> Tensor:
    """The feed-forward half of a layer."""
    gate, value = block.gating_in(_normed(x, block.gating_norm)).chunk(2, -1)
    return x + block.gating_out(F.silu(gate) * value)
