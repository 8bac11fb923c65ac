"""Hand-over decisions in a file, which outlives the bridge's process.

A deployment ends calls, and agents then hand many of them over. The flow asks when the next process is
running. The file is a SQLite database of its own in the state folder, because records may be off, or may have
filled their disk. A thread reads and writes it, so that no call waits for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from pxbridge.calls.handover import KEPT_S, MAX_KEPT
from pxbridge.errors import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    T = TypeVar("T")

FILE: Final = "handovers.db"

BUSY_S: Final = 0.5
"""The longest wait for another process's transaction. Transactions take milliseconds."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS handovers (
    call TEXT PRIMARY KEY,     -- the carrier's id of the call
    decided_at REAL NOT NULL,  -- seconds since the epoch
    numbers TEXT NOT NULL      -- JSON: a list, maybe empty
)
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

    async def put(self, call_sid: str, numbers: Sequence[str] | None) -> None:
        """Stores a decision, or deletes it (None); raises `StoreUnreachable`."""
        await self._do(lambda database: self._put(database, call_sid, numbers))

    async def get(self, call_sid: str) -> tuple[str, ...] | None:
        """The decision about a call; raises `StoreUnreachable`."""
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
            if self._database is None:
                self._database = self._open()
            return what(self._database)
        except (sqlite3.Error, OSError, UnicodeError) as error:
            self._close()
            raise StoreUnreachable(f"{self._folder / FILE}: {error}") from None

    def _open(self) -> sqlite3.Connection:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._folder / FILE
        with contextlib.suppress(FileExistsError):
            # SQLite's other files get the permissions of this one.
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        database = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_SCHEMA)
        except BaseException:
            database.close()
            raise
        return database

    def _close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _put(self, database: sqlite3.Connection, call_sid: str, numbers: Sequence[str] | None) -> None:
        if numbers is None:
            database.execute("DELETE FROM handovers WHERE call = ?", (call_sid,))
            return
        now = self._wall()
        database.execute(
            "INSERT OR REPLACE INTO handovers VALUES (?, ?, ?)", (call_sid, now, json.dumps(list(numbers)))
        )
        database.execute(
            "DELETE FROM handovers WHERE decided_at <= ? OR call NOT IN "
            "(SELECT call FROM handovers ORDER BY decided_at DESC, rowid DESC LIMIT ?)",
            (now - KEPT_S, MAX_KEPT),
        )

    def _get(self, database: sqlite3.Connection, call_sid: str) -> tuple[str, ...] | None:
        row = database.execute(
            "SELECT numbers FROM handovers WHERE call = ? AND decided_at > ?",
            (call_sid, self._wall() - KEPT_S),
        ).fetchone()
        return None if row is None else tuple(json.loads(row[0]))
