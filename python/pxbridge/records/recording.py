"""Recordings of calls, for personas that ask for them: stereo, the caller left and the agent right.

The event loop only fetches, twice a second, the audio that Rust has kept of a line (`Call.keep_audio`). A
thread puts it on one time axis (`pxbridge.records.stereo_timeline`) and writes it. Audio that the thread has
no time for is dropped and counted; the recording is silent there and stays aligned. If the disk is full, the
recording ends and the call goes on. If its file is deleted or replaced, the recording goes on in a new one.

The agent's audio is placed at the time when the caller heard it, by the estimate of the carrier's queue.
After a stall of the network towards the carrier, the estimate is too early by the length of the stall. Echoes
of our marks correct it some seconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from typing import TYPE_CHECKING

from pxbridge.calls.events import Kind
from pxbridge.file_identity import identity, identity_of_open
from pxbridge.records import database
from pxbridge.records.purge_clock import PURGE_EVERY_S, PurgeClock
from pxbridge.records.recording_files import FILES, file_name
from pxbridge.records.stereo_timeline import StereoTimeline
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.calls.call import Call, CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.file_identity import Identity
    from pxbridge.records.recording_files import Format, RecordingFile
    from pxbridge.telephony.phone_line import Audio

log = logging.getLogger("pxbridge.recording")

FETCH_EVERY_S = 0.5
MAX_JOBS = 4000
"""Jobs that wait for the thread, each half a second of a call: a thousand calls may be 2 s late."""
CLOSE_TIMEOUT_S = 5.0
MAX_RECORDINGS_PER_ID = 1000
"""A carrier repeats the id of a call when it tries again; it does not try so often."""


async def delete_old_recordings(
    folder: Path, *, keep_s: float, keep_bytes: int, wall: Callable[[], float] = time.time
) -> None:
    """Deletes recordings that are too old or take too much space, every hour until it is cancelled.

    Where records of calls are kept, `pxbridge.records.writer` does this instead.

    Args:
        folder: The folder of recordings.
        keep_s: How long recordings are kept, in seconds.
        keep_bytes: How large they may be together.
        wall: The wall clock, in seconds since the epoch.
    """
    clock = PurgeClock(wall)
    while True:
        try:
            deleted = await asyncio.to_thread(
                database.delete_old_recordings, folder, since=clock.now() - keep_s, max_bytes=keep_bytes
            )
        except OSError as error:
            log.error("old recordings cannot be deleted: %s", error)
        else:
            if deleted:
                log.info(
                    "deleted %s that were too old or took too much space", counted(len(deleted), "recording")
                )
        await asyncio.sleep(PURGE_EVERY_S)


class _Recording:
    """The recording of one call. Only the thread changes it."""

    def __init__(self, name: str, rate_hz: int, began_s: float, note_name: Callable[[str], None]) -> None:
        self.name = name
        self.rate_hz = rate_hz
        self.timeline = StereoTimeline(rate_hz, began_s)
        self.note_name = note_name
        self.file: RecordingFile | None = None
        self.path: Path | None = None
        self.opened: Identity | None = None
        self.failed = False

    def is_moved(self) -> bool:
        """Whether the open file is no longer the one that its path names."""
        return self.path is not None and identity(self.path) != self.opened


class Recorder:
    """Records calls whose persona asks for it.

    Args:
        folder: The folder of recordings.
        form: The format of the files.
        recorded: Called with the record of a call when its recording begins. Returns a function that takes
            the name of the file, in the thread.

    Attributes:
        failures: Recordings that could not be written to their end.
        dropped: Seconds of audio that the thread had no time for.
    """

    def __init__(
        self, folder: Path, form: Format, recorded: Callable[[CallRecord], Callable[[str], None]]
    ) -> None:
        self._folder = folder
        self._kind = FILES[form]
        self._recorded = recorded
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.failures = 0
        self.dropped = 0.0
        self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes the waiting jobs, for at most `CLOSE_TIMEOUT_S`."""
        self._jobs.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def subscriber(self, call: Call) -> _CallRecorder:
        """A subscriber to the events of one call, which records it if its persona asks for that."""
        return _CallRecorder(self, call)

    def begin(self, record: CallRecord, now_s: float) -> _Recording:
        """A new recording; its file is created with the first write."""
        return _Recording(file_name(record.call_id), record.rate_hz, now_s, self._recorded(record))

    def put(self, recording: _Recording, now_s: float, said: Audio, heard: Audio, *, last: bool) -> None:
        """Passes the audio that was said and heard up to now to the thread.

        The last job of a recording is never dropped, because it closes the file.
        """

        def job() -> None:
            try:
                recording.timeline.caller(*said)
                recording.timeline.agent(*heard)
                settled = recording.timeline.rest(now_s) if last else recording.timeline.settled(now_s)
                self._write(recording, settled, recording.timeline.unsettled(now_s))
            finally:
                if last:
                    self._end(recording)

        if not last and self._jobs.qsize() >= MAX_JOBS:
            self.dropped += FETCH_EVERY_S
            return
        self._jobs.put(job)

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
            if recording.is_moved():
                log.error("%s was deleted or replaced; its recording goes on in a new file", recording.path)
                self._end(recording)
                recording.file = None
            if recording.file is None:
                recording.file = self._new_file(recording)
            if len(pcm) or len(unsettled):
                recording.file.write(pcm, unsettled)
        except OSError as error:
            self.failures += 1
            recording.failed = True
            log.error(
                "recording %s ends early: %s; the call goes on; free some space or check the folder",
                recording.name,
                error,
            )

    def _end(self, recording: _Recording) -> None:
        if recording.file is not None:
            with contextlib.suppress(OSError):
                recording.file.close()

    def _new_file(self, recording: _Recording) -> RecordingFile:
        """Creates a file that only its owner can read."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(1, MAX_RECORDINGS_PER_ID):
            name = recording.name + (f"-{number}" if number > 1 else "") + self._kind.suffix
            try:
                descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            recording.path, recording.opened = self._folder / name, identity_of_open(descriptor)
            file = self._kind(descriptor, recording.rate_hz)
            recording.note_name(name)
            return file
        raise FileExistsError(f"there are {MAX_RECORDINGS_PER_ID} recordings of this call already")


class _CallRecorder:
    """Fetches the audio of one call while it is recorded."""

    def __init__(self, recorder: Recorder, call: Call) -> None:
        self._loop = asyncio.get_running_loop()
        self._recorder = recorder
        self._call = call
        self._recording: _Recording | None = None
        self._fetch: Callable[[], tuple[Audio, Audio]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Starts when the persona is known, and stops at the end of the call."""
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
