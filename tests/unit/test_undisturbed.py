"""The undisturbed path adds nothing to the codecs and takes nothing away."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from tests.simulated import VECTORS

from pxbridge.audio import Line, OggOpusReader, OggOpusWriter, OpusDecoder, OpusEncoder
from pxbridge.simulation.strict_ogg import PageWriter
from pxbridge.wav import read_wav, resample, to_pcm

SPEECH = read_wav(VECTORS / "speech_24k.wav")
RATES_HZ = (8000, 16000, 24000)
FRAME, FRAME_S = 1920, 0.08
CHUNK_S = 0.02
OPENING_S = 0.1
"""A line opens with a short fade."""


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_model_hears_opus_alone_to_the_sample(rate_hz: int) -> None:
    pcm = to_pcm(resample(SPEECH.samples, SPEECH.rate_hz, rate_hz))
    writer = OggOpusWriter(rate_hz)
    alone = OggOpusReader(24_000).read(writer.headers() + writer.write(pcm))

    line, reader = Line(rate_hz, gate_ms=0), OggOpusReader(24_000)
    heard = [reader.read(line.open_engine(0.0).to_engine)]
    chunk = round(CHUNK_S * rate_hz)
    for n in range(len(pcm) // chunk):
        payload = base64.b64encode(pcm[n * chunk : (n + 1) * chunk].tobytes()).decode()
        message = json.dumps({"event": "media", "media": {"payload": payload}}).encode()
        output = line.phone_message(message, (n + 1) * CHUNK_S)
        assert output is not None
        heard.append(reader.read(output.to_engine))

    whole = np.concatenate(heard)
    assert len(whole) == len(alone)
    opening = int(OPENING_S * 24_000)
    np.testing.assert_allclose(whole[opening:], alone[opening:], atol=1e-5)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_caller_hears_opus_alone_to_a_step_of_16_bits(rate_hz: int) -> None:
    encoder, decoder, pages = (
        OpusEncoder(24_000, bitrate_bps=24_750, frame_ms=80),
        OpusDecoder(rate_hz),
        PageWriter(1),
    )
    line = Line(rate_hz, stream_id="S")
    outputs = [line.engine_audio(header, 0.0) for header in pages.headers()]
    alone = []
    for n in range(len(SPEECH.samples) // FRAME):
        packet = encoder.encode(SPEECH.samples[n * FRAME : (n + 1) * FRAME])
        alone.append(decoder.decode(packet))
        now_s = (n + 1) * FRAME_S
        while n and line.wake_s <= now_s:  # at the start that would be silence for who waits
            outputs.append(line.poll(line.wake_s))
        outputs.append(line.engine_audio(pages.page(packet, FRAME), now_s))

    events = [json.loads(message) for output in outputs for message, _ in output.to_phone]
    payloads = [base64.b64decode(e["media"]["payload"]) for e in events if e["event"] == "media"]
    heard = np.frombuffer(b"".join(payloads), "<i2") / 32768.0
    expected = np.concatenate(alone)[: len(heard)]
    assert len(heard) > 0.9 * len(np.concatenate(alone))
    opening = int(OPENING_S * rate_hz)
    np.testing.assert_allclose(heard[opening:], expected[opening:], atol=1.0 / 32768)
