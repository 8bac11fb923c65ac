"""A persona's greeting: a WAV or an Ogg Opus file of the operator's own, decoded and checked.

An operator can name any path. So only a regular file is read, of a bounded size: a device never ends, and a
FIFO waits for its writer. Ogg holds many codecs. Anything but Opus in one or two channels is refused by its
name.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from pxbridge.audio import OggOpusReader
from pxbridge.errors import InputError
from pxbridge.wav import Sound, parse_wav, resample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

GREETING_HZ: Final = 24_000
LONGEST_GREETING_S: Final = 60.0
"""A longer file is a mistake. The agent does not listen while the greeting plays."""
LARGEST_GREETING_BYTES: Final = 50_000_000
"""A minute of WAV at 96 kHz, with two channels of 32 bits, has 46 MB."""

_OGG_HEADER_BYTES: Final = 27
_FIRST_PAGE: Final = 2
_OPUS: Final = "Opus"
# What the first packet of a stream begins with, and the name of its codec. Opus: RFC 7845 §5.1.
_MAGIC: Final = (
    (b"OpusHead", _OPUS),
    (b"\x01vorbis", "Vorbis"),
    (b"\x7fFLAC", "FLAC"),
    (b"fLaC", "FLAC"),
    (b"Speex   ", "Speex"),
    (b"\x80theora", "Theora"),
    (b"BBCD\x00", "Dirac"),
    (b"OVP80", "VP8"),
    (b"PCM     ", "PCM"),
    (b"CELT    ", "CELT"),
)
_CONVERT: Final = "convert it first, e.g. `ffmpeg -i FILE -vn -ac 1 -c:a libopus out.ogg`"
_MAPPING_FAMILY_AT: Final = 18
_CHANNELS_AT: Final = 9


def read_greeting(path: Path) -> NDArray[np.float32]:
    """The samples of a greeting at `GREETING_HZ`.

    Raises:
        InputError: The file cannot be read, is neither WAV nor Ogg Opus, holds no sound, is too large or too
            long.
    """
    sound = decode_greeting(path)
    return resample(sound.samples, sound.rate_hz, GREETING_HZ)


def decode_greeting(path: Path) -> Sound:
    """The samples of a greeting at the rate of its file; raises as `read_greeting` does."""
    data = _read(path)
    try:
        sound = _decode_ogg(data) if data.startswith(b"OggS") else parse_wav(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if len(sound.samples) == 0:
        raise InputError(f"{path}: holds no sound")
    if sound.duration_s > LONGEST_GREETING_S:
        raise InputError(
            f"{path}: {sound.duration_s:.0f} s; a greeting lasts {LONGEST_GREETING_S:.0f} s at most"
        )
    return sound


def _read(path: Path) -> bytes:
    """The bytes of a regular file of a bounded size."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            data = file.read(LARGEST_GREETING_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if len(data) > LARGEST_GREETING_BYTES:
        raise InputError(f"{path}: a greeting has {LARGEST_GREETING_BYTES // 1_000_000} MB at most")
    return data


def _open_regular(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO would wait for its writer.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path}: not a regular file")
    return descriptor


def _decode_ogg(data: bytes) -> Sound:
    packets = list(_first_packets(data))
    names = [_codec(packet) for packet in packets]
    if _OPUS not in names:
        known = [name for name in names if name]
        kind = f"Ogg {' and '.join(known)}" if known else "Ogg of an unknown codec"
        raise InputError(f"this is {kind}, not Opus; {_CONVERT}")
    head = packets[names.index(_OPUS)]
    if len(head) > _MAPPING_FAMILY_AT and head[_MAPPING_FAMILY_AT] and head[_CHANNELS_AT] > 2:
        raise InputError(f"this is Opus with {head[_CHANNELS_AT]} channels; {_CONVERT}")
    return Sound(OggOpusReader(GREETING_HZ, trim=True).read(data), GREETING_HZ)


def _codec(packet: bytes) -> str:
    """The name of the codec whose stream begins with this packet; empty if it is not known."""
    return next((name for magic, name in _MAGIC if packet.startswith(magic)), "")


def _first_packets(data: bytes) -> Iterator[bytes]:
    """The first packet of each stream that begins at the start of an Ogg file.

    All streams of a file begin before any of them goes on (RFC 3533 §4).
    """
    at = 0
    while data.startswith(b"OggS", at) and len(data) >= at + _OGG_HEADER_BYTES:
        segments = data[at + 26]
        body_at = at + _OGG_HEADER_BYTES + segments
        next_at = body_at + sum(data[at + _OGG_HEADER_BYTES : body_at])
        if not data[at + 5] & _FIRST_PAGE:
            return
        yield data[body_at:next_at]
        at = next_at
