"""Files and modules that comments, docstrings and pages name exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ROOTS: Final = ("python", "rust", "tests", "benches", "docs", "tools", "deploy", "examples", ".ci")
LEFT_OUT: Final = frozenset({"target", "static", "node_modules", "__pycache__"})
NATIVE: Final = ROOT / "python/pxbridge/_native.pyi"
"""What `pxbridge.audio` passes on from Rust."""
FOLDERS: Final = "rust|python|tests|benches|docs|tools|deploy|examples|core|src|pxbridge|downlink|uplink"
PATH: Final = re.compile(rf"(?<![\w./*-])(?:{FOLDERS})/[\w./-]+\.(?:pyi?|rs|md|toml|svg|yaml|yml)\b(?![\w*])")
MODULE: Final = re.compile(r"`~?(pxbridge(?:\.\w+)+)`")


@cache
def files() -> tuple[str, ...]:
    """The names of the project's files, what builds leave behind apart."""
    found = [file for root in ROOTS for file in (ROOT / root).rglob("*")]
    names = [file.relative_to(ROOT) for file in (*found, *ROOT.glob("*")) if file.is_file()]
    return tuple(str(name) for name in names if not LEFT_OUT & set(name.parts))


def texts(*endings: str) -> list[tuple[str, str]]:
    """Names and contents of the files with these endings, test vectors apart."""
    own = [name for name in files() if not name.startswith("tests/vectors/")]
    return [(name, (ROOT / name).read_text("utf-8")) for name in own if name.endswith(endings)]


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or a name that stands in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT / "python" / Path(*parts[:length])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                source = file.read_text("utf-8")
                if name.startswith("pxbridge.audio."):
                    source += NATIVE.read_text("utf-8")
                return all(re.search(rf"\b{part}\b", source) for part in parts[length:])
    return False


def test_every_path_that_is_named_leads_to_a_file() -> None:
    lost = [
        f"{file} names {path}"
        for file, text in texts(".py", ".rs", ".md", "Makefile", ".toml")
        for path in set(PATH.findall(text))
        if not any(name == path or name.endswith(f"/{path}") for name in files())
    ]
    assert not lost


def test_every_module_that_a_docstring_names_is_there() -> None:
    lost = [
        f"{file} names {name}"
        for file, text in texts(".py")
        for name in set(MODULE.findall(text))
        if not is_there(name)
    ]
    assert not lost
