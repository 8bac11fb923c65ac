"""A line takes no more memory in its tenth minute than in its second."""

from __future__ import annotations

import base64
import ctypes
import json

import numpy as np
import pytest

from pxbridge.audio import Line, OggOpusWriter

CHUNK_S = 0.1
FRAME_S = 0.08
BACK_S = 0.05
"""From a mark to its echo, and from a ping to its pong."""
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


def test_a_call_does_not_grow() -> None:
    payload = base64.b64encode((32767 * tone(8000, CHUNK_S)).astype(np.int16).tobytes()).decode()
    media = json.dumps({"event": "media", "stream_sid": "s", "media": {"payload": payload}}).encode()
    line, engine = Line(8000), OggOpusWriter()
    frame = tone(24_000, FRAME_S)
    now_s = 1000.0
    line.poll(now_s)
    line.open_engine(now_s)
    line.engine_audio(engine.headers(), now_s)
    back: list[tuple[float, str | None]] = []  # echoes of marks and pongs
    due_s = {"chunk": now_s + CHUNK_S, "frame": now_s + FRAME_S}
    grown = {}
    for end_s in (WARM_S, LONG_S):
        while now_s < 1000.0 + end_s:
            now_s = min(*due_s.values(), line.wake_s, *(at_s for at_s, _ in back))
            if back and back[0][0] <= now_s:
                _, name = back.pop(0)
                output = line.pong(BACK_S, now_s) if name is None else line.mark_played(name, now_s)
            elif due_s["chunk"] <= now_s:
                due_s["chunk"] += CHUNK_S
                said = line.phone_message(media, now_s)
                assert said is not None
                output = said
            elif due_s["frame"] <= now_s:
                due_s["frame"] += FRAME_S
                output = line.engine_audio(engine.write(frame), now_s)
            else:
                output = line.poll(now_s)
            events = [json.loads(message) for message, _ in output.to_phone]
            back += [(now_s + BACK_S, event["mark"]["name"]) for event in events if event["event"] == "mark"]
            back += [(now_s + BACK_S, None)] * output.ping
        grown[end_s] = used_bytes()
    assert line.stats()["downlink"]["sent"] > 0.9 * LONG_S * 8000
    assert grown[LONG_S] - grown[WARM_S] < FLAT_BYTES
