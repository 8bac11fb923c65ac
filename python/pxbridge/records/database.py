"""The records of calls: a SQLite database, its schema and its queries.

A call has one row in ``calls``, written at its `start` and completed at its end, and rows in ``events`` and
``words`` (the agent's). The schema is a list of steps (`MIGRATIONS`). A file's ``user_version`` counts the
steps it has been through. New steps are added at the end, and old ones never change, so that every old file
can be migrated.

Several readers and one writer (`pxbridge.records.writer`) use the file at the same time, in several
processes. It is in WAL mode, in which readers and the writer do not block each other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pxbridge.errors import DatabaseTooNew
from pxbridge.records.purge_clock import SPAN_S
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger("pxbridge.records")

FILE = "calls.db"
RECORDINGS = "recordings"
"""The folder of recordings, beside the file."""

BUSY_S = 1.0
"""How long a process waits for the transaction of another. Ours take milliseconds."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE calls (
        key TEXT PRIMARY KEY,         -- our own id: two connections may carry the same call
        call TEXT NOT NULL,           -- the carrier's id of the call
        stream TEXT NOT NULL,
        process INTEGER NOT NULL,     -- the bridge's process id: is a call without an end still live?
        began_at REAL NOT NULL,       -- seconds since the epoch
        ended_at REAL,
        caller TEXT NOT NULL,         -- as the setting record_numbers says
        called TEXT NOT NULL,
        persona TEXT NOT NULL,
        engine TEXT NOT NULL,         -- the last one that the call had
        outcome TEXT NOT NULL,        -- pxbridge.calls.summary.outcome
        ended_by TEXT,
        reason TEXT,
        duration_s REAL,
        setup_s REAL,
        first_audio_s REAL,
        mouth_to_ear_s REAL,          -- the median
        mouth_to_ear_p95_s REAL,
        holes INTEGER,
        figures TEXT NOT NULL,        -- JSON: pxbridge.calls.summary.summary
        counters TEXT NOT NULL        -- JSON: Call.stats
    );
    CREATE INDEX calls_by_time ON calls (began_at);
    CREATE INDEX calls_by_id ON calls (call);
    CREATE TABLE events (
        key TEXT NOT NULL,
        at_s REAL NOT NULL,           -- since the call began
        kind TEXT NOT NULL,
        detail TEXT NOT NULL          -- JSON
    );
    CREATE INDEX events_by_call ON events (key, at_s);
    CREATE TABLE words (
        key TEXT NOT NULL,
        at_s REAL NOT NULL,
        text TEXT NOT NULL
    );
    CREATE INDEX words_by_call ON words (key, at_s);
    """,
    """
    ALTER TABLE calls ADD COLUMN recording TEXT;  -- the file's name in the folder of recordings
    """,
)

COLUMNS = (
    "key", "call", "stream", "process", "began_at", "ended_at", "caller", "called", "persona", "engine",
    "outcome", "ended_by", "reason", "duration_s", "setup_s", "first_audio_s", "mouth_to_ear_s",
    "mouth_to_ear_p95_s", "holes", "figures", "counters",
)  # fmt: skip
"""The columns that the writer fills."""

PUT_CALL = (
    f"INSERT INTO calls ({', '.join(COLUMNS)}) VALUES ({', '.join(':' + name for name in COLUMNS)}) "  # noqa: S608
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)
PUT_EVENT = "INSERT INTO events (key, at_s, kind, detail) VALUES (:key, :at_s, :kind, :detail)"
PUT_WORDS = "INSERT INTO words (key, at_s, text) VALUES (:key, :at_s, :text)"
PUT_RECORDING = "UPDATE calls SET recording = :recording WHERE key = :key"

CUT_OFF = "cut_off"
"""The outcome of a call whose bridge was killed."""


def open_database(file: Path) -> sqlite3.Connection:
    """Opens the database. Creates it if there is none, and migrates it if it is old.

    Raises:
        DatabaseTooNew: The file has a newer schema than this version knows. It is not changed.
        sqlite3.Error: The file cannot be opened, or is not a database.
        OSError: Its folder cannot be created.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        # SQLite gives its other files the permissions of this one.
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        version = _version(connection, file)
        if version == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        while version < len(MIGRATIONS):
            with transaction(connection):
                # Another process may have migrated it meanwhile.
                version = _version(connection, file)
                if version < len(MIGRATIONS):
                    for statement in filter(str.strip, MIGRATIONS[version].split(";\n")):
                        connection.execute(statement)
                    version += 1
                    connection.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Executes the block as one transaction.

    Raises:
        sqlite3.Error: Nothing was written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # after some errors SQLite has rolled back already
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, file: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise DatabaseTooNew(
            f"{file} was written by a newer pxbridge (schema {version}, this one knows {len(MIGRATIONS)}); "
            "install that version, or use another state folder"
        )
    return version


# Reading


@dataclass(frozen=True, slots=True)
class Query:
    """Which calls to find.

    Args:
        limit: The largest number of calls; the newest are found.
        since: Only calls that began at this time or later, in seconds since the epoch.
        outcome: Only calls with this outcome.
    """

    limit: int = 20
    since: float | None = None
    outcome: str | None = None


def find(connection: sqlite3.Connection, query: Query) -> list[dict[str, Any]]:
    """Calls, the newest first, each as `one` returns it, but without counters, events and words."""
    rows = connection.execute(
        "SELECT * FROM calls WHERE began_at >= :since AND (:outcome IS NULL OR outcome = :outcome) "
        "ORDER BY began_at DESC LIMIT :limit",
        {"since": query.since or 0.0, "outcome": query.outcome, "limit": query.limit},
    )
    return [_as_dict(row) for row in rows]


def one(connection: sqlite3.Connection, name: str) -> dict[str, Any] | None:
    """The newest call whose id, or whose key, begins with `name`, with its counters, events and words."""
    row = connection.execute(
        "SELECT * FROM calls WHERE call = :name OR key = :name "
        "OR substr(call, 1, length(:name)) = :name OR substr(key, 1, length(:name)) = :name "
        "ORDER BY call = :name DESC, key = :name DESC, began_at DESC LIMIT 1",
        {"name": name},
    ).fetchone()
    if row is None or not name:
        return None
    call = _as_dict(row)
    call["counters"] = json.loads(row["counters"])
    call["events"] = [
        {"at_s": event["at_s"], "kind": event["kind"], **json.loads(event["detail"])}
        for event in connection.execute(
            "SELECT * FROM events WHERE key = ? ORDER BY at_s, rowid", (row["key"],)
        )
    ]
    call["words"] = [
        {"at_s": words["at_s"], "text": words["text"]}
        for words in connection.execute(
            "SELECT * FROM words WHERE key = ? ORDER BY at_s, rowid", (row["key"],)
        )
    ]
    return call


def ids(connection: sqlite3.Connection, name: str) -> list[str]:
    """The ids of the calls that `one` chooses from, the newest first; one alone if it is `name` itself."""
    rows = connection.execute(
        "SELECT call, max(began_at), max(call = :name OR key = :name) AS exact FROM calls "
        "WHERE substr(call, 1, length(:name)) = :name OR substr(key, 1, length(:name)) = :name "
        "GROUP BY call ORDER BY 3 DESC, 2 DESC",
        {"name": name},
    ).fetchall()
    return [row["call"] for row in rows if row["exact"] or not rows[0]["exact"]]


def _as_dict(row: sqlite3.Row) -> dict[str, Any]:
    columns = {name: row[name] for name in row.keys() if name not in ("figures", "counters")}  # noqa: SIM118
    return {**columns, **{k: v for k, v in json.loads(row["figures"]).items() if k not in columns}}


# Deleting


def mark_cut_off(connection: sqlite3.Connection, alive: set[int]) -> int:
    """Sets the outcome of calls whose bridge was killed; returns how many there were.

    Args:
        connection: The records.
        alive: Processes that may still have live calls.
    """
    open_calls = connection.execute("SELECT key, process FROM calls WHERE ended_at IS NULL").fetchall()
    dead = [(row["key"],) for row in open_calls if row["process"] not in alive]
    with transaction(connection):
        connection.executemany(
            "UPDATE calls SET outcome = 'cut_off', ended_at = began_at + coalesce("
            "(SELECT max(at_s) FROM events WHERE events.key = calls.key), 0) WHERE key = ?",
            dead,
        )
    return len(dead)


def delete(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    """Deletes calls."""
    with transaction(connection):
        for table in ("words", "events", "calls"):
            connection.executemany(f"DELETE FROM {table} WHERE key = ?", [(key,) for key in keys])  # noqa: S608
    connection.execute("PRAGMA incremental_vacuum").fetchall()


def delete_old(
    connection: sqlite3.Connection, recordings: Path, *, since: float, max_bytes: int
) -> Mapping[str, int]:
    """Deletes old records and recordings, and more of them if they take too much space.

    Recordings go before records, because they are larger. Of what is too old, at most the oldest `SPAN_S` is
    deleted at once.

    Args:
        connection: The records.
        recordings: The folder of recordings.
        since: Calls that began before this time, in seconds since the epoch, are deleted with their
            recordings.
        max_bytes: The oldest are deleted until records and recordings together are no larger.

    Returns:
        How many ``records`` and ``recordings`` were deleted.
    """
    old: list[str] = [
        row["key"]
        for row in connection.execute(
            "SELECT key FROM calls WHERE ended_at IS NOT NULL AND began_at < min(?, "
            "(SELECT min(began_at) FROM calls WHERE ended_at IS NOT NULL) + ?)",
            (since, SPAN_S),
        )
    ]
    delete(connection, old)
    deleted_files = delete_old_recordings(
        recordings, since=since, max_bytes=max_bytes - _used_bytes(connection)
    )
    for name in deleted_files:
        connection.execute("UPDATE calls SET recording = NULL WHERE recording = ?", (name,))
    deleted = len(old)
    while _used_bytes(connection) > max_bytes:
        oldest = connection.execute(
            "SELECT key FROM calls WHERE ended_at IS NOT NULL ORDER BY began_at LIMIT 100"
        ).fetchall()
        if not oldest:
            break
        delete(connection, [row["key"] for row in oldest])
        deleted += len(oldest)
    return {"records": deleted, "recordings": len(deleted_files)}


def delete_old_recordings(folder: Path, *, since: float, max_bytes: int) -> list[str]:
    """Deletes old recordings, and more of them if they take too much space. It needs no records of their
    calls. Files that cannot be deleted are logged and left.

    Args:
        folder: The folder of recordings.
        since: Recordings last written before this time, in seconds since the epoch, are deleted; at most the
            oldest `SPAN_S` of them at once.
        max_bytes: The oldest are deleted until the rest is no larger.

    Returns:
        The names of the deleted files.
    """
    files = sorted(_recordings(folder))
    total = sum(size for _, size, _ in files)
    deleted: list[str] = []
    failures: list[OSError] = []
    for modified_at, size, path in files:
        if modified_at >= since and total <= max_bytes:
            break
        total -= size  # also of a file that stays: newer recordings must not go in its place
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failures.append(error)
            continue
        if not deleted:  # the oldest that could be deleted
            since = min(since, modified_at + SPAN_S)
        deleted.append(path.name)
    if failures:
        log.error("%s cannot be deleted, the first one: %s", counted(len(failures), "recording"), failures[0])
    return deleted


def _used_bytes(connection: sqlite3.Connection) -> int:
    page, pages, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page * (pages - free)


def _recordings(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """For each regular file: when it was last written, its size in bytes, and its path."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield status.st_mtime, status.st_size, path
