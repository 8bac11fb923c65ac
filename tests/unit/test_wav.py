"""Any WAV file is read; what cannot be read says why; resampling changes nothing but the rate."""

from __future__ import annotations

import gc
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulated import VECTORS

from pxbridge.errors import InputError
from pxbridge.wav import parse_wav, read_wav, resample, to_pcm, write_float_wav, write_wav

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RATE_HZ = 44_100
WAVE = (0.5 * np.sin(2 * np.pi * 441 * np.arange(4410) / RATE_HZ)).astype(np.float32)


def wav(
    kind: int, bits: int, audio: bytes, channels: int = 1, *, extensible: bool = False, size: int = -1
) -> bytes:
    block = channels * bits // 8
    tag = 0xFFFE if extensible else kind
    fmt = struct.pack("<HHIIHH", tag, channels, RATE_HZ, RATE_HZ * block, block, bits)
    if extensible:
        fmt += (
            struct.pack("<HHI", 22, bits, 0)
            + struct.pack("<H", kind)
            + bytes.fromhex("000000001000800000aa00389b71")
        )
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"LIST" + struct.pack("<I", 3) + b"odd\0"
    chunks += b"data" + struct.pack("<I", len(audio) if size < 0 else size) + audio
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def integers(samples: NDArray[np.float32], bits: int) -> bytes:
    whole = np.round(samples.astype(np.float64) * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        return bytes((whole + 128).tolist())
    return b"".join(int(value).to_bytes(bits // 8, "little", signed=True) for value in whole)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("kind", "bits", "audio", "within"),
    [
        (1, 8, integers(WAVE, 8), 0.01),
        (1, 16, integers(WAVE, 16), 1e-4),
        (1, 24, integers(WAVE, 24), 1e-6),
        (1, 32, integers(WAVE, 32), 1e-7),
        (3, 32, WAVE.tobytes(), 0),
        (3, 64, WAVE.astype(np.float64).tobytes(), 0),
    ],
)
def test_every_usual_kind_is_read(
    tmp_path: Path, kind: int, bits: int, audio: bytes, within: float, extensible: bool
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(wav(kind, bits, audio, extensible=extensible))
    sound = read_wav(file)
    assert sound.rate_hz == RATE_HZ
    assert sound.duration_s == pytest.approx(0.1)
    np.testing.assert_allclose(sound.samples, WAVE, atol=within)


def test_channels_are_mixed_down(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(wav(3, 32, np.stack([WAVE, np.zeros_like(WAVE)], axis=1).tobytes(), channels=2))
    np.testing.assert_allclose(read_wav(file).samples, WAVE / 2, atol=1e-7)


@pytest.mark.parametrize(("kind", "loudest"), [(6, 0xAA), (7, 0x80)])
def test_g711_is_read(tmp_path: Path, kind: int, loudest: int) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(wav(kind, 8, bytes([loudest, loudest ^ 0x80, 0xD5 if kind == 6 else 0xFF])))
    up, down, quiet = read_wav(file).samples
    assert up == pytest.approx(-down) == pytest.approx(0.98, abs=0.01)
    assert abs(quiet) < 0.0005


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 1 << 30])
def test_a_size_that_is_not_true_means_to_the_end(tmp_path: Path, size: int) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(wav(3, 32, WAVE.tobytes() + b"x", size=size))
    assert len(read_wav(file).samples) == len(WAVE)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a WAV file"),
        (b"OggS" + bytes(60), "not a WAV file.*ffmpeg"),
        (wav(0x55, 16, b"mp3 "), "format 0x0055.*ffmpeg"),
        (wav(1, 16, b"")[:30], "truncated"),
        (wav(1, 16, b"")[:40], "contains no audio"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "before its format chunk"),
        (wav(1, 16, b"ab", channels=0), "header is invalid"),
    ],
)
def test_what_is_no_usable_wav_is_refused_with_its_name(tmp_path: Path, data: bytes, problem: str) -> None:
    file = tmp_path / "question.wav"
    file.write_bytes(data)
    with pytest.raises(InputError, match=rf"question\.wav: .*{problem}"):
        read_wav(file)


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data


FORMAT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16))
LIST = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 6) + b"Lavf60")
TWO = struct.pack("<hh", 1000, -1000)


@pytest.mark.parametrize(
    ("sizes", "data_size"),
    [((0, 0, 0), 0xFFFFFFFF), ((0, 0, 0), 0), ((2**64 - 1, 2**64 - 1, 0), 0xFFFFFFFF)],
)
def test_a_long_file_that_was_written_to_a_pipe_is_read_to_its_end(
    sizes: tuple[int, int, int], data_size: int
) -> None:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", *sizes, 0))
    data = b"RF64" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + ds64 + FORMAT + chunk(b"data", TWO, data_size)
    assert len(parse_wav(data).samples) == 2


@pytest.mark.parametrize("pad", [b"", b"\0"])
def test_a_chunk_of_odd_length_may_lack_its_pad_byte(pad: bytes) -> None:
    odd = chunk(b"LIST", b"INF") + pad
    data = b"RIFF" + struct.pack("<I", 0) + b"WAVE" + FORMAT + odd + chunk(b"data", TWO)
    assert to_pcm(parse_wav(data).samples).tolist() == [1000, -1000]


def test_an_empty_data_chunk_before_another_chunk_is_empty_and_no_noise() -> None:
    data = b"RIFF" + struct.pack("<I", 0) + b"WAVE" + FORMAT + chunk(b"data", b"") + LIST
    assert len(parse_wav(data).samples) == 0


@pytest.mark.parametrize("names", [[b"acid"], [b"_PMX", b"afsp"], [b"plst", b"LIST"]])
@pytest.mark.parametrize("last_pad", [b"", b"\0"])
def test_whatever_chunk_follows_an_empty_data_chunk_is_no_noise(names: list[bytes], last_pad: bytes) -> None:
    rest = b"".join(chunk(name, b"abcd") for name in names) + chunk(b"junk", b"odd") + last_pad
    data = b"RIFF" + struct.pack("<I", 0) + b"WAVE" + FORMAT + chunk(b"data", b"") + rest
    assert len(parse_wav(data).samples) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("bits", "kind"), [(32, "<f4"), (64, "<f8")])
def test_floats_that_are_no_numbers_are_read_without_a_word(bits: int, kind: str, channels: int) -> None:
    huge = 1e300 if bits == 64 else np.inf
    audio = np.array([np.nan, 0.5, huge, -huge, np.inf, -np.inf], kind).tobytes()
    heard = parse_wav(wav(3, bits, audio, channels)).samples
    assert heard.tolist() == ([0.0, 0.5, 1.0, -1.0, 1.0, -1.0] if channels == 1 else [0.25, 0.0, 0.0])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.wav: No such file"):
        read_wav(tmp_path / "no.wav")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(InputError):
        parse_wav(b"RIFF\0\0\0\0WAVE" + data)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    pcm = to_pcm(WAVE)
    write_wav(tmp_path / "a.wav", pcm, 24000)
    sound = read_wav(tmp_path / "a.wav")
    assert sound.rate_hz == 24000
    np.testing.assert_array_equal(to_pcm(sound.samples), pcm)


def test_floats_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    loud = 1.5 * WAVE
    write_float_wav(tmp_path / "a.wav", loud, 24000)
    sound = read_wav(tmp_path / "a.wav")
    assert (sound.rate_hz, sound.is_float) == (24000, True)
    np.testing.assert_array_equal(sound.samples, loud)


def test_a_file_of_integers_is_told_from_one_of_floats(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", to_pcm(WAVE), 24000)
    assert not read_wav(tmp_path / "a.wav").is_float


def test_beyond_full_scale_is_clipped_not_wrapped() -> None:
    np.testing.assert_array_equal(to_pcm(np.array([1.5, -1.5], np.float32)), [32767, -32768])


@pytest.mark.parametrize("from_hz", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("to_hz", [8000, 16_000, 24_000])
def test_resampling_keeps_a_tone_where_and_as_loud_as_it_was(from_hz: int, to_hz: int) -> None:
    seconds = 1.0
    at_in, at_out = (np.arange(int(seconds * hz)) / hz for hz in (from_hz, to_hz))

    # A burst in the middle: both its phase and its ends count.
    def burst(at: NDArray[np.float64]) -> NDArray[np.float32]:
        return (np.exp(-(((at - 0.5) / 0.1) ** 2)) * np.sin(2 * np.pi * 1000 * at)).astype(np.float32)

    out = resample(burst(at_in), from_hz, to_hz)
    assert len(out) == len(at_out)
    np.testing.assert_allclose(out, burst(at_out), atol=1e-4)


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    at = np.arange(48_000) / 48_000
    out = resample(np.sin(2 * np.pi * 6000 * at).astype(np.float32), 48_000, 8000)
    assert np.sqrt(np.mean(out[800:-800] ** 2)) < 1e-4


def test_the_spoken_vectors_are_the_same_speech() -> None:
    wide, narrow = read_wav(VECTORS / "speech_24k.wav"), read_wav(VECTORS / "speech_8k.wav")
    assert (wide.rate_hz, narrow.rate_hz) == (24_000, 8000)
    down = resample(wide.samples, 24_000, 8000)
    assert np.corrcoef(down, narrow.samples)[0, 1] > 0.99


def test_a_folder_is_no_file_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        write_wav(tmp_path, np.zeros(8, np.int16), 8000)
    gc.collect()
