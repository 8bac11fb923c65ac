"""Reads files that settings name. A path may also lead to a folder or a device, or be impossible.

SIGHUP reads them again while calls are live. So no more than `MAX_BYTES` of a file is read, and every problem
is a `ValueError` whose text completes a line that begins with the setting's name and source.
"""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any, Final

MAX_BYTES: Final = 1 << 20
"""Far more than a file of settings, a secret or a bundle of certificates has."""

MAX_DEPTH: Final = 16
"""How deep tables and lists may be nested. The settings need five levels. Deeper values may be too deep for
the code that shows them."""

_INT_BITS: Final = 64
"""TOML 1.0.0, Integer. Python reads longer ones, and then cannot print the longest of them."""


def expanded(path: str | Path) -> Path:
    """A path in which ``~`` is replaced by the home folder.

    Raises:
        ValueError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"cannot read {str(path)!r}: there is no such user") from None


def read_text(path: Path) -> str:
    """The text of a file. It may be a pipe, as a shell's process substitution is.

    Raises:
        ValueError: It cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"cannot read {str(path)!r}: no file can have this name") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{str(path)!r} is larger than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not a text file") from None


def check_regular(path: Path) -> None:
    """Checks a file that a library reads, which may not stop at any size.

    Raises:
        ValueError: It cannot be read, is not a regular file, or is too large.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"cannot read {str(path)!r}: no file can have this name") from None
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"cannot read {str(path)!r}: it is not a regular file")
    if found.st_size > MAX_BYTES:
        raise ValueError(f"{str(path)!r} is larger than {MAX_BYTES} bytes")


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        ValueError: It is not TOML, or it has a number or a depth that no setting has.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise ValueError("it has a number that is too long") from None
    except RecursionError:
        raise ValueError(f"its values are nested more than {MAX_DEPTH} levels deep") from None
    level: list[Any] = [table]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inner(value)]
        if any(isinstance(value, int) and value.bit_length() >= _INT_BITS for value in level):
            raise ValueError("it has a number that is too long")
    if level:
        raise ValueError(f"its values are nested more than {MAX_DEPTH} levels deep")
    return table


def _inner(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
