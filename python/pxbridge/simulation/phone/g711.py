"""G.711 by its formulas. It shares no code with the bridge, so that errors of the bridge show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode_mu_law(pcm: NDArray[np.int16]) -> NDArray[np.uint8]:
    """The G.711 µ-law codes of int16 samples."""
    return _MU_LAW_OF[pcm.astype(np.int32) + 32768]


def decode_mu_law(code: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The int16 samples of G.711 µ-law codes."""
    return _PCM_OF_MU_LAW[code]


def encode_a_law(pcm: NDArray[np.int16]) -> NDArray[np.uint8]:
    """The G.711 A-law codes of int16 samples."""
    return _A_LAW_OF[pcm.astype(np.int32) + 32768]


def decode_a_law(code: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The int16 samples of G.711 A-law codes."""
    return _PCM_OF_A_LAW[code]


def _mu_law_values() -> NDArray[np.int16]:
    """The samples of all codes of µ-law."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = ((2 * mantissa + 33) << exponent << 2) - 132
    return np.where(code & 128, -magnitude, magnitude).astype(np.int16)


def _a_law_values() -> NDArray[np.int16]:
    """The samples of all codes of A-law."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    linear = (2 * mantissa + 1) << 3
    magnitude = np.where(exponent == 0, linear, (linear + 0x100) << np.maximum(exponent - 1, 0))
    return np.where(code & 128, magnitude, -magnitude).astype(np.int16)


def _codes(decoded: NDArray[np.int16]) -> NDArray[np.uint8]:
    """For each int16 sample the code of the nearest value that decoding can give."""
    order = np.argsort(decoded, kind="stable").astype(np.uint8)
    values = decoded[order].astype(np.int32)
    edges = (values[:-1] + values[1:] + 1) // 2
    return order[np.searchsorted(edges, np.arange(-32768, 32768), side="right")]


_PCM_OF_MU_LAW, _PCM_OF_A_LAW = _mu_law_values(), _a_law_values()
_MU_LAW_OF, _A_LAW_OF = _codes(_PCM_OF_MU_LAW), _codes(_PCM_OF_A_LAW)
