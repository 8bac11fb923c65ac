"""Decodes an Ogg Opus file to a WAV file at the rate of a phone line.

python examples/ogg_to_wav.py speech.opus speech.wav
"""

import sys
import wave
from pathlib import Path

import numpy as np

from pxbridge.audio import OggOpusReader

RATE_HZ = 8000
PIECE_BYTES = 4096


def main(source: str, target: str) -> None:
    """Reads the file in pieces, so that it may be of any length."""
    reader = OggOpusReader(RATE_HZ, trim=True)
    stream = Path(source).read_bytes()
    pieces = [stream[at : at + PIECE_BYTES] for at in range(0, len(stream), PIECE_BYTES)]
    sound = np.concatenate([reader.read(piece) for piece in pieces])
    with wave.open(target, "wb") as wav:
        wav.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        wav.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
    print(f"{target}: {len(sound) / RATE_HZ:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
