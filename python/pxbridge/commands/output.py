"""Checks, before a command begins, of what it is told to dial and to write.

A measurement of a minute must not be lost because a folder is misspelt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pxbridge.errors import InputError
from pxbridge.simulation.phone import shown

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


def require_call_url(option: str, url: str) -> None:
    """Returns if a simulated phone can dial `url`.

    Args:
        option: The option that gives the URL, for the error.
        url: The URL.

    Raises:
        InputError: It is not a WebSocket URL.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None  # the error's own text may quote a password
    if parts.scheme in ("ws", "wss") and host:
        return
    plain = {"http": "ws", "https": "wss"}.get(parts.scheme)
    fix = f"; write {plain}:// instead of {parts.scheme}://" if plain and host else ""
    raise InputError(f"{option} {shown(url)} is not a ws:// or wss:// URL{fix}")
