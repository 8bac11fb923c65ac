"""G.711 µ-law by its formula. It shares no code with the bridge, so that errors of the bridge show."""

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


def _mu_law_tables() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Decoding by the formula of G.711; encoding to the nearest value that decoding can give."""
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = ((2 * mantissa + 33) << exponent << 2) - 132
    decoded = np.where(code & 128, -magnitude, magnitude).astype(np.int16)
    order = np.argsort(decoded, kind="stable").astype(np.uint8)
    values = decoded[order].astype(np.int32)
    edges = (values[:-1] + values[1:] + 1) // 2
    encoded = order[np.searchsorted(edges, np.arange(-32768, 32768), side="right")]
    return decoded, encoded


_PCM_OF_MU_LAW, _MU_LAW_OF = _mu_law_tables()
