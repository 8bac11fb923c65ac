"""Keeps the records of calls while they go on, and costs them nothing.

What happens is put into a queue as rows; a thread writes them, whole batches in one transaction. The disk may
be full, the database locked or gone: then the rows wait, the thread tries again, and what no longer fits into
the queue is dropped and counted. Calls do not notice; the log says once that it began, and that it ended.
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
from pxbridge.records import database

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.calls.numbers import Numbers

    Job = tuple[str, Mapping[str, Any]]

log = logging.getLogger("pxbridge.records")

ROWS_WAITING = 20_000
"""Some 20 MB; a thousand busy calls fill it in minutes."""
BATCH = 500
RETRY_S = 2.0
LAST_ROWS_S = 5.0
"""So long may writing the last rows take when the bridge ends."""
KEEP_EVERY_S = 3600.0
"""How often what is too old or too much is deleted."""

EVENTS_KEPT = 1000
"""Of one call: no call has more to say, but a stranger's might."""
KEYS_KEPT = 100
"""Of those, keys: more than anybody presses on purpose."""
PAUSE_S = 1.5
"""An agent that has said no word for so long begins a new line of the transcript."""
LINE_CHARS = 500

PRIVATE = frozenset({"caller", "called", "custom", "digit"})
"""Of what events tell, not for keeping: numbers have their own columns, in the form that was set; parameters
and keys may hold anybody's secrets."""


_SPOILT = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, UnicodeError)
"""What is wrong with one row, and would be again the next time: it must not keep out the others."""


@dataclass(slots=True)
class _Live:
    """A call that goes on.

    Attributes:
        key: Its key in the database.
        began_at: Seconds since the epoch.
        events: How many were kept.
        keys: How many were pressed.
        line: What the agent is saying.
        line_at_s: Since when.
        word_at_s: When the last word of it came.
    """

    key: str
    began_at: float
    events: int = 0
    keys: int = 0
    line: list[str] = field(default_factory=list)
    line_at_s: float = 0.0
    word_at_s: float = 0.0


class RecordWriter:
    """Watches calls and keeps their records.

    Args:
        folder: Where the database is.
        numbers: How phone numbers are written.
        keep_s: How long records and recordings are kept, in seconds.
        keep_bytes: How large they may be together.
        wall: Seconds since the epoch.
        connect: Opens the database.
        retry_s: How long to wait after an error.

    Attributes:
        written: Rows.
        dropped: Rows that were not written, for whatever reason.
        errors: Times that writing failed.
    """

    def __init__(
        self,
        folder: Path,
        numbers: Numbers,
        *,
        keep_s: float,
        keep_bytes: int,
        wall: Callable[[], float] = time.time,
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
        self._jobs: queue.Queue[Job | None] = queue.Queue(ROWS_WAITING)
        self._stop = threading.Event()
        self._failing = False
        self._opened = False
        self._connection: sqlite3.Connection | None = None
        self._keep_at = 0.0
        self.written = 0
        self.dropped = 0
        self.errors = 0
        self._thread = threading.Thread(target=self._run, name="call records", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what waits, for a bounded time."""
        self._stop.set()
        with contextlib.suppress(queue.Full):
            self._jobs.put(None, timeout=LAST_ROWS_S)
        self._thread.join(LAST_ROWS_S)

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Takes down an event."""
        if event.kind is Kind.STARTED:
            began_at = self._wall() - (event.at_s - record.opened_s)
            self._live[id(record)] = _Live(record.key, began_at)
        live = self._live.get(id(record))
        if live is None or event.kind is Kind.COUNTERS:
            return  # who never started is in the metrics
        if event.kind is Kind.WORDS:
            self._heard(live, event.at_s - record.opened_s, event.detail["text"])
            return
        self._put_event(live, record, event)
        if event.kind in (Kind.STARTED, Kind.LIVE, Kind.ENDED):
            self._put_call(live, record, event.at_s)
        if event.kind is Kind.ENDED:
            self._put_line(live)
            del self._live[id(record)]

    def recorded(self, record: CallRecord) -> Callable[[str], None]:
        """What notes the name of a live call's recording; it may be called from any thread."""
        live = self._live.get(id(record))
        key = live.key if live else ""
        return lambda file: self._put(database.PUT_RECORDING, {"key": key, "recording": file})

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
            if live.keys > KEYS_KEPT:
                return  # a finger on a key must not keep out what else happens
        live.events += 1
        if live.events > EVENTS_KEPT and event.kind is not Kind.ENDED:
            return
        detail = {name: value for name, value in event.detail.items() if name not in PRIVATE}
        at_s = round(event.at_s - record.opened_s, 3)
        told = json.dumps(detail, default=str)
        self._put(
            database.PUT_EVENT, {"key": live.key, "at_s": at_s, "kind": event.kind.value, "detail": told}
        )

    def _heard(self, live: _Live, at_s: float, text: str) -> None:
        if live.line and (at_s - live.word_at_s > PAUSE_S or sum(map(len, live.line)) > LINE_CHARS):
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
            while not self._wrote(batch):
                if self._stop.wait(self._retry_s) and not self._wrote(batch):
                    self.dropped += len(batch) + self._jobs.qsize()
                    return
            if last:
                break
            batch, last = self._next()
        self._close_database()

    def _next(self) -> tuple[list[Job], bool]:
        """The rows that wait, none after a long silence; and whether they are the last."""
        try:
            jobs = [self._jobs.get(timeout=KEEP_EVERY_S)]
        except queue.Empty:
            return [], False
        while len(jobs) < BATCH:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return [job for job in jobs if job is not None], None in jobs

    def _wrote(self, batch: list[Job]) -> bool:
        try:
            if self._connection is None:
                self._connection = self._open()
            if (now := self._wall()) >= self._keep_at:
                self._keep_at = now + KEEP_EVERY_S
                self._delete_old(self._connection, now)
            self._write(self._connection, batch)
        except (sqlite3.Error, OSError, PxbridgeError) as error:
            self._fails(error)
            self._close_database()
            return False
        if self._failing:
            self._failing = False
            log.warning("the records of calls are written again; %d rows were dropped", self.dropped)
        return True

    def _open(self) -> sqlite3.Connection:
        connection = self._connect(self._folder / database.FILE)
        if not self._opened:
            self._opened = True
            rows = connection.execute("SELECT DISTINCT process FROM calls WHERE ended_at IS NULL").fetchall()
            processes = {row["process"] for row in rows} - {os.getpid()}
            database.mark_cut_off(connection, set(filter(_runs, processes)))
        return connection

    def _close_database(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _write(self, connection: sqlite3.Connection, batch: list[Job]) -> None:
        spoilt = 0
        with database.transaction(connection):
            for statement, row in batch:
                try:
                    connection.execute(statement, row)
                except _SPOILT:
                    spoilt += 1
        self.written += len(batch) - spoilt
        self.dropped += spoilt

    def _delete_old(self, connection: sqlite3.Connection, now: float) -> None:
        gone = database.keep(
            connection,
            self._folder / database.RECORDINGS,
            since=now - self._keep_s,
            most_bytes=self._keep_bytes,
        )
        if any(gone.values()):
            log.info("deleted %(records)d records and %(recordings)d recordings, too old or too much", gone)

    def _fails(self, error: Exception) -> None:
        self.errors += 1
        if not self._failing:
            self._failing = True
            log.error("the records of calls cannot be written: %s; calls go on, and it is tried again", error)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True
