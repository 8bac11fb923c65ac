"""How good speech sounds: the measures of others, and a search for clicks.

Each measure is used only if it is installed (`pip install --group quality`): PESQ (ITU-T P.862), PLCMOS and
DNSMOS (networks of Microsoft's, trained on listeners' opinions of lost packets and of noise), and the word
errors of pocketsphinx, a speech recogniser. Each of them misses faults that another one finds. Compare their
figures only with those of the same speech through the codecs alone.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pxbridge.wav import resample, to_pcm

if TYPE_CHECKING:
    from collections.abc import Sequence

Signal = NDArray[np.float64]

LINE_HZ = 8000
"""The rate of all signals that are measured here."""
JUDGES_HZ = 16_000
"""The rate that the networks and the recogniser take."""
RATERS = 4
"""PLCMOS gives the opinion of one listener at a time; the mean of this many is taken."""
HEARD_AT_ONCE_S = 9.01
"""The length of DNSMOS's input."""
DNS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial from DNSMOS's raw output to its scale of 1 to 5."""

CLICK_STEP = 16  # 2 ms
CLICK_AROUND = 10  # steps on either side: 20 ms, more than the period of a low voice
CLICK_RATIO = 3.0
"""A click is a corner in the wave that is this many times sharper than all others within 20 ms,"""
CLICK_LEAST = 4e-3
"""and this many times sharper than a corner of this size (-48 dBFS: no click is heard below),"""
KNOWN = 0.95
"""unless a piece of what was said correlates with it by at least this: consonants click too."""


def judge(name: str) -> Any:
    """The module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _at_judges_rate(heard: Signal) -> NDArray[np.float32]:
    return np.clip(resample(heard.astype(np.float32), LINE_HZ, JUDGES_HZ), -1.0, 1.0)


def pesq_mos(said: Signal, heard: Signal) -> float | None:
    """PESQ for narrow bands. It means nothing where the time scale was changed."""
    pesq = judge("pesq")
    return None if pesq is None else float(pesq.pesq(LINE_HZ, said, heard, "nb"))


@functools.cache
def _network(path: str) -> Any:
    onnx, home = judge("onnxruntime"), judge("speechmos")
    if onnx is None or home is None:
        return None
    options = onnx.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnx.InferenceSession(str(Path(next(iter(home.__path__))) / path), options)


def plc_mos(heard: Signal) -> float | None:
    """PLCMOS: how good speech sounds after packet loss and its concealment."""
    network = _network("plcmos_models/plcmos_v2.onnx")
    if network is None:
        return None
    sound = _at_judges_rate(heard)
    size, hop = 512, 256
    padded = np.concatenate([np.zeros(size - hop), sound, np.zeros(-len(sound) % hop)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hamming(size + 1)[:-1]
    power = np.abs(np.fft.rfft(frames)) ** 2
    spectra = (np.log(np.maximum(power, power[power > 0].min() * 1e-12)) / 20.0).astype(np.float32)
    random = np.random.default_rng(0)
    raters = random.normal(size=(RATERS, 1, 64)).astype(np.float32)
    answers = [
        network.run(None, {"degraded_audio": spectra[None, None], "rater_embed": rater})[0]
        for rater in raters
    ]
    return float(np.mean(answers))


def dns_mos(heard: Signal) -> float | None:
    """DNSMOS' overall figure: speech and background together."""
    network = _network("dnsmos_models/sig_bak_ovr.onnx")
    if network is None:
        return None
    sound = _at_judges_rate(heard)
    length = int(HEARD_AT_ONCE_S * JUDGES_HZ)
    sound = np.tile(sound, -(-length // len(sound)))
    pieces = [sound[at : at + length] for at in range(0, len(sound) - length + 1, 2 * JUDGES_HZ)]
    raw = [network.run(None, {"input_1": piece[None]})[0][0][2] for piece in pieces]
    return float(np.mean(np.polyval(DNS_OVERALL, raw)))


def word_errors(words: Sequence[str], heard: Signal) -> float | None:
    """Word error rate of pocketsphinx: substitutions, deletions and insertions per word."""
    sphinx = judge("pocketsphinx")
    if sphinx is None:
        return None
    decoder = sphinx.Decoder(samprate=JUDGES_HZ, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(to_pcm(_at_judges_rate(heard)).tobytes(), full_utt=True)
    decoder.end_utt()
    understood = decoder.hyp().hypstr.split() if decoder.hyp() else []
    # Levenshtein's distance, row by row.
    row = list(range(len(understood) + 1))
    for i, word in enumerate(words, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(understood, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1] / len(words)


def clicks(said: Signal, heard: Signal) -> list[float]:
    """The times of clicks, in seconds."""
    corners = np.abs(np.diff(heard, 2, prepend=heard[:1], append=heard[-1:]))
    corners = corners[: len(corners) // CLICK_STEP * CLICK_STEP].reshape(-1, CLICK_STEP).max(axis=1)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(corners, CLICK_AROUND), 2 * CLICK_AROUND + 1)
    others = np.maximum(around[:, : CLICK_AROUND - 1].max(axis=1), around[:, CLICK_AROUND + 2 :].max(axis=1))
    lone = np.flatnonzero((corners > CLICK_LEAST) & (corners > CLICK_RATIO * np.maximum(others, CLICK_LEAST)))
    places = (int(step) * CLICK_STEP for step in lone)
    pieces = ((at, heard[max(0, at - 2 * CLICK_STEP) : at + 3 * CLICK_STEP]) for at in places)
    return [at / LINE_HZ for at, piece in pieces if not _is_known(said, piece)]


def _is_known(said: Signal, piece: Signal) -> bool:
    """Whether a piece of what was said looks like this one."""
    size = 1 << (len(said) + len(piece)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(said, size) * np.conj(np.fft.rfft(piece, size)), size)
    sums = np.concatenate([[0.0], np.cumsum(said**2)])
    energy = sums[len(piece) :] - sums[: -len(piece)]
    alike = cross[: len(energy)] / np.sqrt(np.maximum(energy, 1e-6) * np.sum(piece**2))
    return bool(alike.max() > KNOWN)
