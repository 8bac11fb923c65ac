"""Hand-over decisions in a file, which outlives the bridge's process.

A deployment ends calls, and agents then hand many of them over. The flow asks when the next process is
running. The file is a SQLite database of its own in the state folder, because records may be off, or may have
filled their disk. A thread reads and writes it, so that no call waits for a disk.

If the file or its folder is deleted or replaced, the file is created again. It is then empty, and
`pxbridge.calls.handover` stores this process's decisions in it once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from pxbridge.calls.handover import KEPT_S, MAX_KEPT, Stored
from pxbridge.errors import StoreUnreachable
from pxbridge.file_identity import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pxbridge.file_identity import Identity

    T = TypeVar("T")

log = logging.getLogger(__name__)

FILE: Final = "handovers.db"

BUSY_S: Final = 0.5
"""The longest wait for another process's transaction. Transactions take milliseconds."""

TICK_S: Final = 0.001
"""A change is later than the one before it by at least this, even if the clock was put back."""

PURGED_AT_ONCE: Final = 2
"""Old rows that are deleted with each new one. A clock that is wrong for a while then deletes few of them: a
row that is only thought to be old is found again when the clock is right."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS handovers (
    call TEXT PRIMARY KEY,     -- the carrier's id of the call
    decided_at REAL NOT NULL,  -- seconds since the epoch
    numbers TEXT NOT NULL      -- JSON: a list, maybe empty, or null: the call is not handed over
);
CREATE INDEX IF NOT EXISTS handovers_by_time ON handovers (decided_at);
"""


class FileHandOverStore:
    """The decisions of a state folder's bridges: a `pxbridge.calls.handover.HandOverStore`.

    Args:
        folder: Where the file is.
        wall: Seconds since the epoch.
    """

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._wall = wall
        self._thread = ThreadPoolExecutor(1, "hand-overs")
        self._database: sqlite3.Connection | None = None
        self._opened: Identity | None = None  # the file that is open

    async def put(
        self, call_sid: str, numbers: Sequence[str] | None, changed_at: float | None = None
    ) -> float:
        """Stores a change and returns its time; raises `StoreUnreachable`."""
        told = json.dumps(None if numbers is None else list(numbers))
        return await self._do(lambda database: self._put(database, call_sid, told, changed_at))

    async def get(self, call_sid: str) -> Stored | None:
        """The last change about a call; raises `StoreUnreachable`."""
        return await self._do(lambda database: self._get(database, call_sid))

    async def close(self) -> None:
        """Closes the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _do(self, what: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._try, what)

    # -- the thread -----------------------------------------------------------------------------------

    def _try(self, what: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._database is not None and self._is_moved():
                log.error("%s was deleted or replaced; it is created again", self._folder / FILE)
                self._close()
            if self._database is None:
                self._database = self._open()
            result = what(self._database)
            if self._is_moved():
                raise OSError("it was deleted or replaced")
            return result
        except (sqlite3.Error, OSError, UnicodeError) as error:
            self._close()
            raise StoreUnreachable(f"{self._folder / FILE}: {error}") from None

    def _is_moved(self) -> bool:
        """Whether the open file is no longer the one in the folder."""
        return identity(self._folder / FILE) != self._opened

    def _open(self) -> sqlite3.Connection:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._folder / FILE
        with contextlib.suppress(FileExistsError):
            # SQLite's other files get the permissions of this one.
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._opened = identity(file)
        database = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
        except BaseException:
            database.close()
            raise
        return database

    def _close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _put(
        self, database: sqlite3.Connection, call_sid: str, numbers: str, changed_at: float | None
    ) -> float:
        now = self._wall()
        database.execute("BEGIN IMMEDIATE")
        try:
            row = database.execute("SELECT decided_at FROM handovers WHERE call = ?", (call_sid,)).fetchone()
            last = -math.inf if row is None else float(row[0])
            at = max(now, last + TICK_S) if changed_at is None else changed_at
            if at > last:
                database.execute("INSERT OR REPLACE INTO handovers VALUES (?, ?, ?)", (call_sid, at, numbers))
            database.execute(
                "DELETE FROM handovers WHERE rowid IN "
                "(SELECT rowid FROM handovers WHERE decided_at <= ? ORDER BY decided_at LIMIT ?)",
                (now - KEPT_S, PURGED_AT_ONCE),
            )
            database.execute(
                "DELETE FROM handovers WHERE rowid IN "
                "(SELECT rowid FROM handovers ORDER BY decided_at DESC, rowid DESC LIMIT -1 OFFSET ?)",
                (MAX_KEPT,),
            )
            database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        return at

    def _get(self, database: sqlite3.Connection, call_sid: str) -> Stored | None:
        row = database.execute(
            "SELECT decided_at, numbers FROM handovers WHERE call = ? AND decided_at > ?",
            (call_sid, self._wall() - KEPT_S),
        ).fetchone()
        if row is None:
            return None
        numbers = json.loads(row[1])
        return Stored(row[0], None if numbers is None else tuple(numbers))
