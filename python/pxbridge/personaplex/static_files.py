"""The files of a web client, served from one folder only."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

LARGEST_BYTES: Final = 32 << 20
"""A web client's largest file, a WASM codec, has a few hundred kB."""
_DEFAULT_TYPE: Final = "application/octet-stream"


class File(NamedTuple):
    """A file to send.

    Attributes:
        content_type: For the header.
        body: All of it.
    """

    content_type: str
    body: bytes


class StaticFiles:
    """A folder.

    Args:
        folder: The folder of the built client, with `index.html`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def find(self, path: str) -> File | None:
        """The file of a URL's path; None if there is none, or if it lies outside of the folder.

        A link that leads out of the folder is not followed, and nothing whose name begins with a dot is
        served.
        """
        parts = [part for part in unquote(path).split("/") if part]
        if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            return None
        file = self._folder.joinpath(*parts)
        try:
            if file.is_dir():
                file /= "index.html"
            real = file.resolve(strict=True)
            if not real.is_relative_to(self._folder) or not real.is_file():
                return None
            if real.stat().st_size > LARGEST_BYTES:
                return None
            body = real.read_bytes()
        except (OSError, ValueError, RuntimeError):  # too long, a loop of links, not ours to read
            return None
        kind, _ = mimetypes.guess_type(file.name)
        return File(_typed(kind or _DEFAULT_TYPE), body)


def _typed(kind: str) -> str:
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind.endswith("javascript") else kind


def folder_of(option: str | None) -> Path | None:
    """The folder that `--static` means: none for `none`, and none by default."""
    return None if option is None or option == "none" else Path(option)
