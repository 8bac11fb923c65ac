"""Names and shapes of the tensors in the published checkpoints, from their configurations. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pxbridge.personaplex.config import STREAMS

if TYPE_CHECKING:
    from pxbridge.personaplex.config import LmConfig, MimiConfig

Shape = tuple[int, ...]
"""As safetensors gives it: outer dimension first."""


def lm_shapes(config: LmConfig, steps: int) -> dict[str, Shape]:
    """The language model's tensors.

    Args:
        config: Its sizes.
        steps: Depformer steps, 8 or 16.

    Returns:
        The shape of each tensor by its name. Attention's projections of all depformer steps are stacked in
        one tensor, step by step; every other tensor of a step has a name of its own.
    """
    dim, inner = config.dim, config.depformer_dim
    shapes: dict[str, Shape] = {
        "text_emb.weight": (config.text_card + 1, dim),
        "text_linear.weight": (config.text_card, dim),
        "out_norm.alpha": (1, 1, dim),
        "depformer_text_emb.weight": (config.text_card + 1, inner),
    }
    for stream in range(STREAMS - 1):
        shapes[f"emb.{stream}.weight"] = (config.card + 1, dim)
    for layer in range(config.num_layers):
        at = f"transformer.layers.{layer}."
        shapes |= _attention(at, dim, 1)
        shapes |= _gating(f"{at}gating.", dim, config.hidden)
    for layer in range(config.depformer_num_layers):
        at = f"depformer.layers.{layer}."
        shapes |= _attention(at, inner, steps)
        for step in range(steps):
            shapes |= _gating(f"{at}gating.{step}.", inner, config.depformer_hidden)
    for step in range(steps):
        shapes[f"depformer_in.{step}.weight"] = (inner, dim)
        shapes[f"linears.{step}.weight"] = (config.card, inner)
    for step in range(steps - 1):
        shapes[f"depformer_emb.{step}.weight"] = (config.card + 1, inner)
    return shapes


def _attention(at: str, dim: int, steps: int) -> dict[str, Shape]:
    return {
        f"{at}norm1.alpha": (1, 1, dim),
        f"{at}norm2.alpha": (1, 1, dim),
        f"{at}self_attn.in_proj_weight": (steps * 3 * dim, dim),
        f"{at}self_attn.out_proj.weight": (steps * dim, dim),
    }


def _gating(at: str, dim: int, hidden: int) -> dict[str, Shape]:
    return {f"{at}linear_in.weight": (2 * hidden, dim), f"{at}linear_out.weight": (dim, hidden)}


def mimi_shapes(config: MimiConfig, codebooks: int | None = None) -> dict[str, Shape]:
    """Mimi's tensors.

    Args:
        config: Its sizes.
        codebooks: How many codebooks; None for as many as the configuration has.

    Returns:
        The shape of each tensor by its name. A centroid is its row of `embedding_sum` over its
        `cluster_usage`.
    """
    shapes = _encoder(config) | _decoder(config)
    width = config.seanet.dimension
    shapes["downsample.conv.conv.conv.weight"] = (width, width, 4)
    shapes["upsample.convtr.convtr.convtr.weight"] = (width, 1, 4)
    for side in ("encoder", "decoder"):
        for layer in range(config.transformer.num_layers):
            shapes |= _mimi_layer(f"{side}_transformer.transformer.layers.{layer}.", config)
    in_all = config.quantizer.n_q if codebooks is None else codebooks
    shapes |= _quantizer("quantizer.rvq_first.", config, 1)
    shapes |= _quantizer("quantizer.rvq_rest.", config, in_all - 1)
    return shapes


def _conv(at: str, outs: int, ins: int, kernel: int) -> dict[str, Shape]:
    return {f"{at}.conv.conv.weight": (outs, ins, kernel), f"{at}.conv.conv.bias": (outs,)}


def _residual(at: str, channels: int, kernel: int) -> dict[str, Shape]:
    return _conv(f"{at}.block.1", channels // 2, channels, kernel) | _conv(
        f"{at}.block.3", channels, channels // 2, 1
    )


def _encoder(config: MimiConfig) -> dict[str, Shape]:
    seanet = config.seanet
    at, index, channels = "encoder.model.", 1, seanet.n_filters
    shapes = _conv(f"{at}0", channels, 1, seanet.kernel_size)
    for ratio in reversed(seanet.ratios):  # residual block, ELU, strided convolution
        shapes |= _residual(f"{at}{index}", channels, seanet.residual_kernel_size)
        shapes |= _conv(f"{at}{index + 2}", 2 * channels, channels, 2 * ratio)
        index, channels = index + 3, 2 * channels
    return shapes | _conv(f"{at}{index + 1}", seanet.dimension, channels, seanet.last_kernel_size)


def _decoder(config: MimiConfig) -> dict[str, Shape]:
    seanet = config.seanet
    at, index, channels = "decoder.model.", 2, seanet.n_filters << len(seanet.ratios)
    shapes = _conv(f"{at}0", channels, seanet.dimension, seanet.kernel_size)
    for ratio in seanet.ratios:  # ELU, transposed convolution, residual block
        shapes[f"{at}{index}.convtr.convtr.weight"] = (channels, channels // 2, 2 * ratio)
        shapes[f"{at}{index}.convtr.convtr.bias"] = (channels // 2,)
        channels //= 2
        shapes |= _residual(f"{at}{index + 1}", channels, seanet.residual_kernel_size)
        index += 3
    return shapes | _conv(f"{at}{index}", 1, channels, seanet.last_kernel_size)


def _mimi_layer(at: str, config: MimiConfig) -> dict[str, Shape]:
    width, hidden = config.transformer.d_model, config.transformer.dim_feedforward
    shapes: dict[str, Shape] = {
        f"{at}self_attn.in_proj_weight": (3 * width, width),
        f"{at}self_attn.out_proj.weight": (width, width),
        f"{at}linear1.weight": (hidden, width),
        f"{at}linear2.weight": (width, hidden),
    }
    for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
        shapes[f"{at}{part}"] = (width,)
    for part in ("layer_scale_1.scale", "layer_scale_2.scale"):
        shapes[f"{at}{part}"] = (width,)
    return shapes


def _quantizer(at: str, config: MimiConfig, codebooks: int) -> dict[str, Shape]:
    quantizer = config.quantizer
    shapes: dict[str, Shape] = {
        f"{at}input_proj.weight": (quantizer.dimension, quantizer.input_dimension, 1),
        f"{at}output_proj.weight": (quantizer.output_dimension, quantizer.dimension, 1),
    }
    for index in range(codebooks):
        book = f"{at}vq.layers.{index}._codebook."
        shapes[f"{book}embedding_sum"] = (quantizer.bins, quantizer.dimension)
        shapes[f"{book}cluster_usage"] = (quantizer.bins,)
        shapes[f"{book}_initialized"] = (1,)
    return shapes
