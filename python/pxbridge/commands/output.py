"""Files that a command writes when its work is done: looked at before it begins.

What takes a minute to measure is not to be lost to a folder that was spelt wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pxbridge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def require_writable(option: str, file: Path | None) -> None:
    """Returns if `file` can be written, and leaves it as it is; None is no file and can always be written.

    Args:
        option: What it was given as, for the error.
        file: Where something will be written later.

    Raises:
        InputError: It cannot.
    """
    if file is None:
        return
    if file.exists() and not file.is_file() and not file.is_dir():
        return  # a pipe or a device: to open it is to use it
    if not file.absolute().parent.is_dir():
        raise InputError(f"{option} {file}: there is no such folder")
    there = file.exists()
    try:
        file.open("ab").close()
        if not there:
            file.unlink()
    except OSError as error:
        raise InputError(f"{option} {file}: {error.strerror or error}") from error
