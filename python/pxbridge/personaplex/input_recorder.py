"""Records the model's input of each conversation, for a diagnosis: `pxbridge engine offline` replays it.

A session gives a WAV of the frames that its slot consumed (float32, so to the very bit) and a JSON file
with its prompts, seed and sampling. Frames that were dropped are in neither, as the model never heard them.
These are people's voices: the files are for their owner alone, and nothing is recorded unless it is asked
for.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, Final

import pxbridge
from pxbridge.personaplex.config import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pxbridge.personaplex.query import Asked
    from pxbridge.personaplex.scheduler import Frame

log = logging.getLogger(__name__)

FRAMES_AT_ONCE: Final = 12
"""A second is written at once."""
MOST_PENDING: Final = 60
"""If the disk hangs, this many seconds of audio are kept. Then the record ends."""

_FLOAT: Final = 3
_BYTES_PER_SAMPLE: Final = 4
_UNKNOWN: Final = 0xFFFFFFFF
_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")


def _header(data_bytes: int) -> bytes:
    """A WAV header for mono float32; its sizes may be unknown yet."""
    riff = _UNKNOWN if data_bytes == _UNKNOWN else _HEADER.size - 8 + data_bytes
    rate = SAMPLE_RATE_HZ
    return _HEADER.pack(
        b"RIFF",
        riff,
        b"WAVE",
        b"fmt ",
        16,
        _FLOAT,
        1,
        rate,
        rate * _BYTES_PER_SAMPLE,
        _BYTES_PER_SAMPLE,
        8 * _BYTES_PER_SAMPLE,
        b"data",
        data_bytes,
    )


class InputRecorder:
    """Writes records into a folder. A thread does it, so that no conversation waits for the disk.

    Args:
        folder: The folder; it is made if it does not exist.
        model: Arguments of `pxbridge engine offline` for the same checkpoint, run in the same way.

    Raises:
        OSError: It cannot be made or written.
    """

    def __init__(self, folder: Path, model: Sequence[str] = ()) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
        self._folder = folder
        self._model = tuple(model)
        self._writer = ThreadPoolExecutor(1, "input recorder")
        self._number = 0

    def begin(self, asked: Asked) -> InputRecord:
        """Begins a record of a conversation that has just become live."""
        self._number += 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = self._folder / f"{stamp}-{os.getpid()}-{self._number:06}"
        return InputRecord(path, asked, self._writer, self._model)

    def close(self) -> None:
        """Waits until all is written."""
        self._writer.shutdown()


class InputRecord:
    """One conversation's: `PATH.wav` and `PATH.json`."""

    def __init__(
        self, path: Path, asked: Asked, writer: ThreadPoolExecutor, model: Sequence[str] = ()
    ) -> None:
        self.path = path
        self._model = model
        self._asked = asked
        self._writer = writer
        self._frames: list[Frame] = []
        self._file: BinaryIO | None = None
        self._bytes = 0
        self._pending = 0
        self._broken = False
        self._do(self._open)

    def add(self, frame: Frame) -> None:
        """Adds a frame that the model heard."""
        self._frames.append(frame)
        if len(self._frames) >= FRAMES_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Ends the record."""
        self._flush()
        self._do(self._finish)

    def _flush(self) -> None:
        frames, self._frames = self._frames, []
        if self._pending >= MOST_PENDING:
            self._fail("the disk is too slow")
        elif frames:
            self._do(lambda: self._write(frames))

    def _do(self, what: Callable[[], None]) -> None:
        self._pending += 1
        self._writer.submit(self._try, what)

    # In the writer's thread.

    def _try(self, what: Callable[[], None]) -> None:
        try:
            if not self._broken:
                what()
        except OSError as error:
            self._fail(error.strerror or str(error))
        finally:
            self._pending -= 1

    def _fail(self, why: str) -> None:
        if not self._broken:
            self._broken = True
            log.warning("the record %s.wav ends early: %s", self.path, why)

    def _open(self) -> None:
        self._write_private(self.path.with_name(self.path.name + ".json"), self._about())
        self._file = _private(self.path.with_name(self.path.name + ".wav"))
        self._file.write(_header(_UNKNOWN))

    def _write(self, frames: list[Frame]) -> None:
        if self._file is not None:
            for frame in frames:
                self._bytes += self._file.write(frame.astype("<f4").tobytes())
            self._file.flush()

    def _finish(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.write(_header(self._bytes))
            self._file.close()

    def _about(self) -> bytes:
        asked, sampling = self._asked, self._asked.sampling
        wav = f"{self.path.name}.wav"
        replay = [
            *("pxbridge", "engine", "offline", "--input-wav", wav, "--output-wav", "replayed.wav"),
            *("--output-text", "replayed.json"),
            # With `=`: what a client asks for may begin with a hyphen.
            *(f"--voice-prompt={asked.voice}", f"--text-prompt={asked.text}"),
            *("--seed", str(sampling.seed)),
            *(
                "--text-temperature",
                f"{sampling.text_temperature!r}",
                "--text-topk",
                f"{sampling.text_top_k}",
            ),
            *("--audio-temperature", f"{sampling.audio_temperature!r}"),
            *("--audio-topk", f"{sampling.audio_top_k}"),
            *self._model,
        ]
        about = {
            "version": pxbridge.__version__,
            "voice_prompt": asked.voice,
            "text_prompt": asked.text,
            "seed": sampling.seed,
            "text_temperature": sampling.text_temperature,
            "text_topk": sampling.text_top_k,
            "audio_temperature": sampling.audio_temperature,
            "audio_topk": sampling.audio_top_k,
            "replay": shlex.join(replay),
        }
        return json.dumps(about, ensure_ascii=False, indent=2).encode() + b"\n"

    def _write_private(self, path: Path, data: bytes) -> None:
        with _private(path) as file:
            file.write(data)


def _private(path: Path) -> BinaryIO:
    """A new file that only its owner can read."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: PTH123
