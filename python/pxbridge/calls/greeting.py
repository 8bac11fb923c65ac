"""A persona's greeting: a WAV or an Ogg Opus file of the operator's own, decoded and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pxbridge.audio import OggOpusReader
from pxbridge.errors import InputError
from pxbridge.wav import Sound, read_wav, resample

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

GREETING_HZ: Final = 24_000
LONGEST_GREETING_S: Final = 60.0
"""A longer file is a mistake. The agent does not listen while the greeting plays."""


def read_greeting(path: Path) -> NDArray[np.float32]:
    """The samples of a greeting at `GREETING_HZ`.

    Raises:
        InputError: The file cannot be read, is neither WAV nor Ogg Opus, holds no sound, or is too long.
    """
    sound = decode_greeting(path)
    return resample(sound.samples, sound.rate_hz, GREETING_HZ)


def decode_greeting(path: Path) -> Sound:
    """The samples of a greeting at the rate of its file; raises as `read_greeting` does."""
    try:
        with path.open("rb") as file:
            is_ogg = file.read(4) == b"OggS"
            data = is_ogg and b"OggS" + file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    sound = Sound(OggOpusReader(GREETING_HZ).read(data), GREETING_HZ) if data else read_wav(path)
    if len(sound.samples) == 0:
        raise InputError(f"{path}: holds no sound")
    if sound.duration_s > LONGEST_GREETING_S:
        raise InputError(
            f"{path}: {sound.duration_s:.0f} s; a greeting lasts {LONGEST_GREETING_S:.0f} s at most"
        )
    return sound
