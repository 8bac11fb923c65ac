"""The same work done by us and by plain Python, as functions to be timed.

Each side gets the same speech and does what a bridge does with one message of it. The plain side is what
`plain_bridge.py` stands on.
"""

from __future__ import annotations

import base64
import itertools
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soxr
import sphn

from pxbridge.audio import Line, OggOpusReader, OggOpusWriter, Resampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

VECTORS = Path(__file__).parents[1] / "tests" / "vectors"
PHONE_HZ = 8_000
ENGINE_HZ = 24_000
CHUNK_MS = 100
STEP_MS = 80
ENGINE_FRAME = 480
STREAM_SID = "0123456789abcdef0123456789abcdef"

Work = Callable[[], object]


class Pair(NamedTuple):
    """One kind of work by both sides: each call does its next message, and all over after `messages`.

    Only whole turns compare: silence costs a codec next to nothing.
    """

    ours: Work
    plain: Work
    messages: int


def speech(rate_hz: int) -> NDArray[np.int16]:
    with wave.open(str(VECTORS / f"speech_{rate_hz // 1000}k.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def pieces(rate_hz: int, ms: int) -> list[NDArray[np.int16]]:
    pcm = speech(rate_hz)
    size = rate_hz * ms // 1000
    return np.split(pcm[: len(pcm) // size * size], len(pcm) // size)


def floats(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    return pcm.astype(np.float32) / np.float32(32768)


class Next:
    """Goes through messages again and again."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self._at = -1

    def __call__(self) -> bytes:
        self._at = (self._at + 1) % len(self._messages)
        return self._messages[self._at]


def media_message(pcm: NDArray[np.int16]) -> bytes:
    payload = base64.b64encode(pcm.tobytes()).decode()
    media = {"chunk": "7", "timestamp": "700", "payload": payload}
    return json.dumps(
        {"event": "media", "sequence_number": "9", "stream_sid": STREAM_SID, "media": media}
    ).encode()


def engine_messages() -> list[bytes]:
    """As NVIDIA's server sends: a page of 80 ms a message, without the header pages."""
    writer = sphn.OpusStreamWriter(ENGINE_HZ)
    return [writer.append_pcm(floats(pcm)) for pcm in pieces(ENGINE_HZ, STEP_MS)]


def opus_encode() -> Pair:
    """20 ms of the caller to Ogg Opus: at our settings, and at `sphn`'s, which cannot be changed."""
    frames = [floats(pcm) for pcm in pieces(ENGINE_HZ, 20)]
    ours, plain = OggOpusWriter(), sphn.OpusStreamWriter(ENGINE_HZ)
    number, number_plain = itertools.count(), itertools.count()
    return Pair(
        lambda: ours.write(frames[next(number) % len(frames)]),
        lambda: plain.append_pcm(frames[next(number_plain) % len(frames)]),
        len(frames),
    )


def opus_decode() -> Pair:
    """80 ms of the agent from Ogg Opus."""
    messages = engine_messages()
    ours, plain = OggOpusReader(), sphn.OpusStreamReader(ENGINE_HZ)
    for_ours, for_plain = Next(messages), Next(messages)
    return Pair(lambda: ours.read(for_ours()), lambda: plain.append_bytes(for_plain()), len(messages))


def resample_up() -> Pair:
    """100 ms of the caller from 8 to 24 kHz; soxr at its default quality."""
    pcm = pieces(PHONE_HZ, CHUNK_MS)[5]
    ours = Resampler(PHONE_HZ, ENGINE_HZ)
    plain = soxr.ResampleStream(PHONE_HZ, ENGINE_HZ, 1, dtype="int16")
    return Pair(lambda: ours.process(pcm), lambda: plain.resample_chunk(pcm), 50)


def resample_down() -> Pair:
    """80 ms of the agent from 24 to 8 kHz; soxr at its default quality."""
    pcm = pieces(ENGINE_HZ, STEP_MS)[5]
    ours = Resampler(ENGINE_HZ, PHONE_HZ)
    plain = soxr.ResampleStream(ENGINE_HZ, PHONE_HZ, 1, dtype="int16")
    return Pair(lambda: ours.process(pcm), lambda: plain.resample_chunk(pcm), 50)


def uplink() -> Pair:
    """100 ms from the phone, from its JSON to the engine's Ogg Opus; ours keeps the model's clock as well."""
    messages = [media_message(pcm) for pcm in pieces(PHONE_HZ, CHUNK_MS)]
    line = Line(PHONE_HZ)
    line.open_engine(0.0)
    now_s = 0.0
    for_ours, for_plain = Next(messages), Next(messages)

    def ours() -> object:
        nonlocal now_s
        now_s += CHUNK_MS / 1000
        return line.phone_message(for_ours(), now_s)

    resampler = soxr.ResampleStream(PHONE_HZ, ENGINE_HZ, 1, dtype="int16")
    writer = sphn.OpusStreamWriter(ENGINE_HZ)
    heard = np.zeros(0, np.float32)

    def plain() -> object:
        nonlocal heard
        event = json.loads(for_plain())
        pcm = np.frombuffer(base64.b64decode(event["media"]["payload"]), np.int16)
        heard = np.concatenate([heard, floats(resampler.resample_chunk(pcm))])
        whole = len(heard) // ENGINE_FRAME * ENGINE_FRAME
        pages = b"".join(map(writer.append_pcm, heard[:whole].reshape(-1, ENGINE_FRAME)))
        heard = heard[whole:]
        return pages

    return Pair(ours, plain, len(messages))


def downlink() -> Pair:
    """80 ms from the engine, from its Ogg Opus to the phone's JSON; ours paces it as well."""
    messages = engine_messages()
    line = Line(PHONE_HZ, stream_id=STREAM_SID)
    now_s = 0.0
    for_ours, for_plain = Next(messages), Next(messages)

    def ours() -> object:
        nonlocal now_s
        due_s = now_s + STEP_MS / 1000
        while line.wake_s < due_s:
            now_s = max(now_s, line.wake_s) + 1e-6
            line.poll(now_s)
        now_s = due_s
        return line.engine_audio(for_ours(), now_s)

    reader = sphn.OpusStreamReader(ENGINE_HZ)
    resampler = soxr.ResampleStream(ENGINE_HZ, PHONE_HZ, 1, dtype="int16")
    payload = b""

    def plain() -> object:
        nonlocal payload
        pcm = np.clip(reader.append_bytes(for_plain()) * 32768, -32768, 32767).astype(np.int16)
        payload += resampler.resample_chunk(pcm).tobytes()
        whole = len(payload) // 320 * 320
        media = {"payload": base64.b64encode(payload[:whole]).decode()}
        payload = payload[whole:]
        return json.dumps({"event": "media", "stream_sid": STREAM_SID, "media": media})

    return Pair(ours, plain, len(messages))


def media_frame() -> Pair:
    """A media message of 100 ms to samples; ours to an intake without an engine, so nothing is encoded."""
    messages = [media_message(pcm) for pcm in pieces(PHONE_HZ, CHUNK_MS)]
    line = Line(PHONE_HZ)
    for_ours, for_plain = Next(messages), Next(messages)

    def plain() -> object:
        event = json.loads(for_plain())
        return floats(np.frombuffer(base64.b64decode(event["media"]["payload"]), np.int16))

    return Pair(lambda: line.phone_message(for_ours(), 0.0), plain, len(messages))


def border() -> Pair:
    """A megabyte of samples through the border and back, unchanged; beside one copy of it by numpy.

    One copy is what an answer of its own takes. If the border made another, ours would cost twice numpy's.
    """
    pcm = np.zeros(1 << 18, np.float32)
    through = Resampler(PHONE_HZ, PHONE_HZ)
    return Pair(lambda: through.process(pcm), pcm.copy, 20)


PAIRS: dict[str, Callable[[], Pair]] = {
    "media frame, 100 ms": media_frame,
    "numpy border, 1 MiB": border,
    "uplink, 100 ms": uplink,
    "downlink, 80 ms": downlink,
    "Opus encode, 20 ms": opus_encode,
    "Opus decode, 80 ms": opus_decode,
    "resample 8 to 24 kHz, 100 ms": resample_up,
    "resample 24 to 8 kHz, 80 ms": resample_down,
}
