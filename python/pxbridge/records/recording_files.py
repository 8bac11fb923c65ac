"""Files of recordings: stereo WAV and Ogg Opus, and their names.

A file can be played at any moment, also after a kill: the header of a WAV is updated with every write, and
Ogg pages are written whole. A killed process loses half a second of a WAV, because the last seconds are
written early and overwritten when they are final. Ogg Opus cannot be overwritten, so a killed process loses
two and a half seconds.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from typing import TYPE_CHECKING, Literal, Protocol

from pxbridge.audio import OggOpusWriter
from pxbridge.records.stereo_timeline import CHANNELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Format = Literal["wav", "opus"]

OPUS_BITRATE_BPS = 48_000
"""Of both channels: nearly transparent for telephone speech, and a fifth of PCM at 8 kHz."""
OPUS_FRAME_MS = 60.0
"""Long packets, because delay does not matter here and the page of each packet costs 30 bytes."""
OPUS_COMPLEXITY = 5

LONGEST_FILE_NAME_CHARS = 64
"""Without the suffix."""

_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_SAMPLE_BYTES = 2


class RecordingFile(Protocol):
    """A file that grows during a call."""

    suffix: str

    def write(self, pcm: NDArray[np.int16], unsettled: NDArray[np.int16]) -> None:
        """Appends interleaved frames and leaves a file that can be played.

        Args:
            pcm: Frames that are final.
            unsettled: The frames after them, which may still change. The next `pcm` begins with their final
                version.
        """
        ...

    def close(self) -> None:
        """Ends the file."""
        ...


class WavFile:
    """16-bit PCM in a RIFF file. The header always tells the right size.

    Args:
        descriptor: A new file's descriptor. `close` closes it, and so does an error here.
        rate_hz: The sample rate.

    Raises:
        OSError: The header cannot be written.
    """

    suffix = ".wav"

    def __init__(self, descriptor: int, rate_hz: int) -> None:
        self._descriptor = descriptor
        self._rate_hz = rate_hz
        self._bytes = 0
        try:
            self._put(self._header(), 0)
        except BaseException:
            self.close()
            raise

    def write(self, pcm: NDArray[np.int16], unsettled: NDArray[np.int16]) -> None:
        """Writes interleaved frames over the unsettled ones of the last write, then the header."""
        data, ahead = (part.astype("<i2", copy=False).tobytes() for part in (pcm, unsettled))
        self._put(data + ahead, _WAV_HEADER.size + self._bytes)
        self._bytes += len(data)
        self._put(self._header(len(ahead)), 0)

    def close(self) -> None:
        """Ends the file."""
        os.close(self._descriptor)

    def _put(self, data: bytes, at: int) -> None:
        while data:  # a disk that is nearly full may take only a part
            written = os.pwrite(self._descriptor, data, at)
            data, at = data[written:], at + written

    def _header(self, ahead: int = 0) -> bytes:
        frame, size = CHANNELS * _SAMPLE_BYTES, self._bytes + ahead
        return _WAV_HEADER.pack(
            b"RIFF", _WAV_HEADER.size - 8 + size, b"WAVE",
            b"fmt ", 16, 1, CHANNELS, self._rate_hz, frame * self._rate_hz, frame, 8 * _SAMPLE_BYTES,
            b"data", size,
        )  # fmt: skip


class OpusFile:
    """Ogg Opus, with one page for each packet.

    Args:
        descriptor: A new file's descriptor; `close` closes it.
        rate_hz: The sample rate.
    """

    suffix = ".opus"

    def __init__(self, descriptor: int, rate_hz: int) -> None:
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._encoder = OggOpusWriter(
            rate_hz,
            application="voip",
            bitrate_bps=OPUS_BITRATE_BPS,
            complexity=OPUS_COMPLEXITY,
            frame_ms=OPUS_FRAME_MS,
            channels=CHANNELS,
        )
        try:
            self._put(self._encoder.headers())
        except BaseException:
            self._file.close()
            raise

    def write(self, pcm: NDArray[np.int16], unsettled: NDArray[np.int16]) -> None:
        """Appends interleaved frames. Unsettled ones are ignored, because Ogg Opus cannot be rewritten."""
        self._put(self._encoder.write(pcm))

    def close(self) -> None:
        """Ends the file."""
        with self._file:
            self._put(self._encoder.finish())

    def _put(self, data: bytes) -> None:
        while data:
            data = data[self._file.write(data) :]


FILES: dict[Format, type[WavFile | OpusFile]] = {"wav": WavFile, "opus": OpusFile}


def file_name(call_id: str) -> str:
    """The name of a call's recording, without its suffix: letters, digits, ``-`` and ``_``, and never empty.

    Different ids give different names. An id that a file system may not take gets part of its SHA-256.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", call_id)
    if plain == call_id and 0 < len(call_id) <= LONGEST_FILE_NAME_CHARS:
        return call_id
    digest = hashlib.sha256(call_id.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{plain[: LONGEST_FILE_NAME_CHARS - len(digest) - 1] or 'unknown'}-{digest}"
