"""A framework that speaks Exotel's protocol reads our media, and we read its."""

from __future__ import annotations

import struct
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pxbridge.audio import Line, OggOpusReader, OggOpusWriter
from pxbridge.telephony.exotel import messages
from pxbridge.telephony.exotel.messages import Media

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


def loud_tone(seconds: float, rate_hz: int) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def test_pipecat_reads_the_media_that_a_call_sends_to_the_very_samples() -> None:
    line, writer = Line(8000, stream_id=STREAM_SID), OggOpusWriter()
    outputs = [line.poll(0.0)]
    for step, block in enumerate(np.split(loud_tone(2.0, 24000), 25)):
        now_s = 0.08 * (step + 1)
        while line.wake_s < now_s:
            outputs.append(line.poll(line.wake_s))
        outputs.append(line.engine_audio(writer.write(block), now_s))
    lines = [message.decode() for output in outputs for message, _ in output.to_phone]
    read = np.concatenate(read_by_pipecat(lines, 8000))
    ours = [event for event in map(messages.parse, lines) if isinstance(event, Media)]
    np.testing.assert_array_equal(read, np.frombuffer(b"".join(event.payload for event in ours), np.int16))
    assert len(read) >= 1.9 * 8000
    assert np.sqrt(np.mean(read[8000:].astype(float) ** 2)) == pytest.approx(
        0.5 * 32767 / np.sqrt(2), rel=0.05
    )


def test_a_call_reads_pipecats_media_to_the_last_sample(speech: Pcm16) -> None:
    lines = pipecat(["write", "8000", "800"], speech.tobytes()).decode().splitlines()
    line, reader = Line(8000), OggOpusReader(8000)
    pieces = [reader.read(line.open_engine(0.0).to_engine)]
    for n, message in enumerate(lines):
        output = line.phone_message(message.encode(), 0.1 * n)
        assert output is not None
        pieces.append(reader.read(output.to_engine))
    heard = np.concatenate(pieces)
    stats = line.stats()["uplink"]
    assert (stats["messages"], stats["malformed"], stats["received"]) == (len(lines), 0, len(speech))
    assert len(heard) == len(speech)
    events = [messages.parse(message) for message in lines]
    payload = b"".join(event.payload for event in events if isinstance(event, Media))
    np.testing.assert_array_equal(np.frombuffer(payload, np.int16), speech)


def test_pipecat_takes_what_is_not_media_without_a_word() -> None:
    lines = [messages.mark(STREAM_SID, "0:1"), messages.clear(STREAM_SID)]
    assert [len(block) for block in read_by_pipecat(lines, 8000)] == [0, 0]
