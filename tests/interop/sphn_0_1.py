"""The other end of the wire as NVIDIA's server has it: run in the environment of `sphn` 0.1, over pipes.

``decode`` reads messages from standard input, each with its length before it, and writes what `sphn` makes
of them as float32 samples. ``encode SAMPLES`` reads float32 samples and writes the stream's messages, the
same way, with that many samples to a packet.
"""

import struct
import sys
import time

import numpy as np
import sphn

RATE_HZ = 24_000
LENGTH = struct.Struct("<I")
HEADER_PAGES = 2
PATIENCE_S = 10.0


def decode() -> None:
    reader = sphn.OpusStreamReader(RATE_HZ)
    data = sys.stdin.buffer.read()
    while data:
        (length,) = LENGTH.unpack_from(data)
        reader.append_bytes(data[LENGTH.size : LENGTH.size + length])
        data = data[LENGTH.size + length :]
    reader.close()
    # Its reader is a thread that gives a packet at a time, nothing when it is slow, and None at the end.
    while (pcm := reader.read_pcm()) is not None:
        sys.stdout.buffer.write(pcm.tobytes())


def encode(samples: int) -> None:
    writer = sphn.OpusStreamWriter(RATE_HZ)
    pcm = np.frombuffer(sys.stdin.buffer.read(), np.float32)
    for start in range(0, len(pcm), samples):
        writer.append_pcm(pcm[start : start + samples])
    # Its writer is a thread too: what it has ready is a message, and all is there with the last page.
    pages_missing = HEADER_PAGES + len(pcm) // samples
    give_up_at_s = time.monotonic() + PATIENCE_S
    while pages_missing > 0 and time.monotonic() < give_up_at_s:
        if message := writer.read_bytes():
            pages_missing -= message.count(b"OggS")
            sys.stdout.buffer.write(LENGTH.pack(len(message)) + message)
        else:
            time.sleep(0.001)


if __name__ == "__main__":
    if sys.argv[1] == "decode":
        decode()
    else:
        encode(int(sys.argv[2]))
