"""Checks, before a command begins, that it can write the files of its results.

A measurement of a minute must not be lost because a folder is misspelt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pxbridge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def require_writable(option: str, file: Path | None) -> None:
    """Returns if `file` can be written later, and does not change it.

    Args:
        option: The option that names the file, for the error.
        file: The file; None is always accepted.

    Raises:
        InputError: The file cannot be written.
    """
    if file is None:
        return
    if file.exists() and not file.is_file() and not file.is_dir():
        return  # a pipe or a device, which opening would already use
    if not file.absolute().parent.is_dir():
        raise InputError(f"{option} {file}: there is no such folder")
    there = file.exists()
    try:
        file.open("ab").close()
        if not there:
            file.unlink()
    except OSError as error:
        raise InputError(f"{option} {file}: {error.strerror or error}") from error
