"""WAV files for the commands: any that people have on their disks goes in, int16 or float32 goes out.

Reading is our own because the standard library knows integers only: no float, no µ-law, and before Python
3.12 no WAVE_FORMAT_EXTENSIBLE. Resampling here is offline, over the whole file at once in the frequency
domain: the sharpest and simplest there is when nothing has to be in time (the call itself resamples in
Rust).
"""

from __future__ import annotations

import math
import struct
import wave
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pxbridge.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE
LONGEST_S = 3600.0
"""A call lasts an hour at most, and so does what is said in it."""
LARGEST_BYTES = 2 << 30
"""No file is read beyond this: an hour of 48 kHz stereo float64 is 2.6 GB, of anything usual far less."""
TRANSITION = 0.05
"""The share of the narrower band over which resampling fades out: sharper would ring for longer."""
EDGE_S = 0.1
"""Silence put around a file while it is resampled, so that its ends do not meet."""


class Sound(NamedTuple):
    """Mono audio: float32 with full scale ±1.0, and its rate.

    Attributes:
        samples: The audio.
        rate_hz: Its rate.
        is_float: Whether the file it came from holds floats, so that it may go beyond full scale.
    """

    samples: NDArray[np.float32]
    rate_hz: int
    is_float: bool = False

    @property
    def duration_s(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate_hz


def read_wav(path: Path | str) -> Sound:
    """Reads a WAV file; see `parse_wav`.

    Raises:
        InputError: It cannot be read, or is no WAV file, or of another kind.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(f"{path}: larger than {LARGEST_BYTES >> 30} GB")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    try:
        return parse_wav(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse_wav(data: bytes) -> Sound:
    """Reads any WAV file's bytes, mixed down to mono.

    8, 16, 24 and 32-bit integers, 32 and 64-bit floats, A-law and µ-law, any rate and number of channels,
    plain or WAVE_FORMAT_EXTENSIBLE, RIFF or RF64; a data size that was never filled in means "to the end".

    Raises:
        InputError: It is no WAV file, or of another kind.
    """
    try:
        return _parse(data)
    except struct.error:
        raise InputError("its WAV header is cut short") from None


def write_wav(path: Path | str, pcm: NDArray[np.int16], rate_hz: int) -> None:
    """Writes mono PCM16.

    Raises:
        InputError: The file cannot be written.
    """
    try:
        # Opened here: what wave opens itself it leaves half-made when that fails, and complains of later.
        with Path(path).open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(pcm.astype("<i2").tobytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_float_wav(path: Path | str, samples: NDArray[np.float32], rate_hz: int) -> None:
    """Writes mono float32 as it is, beyond full scale too.

    Raises:
        InputError: The file cannot be written.
    """
    audio = samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHHH", FLOAT, 1, rate_hz, 4 * rate_hz, 4, 32, 0)
    chunks = struct.pack("<4sI", b"fmt ", len(form)) + form
    chunks += struct.pack("<4sII", b"fact", 4, len(samples))  # every kind but PCM has one
    chunks += struct.pack("<4sI", b"data", len(audio)) + audio
    try:
        Path(path).write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def to_pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Float samples, full scale ±1.0, as int16; beyond full scale they are clipped."""
    scaled: NDArray[np.float32] = np.clip(np.rint(samples * np.float32(32768.0)), -32768, 32767)
    return scaled.astype(np.int16)


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """The same sound at another rate: linear phase, no delay, flat to 95 % of the narrower band."""
    if from_hz == to_hz or len(samples) == 0:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    step = from_hz // divisor
    edge = math.ceil(EDGE_S * from_hz / step) * step
    # Whole steps make both lengths integers; small factors make the FFT fast.
    length_in = _smooth_at_least(math.ceil((len(samples) + 2 * edge) / step)) * step
    length_out = length_in // step * (to_hz // divisor)
    padded = np.zeros(length_in)
    padded[edge : edge + len(samples)] = samples
    spectrum = np.fft.rfft(padded)
    kept = min(len(spectrum), length_out // 2 + 1)
    fade = max(1, int(TRANSITION * kept))
    band = spectrum[:kept].copy()
    band[kept - fade :] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(1, fade + 1) / fade)
    out = np.fft.irfft(band, length_out) * (length_out / length_in)
    start = edge * to_hz // from_hz
    wanted = math.ceil(len(samples) * to_hz / from_hz)
    return out[start : start + wanted].astype(np.float32)


def _parse(data: bytes) -> Sound:
    if len(data) < 12 or data[:4] not in (b"RIFF", b"RF64") or data[8:12] != b"WAVE":
        raise InputError("this is no WAV file; convert it first, e.g. `ffmpeg -i FILE out.wav`")
    form: tuple[int, int, int, int] | None = None
    long_size: int | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"ds64":
            long_size = struct.unpack_from("<Q", data, at + 8)[0]
        elif name == b"fmt ":
            form = _format(data, at, size)
        elif name == b"data":
            if form is None:
                raise InputError("its audio comes before its format")
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            elif size in (0, 0xFFFFFFFF):  # written to a pipe: never filled in
                size = len(data) - at
            return _decode(data[at : at + size], *form)
        at += size + size % 2
    raise InputError("there is no audio in it")


def _format(data: bytes, at: int, size: int) -> tuple[int, int, int, int]:
    """(kind, channels, rate, bits of a sample's container) of a `fmt ` chunk."""
    kind, channels, rate_hz, _, block = struct.unpack_from("<HHIIH", data, at)
    if kind == EXTENSIBLE and size >= 40:
        kind = struct.unpack_from("<H", data, at + 24)[0]  # the first bytes of the sub-format's GUID
    if channels == 0 or rate_hz == 0 or block == 0 or block % channels:
        raise InputError(f"its header makes no sense: {channels} channels, {rate_hz} Hz, {block}-byte blocks")
    if not 1000 <= rate_hz <= 768_000:
        raise InputError(f"a rate of {rate_hz} Hz is out of reach (1 to 768 kHz)")
    return kind, channels, rate_hz, block // channels * 8  # 20 bits come in 3 bytes, left-justified


def _decode(raw: bytes, kind: int, channels: int, rate_hz: int, bits: int) -> Sound:
    frame = channels * bits // 8
    raw = raw[: len(raw) // frame * frame]
    if len(raw) // frame > LONGEST_S * rate_hz:
        raise InputError(f"it is longer than a call can be ({LONGEST_S / 60:g} minutes)")
    match kind, bits:
        case (1, 8):
            samples = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128.0) / 128.0
        case (1, 16):
            samples = np.frombuffer(raw, "<i2").astype(np.float32) / 32768.0
        case (1, 24):
            parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
            whole = parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24
            samples = (whole / 2147483648.0).astype(np.float32)
        case (1, 32):
            samples = (np.frombuffer(raw, "<i4") / 2147483648.0).astype(np.float32)
        case (3, 32):
            samples = np.frombuffer(raw, "<f4").astype(np.float32)
        case (3, 64):
            samples = np.frombuffer(raw, "<f8").astype(np.float32)
        case (6, 8):
            samples = _A_LAW[np.frombuffer(raw, np.uint8)]
        case (7, 8):
            samples = _MU_LAW[np.frombuffer(raw, np.uint8)]
        case _:
            raise InputError(
                f"audio of kind {kind:#06x} with {bits} bits cannot be read (8 to 32-bit integers, "
                "32 and 64-bit floats, A-law and µ-law can); convert it first, "
                "e.g. `ffmpeg -i FILE -c:a pcm_s16le out.wav`"
            )
    mono = samples.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return Sound(np.nan_to_num(mono, nan=0.0, posinf=1.0, neginf=-1.0), rate_hz, kind == FLOAT)


def _smooth_at_least(n: int) -> int:
    """The least number ≥ n without a prime factor above 5."""
    best = 1 << (n - 1).bit_length()
    fives = 1
    while fives < best:
        threes = fives
        while threes < best:
            number = threes << max(0, (-(-n // threes) - 1).bit_length())
            best = min(best, number)
            threes *= 3
        fives *= 5
    return best


def _g711_tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What each byte of A-law and of µ-law means (ITU-T G.711)."""
    code = np.arange(256, dtype=np.int32)
    mu = ~code & 0xFF
    mu_value = ((2 * (mu & 15) + 33) << (mu >> 4 & 7)) - 33
    mu_law = np.where(mu & 128, -mu_value, mu_value) / 8192.0
    a = code ^ 0x55
    exponent = a >> 4 & 7
    a_value = np.where(exponent == 0, 2 * (a & 15) + 1, (2 * (a & 15) + 33) << np.maximum(exponent - 1, 0))
    a_law = np.where(a & 128, a_value, -a_value) / 4096.0
    return a_law.astype(np.float32), mu_law.astype(np.float32)


_A_LAW, _MU_LAW = _g711_tables()
