"""Finds the file of a call's recording, by what the records say about the call."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from pathlib import Path

from pxbridge.records import database
from pxbridge.records.recording_files import FILES

SUFFIXES = tuple(kind.suffix for kind in FILES.values())


def find_recording(folder: Path, name: str) -> Path | None:
    """The file of a call's recording, WAV or Ogg Opus; None if there is none.

    The name that is asked for is only compared with those of the records, so it cannot name another file. A
    call that is not recorded any more, or whose file is a link or no file at all, has no recording.

    Args:
        folder: The folder of the records.
        name: The call's key, or its id; of several calls with the same id, the last.
    """
    file = folder / database.FILE
    if not file.is_file():
        return None
    with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute(
                "SELECT recording FROM calls WHERE key = :name OR call = :name "
                "ORDER BY key = :name DESC, began_at DESC LIMIT 1",
                {"name": name},
            ).fetchone()
        except sqlite3.Error:
            return None
    recording = None if row is None else row[0]
    if not recording or Path(recording).name != recording or not recording.endswith(SUFFIXES):
        return None
    path = folder / database.RECORDINGS / recording
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return None
    return path if is_file else None
