"""The built client: small, and without anything that only its developers need."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

STATIC = Path(__file__).parents[2] / "python/pxbridge/console/static"

MAX_FIRST_LOAD_BYTES = 140_000
MAX_TALK_BYTES = 20_000
MAX_LIVE_BYTES = 45_000
MAX_STYLE_BYTES = 12_000
"""All by gzip, as they are sent."""


def size(*patterns: str) -> int:
    files = [file for pattern in patterns for file in STATIC.glob(pattern)]
    assert len(files) >= len(patterns)
    return sum(len(gzip.compress(file.read_bytes(), 9)) for file in files)


def entry() -> list[str]:
    """The files that the page itself names."""
    page = (STATIC / "index.html").read_text()
    return [name.lstrip("/") for name in re.findall(r'(?:src|href)="(/[^"]+)"', page)]


def test_the_first_load_is_small() -> None:
    assert size("index.html", *entry()) <= MAX_FIRST_LOAD_BYTES
    assert size("assets/index-*.css") <= MAX_STYLE_BYTES


def test_each_page_adds_little() -> None:
    shared = size("assets/format-*.js")
    talk = size("assets/talk-page-*.js", "assets/engine.worker-*.js", "assets/duplex.worklet-*.js")
    assert talk + shared <= MAX_TALK_BYTES
    assert size("assets/live-page-*.js") + shared <= MAX_LIVE_BYTES


def test_the_page_names_only_files_of_its_own_and_has_no_inline_script() -> None:
    page = (STATIC / "index.html").read_text()
    assert "http" not in page
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|javascript:", page)
    for name in entry():
        assert (STATIC / name).is_file()


def test_nothing_of_the_sources_is_left() -> None:
    names = [file.name for file in STATIC.rglob("*") if file.is_file()]
    assert not [name for name in names if name.endswith((".map", ".ts", ".tsx"))]
    assert not [file for file in STATIC.rglob("*.js") if b"sourceMappingURL" in file.read_bytes()]
