"""Mimi, Kyutai's codec, for many slots: 1920 samples of 24 kHz to 8 codes and back, frame by frame.

    sound ▶ convolutions ▶ transformer ▶ downsampling ▶ quantizer ▶ codes
    codes ▶ quantizer ▶ upsampling ▶ transformer ▶ convolutions ▶ sound

Weights are shared; what a conversation remembers lies in a stream for each direction. Sound is float32
always, and so is what is computed, unless it is to show that a difference is one of rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # as everywhere in torch code

from pxbridge.personaplex.config import CODEBOOKS
from pxbridge.personaplex.prompt import SILENCE
from pxbridge.personaplex.streaming import Conv, ConvTranspose, Elu, Residual, Stream, Transformer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pxbridge.personaplex.config import MimiConfig, MimiTransformerConfig
    from pxbridge.personaplex.streaming import Layer

RESAMPLING = 2
"""From the convolutions' 25 Hz to 12.5 frames a second."""
LEAST_USAGE = 1e-5
"""The least use count of a centroid, as in Kyutai's code: it prevents a division by zero."""


class Mimi:
    """The codec's weights, and the computations with them.

    Args:
        config: Sizes.
        tensors: By the checkpoint's names. Codebooks beyond the first 8 are not needed.
        device: The device.
        dtype: Type of the computation: float32 or float64.
    """

    def __init__(
        self,
        config: MimiConfig,
        tensors: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device
        self._dtype = dtype
        found = _Tensors(tensors, device, dtype)
        seanet = config.seanet

        self._encoder: list[Layer] = [found.conv("encoder.model.0")]
        at = 1
        for ratio in reversed(seanet.ratios):
            self._encoder += [
                found.residual(f"encoder.model.{at}"),
                Elu(),
                found.conv(f"encoder.model.{at + 2}", ratio),
            ]
            at += 3
        self._encoder += [Elu(), found.conv(f"encoder.model.{at + 1}")]
        self._encoder.append(found.transformer("encoder_transformer", config.transformer))
        downsampling = found.take("downsample.conv.conv.conv.weight")
        self._encoder.append(Conv(downsampling, None, RESAMPLING, repeat_first=True))

        upsampling = found.take("upsample.convtr.convtr.convtr.weight")
        self._decoder: list[Layer] = [ConvTranspose(upsampling, None, RESAMPLING, groups=len(upsampling))]
        self._decoder.append(found.transformer("decoder_transformer", config.transformer))
        self._decoder.append(found.conv("decoder.model.0"))
        at = 2
        for ratio in seanet.ratios:
            self._decoder += [
                Elu(),
                ConvTranspose(*found.pair(f"decoder.model.{at}.convtr.convtr"), ratio),
                found.residual(f"decoder.model.{at + 1}"),
            ]
            at += 3
        self._decoder += [Elu(), found.conv(f"decoder.model.{at}")]

        # The semantic codebook, and the acoustic ones on a projection of their own.
        self._semantic = found.quantizer("quantizer.rvq_first", 1)
        self._acoustic = found.quantizer("quantizer.rvq_rest", CODEBOOKS - 1)

    def encoder(self, slots: int) -> Stream:
        """Fresh streams for `encode`."""
        return Stream(self._encoder, slots, self.device)

    def decoder(self, slots: int) -> Stream:
        """Fresh streams for `decode`."""
        return Stream(self._decoder, slots, self.device)

    def started_decoder(self) -> Stream:
        """A stream of one slot as a conversation's decoder begins: after one frame of SILENCE, as
        NVIDIA's.
        """
        stream = self.decoder(1)
        silence = torch.tensor([SILENCE], device=self.device)
        self.decode(stream, silence, torch.ones(1, dtype=torch.bool, device=self.device))
        return stream

    def encode(self, stream: Stream, sound: Tensor, running: Tensor) -> Tensor:
        """Encodes a frame.

        Args:
            stream: Made by `encoder`.
            sound: float32 [slots, 1920].
            running: bool [slots]; the others' memory stays, and what is returned for them means nothing.

        Returns:
            int64 [slots, 8].
        """
        x = stream.run(self._encoder, sound[:, None].to(self._dtype), running)[..., 0]
        return torch.cat([self._semantic.encode(x), self._acoustic.encode(x)], 1)

    def decode(self, stream: Stream, codes: Tensor, running: Tensor) -> Tensor:
        """Decodes a frame.

        Args:
            stream: Made by `decoder`.
            codes: int64 [slots, 8].
            running: As in `encode`.

        Returns:
            float32 [slots, 1920].
        """
        x = self._semantic.decode(codes[:, :1]) + self._acoustic.decode(codes[:, 1:])
        return stream.run(self._decoder, x[..., None], running)[:, 0].float()


class Quantizer:
    """Codebooks, each on what the ones before it left over.

    Args:
        project_in: float32 [dimension, width].
        project_out: float32 [width, dimension].
        books: float32 [centroids, dimension] each.
    """

    def __init__(self, project_in: Tensor, project_out: Tensor, books: list[Tensor]) -> None:
        self._input = project_in
        self._output = project_out
        self._books = books
        self._half_squares = [book.square().sum(1) / 2 for book in books]

    def encode(self, x: Tensor) -> Tensor:
        """[slots, width] to int64 [slots, codebooks]."""
        rest = F.linear(x, self._input)
        codes = []
        for book, half_squares in zip(self._books, self._half_squares, strict=True):
            # |x - c|² is least where x·c - |c|²/2 is most.
            code = (F.linear(rest, book) - half_squares).argmax(-1)
            rest = rest - F.embedding(code, book)
            codes.append(code)
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [slots, codebooks] to [slots, width]."""
        x = F.embedding(codes[:, 0], self._books[0])
        for index, book in enumerate(self._books[1:], 1):
            x = x + F.embedding(codes[:, index], book)
        return F.linear(x, self._output)


class _Tensors:
    """Layers made of the checkpoint's tensors.

    Args:
        tensors: By name.
        device: Where the layers are.
        dtype: Their type.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._tensors = tensors
        self._device = device
        self._dtype = dtype

    def take(self, name: str) -> Tensor:
        return self._tensors[name].to(self._device, self._dtype, copy=True)

    def pair(self, at: str) -> tuple[Tensor, Tensor]:
        return self.take(f"{at}.weight"), self.take(f"{at}.bias")

    def conv(self, at: str, stride: int = 1) -> Conv:
        return Conv(*self.pair(f"{at}.conv.conv"), stride)

    def residual(self, at: str) -> Residual:
        return Residual(self.conv(f"{at}.block.1"), self.conv(f"{at}.block.3"))

    def transformer(self, at: str, config: MimiTransformerConfig) -> Transformer:
        layers = []
        for index in range(config.num_layers):
            prefix = f"{at}.transformer.layers.{index}."
            names = [name.removeprefix(prefix) for name in self._tensors if name.startswith(prefix)]
            layers.append({name: self.take(prefix + name) for name in names})
        return Transformer(config, layers, self._device, self._dtype)

    def quantizer(self, at: str, count: int) -> Quantizer:
        books = []
        for index in range(count):
            book = f"{at}.vq.layers.{index}._codebook."
            usage = self.take(f"{book}cluster_usage").clamp_min(LEAST_USAGE)
            books.append(self.take(f"{book}embedding_sum") / usage[:, None])
        project_in, project_out = (self.take(f"{at}.{name}_proj.weight") for name in ("input", "output"))
        return Quantizer(project_in[..., 0], project_out[..., 0], books)
