"""Recordings of calls, for personas that ask for them: stereo, the caller left and the agent right.

The event loop only fetches, twice a second, what Rust has kept of a line (`Call.keep_audio`); a thread puts
it on one time axis (`pxbridge.records.stereo_timeline`) and writes it. What the thread cannot keep up with is
dropped, counted, and silent in the recording, which stays aligned. A full disk ends the recording and not the
call.

When the agent is heard, the model of Exotel's queue tells. After a stall of the network towards Exotel it is
too early by as much, until the echoes of our marks have put that right some seconds later.

A file can be played at any moment, and after any end: a WAV's header is brought up to date with every
write, and an Ogg page is whole or not there. A killed process loses half a second of a WAV, to which the last
seconds are written as they are now and again when nothing can change them; of Ogg Opus, which cannot be
written over, two and a half.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import queue
import re
import struct
import threading
import time
from typing import TYPE_CHECKING, Literal, Protocol

from pxbridge.audio import OggOpusWriter
from pxbridge.calls.events import Kind
from pxbridge.records import database
from pxbridge.records.stereo_timeline import CHANNELS, StereoTimeline
from pxbridge.records.writer import KEEP_EVERY_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.calls.call import Call, CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.telephony.carrier import Audio

    Format = Literal["wav", "opus"]

log = logging.getLogger("pxbridge.recording")

FETCH_EVERY_S = 0.5
JOBS_WAITING = 4000
"""So much of one call each: a thousand calls may be written two seconds late."""
LAST_JOBS_S = 5.0
MOST_NAMES = 1000
"""Recordings of one CallSid: more is not a call's retry."""

OPUS_BITRATE_BPS = 48_000
"""Both channels: near to transparent for telephone speech, a fifth of PCM at 8 kHz."""
OPUS_FRAME_MS = 60.0
"""Nobody waits for it, and a page of its own costs each packet 30 bytes."""
OPUS_COMPLEXITY = 5

LONGEST_FILE_NAME_CHARS = 64
"""Without the suffix."""

_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_SAMPLE_BYTES = 2


class _File(Protocol):
    suffix: str

    def write(self, pcm: NDArray[np.int16], unsettled: NDArray[np.int16]) -> None:
        """Appends interleaved frames, so that the file can be played.

        Args:
            pcm: What is settled.
            unsettled: What comes after it, as far as is known now; the next `pcm` begins with it or with what
                it has become.
        """

    def close(self) -> None:
        """Ends the file."""


class WavFile:
    """PCM16 in a RIFF file whose header always says how much is in it.

    Args:
        descriptor: Of a new file; closed by `close`.
        rate_hz: Of the frames.
    """

    suffix = ".wav"

    def __init__(self, descriptor: int, rate_hz: int) -> None:
        self._descriptor = descriptor
        self._rate_hz = rate_hz
        self._bytes = 0
        self._put(self._header(), 0)

    def write(self, pcm: NDArray[np.int16], unsettled: NDArray[np.int16]) -> None:
        """Appends interleaved frames, over what was unsettled; the header follows when they are there."""
        data, ahead = (part.astype("<i2", copy=False).tobytes() for part in (pcm, unsettled))
        self._put(data + ahead, _WAV_HEADER.size + self._bytes)
        self._bytes += len(data)
        self._put(self._header(len(ahead)), 0)

    def close(self) -> None:
        """Ends the file."""
        os.close(self._descriptor)

    def _put(self, data: bytes, at: int) -> None:
        while data:  # a disk that becomes full takes a part
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
    """Ogg Opus, a page for every packet.

    Args:
        descriptor: Of a new file; closed by `close`.
        rate_hz: Of the frames.
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
        self._put(self._encoder.headers())

    def write(self, pcm: NDArray[np.int16], unsettled: NDArray[np.int16]) -> None:
        """Appends interleaved frames; what is unsettled has to wait."""
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


async def keep_recordings(
    folder: Path, *, keep_s: float, keep_bytes: int, wall: Callable[[], float] = time.time
) -> None:
    """Deletes recordings that are too old or too much, now and from time to time, until it is cancelled.

    Where there are records of calls, who keeps those does it: `pxbridge.records.writer`.

    Args:
        folder: Where they are.
        keep_s: How long they are kept, in seconds.
        keep_bytes: How large they may be together.
        wall: Seconds since the epoch.
    """
    while True:
        try:
            gone = await asyncio.to_thread(
                database.keep_recordings, folder, since=wall() - keep_s, most_bytes=keep_bytes
            )
        except OSError as error:
            log.error("old recordings cannot be deleted: %s", error)
        else:
            if gone:
                log.info("deleted %d recordings, too old or too much", len(gone))
        await asyncio.sleep(KEEP_EVERY_S)


class _Recording:
    """One call's, in the thread."""

    def __init__(self, name: str, rate_hz: int, began_s: float, named: Callable[[str], None]) -> None:
        self.name = name
        self.rate_hz = rate_hz
        self.tape = StereoTimeline(rate_hz, began_s)
        self.named = named
        self.file: _File | None = None
        self.failed = False


class Recorder:
    """Records calls whose persona asks for it.

    Args:
        folder: Where recordings are put.
        form: What they are.
        recorded: Told a call's record, as it begins to be recorded; gives who is told the file's name.

    Attributes:
        failures: Recordings that could not be written to their end.
        dropped: Seconds of a call that the thread had no time for.
    """

    def __init__(
        self, folder: Path, form: Format, recorded: Callable[[CallRecord], Callable[[str], None]]
    ) -> None:
        self._folder = folder
        self._kind = FILES[form]
        self._recorded = recorded
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(JOBS_WAITING)
        self.failures = 0
        self.dropped = 0.0
        self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what waits, for a bounded time."""
        with contextlib.suppress(queue.Full):
            self._jobs.put(None, timeout=LAST_JOBS_S)
        self._thread.join(LAST_JOBS_S)

    def attend(self, call: Call) -> _Attendant:
        """Watches one call."""
        return _Attendant(self, call)

    def begin(self, record: CallRecord, now_s: float) -> _Recording:
        """A recording that has no file yet."""
        return _Recording(file_name(record.call_id), record.rate_hz, now_s, self._recorded(record))

    def put(self, recording: _Recording, now_s: float, said: Audio, heard: Audio, *, last: bool) -> None:
        """Has the thread write what was said and heard up to now."""

        def job() -> None:
            recording.tape.caller(*said)
            recording.tape.agent(*heard)
            settled = recording.tape.rest(now_s) if last else recording.tape.settled(now_s)
            self._write(recording, settled, recording.tape.unsettled(now_s))
            if last:
                self._end(recording)

        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.dropped += FETCH_EVERY_S

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("a recording failed")

    def _write(self, recording: _Recording, pcm: NDArray[np.int16], unsettled: NDArray[np.int16]) -> None:
        if recording.failed:
            return
        try:
            if recording.file is None:
                recording.file = self._new_file(recording)
            if len(pcm) or len(unsettled):
                recording.file.write(pcm, unsettled)
        except OSError as error:
            self.failures += 1
            recording.failed = True
            log.error("%s: the recording ends here: %s; the call goes on", recording.name, error)

    def _end(self, recording: _Recording) -> None:
        if recording.file is not None:
            with contextlib.suppress(OSError):
                recording.file.close()

    def _new_file(self, recording: _Recording) -> _File:
        """A file that did not exist before, and that only its owner can read."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(1, MOST_NAMES):
            name = recording.name + (f"-{number}" if number > 1 else "") + self._kind.suffix
            try:
                descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            file = self._kind(descriptor, recording.rate_hz)
            recording.named(name)
            return file
        raise FileExistsError(f"there are {MOST_NAMES} recordings of this call")


class _Attendant:
    """Watches one call, and fetches its audio if it is to be recorded."""

    def __init__(self, recorder: Recorder, call: Call) -> None:
        self._loop = asyncio.get_running_loop()
        self._recorder = recorder
        self._call = call
        self._recording: _Recording | None = None
        self._fetch: Callable[[], tuple[Audio, Audio]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Begins when the persona is known, and ends with the call."""
        if event.kind is Kind.PERSONA and event.detail["record"] and self._recording is None:
            self._recording = self._recorder.begin(record, event.at_s)
            self._fetch = self._call.keep_audio()
            self._timer = self._loop.call_later(FETCH_EVERY_S, self._tick)
        elif event.kind is Kind.ENDED and self._timer is not None:
            self._timer.cancel()
            self._put(event.at_s, last=True)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(FETCH_EVERY_S, self._tick)
        self._put(self._loop.time(), last=False)

    def _put(self, now_s: float, *, last: bool) -> None:
        if self._recording is not None and self._fetch is not None:
            said, heard = self._fetch()
            self._recorder.put(self._recording, now_s, said, heard, last=last)
