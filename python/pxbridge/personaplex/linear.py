"""The model's matrices: in full or as int8, on the device or kept on the CPU.

A matrix that waits on the CPU is copied to the device each time it is used, so its layer costs a transfer a
tick instead of memory.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # as everywhere in torch code

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("pxbridge.engine")

Weights = Literal["full", "int8"]
"""`full`: the model's own type. `int8`: a byte a weight and a scale per output channel; activations as
ever."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type for norms, rotations and softmax: float32, and float64 in a model of it."""
    return torch.promote_types(dtype, torch.float32)


class Linear(Protocol):
    """y = x·Wᵀ, without a bias."""

    def __call__(self, x: Tensor) -> Tensor:
        """[…, inputs] to […, outputs], of x's type and on its device."""


class Dense:
    """A matrix as it is.

    Args:
        weight: [outputs, inputs].
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """As `Linear` says."""
        return F.linear(x, self.weight.to(x.device, non_blocking=True))


class Int8:
    """A matrix in bytes: a weight is its byte · scale + middle, of its output channel.

    The middle is there because it lets all 256 bytes be used, which takes a quarter off the error.

    Args:
        values: int8 [outputs, inputs].
        scale: [outputs], of the model's type.
        middle: The same.
    """

    def __init__(self, values: Tensor, scale: Tensor, middle: Tensor) -> None:
        self.parts = (values, scale, middle)

    def __call__(self, x: Tensor) -> Tensor:
        """As `Linear` says."""
        values, scale, middle = (part.to(x.device, non_blocking=True) for part in self.parts)
        if _packed_product_works(x.device, x.dtype):
            flat = x.reshape(-1, x.shape[-1])
            product = torch._weight_int8pack_mm(flat, values, scale).view(*x.shape[:-1], -1)
        else:
            product = F.linear(x, values.to(x.dtype)) * scale
        return torch.addcmul(product, x.sum(-1, keepdim=True), middle)


@dataclass(frozen=True)
class Keeping:
    """How matrices are kept.

    Attributes:
        dtype: The model's type.
        device: The model's device.
        weights: In full or as int8.
        offloaded: On the CPU, whatever the model's device.
    """

    dtype: torch.dtype
    device: torch.device
    weights: Weights = "full"
    offloaded: bool = False

    def matrix(self, weight: Tensor) -> Linear:
        """Keeps a matrix [outputs, inputs] of any floating type; a copy always."""
        if self.weights == "full":
            return Dense(self._placed(weight.to(self.dtype)))
        wide = weight.to(self.device).float()  # the device computes the scales faster
        least, most = wide.aminmax(dim=1, keepdim=True)
        scale = ((most - least) / 255).clamp_min(torch.finfo(torch.float32).tiny)
        middle = least + 128 * scale
        values = ((wide - middle) / scale).round().clamp(-128, 127).to(torch.int8)
        return Int8(self._placed(values), *(self._placed(x[:, 0].to(self.dtype)) for x in (scale, middle)))

    def _placed(self, values: Tensor) -> Tensor:
        if not self.offloaded:
            return values.to(self.device, copy=True).contiguous()
        kept = values.to("cpu", copy=True).contiguous()
        # A copy to the device does not stop the host if it comes from pinned memory.
        return kept.pin_memory() if self.device.type == "cuda" else kept


@cache
def _packed_product_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies by int8 without first widening all of it, and right.

    CUDA only: on the CPU the product is slower than widening. It is no public function, so it is tried.
    """
    if device.type != "cuda":
        return False
    try:
        x = torch.linspace(-1, 1, 2 * 64, device=device).view(2, 64).to(dtype)
        values = (torch.arange(32 * 64, device=device) % 251 - 125).view(32, 64).to(torch.int8)
        scale = torch.full((32,), 0.01, device=device, dtype=dtype)
        found = torch._weight_int8pack_mm(x, values, scale).float()
        expected = F.linear(x.float(), values.float()) * scale.float()
        right = bool(((found - expected).norm() / expected.norm() < 0.02).item())
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        log.warning("no int8 product for %s: int8 weights are widened each tick (%s)", device, error)
        return False
    if not right:
        log.warning("torch's int8 product is wrong on %s: int8 weights are widened each tick", device)
    return right
