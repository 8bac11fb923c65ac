"""A line takes no more memory in its tenth minute than in its second."""

from __future__ import annotations

import base64
import ctypes
import json

import numpy as np
import pytest

from pxbridge.audio import Downlink, OggOpusWriter, Uplink

CHUNK_S = 0.1
FRAME_S = 0.08
MARK_S = 0.05
"""From a mark to its echo."""
WARM_S = 60.0
LONG_S = 600.0
FLAT_BYTES = 8_000
"""16 bytes a packet, kept for nine minutes, were 430,000."""


class _MallInfo(ctypes.Structure):
    """mallinfo2(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def used_bytes() -> int:
    """What malloc has given out and not got back: Rust's and libopus' memory, and none of Python's own."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("glibc 2.33 or newer tells what it has given out")
    mallinfo2.restype = _MallInfo
    told = mallinfo2()
    return int(told.uordblks + told.hblkhd)


def tone(rate_hz: int, duration_s: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    at_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 1150 * at_s)).astype(np.float32)


def test_an_uplink_does_not_grow() -> None:
    payload = base64.b64encode((32767 * tone(8000, CHUNK_S)).astype(np.int16).tobytes()).decode()
    media = json.dumps({"event": "media", "stream_sid": "s", "media": {"payload": payload}}).encode()
    line = Uplink(8000)
    now_s = 1000.0
    line.open(now_s)
    grown = {}
    for end_s in (WARM_S, LONG_S):
        while now_s < 1000.0 + end_s:
            now_s += CHUNK_S
            line.receive(media, now_s)
            line.poll(now_s)
        grown[end_s] = used_bytes()
    assert grown[LONG_S] - grown[WARM_S] < FLAT_BYTES


def test_a_downlink_does_not_grow() -> None:
    caller, line, engine = Uplink(8000), Downlink(8000, stream_sid="s"), OggOpusWriter()
    frame = tone(24_000, FRAME_S)
    now_s = 1000.0
    caller.open(now_s)
    line.poll(now_s)
    line.receive(engine.headers(), now_s, caller)
    marks: list[tuple[float, str]] = []
    grown = {}
    for end_s in (WARM_S, LONG_S):
        while now_s < 1000.0 + end_s:
            now_s += FRAME_S
            messages = [*line.receive(engine.write(frame), now_s, caller), *line.poll(now_s)]
            events = [json.loads(message) for message in messages]
            marks += [(now_s + MARK_S, event["mark"]["name"]) for event in events if event["event"] == "mark"]
            while marks and marks[0][0] <= now_s:
                line.marked(marks.pop(0)[1], now_s)
        grown[end_s] = used_bytes()
    assert grown[LONG_S] - grown[WARM_S] < FLAT_BYTES
