"""A framework that speaks Exotel's protocol reads our media, and we read its."""

from __future__ import annotations

import struct
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pxbridge.exotel import messages
from pxbridge.exotel.messages import Media

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-pipecat" / "bin" / "python"
STREAM_SID = "stream-1"
LENGTH = struct.Struct("<I")

Pcm16 = NDArray[np.int16]


def pipecat(args: list[str], stdin: bytes) -> bytes:
    assert PYTHON.exists(), "there is no environment with pipecat; `make interop` makes it"
    script = Path(__file__).with_name("pipecat_exotel.py")
    done = subprocess.run([PYTHON, script, *args], input=stdin, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def read_by_pipecat(lines: list[str], rate_hz: int) -> list[Pcm16]:
    data = pipecat(["read", str(rate_hz)], "".join(line + "\n" for line in lines).encode())
    blocks = []
    while data:
        (length,) = LENGTH.unpack_from(data)
        blocks.append(np.frombuffer(data[LENGTH.size : LENGTH.size + length], np.int16))
        data = data[LENGTH.size + length :]
    return blocks


@pytest.fixture(scope="module")
def speech() -> Pcm16:
    with wave.open(str(ROOT / "tests" / "vectors" / "speech_8k.wav")) as file:
        return np.frombuffer(file.readframes(8000), np.int16)


def test_pipecat_reads_our_media_to_the_very_samples(speech: Pcm16) -> None:
    blocks = np.split(speech, 50)
    lines = [
        messages.media(
            STREAM_SID, block.tobytes(), sequence=2 + number, chunk=1 + number, timestamp_ms=20 * number
        )
        for number, block in enumerate(blocks)
    ]
    read = read_by_pipecat(lines, 8000)
    assert len(read) == len(blocks)
    np.testing.assert_array_equal(np.concatenate(read), speech)


def test_we_read_pipecats_media_to_the_very_samples(speech: Pcm16) -> None:
    lines = pipecat(["write", "8000", "800"], speech.tobytes()).decode().splitlines()
    events = [messages.parse(line) for line in lines]
    assert all(isinstance(event, Media) and not event.malformed for event in events)
    assert {event.stream_sid for event in events if isinstance(event, Media)} == {STREAM_SID}
    payload = b"".join(event.payload for event in events if isinstance(event, Media))
    np.testing.assert_array_equal(np.frombuffer(payload, np.int16), speech)


def test_pipecat_takes_what_is_not_media_without_a_word() -> None:
    lines = [messages.mark(STREAM_SID, "0:1"), messages.clear(STREAM_SID)]
    assert [len(block) for block in read_by_pipecat(lines, 8000)] == [0, 0]
