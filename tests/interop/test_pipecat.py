"""A framework that speaks Exotel's protocol reads our media, and we read its."""

from __future__ import annotations

import struct
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pxbridge.audio import Downlink, OggOpusReader, OggOpusWriter, Uplink
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
    downlink, uplink, writer = Downlink(8000, stream_sid=STREAM_SID), Uplink(8000), OggOpusWriter()
    messages_sent = downlink.poll(0.0)
    for step, block in enumerate(np.split(loud_tone(2.0, 24000), 25)):
        now_s = 0.08 * (step + 1)
        while downlink.wake_s < now_s:
            messages_sent += downlink.poll(downlink.wake_s)
        messages_sent += downlink.receive(writer.write(block), now_s, uplink)
    lines = [message.decode() for message in messages_sent]
    read = np.concatenate(read_by_pipecat(lines, 8000))
    ours = [event for event in map(messages.parse, lines) if isinstance(event, Media)]
    np.testing.assert_array_equal(read, np.frombuffer(b"".join(event.payload for event in ours), np.int16))
    assert len(read) >= 1.9 * 8000
    assert np.sqrt(np.mean(read[8000:].astype(float) ** 2)) == pytest.approx(
        0.5 * 32767 / np.sqrt(2), rel=0.05
    )


def test_a_call_reads_pipecats_media_to_the_last_sample(speech: Pcm16) -> None:
    lines = pipecat(["write", "8000", "800"], speech.tobytes()).decode().splitlines()
    uplink = Uplink(8000)
    heard = OggOpusReader(8000).read(
        uplink.open(0.0)
        + b"".join(uplink.receive(line.encode(), 0.1 * n) or b"" for n, line in enumerate(lines))
    )
    stats = uplink.stats()
    assert (stats["messages"], stats["malformed"], stats["received"]) == (len(lines), 0, len(speech))
    assert len(heard) == len(speech)
    events = [messages.parse(line) for line in lines]
    payload = b"".join(event.payload for event in events if isinstance(event, Media))
    np.testing.assert_array_equal(np.frombuffer(payload, np.int16), speech)


def test_pipecat_takes_what_is_not_media_without_a_word() -> None:
    lines = [messages.mark(STREAM_SID, "0:1"), messages.clear(STREAM_SID)]
    assert [len(block) for block in read_by_pipecat(lines, 8000)] == [0, 0]
