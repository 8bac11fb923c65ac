"""Loudness by ITU-R BS.1770-5: K-weighting, blocks of 400 ms, both gates; mono.

The two filters are the standard's at any sampling rate: its coefficients for 48 kHz, taken back to the
analogue filters they come from. They are applied to the whole sound at once in the frequency domain.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pxbridge.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_S = 0.4
BLOCK_STEP_S = 0.1
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_LU = -0.691
"""From the standard: with it a sine of 997 Hz and 0 dBFS has -3.01 LUFS."""

SHELF_HZ, SHELF_Q, SHELF_DB = 1681.974450955533, 0.7071752369554196, 3.999843853973347
SHELF_BAND_POWER = 0.4996667741545416
"""The shelf's gain at its corner, as the power of the whole gain that it is."""
HIGH_PASS_HZ, HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
"""These give the standard's tables at 48 kHz to all their digits."""
TAIL_S = 1.0
"""The filters ring for less than this, to below 1e-90."""


def integrated_lufs(sound: NDArray[np.float32], rate_hz: int) -> float:
    """The loudness of a whole sound.

    Args:
        sound: float [samples], mono, full scale ±1.0.
        rate_hz: Its rate.

    Returns:
        LUFS; minus infinity where no block is above the absolute gate.

    Raises:
        InputError: It is shorter than one block.
    """
    block, step = round(BLOCK_S * rate_hz), round(BLOCK_STEP_S * rate_hz)
    if len(sound) < block:
        raise InputError(f"shorter than {BLOCK_S * 1000:.0f} ms: its loudness cannot be measured")
    energy = np.concatenate([[0.0], np.cumsum(_weighted(sound, rate_hz) ** 2)])
    starts = np.arange(0, len(sound) - block + 1, step)
    power = (energy[starts + block] - energy[starts]) / block
    power = power[power > _power(ABSOLUTE_GATE_LUFS)]
    if not len(power):
        return -math.inf
    gate = _power(_lufs(float(power.mean())) + RELATIVE_GATE_LU)
    return _lufs(float(power[power > gate].mean()))


def normalised(sound: NDArray[np.float32], rate_hz: int, lufs: float) -> NDArray[np.float32]:
    """The same sound at another loudness. Peaks may go beyond full scale: nothing is clipped.

    Raises:
        InputError: It is too short to be measured, or silent.
    """
    measured = integrated_lufs(sound, rate_hz)
    if measured == -math.inf:
        raise InputError("silent")
    return (sound * np.float32(10 ** ((lufs - measured) / 20))).astype(np.float32)


def _lufs(power: float) -> float:
    return OFFSET_LU + 10 * math.log10(power)


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - OFFSET_LU) / 10))


def _weighted(sound: NDArray[np.float32], rate_hz: int) -> NDArray[np.float64]:
    """The sound through both filters, as if silence came before it."""
    size = 1 << math.ceil(math.log2(len(sound) + TAIL_S * rate_hz))
    delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.ones_like(delay)
    for feedforward, feedback in _filters(rate_hz):
        response *= np.polyval(feedforward[::-1], delay) / np.polyval(feedback[::-1], delay)
    return np.fft.irfft(np.fft.rfft(sound.astype(np.float64), size) * response, size)[: len(sound)]


def _filters(rate_hz: int) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Coefficients of the shelf and of the high-pass, by the bilinear transform."""
    k = math.tan(math.pi * SHELF_HZ / rate_hz)
    high = 10 ** (SHELF_DB / 20)
    band = high**SHELF_BAND_POWER * k / SHELF_Q
    norm = 1 + k / SHELF_Q + k * k
    shelf = (
        np.array([high + band + k * k, 2 * (k * k - high), high - band + k * k]) / norm,
        np.array([norm, 2 * (k * k - 1), 1 - k / SHELF_Q + k * k]) / norm,
    )
    k = math.tan(math.pi * HIGH_PASS_HZ / rate_hz)
    norm = 1 + k / HIGH_PASS_Q + k * k
    high_pass = (
        np.array([1.0, -2.0, 1.0]),
        np.array([norm, 2 * (k * k - 1), 1 - k / HIGH_PASS_Q + k * k]) / norm,
    )
    return [shelf, high_pass]
