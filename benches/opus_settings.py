"""Quality, delay and cost of Opus settings towards the engine.

    python benches/opus_settings.py [--all]

The engine decodes our packets at 24 kHz. The result is compared with what the phone said: for a line of
8 kHz, its speech resampled to 24 kHz by soxr's best filter. An encoder at the line's own rate needs no
upsampler before it. It is the better choice if it is as good in band and leaves nothing above the band.

Figures: `seg SNR` (mean over active frames of 20 ms) and `LSD` (log-spectral distance) in band, `images`
(power above the line's band against all power), `delay` from the phone's sample to the decoder's,
`resampler` and `encoder` (with Ogg) in µs per 20 ms, the best of several runs, exact to a third of it.
The choice is `TOWARDS_ENGINE` in rust/core/src/codec/opus.rs.
"""

from __future__ import annotations

import argparse
import time
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr

from pxbridge import audio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pxbridge._native import Application

    Samples = NDArray[np.float32]
    Spectrum = NDArray[np.complex128]

VECTORS = Path(__file__).parent.parent / "tests" / "vectors"
ENGINE_HZ = 24_000
FRAME_MS = 20
REPEATS = 15

# The upper edge of the resampler towards the engine, and of telephone speech itself.
IN_BAND_HZ = {8_000: 3_400, 16_000: 6_800, 24_000: 10_200}
# Above the line's Nyquist rate and every filter's transition band.
IMAGES_FROM = 1.08


@dataclass(frozen=True)
class Line:
    """A path from the phone to the engine."""

    name: str
    rate_hz: int  # of the phone
    encoder_hz: int


LINES = [
    Line("8 kHz, upsampled", 8_000, ENGINE_HZ),
    Line("8 kHz, direct", 8_000, 8_000),
    Line("16 kHz, upsampled", 16_000, ENGINE_HZ),
    Line("16 kHz, direct", 16_000, 16_000),
    Line("24 kHz", ENGINE_HZ, ENGINE_HZ),
]
# How many decimals of each figure mean anything.
DIGITS = (0, 1, 2, 0, 2, 0, 0)
FEW: list[tuple[Application, int, int]] = [
    ("voip", 16_000, 9),
    ("voip", 32_000, 5),
    ("audio", 64_000, 5),
    *[("lowdelay", bitrate, 0) for bitrate in (32_000, 48_000, 64_000, 96_000, 128_000)],
    ("lowdelay", 64_000, 2),
    ("lowdelay", 96_000, 2),
    ("lowdelay", 96_000, 5),
    ("lowdelay", 96_000, 10),
]
ALL: list[tuple[Application, int, int]] = [
    (application, bitrate, complexity)
    for application in ("voip", "audio", "lowdelay")
    for bitrate in (16_000, 24_000, 32_000, 48_000, 64_000, 96_000, 128_000)
    for complexity in (0, 1, 2, 5, 9, 10)
]


def speech(rate_hz: int) -> Samples:
    """The test sentence as the phone would send it at this rate: 16 bits."""
    with wave.open(str(VECTORS / "speech_24k.wav")) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    if rate_hz != ENGINE_HZ:
        pcm = soxr.resample(pcm, ENGINE_HZ, rate_hz, quality="VHQ")
    return (pcm / 32768).astype(np.float32)


def spectrum(pcm: Samples) -> Spectrum:
    """The spectrum of all samples, zero-padded so that a shift does not wrap into the speech."""
    return np.fft.rfft(pcm.astype(np.float64), 2 * len(pcm))


def best_delay_s(reference: Spectrum, heard: Spectrum) -> float:
    """How far `heard` is behind, by the peak of the cross-correlation, to 1/64 sample."""
    cross = heard * np.conj(reference)
    whole = float(np.argmax(np.fft.irfft(cross)[: ENGINE_HZ // 5]))
    omega = np.linspace(0, np.pi, len(cross))
    steps = np.arange(-64, 65) / 64
    scores = [np.real(cross * np.exp(1j * omega * (whole + step))).sum() for step in steps]
    return float((whole + steps[int(np.argmax(scores))]) / ENGINE_HZ)


def band(of: Spectrum, top_hz: float, delay_s: float = 0.0) -> NDArray[np.float64]:
    """The part below `top_hz`, moved ahead by `delay_s`."""
    hz = np.linspace(0, ENGINE_HZ / 2, len(of))
    moved = of * np.exp(2j * np.pi * hz * delay_s)
    return np.fft.irfft(np.where(hz <= top_hz, moved, 0))[: len(of) - 1]


def active(frames: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Frames within 40 dB of the loudest."""
    power = (frames**2).mean(axis=1)
    loud: NDArray[np.bool_] = np.greater(power, power.max() * 1e-4)
    return loud


def segmental_snr_db(reference: NDArray[np.float64], heard: NDArray[np.float64]) -> float:
    """Mean over active frames of 20 ms, each held within -10 and 50 dB."""
    size = ENGINE_HZ * FRAME_MS // 1000
    count = len(reference) // size
    clean, error = (x[: count * size].reshape(count, size) for x in (reference, heard - reference))
    keep = active(clean)
    ratio = (clean[keep] ** 2).sum(axis=1) / ((error[keep] ** 2).sum(axis=1) + 1e-20)
    return float(np.clip(10 * np.log10(ratio), -10, 50).mean())


def log_spectral_distance_db(
    reference: NDArray[np.float64], heard: NDArray[np.float64], top_hz: float
) -> float:
    """RMS over frequency of the difference of log spectra, mean over active frames of 32 ms."""
    size = 768
    count = len(reference) // size
    bins = int(top_hz * size / ENGINE_HZ)
    clean, coded = (x[: count * size].reshape(count, size) for x in (reference, heard))
    keep = active(clean)
    window = np.hanning(size)
    powers = [np.abs(np.fft.rfft(x[keep] * window)[:, 1:bins]) ** 2 for x in (clean, coded)]
    # What is 70 dB below the loudest is not heard behind a telephone.
    floor = powers[0].max() * 1e-7
    difference = np.diff([10 * np.log10(p + floor) for p in powers], axis=0)[0]
    return float(np.sqrt((difference**2).mean(axis=1)).mean())


def blocks(pcm: Samples, rate_hz: int) -> list[Samples]:
    """Chunks of 20 ms, as a phone sends them."""
    size = rate_hz * FRAME_MS // 1000
    return [pcm[at : at + size] for at in range(0, len(pcm) - size + 1, size)]


def measure(line: Line, application: Application, bitrate_bps: int, complexity: int) -> list[float]:
    """One row: kbit/s, seg SNR, LSD, images, delay in ms, µs in the resampler, µs in encoder and Ogg."""
    pcm = speech(line.rate_hz)
    parts = blocks(pcm, line.rate_hz)
    resampling_us = encoding_us = float("inf")
    sent = b""
    for _ in range(REPEATS):
        start = time.perf_counter()
        if line.encoder_hz != line.rate_hz:
            resampler = audio.Resampler(line.rate_hz, line.encoder_hz)
            ready = [resampler.process(part) for part in parts]
        else:
            ready = parts
        between = time.perf_counter()
        writer = audio.OggOpusWriter(
            line.encoder_hz,
            application=application,
            bitrate_bps=bitrate_bps,
            complexity=complexity,
            frame_ms=FRAME_MS,
        )
        sent = writer.headers() + b"".join([writer.write(part) for part in ready])
        end = time.perf_counter()
        resampling_us = min(resampling_us, (between - start) * 1e6 / len(parts))
        encoding_us = min(encoding_us, (end - between) * 1e6 / len(parts))
    heard = audio.OggOpusReader(ENGINE_HZ).read(sent)

    reference = (
        pcm if line.rate_hz == ENGINE_HZ else soxr.resample(pcm, line.rate_hz, ENGINE_HZ, quality="VHQ")
    )
    size = min(len(reference), len(heard))
    clean, coded = spectrum(reference[:size]), spectrum(heard[:size])
    top_hz = IN_BAND_HZ[line.rate_hz]
    delay_s = best_delay_s(clean, coded)
    wanted, got = band(clean, top_hz), band(coded, top_hz, delay_s)
    hz = np.linspace(0, ENGINE_HZ / 2, len(coded))
    power = np.abs(coded) ** 2
    above = power[hz > line.rate_hz / 2 * IMAGES_FROM].sum() if line.rate_hz < ENGINE_HZ else 0.0
    return [
        len(sent) * 8 / (len(pcm) / line.rate_hz) / 1000,
        segmental_snr_db(wanted, got),
        log_spectral_distance_db(wanted, got, top_hz),
        float(10 * np.log10(above / power.sum() + 1e-12)),
        delay_s * 1000,
        resampling_us,
        encoding_us,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true", help="every combination, not only the telling ones")
    settings = ALL if parser.parse_args().all else FEW
    columns = "kbit/s sent | seg SNR dB | LSD dB | images dB | delay ms | resampler µs | encoder µs"
    print(f"| line | application | kbit/s asked | complexity | {columns} |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for line in LINES:
        for application, bitrate_bps, complexity in settings:
            row = measure(line, application, bitrate_bps, complexity)
            cells = [f"{value:.{digits}f}" for value, digits in zip(row, DIGITS, strict=True)]
            asked = [line.name, application, f"{bitrate_bps // 1000}", f"{complexity}"]
            print("|", " | ".join(asked + cells), "|", flush=True)


if __name__ == "__main__":
    main()
