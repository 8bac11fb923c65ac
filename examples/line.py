"""A call without a network: drives `pxbridge.audio.Line` by hand, with an engine that repeats the caller.

`Line` has no clock and no sockets. Messages and the time go in; what to send comes out.
Run it as ``python examples/line.py``.
"""

import base64
import json

import numpy as np
from numpy.typing import NDArray

from pxbridge.audio import Line, LineOutput, OggOpusReader, OggOpusWriter

RATE_HZ = 8000
CHUNK_MS = 20
SECONDS = 3.0


def media(pcm: NDArray[np.int16]) -> bytes:
    """A media message, as Exotel sends it."""
    payload = base64.b64encode(pcm.tobytes()).decode()
    return json.dumps({"event": "media", "media": {"payload": payload}}).encode()


def main() -> None:
    """Three seconds of a call in which the caller hums a tone."""
    line = Line(RATE_HZ, stream_id="example", gate_ms=0)
    heard_by_engine, said_by_engine = OggOpusReader(24_000), OggOpusWriter(24_000)
    outputs: list[LineOutput | None] = [line.poll(0.0), line.open_engine(0.0)]
    to_line = said_by_engine.headers()
    tone = np.sin(np.arange(RATE_HZ) * 2 * np.pi * 440 / RATE_HZ) * 8000
    samples = RATE_HZ * CHUNK_MS // 1000
    for at_ms in range(0, int(SECONDS * 1000), CHUNK_MS):
        now_s = at_ms / 1000
        chunk = np.resize(np.roll(tone, -at_ms * RATE_HZ // 1000), samples).astype(np.int16)
        outputs.append(line.phone_message(media(chunk), now_s))
        sent = b"".join(each.to_engine for each in outputs if each is not None)
        outputs = [line.engine_audio(to_line + said_by_engine.write(heard_by_engine.read(sent)), now_s)]
        to_line = b""
        outputs.append(line.poll(now_s))
    stats = line.stats()
    print(f"from the phone: {stats['uplink']['received'] / RATE_HZ:.2f} s")
    print(f"to the phone:   {stats['downlink']['sent'] / RATE_HZ:.2f} s")


if __name__ == "__main__":
    main()
