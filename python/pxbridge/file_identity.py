"""Whether an open file is still the one that its path names.

A folder may be deleted or replaced while a process has files open in it. Then writing goes on without an
error, but no path leads to the open file, and its data is lost when the process ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    Identity = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """The device and inode of the file that a path names; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def identity_of_open(descriptor: int) -> Identity:
    """The device and inode of an open file."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
