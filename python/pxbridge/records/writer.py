"""Writes the records of calls, without holding up the calls.

Events become rows in a queue. A thread writes them, many in one transaction. If the disk is full, or the
database is locked or gone, the rows wait and the thread tries again. Rows that no longer fit into the queue
are dropped and counted. The log says once when writing begins to fail, and once when it works again.

If the database or its folder is deleted or replaced, it is created again. Rows that may have gone into the
lost file are written once more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pxbridge.calls.events import Kind
from pxbridge.calls.summary import summary
from pxbridge.errors import PxbridgeError
from pxbridge.file_identity import identity
from pxbridge.records import database
from pxbridge.records.purge_clock import PURGE_EVERY_S, PurgeClock
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.calls.numbers import Numbers
    from pxbridge.file_identity import Identity

    Job = tuple[str, Mapping[str, Any]]

log = logging.getLogger("pxbridge.records")

MAX_ROWS = 20_000
"""Rows that wait for the thread: about 20 MB. A thousand busy calls fill the queue in minutes."""
MAX_BATCH = 500
"""Rows in one transaction."""
RETRY_S = 2.0
CLOSE_TIMEOUT_S = 5.0
"""How long writing the last rows may take when the bridge ends."""

MAX_EVENTS = 1000
"""Events that are kept of one call. A normal call has fewer; an attacker's call may have more."""
MAX_KEYS = 100
"""Key presses that are kept of one call; nobody presses more on purpose."""
PAUSE_S = 1.5
"""After a pause of the agent of this length, its next word begins a new line of the transcript."""
MAX_LINE_CHARS = 500

PRIVATE = frozenset({"caller", "called", "custom", "digit"})
"""Details of events that are not kept. Phone numbers have columns of their own, in the form that the settings
say.
Custom parameters and keys may contain secrets."""


_BAD_ROW = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, UnicodeError)
"""Errors of a single row, which would come again with every retry. The other rows are still written."""


@dataclass(slots=True)
class _Live:
    """A live call.

    Attributes:
        key: Its key in the database.
        began_at: When it began, in seconds since the epoch.
        events: How many events were kept.
        keys: How many keys were pressed.
        line: The words of the transcript's current line.
        line_at_s: When the line began.
        word_at_s: When its last word came.
        recording: The name of its recording; empty without one.
    """

    key: str
    began_at: float
    events: int = 0
    keys: int = 0
    line: list[str] = field(default_factory=list)
    line_at_s: float = 0.0
    word_at_s: float = 0.0
    recording: str = ""


class RecordWriter:
    """Writes the records of calls. It is a subscriber to the events of all calls.

    Args:
        folder: The folder of the database.
        numbers: How phone numbers are written.
        keep_s: How long records and recordings are kept, in seconds.
        keep_bytes: How large they may be together.
        wall: The wall clock, in seconds since the epoch.
        steady: Seconds, monotonic.
        connect: Opens the database.
        retry_s: How long to wait after an error.

    Attributes:
        written: Rows that were written.
        dropped: Rows that were not written, for any reason.
        errors: How often writing failed.
    """

    def __init__(
        self,
        folder: Path,
        numbers: Numbers,
        *,
        keep_s: float,
        keep_bytes: int,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        connect: Callable[[Path], sqlite3.Connection] = database.open_database,
        retry_s: float = RETRY_S,
    ) -> None:
        self._folder = folder
        self._numbers = numbers
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._wall = wall
        self._connect = connect
        self._retry_s = retry_s
        self._live: dict[int, _Live] = {}
        self._jobs: queue.Queue[Job | None] = queue.Queue(MAX_ROWS)
        self._stop = threading.Event()
        self._failing = False
        self._was_open = False
        self._connection: sqlite3.Connection | None = None
        self._opened: Identity | None = None  # the file that is open
        self._purge_clock = PurgeClock(wall, steady)
        self.written = 0
        self.dropped = 0
        self.errors = 0
        self._thread = threading.Thread(target=self._run, name="call records", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes the waiting rows, for at most twice `CLOSE_TIMEOUT_S`."""
        self._stop.set()
        with contextlib.suppress(queue.Full):
            self._jobs.put(None, timeout=CLOSE_TIMEOUT_S)
        self._thread.join(CLOSE_TIMEOUT_S)

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Queues the rows of an event."""
        if event.kind is Kind.STARTED:
            began_at = self._wall() - (event.at_s - record.opened_s)
            self._live[id(record)] = _Live(record.key, began_at)
        live = self._live.get(id(record))
        if live is None or event.kind is Kind.COUNTERS:
            return  # a call that never started is counted by the metrics only
        if event.kind is Kind.WORDS:
            self._add_words(live, event.at_s - record.opened_s, event.detail["text"])
            return
        self._put_event(live, record, event)
        if event.kind in (Kind.STARTED, Kind.LIVE, Kind.ENDED):
            self._put_call(live, record, event.at_s)
        if event.kind is Kind.ENDED:
            self._put_line(live)
            if live.recording:  # again: the row may be new, in a new file
                self._put(database.PUT_RECORDING, {"key": live.key, "recording": live.recording})
            del self._live[id(record)]

    def recorded(self, record: CallRecord) -> Callable[[str], None]:
        """A function that writes the name of a live call's recording. Any thread may call it."""
        live = self._live.get(id(record))

        def put(file: str) -> None:
            if live is not None:
                live.recording = file
                self._put(database.PUT_RECORDING, {"key": live.key, "recording": file})

        return put

    def _put_call(self, live: _Live, record: CallRecord, now_s: float) -> None:
        figures = summary(record, self._numbers, now_s)
        ended = record.ending is not None
        row = {
            **dict.fromkeys(database.COLUMNS),
            **{name: figures[name] for name in database.COLUMNS if name in figures},
            "key": live.key,
            "process": os.getpid(),
            "began_at": live.began_at,
            "ended_at": live.began_at + (record.ended_s - record.opened_s) if ended else None,
            "figures": json.dumps(figures),
            "counters": json.dumps(record.stats),
        }
        self._put(database.PUT_CALL, row)

    def _put_event(self, live: _Live, record: CallRecord, event: Event) -> None:
        if event.kind is Kind.KEY:
            live.keys += 1
            if live.keys > MAX_KEYS:
                return  # a stuck key must not use up the room for other events
        live.events += 1
        if live.events > MAX_EVENTS and event.kind is not Kind.ENDED:
            return
        detail = {name: value for name, value in event.detail.items() if name not in PRIVATE}
        at_s = round(event.at_s - record.opened_s, 3)
        text = json.dumps(detail, default=str)
        self._put(
            database.PUT_EVENT, {"key": live.key, "at_s": at_s, "kind": event.kind.value, "detail": text}
        )

    def _add_words(self, live: _Live, at_s: float, text: str) -> None:
        if live.line and (at_s - live.word_at_s > PAUSE_S or sum(map(len, live.line)) > MAX_LINE_CHARS):
            self._put_line(live)
        if not live.line:
            live.line_at_s = at_s
        live.line.append(text)
        live.word_at_s = at_s

    def _put_line(self, live: _Live) -> None:
        if text := "".join(live.line).strip():
            self._put(database.PUT_WORDS, {"key": live.key, "at_s": round(live.line_at_s, 3), "text": text})
        live.line.clear()

    def _put(self, statement: str, row: Mapping[str, Any]) -> None:
        try:
            self._jobs.put_nowait((statement, row))
        except queue.Full:
            self.dropped += 1

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        batch: list[Job] = []
        last = False
        while True:
            is_last_try = False
            while not self._wrote(batch):
                if is_last_try:
                    self.dropped += len(batch) + self._jobs.qsize()
                    return
                is_last_try = self._stop.wait(self._retry_s)
            if last:
                break
            batch, last = self._next()
        self._close_database()

    def _next(self) -> tuple[list[Job], bool]:
        """The waiting rows, or none after `PURGE_EVERY_S` without any; and whether they are the last."""
        try:
            jobs = [self._jobs.get(timeout=PURGE_EVERY_S)]
        except queue.Empty:
            return [], False
        while len(jobs) < MAX_BATCH:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return [job for job in jobs if job is not None], None in jobs

    def _wrote(self, batch: list[Job]) -> bool:
        try:
            if self._connection is not None and self._is_moved():
                log.error("%s was deleted or replaced; it is created again", self._folder / database.FILE)
                self._close_database()
            if self._connection is None:
                self._connection = self._open()
            if self._purge_clock.is_due():
                self._delete_old(self._connection, self._purge_clock.now())
            self._write(self._connection, batch)
        except (sqlite3.Error, OSError, PxbridgeError) as error:
            self._note_failure(error)
            self._close_database()
            return False
        if self._failing:
            self._failing = False
            log.warning("records of calls are written again; rows dropped: %d", self.dropped)
        return True

    def _is_moved(self) -> bool:
        """Whether the open file is no longer the one in the folder."""
        return identity(self._folder / database.FILE) != self._opened

    def _open(self) -> sqlite3.Connection:
        connection = self._connect(self._folder / database.FILE)
        self._opened = identity(self._folder / database.FILE)
        if not self._was_open:
            self._was_open = True
            rows = connection.execute("SELECT DISTINCT process FROM calls WHERE ended_at IS NULL").fetchall()
            processes = {row["process"] for row in rows} - {os.getpid()}
            database.mark_cut_off(connection, set(filter(_is_running, processes)))
        return connection

    def _close_database(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _write(self, connection: sqlite3.Connection, batch: list[Job]) -> None:
        bad_rows = 0
        with database.transaction(connection):
            for statement, row in batch:
                try:
                    connection.execute(statement, row)
                except _BAD_ROW:
                    bad_rows += 1
        if self._is_moved():
            raise FileNotFoundError(f"{self._folder / database.FILE} was deleted or replaced")
        self.written += len(batch) - bad_rows
        self.dropped += bad_rows

    def _delete_old(self, connection: sqlite3.Connection, now: float) -> None:
        deleted = database.delete_old(
            connection,
            self._folder / database.RECORDINGS,
            since=now - self._keep_s,
            max_bytes=self._keep_bytes,
        )
        if any(deleted.values()):
            log.info(
                "deleted %s and %s that were too old or took too much space",
                counted(deleted["records"], "record"),
                counted(deleted["recordings"], "recording"),
            )

    def _note_failure(self, error: Exception) -> None:
        self.errors += 1
        if not self._failing:
            self._failing = True
            log.error(
                "records of calls cannot be written: %s; calls go on, and writing is tried again; "
                "free some space or check the state folder",
                error,
            )


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it belongs to another user
    return True
