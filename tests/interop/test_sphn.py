"""The codec of the engines: our stream as both its majors read it, and theirs as we do."""

from __future__ import annotations

import struct
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sphn
from numpy.typing import NDArray

from pxbridge.audio import OggOpusReader, OggOpusWriter

ROOT = Path(__file__).parents[2]
PYTHON_0_1 = ROOT / ".venv-sphn-0.1" / "bin" / "python"
RATE_HZ = 24_000
LENGTH = struct.Struct("<I")

Pcm = NDArray[np.float32]
Decode = Callable[[list[bytes]], Pcm]
Encode = Callable[[Pcm, int], list[bytes]]


def decode_by_0_1(messages: list[bytes]) -> Pcm:
    return np.frombuffer(run_0_1(["decode"], frame(messages)), np.float32)


def decode_by_0_2(messages: list[bytes]) -> Pcm:
    reader = sphn.OpusStreamReader(RATE_HZ)
    pcm: Pcm = np.concatenate([reader.append_bytes(message) for message in messages])
    return pcm


def encode_by_0_1(pcm: Pcm, samples: int) -> list[bytes]:
    return unframe(run_0_1(["encode", str(samples)], pcm.tobytes()))


def encode_by_0_2(pcm: Pcm, samples: int) -> list[bytes]:
    writer = sphn.OpusStreamWriter(RATE_HZ)
    return [writer.append_pcm(pcm[start : start + samples]) for start in range(0, len(pcm), samples)]


def run_0_1(args: list[str], stdin: bytes) -> bytes:
    assert PYTHON_0_1.exists(), "there is no environment with sphn 0.1; `make interop` makes it"
    script = Path(__file__).with_name("sphn_0_1.py")
    done = subprocess.run(
        [PYTHON_0_1, script, *args], input=stdin, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def frame(messages: list[bytes]) -> bytes:
    return b"".join(LENGTH.pack(len(message)) + message for message in messages)


def unframe(data: bytes) -> list[bytes]:
    messages = []
    while data:
        (length,) = LENGTH.unpack_from(data)
        messages.append(data[LENGTH.size : LENGTH.size + length])
        data = data[LENGTH.size + length :]
    return messages


@pytest.fixture(scope="module")
def speech() -> Pcm:
    """Two seconds of speech: a whole number of any frames used here, at 24 kHz."""
    with wave.open(str(ROOT / "tests" / "vectors" / "speech_24k.wav")) as file:
        pcm = np.frombuffer(file.readframes(2 * RATE_HZ), np.int16)
    assert len(pcm) == 2 * RATE_HZ
    return pcm.astype(np.float32) / np.float32(32768)


def our_messages(pcm: Pcm, samples: int) -> list[bytes]:
    """Our stream as an engine gets it: the header pages first, then a message for each block."""
    writer = OggOpusWriter(RATE_HZ)
    blocks = [writer.write(pcm[start : start + samples]) for start in range(0, len(pcm), samples)]
    return [writer.headers(), *(block for block in blocks if block)]


def read_by_us(messages: list[bytes]) -> Pcm:
    reader = OggOpusReader(RATE_HZ)
    return np.concatenate([reader.read(message) for message in messages])


def snr_db(heard: Pcm, said: Pcm, lag: int) -> float:
    """How much of `heard` is `said`, `lag` samples later."""
    said = said[: len(said) - lag]
    return float(10 * np.log10(np.sum(said**2) / np.sum((heard[lag : lag + len(said)] - said) ** 2)))


@pytest.mark.parametrize("decode", [decode_by_0_1, decode_by_0_2], ids=["sphn 0.1", "sphn 0.2"])
@pytest.mark.parametrize("block_ms", [20, 80, 100])
def test_sphn_decodes_our_stream_to_the_very_samples_that_we_do(
    decode: Decode, block_ms: int, speech: Pcm
) -> None:
    messages = our_messages(speech, RATE_HZ * block_ms // 1000)
    theirs, ours = decode(messages), read_by_us(messages)
    assert len(theirs) == len(ours) == len(speech)
    np.testing.assert_allclose(theirs, ours, atol=1 / 32768, rtol=0)


@pytest.mark.parametrize("decode", [decode_by_0_1, decode_by_0_2], ids=["sphn 0.1", "sphn 0.2"])
def test_sphn_hears_what_was_said_and_only_the_codecs_lookahead_later(decode: Decode, speech: Pcm) -> None:
    heard = decode(our_messages(speech, 480))
    lags = range(RATE_HZ // 100)
    best = max(lags, key=lambda lag: snr_db(heard, speech, lag))
    assert best == round(0.0025 * RATE_HZ), "RESTRICTED_LOWDELAY looks 2.5 ms ahead"
    assert snr_db(heard, speech, best) > 15


@pytest.mark.parametrize(
    ("encode", "samples"),
    [(encode_by_0_1, 480), (encode_by_0_1, 1920), (encode_by_0_2, 480), (encode_by_0_2, 1920)],
    ids=["sphn 0.1, 20 ms", "sphn 0.1, 80 ms", "sphn 0.2, 20 ms", "sphn 0.2, 80 ms"],
)
def test_we_read_what_sphn_writes_as_sphn_does(encode: Encode, samples: int, speech: Pcm) -> None:
    messages = encode(speech, samples)
    ours, theirs = read_by_us(messages), decode_by_0_2(messages)
    assert len(ours) == len(speech)
    np.testing.assert_allclose(ours, theirs, atol=1 / 32768, rtol=0)
