"""Sizes of the language model and of Mimi: the published ones by default, others from a JSON file.

The keys of the files are those of Kyutai's own configurations. A key left out has the published model's
value. Keys that name a variant of the architecture (`gating`, `norm`, …) must have the one value that is
built here. Needs no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

from pxbridge import chat_wire
from pxbridge.errors import InputError
from pxbridge.wording import counted

DEFAULT_REPO = "nvidia/personaplex-7b-v1"
"""The checkpoint whose sizes are the defaults here."""
SAMPLE_RATE_HZ = chat_wire.ENGINE_HZ
FRAME_SAMPLES = chat_wire.FRAME_SAMPLES
"""80 ms: Mimi's frame and the model's step."""
FRAME_S = chat_wire.FRAME_S
CODEBOOKS = 8
"""How many of Mimi's codebooks are spoken and heard."""
DELAYS = (0, *(0, 1, 1, 1, 1, 1, 1, 1), *(0, 1, 1, 1, 1, 1, 1, 1))
"""In steps, per stream: text, 8 agent codebooks, 8 user codebooks."""
STREAMS = len(DELAYS)


class _Config:
    """What both configurations share: being read, and refusing what is not built here."""

    _fixed: ClassVar[dict[str, Any]] = {}
    """Keys of the file that must have this value when they are there."""

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Reads a JSON file.

        Raises:
            InputError: It cannot be read, has an unknown key, or asks for another architecture.
        """
        try:
            found = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise InputError(f"{path}: no JSON: {error}") from error
        try:
            return cls._made(found, "")
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, found: object) -> Self:
        """The same of JSON that is already read; raises InputError too."""
        return cls._made(found, "")

    @classmethod
    def _made(cls, found: object, within: str) -> Self:
        if not isinstance(found, dict):
            raise InputError(f"{within or 'the file'}: an object is needed, not {found!r}")
        types = get_type_hints(cls)
        known = {item.name for item in fields(cls)}  # type: ignore[arg-type]  # each subclass is a dataclass
        values = {}
        for key, value in found.items():
            name = f"{within}.{key}" if within else key
            if key in cls._fixed:
                if value != cls._fixed[key]:
                    raise InputError(f"{name}: {value!r} is not supported, only {cls._fixed[key]!r}")
            elif key not in known:
                raise InputError(f"{name}: no such key")
            else:
                values[key] = _checked(name, value, types[key])
        config = cls(**values)
        config._check(within)
        return config

    def _check(self, within: str) -> None:
        """Raises InputError where values contradict each other."""


def _checked(name: str, value: object, kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, _Config):
        return kind._made(value, name)
    if kind is int:
        if type(value) is int and value > 0:
            return value
        raise InputError(f"{name}: {value!r} is not a whole number above 0")
    if kind is float:
        if type(value) in (int, float) and value > 0:  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
        raise InputError(f"{name}: {value!r} is not a number above 0")
    if isinstance(value, list) and value and all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    raise InputError(f"{name}: {value!r} is not a list of whole numbers")


@dataclass(frozen=True)
class LmConfig(_Config):
    """The language model: a temporal transformer, and a depformer that says a frame's codes one by one.

    Attributes:
        dim: Width of the temporal transformer.
        text_card: Text tokens; one more, the last, is the initial token.
        existing_text_padding_id: The text token that means "nothing said" (PAD).
        card: Tokens of a codebook; one more, the last, is the initial token.
        num_heads: Attention heads of the temporal transformer.
        num_layers: Layers of the temporal transformer.
        hidden_scale: The temporal transformer's feed-forward width as a multiple of `dim`, before gating.
        context: Positions that stay in attention, 80 ms each.
        max_period: RoPE's longest period, in positions.
        dep_q: Depformer steps in the file, 8 or 16. Only 8 are ever used.
        depformer_dim: Width of the depformer.
        depformer_dim_feedforward: Its feed-forward width, before gating.
        depformer_num_heads: Its attention heads.
        depformer_num_layers: Its layers.
    """

    _fixed: ClassVar[dict[str, Any]] = {
        "n_q": STREAMS - 1,
        "delays": list(DELAYS),
        "causal": True,
        "layer_scale": None,
        "gating": "silu",
        "norm": "rms_norm_f32",
        "positional_embedding": "rope",
        "depformer_multi_linear": True,
        "depformer_causal": True,
        "depformer_layer_scale": None,
        "depformer_context": CODEBOOKS,
        "depformer_max_period": 10_000,
        "depformer_gating": "silu",
        "depformer_pos_emb": "none",
        "depformer_weights_per_step": True,
    }

    dim: int = 4096
    text_card: int = 32_000
    existing_text_padding_id: int = 3
    card: int = 2048
    num_heads: int = 32
    num_layers: int = 32
    hidden_scale: float = 4.125
    context: int = 3000
    max_period: float = 10_000.0
    dep_q: int = 16
    depformer_dim: int = 1024
    depformer_dim_feedforward: int = 4224
    depformer_num_heads: int = 16
    depformer_num_layers: int = 6

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the temporal transformer."""
        return self.dim // self.num_heads

    @property
    def hidden(self) -> int:
        """Width inside the temporal transformer's gated feed-forward."""
        return _gated_hidden(self.dim, int(self.hidden_scale * self.dim))

    @property
    def depformer_head_dim(self) -> int:
        """Width of one attention head of the depformer."""
        return self.depformer_dim // self.depformer_num_heads

    @property
    def depformer_hidden(self) -> int:
        """Width inside the depformer's gated feed-forward."""
        return _gated_hidden(self.depformer_dim, self.depformer_dim_feedforward)

    @property
    def kv_values(self) -> int:
        """Values that one position of one slot keeps in the KV cache."""
        return 2 * self.num_layers * self.dim

    def _check(self, within: str) -> None:
        if self.dim % self.num_heads or self.head_dim % 2:
            raise InputError(
                f"dim: {self.dim} is not an even number of values for each of "
                f"{counted(self.num_heads, 'head')}"
            )
        if self.depformer_dim % self.depformer_num_heads:
            raise InputError(
                f"depformer_dim: {self.depformer_dim} is not a multiple of "
                f"{counted(self.depformer_num_heads, 'head')}"
            )
        if self.dep_q not in (CODEBOOKS, STREAMS - 1):
            raise InputError(f"dep_q: {self.dep_q}; 8 or 16 depformer steps are supported")
        if self.existing_text_padding_id >= self.text_card:
            raise InputError(f"existing_text_padding_id: {self.existing_text_padding_id} is not a text token")


@dataclass(frozen=True)
class SeanetConfig(_Config):
    """Mimi's convolutions.

    Attributes:
        dimension: Width towards the transformers.
        n_filters: Channels of the layer next to the sound; each stride doubles them.
        kernel_size: Kernel size of the first layer.
        residual_kernel_size: Kernel size of the residual blocks.
        last_kernel_size: Kernel size of the last layer.
        ratios: Strides of the decoder, in its order.
    """

    _fixed: ClassVar[dict[str, Any]] = {
        "channels": 1,
        "causal": True,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "norm": "none",
        "pad_mode": "constant",
        "true_skip": True,
    }

    dimension: int = 512
    n_filters: int = 64
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    ratios: tuple[int, ...] = (8, 6, 5, 4)

    def _check(self, within: str) -> None:
        product = 2  # down- and upsampling between convolutions and transformers
        for ratio in self.ratios:
            product *= ratio
        if product != FRAME_SAMPLES:
            raise InputError(f"{within}.ratios: their product is {product // 2}, not {FRAME_SAMPLES // 2}")


@dataclass(frozen=True)
class QuantizerConfig(_Config):
    """Mimi's codebooks: one semantic, the rest acoustic, each on the residue of the ones before it.

    Attributes:
        dimension: Width of a centroid.
        n_q: Codebooks in the file; the first 8 are used.
        bins: Centroids of a codebook.
        input_dimension: Width that comes in.
        output_dimension: Width that goes out.
    """

    dimension: int = 256
    n_q: int = 32
    bins: int = 2048
    input_dimension: int = 512
    output_dimension: int = 512

    def _check(self, within: str) -> None:
        if self.n_q < CODEBOOKS:
            raise InputError(f"{within}.n_q: {self.n_q}; {CODEBOOKS} codebooks are used")


@dataclass(frozen=True)
class MimiTransformerConfig(_Config):
    """Mimi's transformers, one before the quantizer and one after it, of the same sizes.

    Attributes:
        d_model: Width.
        num_heads: Attention heads.
        num_layers: Layers.
        context: Positions that stay in attention, 40 ms each.
        max_period: RoPE's longest period, in positions.
        dim_feedforward: Feed-forward width.
        input_dimension: Width that comes in, `d_model` too.
        output_dimensions: Widths that go out: one, `d_model` too.
        layer_scale: What layer scales began training with; the file's values are used.
    """

    _fixed: ClassVar[dict[str, Any]] = {
        "causal": True,
        "conv_layout": True,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
    }

    d_model: int = 512
    num_heads: int = 8
    num_layers: int = 8
    context: int = 250
    max_period: float = 10_000.0
    dim_feedforward: int = 2048
    input_dimension: int = 512
    output_dimensions: tuple[int, ...] = (512,)
    layer_scale: float = 0.01

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    def _check(self, within: str) -> None:
        if self.d_model % self.num_heads or self.head_dim % 2:
            raise InputError(
                f"{within}.d_model: {self.d_model} is not an even number for each of "
                f"{counted(self.num_heads, 'head')}"
            )
        if self.input_dimension != self.d_model or self.output_dimensions != (self.d_model,):
            raise InputError(f"{within}: input_dimension and output_dimensions must be {self.d_model} too")


@dataclass(frozen=True)
class MimiConfig(_Config):
    """Mimi, the codec: 24 kHz mono, 1920 samples a frame."""

    _fixed: ClassVar[dict[str, Any]] = {
        "sample_rate": SAMPLE_RATE_HZ,
        "channels": 1,
        "frame_rate": 1 / FRAME_S,
    }

    seanet: SeanetConfig = field(default_factory=SeanetConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    transformer: MimiTransformerConfig = field(default_factory=MimiTransformerConfig)

    def _check(self, within: str) -> None:
        width = self.seanet.dimension
        widths = (self.quantizer.input_dimension, self.quantizer.output_dimension, self.transformer.d_model)
        if widths != (width, width, width):
            raise InputError(
                f"seanet.dimension: {width} must be the quantizer's and the transformer's width too: {widths}"
            )


def _gated_hidden(dim: int, feedforward: int) -> int:
    """Width of a gated feed-forward with about as many weights as a plain one of width `feedforward`.

    As Kyutai's `ActivationGating` rounds it.
    """
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3
