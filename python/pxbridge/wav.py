"""WAV files for the commands: reads all common formats, writes int16 or float32.

The reader is our own because the standard library reads integers only: no float, no µ-law, and before Python
3.12 no WAVE_FORMAT_EXTENSIBLE. Resampling here is offline: it processes the whole file at once in the
frequency domain. That is the sharpest and simplest method when latency does not matter. Calls resample in
Rust.
"""

from __future__ import annotations

import math
import struct
import wave
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pxbridge.errors import InputError
from pxbridge.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOT_FILLED_IN = 0xFFFFFFFF
"""The size of a chunk whose writer did not know it, or that stands in the chunk ``ds64`` of RF64."""
_COMMON_CHUNKS = frozenset(
    (
        b"fmt ",
        b"fact",
        b"data",
        b"LIST",
        b"JUNK",
        b"PEAK",
        b"bext",
        b"cue ",
        b"smpl",
        b"inst",
        b"iXML",
        b"id3 ",
        b"ID3 ",
    )
)
"""Names by which a chunk is recognised where sizes leave a doubt."""
PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE
LONGEST_S = 3600.0
"""A call lasts at most an hour, so longer audio is refused."""
LARGEST_BYTES = 2 << 30
"""Larger files are refused. An hour of 48 kHz stereo float64 is 2.6 GB; usual formats need far less."""
TRANSITION = 0.05
"""The part of the narrower band over which resampling fades out. A sharper filter would ring longer."""
EDGE_S = 0.1
"""Silence added at both ends before resampling, so that the filter does not wrap around."""


class Sound(NamedTuple):
    """Mono audio.

    Attributes:
        samples: The audio, float32 with full scale ±1.0.
        rate_hz: The sample rate.
        is_float: Whether the source file holds floats, so that samples may exceed full scale.
    """

    samples: NDArray[np.float32]
    rate_hz: int
    is_float: bool = False

    @property
    def duration_s(self) -> float:
        """The duration."""
        return len(self.samples) / self.rate_hz


def read_wav(path: Path | str) -> Sound:
    """Reads a WAV file; see `parse_wav`.

    Raises:
        InputError: It cannot be read, is not a WAV file, or has an unsupported format.
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
    """Parses the bytes of a WAV file, and mixes them down to mono.

    Supported: 8, 16, 24 and 32-bit integers, 32 and 64-bit floats, A-law and µ-law, any number of channels,
    1 to 768 kHz, plain or WAVE_FORMAT_EXTENSIBLE, RIFF or RF64. If the data size was never filled in (ffmpeg
    and sox write so into a pipe), the data extends to the end of the file. A chunk of odd length may lack its
    pad byte.

    Raises:
        InputError: It is not a WAV file, or has an unsupported format.
    """
    try:
        return _parse(data)
    except struct.error:
        raise InputError("its WAV header is truncated") from None


def write_wav(path: Path | str, pcm: NDArray[np.int16], rate_hz: int) -> None:
    """Writes mono PCM16.

    Raises:
        InputError: The file cannot be written.
    """
    try:
        # Opened here: if `wave` opens the file and that fails, its half-made object complains later.
        with Path(path).open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(pcm.astype("<i2").tobytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_float_wav(path: Path | str, samples: NDArray[np.float32], rate_hz: int) -> None:
    """Writes mono float32 unchanged, including samples beyond full scale.

    Raises:
        InputError: The file cannot be written.
    """
    audio = samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHHH", FLOAT, 1, rate_hz, 4 * rate_hz, 4, 32, 0)
    chunks = struct.pack("<4sI", b"fmt ", len(form)) + form
    chunks += struct.pack("<4sII", b"fact", 4, len(samples))  # required for every format but PCM
    chunks += struct.pack("<4sI", b"data", len(audio)) + audio
    try:
        Path(path).write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def to_pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Converts float samples (full scale ±1.0) to int16. Samples beyond full scale are clipped."""
    scaled: NDArray[np.float32] = np.clip(np.rint(samples * np.float32(32768.0)), -32768, 32767)
    return scaled.astype(np.int16)


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Resamples to another rate: linear phase, no delay, flat to 95 % of the narrower band."""
    if from_hz == to_hz or len(samples) == 0:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    step = from_hz // divisor
    edge = math.ceil(EDGE_S * from_hz / step) * step
    # Whole steps make both lengths integers. Small prime factors make the FFT fast.
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
        raise InputError("this is not a WAV file; convert it first, e.g. `ffmpeg -i FILE out.wav`")
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
                raise InputError("its data chunk comes before its format chunk")
            if size == _NOT_FILLED_IN and long_size:
                size = long_size
            is_unknown = size == _NOT_FILLED_IN or (size == 0 and not _are_chunks(data, at))
            return _decode(data[at:] if is_unknown else data[at : at + size], *form)
        at += size
        if size % 2 and not _is_chunk(data, at):
            at += 1
    raise InputError("it contains no audio")


def _is_chunk(data: bytes, at: int) -> bool:
    """Whether a chunk with one of the common names begins here and fits into the file."""
    if at + 8 > len(data):
        return False
    name, size = struct.unpack_from("<4sI", data, at)
    return name in _COMMON_CHUNKS and (
        at + 8 + size <= len(data) or (name == b"data" and size == _NOT_FILLED_IN)
    )


def _are_chunks(data: bytes, at: int) -> bool:
    """Whether chunks follow from here to the end of the file, and no audio."""
    if _is_chunk(data, at):
        return True
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if not all(0x20 <= letter < 0x7F for letter in name):
            return False
        at += 8 + size + size % 2
    return len(data) <= at <= len(data) + 1  # the last one may lack its pad byte


def _format(data: bytes, at: int, size: int) -> tuple[int, int, int, int]:
    """Parses a `fmt ` chunk to (format code, channels, rate, bits of a sample's container)."""
    kind, channels, rate_hz, _, block = struct.unpack_from("<HHIIH", data, at)
    if kind == EXTENSIBLE and size >= 40:
        kind = struct.unpack_from("<H", data, at + 24)[0]  # the GUID of the sub-format begins with it
    if channels == 0 or rate_hz == 0 or block == 0 or block % channels:
        raise InputError(
            f"its header is invalid: {counted(channels, 'channel')}, {rate_hz} Hz, {block}-byte blocks"
        )
    if not 1000 <= rate_hz <= 768_000:
        raise InputError(f"a rate of {rate_hz} Hz is not supported (1 to 768 kHz)")
    return kind, channels, rate_hz, block // channels * 8  # 20-bit samples: 3 bytes, left-justified


def _decode(raw: bytes, kind: int, channels: int, rate_hz: int, bits: int) -> Sound:
    frame = channels * bits // 8
    raw = raw[: len(raw) // frame * frame]
    if len(raw) // frame > LONGEST_S * rate_hz:
        raise InputError(f"it is longer than the longest call ({LONGEST_S / 60:g} minutes)")
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
            with np.errstate(over="ignore"):
                samples = np.frombuffer(raw, "<f8").astype(np.float32)
        case (6, 8):
            samples = _A_LAW[np.frombuffer(raw, np.uint8)]
        case (7, 8):
            samples = _MU_LAW[np.frombuffer(raw, np.uint8)]
        case _:
            raise InputError(
                f"WAV format {kind:#06x} with {bits} bits is not supported (supported: 8 to 32-bit integers, "
                "32 and 64-bit floats, A-law and µ-law); convert it first, "
                "e.g. `ffmpeg -i FILE -c:a pcm_s16le out.wav`"
            )
    finite = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    mono = finite.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return Sound(mono, rate_hz, kind == FLOAT)


def _smooth_at_least(n: int) -> int:
    """Returns the smallest number ≥ n that has no prime factor above 5."""
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
    """Returns the sample value of each byte, for A-law and for µ-law (ITU-T G.711)."""
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
