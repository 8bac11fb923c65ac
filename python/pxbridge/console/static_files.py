"""The files of the web client, and the headers that bound what its pages may do.

The built client is small (some hundred kB), so it is read once, at the start, and served from memory: a
request can name no file but these. Hashed files never change, and a browser keeps them for a year. The page
itself is asked for each time.

The policy (CSP) lets a page load from its own origin alone. `/talk` and its worker may also compile
WebAssembly, for browsers without WebCodecs. A talk straight with a bare engine (``?engine=``) needs a
connection to another origin; only a page that was loaded with that in its query may have one.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INDEX: Final = "index.html"
ASSETS: Final = "/assets/"

PAGES: Final = frozenset({"/", "/talk", "/live", "/login"})
"""The addresses of pages. The client shows them; the server knows which exist."""

MAX_BYTES: Final = 16 * 1024 * 1024
"""All files together. The built client has less than 1 MiB."""

_WORTH_COMPRESSING: Final = 1024
_COMPRESSIBLE: Final = ("text/", "application/json", "application/wasm", "image/svg+xml")

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
"""By ending. The machine's own table of types differs between systems."""

_ENGINE_WORKER: Final = ASSETS + "engine.worker-"


@dataclass(frozen=True)
class File:
    """A file as it is sent.

    Attributes:
        content_type: Its media type.
        body: Its bytes.
        compressed: The same by gzip; None where that saves nothing.
        tag: The entity tag.
        never_changes: Whether its name holds a hash of its content.
    """

    content_type: str
    body: bytes
    compressed: bytes | None
    tag: str
    never_changes: bool


def read_files(folder: Path) -> dict[str, File]:
    """The files of a built client by their paths in a URL; none if it was not built.

    Links are not followed out of the folder.

    Raises:
        OSError: A file cannot be read, or together they are larger than `MAX_BYTES`.
    """
    if not (folder / INDEX).is_file():
        return {}
    top = folder.resolve()
    found: dict[str, File] = {}
    size = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not path.resolve().is_relative_to(top) or path.suffix == ".map":
            continue
        size += path.stat().st_size
        if size > MAX_BYTES:
            raise OSError(f"the web client in {folder} is larger than {MAX_BYTES} bytes")
        url = "/" + path.relative_to(folder).as_posix()
        found[url] = _file(path, path.read_bytes(), never_changes=url.startswith(ASSETS))
    return found


def _file(path: Path, body: bytes, *, never_changes: bool) -> File:
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    content_type = _TYPES.get(path.suffix, guessed)
    compressed = None
    if len(body) >= _WORTH_COMPRESSING and content_type.startswith(_COMPRESSIBLE):
        compressed = gzip.compress(body, mtime=0)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return File(content_type, body, compressed, tag, never_changes)


def policy(path: str, query: Mapping[str, str]) -> str:
    """The content security policy of what is served at a path.

    Args:
        path: The path of a page, a file or an answer.
        query: The query of the request.
    """
    talks = path == "/talk" or path.startswith(_ENGINE_WORKER)
    wasm = " 'wasm-unsafe-eval'" if talks else ""
    elsewhere = " ws: wss: http: https:" if talks and "engine" in query else ""
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self'{wasm}",
            f"connect-src 'self'{elsewhere}",
            "img-src 'self' data:",
            "media-src 'self' blob:",
            "style-src 'self'",
            "worker-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}
"""Of every answer."""
