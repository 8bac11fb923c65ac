"""A simple tokeniser of Rust source: enough to list the names in it, without comments and strings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN: Final = re.compile(
    r"""
    (?P<comment>//[^\n]*)
  | (?P<block>/\*)
  | (?P<raw>\b(?:b|c)?r(?P<hashes>\#*)".*?"(?P=hashes))
  | (?P<string>(?:\b[bc])?"(?:[^"\\]|\\.)*")
  | (?P<char>(?:\bb)?'(?:[^'\\\n]|\\(?:x[0-9a-fA-F]{2}|u\{[0-9a-fA-F_]+\}|.))')
  | (?P<lifetime>'[A-Za-z_]\w*)
  | (?P<name>(?:r\#)?[A-Za-z_]\w*)
  | (?P<number>\d[\w.]*)
  | (?P<sign>::|->|=>|[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_EDGE: Final = re.compile(r"/\*|\*/")

_DECLARING: Final = {
    "fn",
    "struct",
    "enum",
    "union",
    "trait",
    "type",
    "mod",
    "const",
    "static",
    "macro_rules",
}


def tokens(source: str) -> Iterator[tuple[str, str]]:
    """Names, numbers and signs in order, each as (kind, text). Block comments nest, as Rust says."""
    at = 0
    while (found := _TOKEN.search(source, at)) is not None:
        at = found.end()
        kind = str(found.lastgroup)
        if found["block"] is not None:
            depth = 1
            while depth and (edge := _BLOCK_EDGE.search(source, at)) is not None:
                depth += 1 if edge[0] == "/*" else -1
                at = edge.end()
        elif kind in ("name", "number", "sign", "lifetime"):
            yield kind, found[0]


def names(source: str) -> set[str]:
    """All names in a source, declared or used."""
    return {text.removeprefix("r#") for kind, text in tokens(source) if kind == "name"}


def declared(source: str) -> set[tuple[str, str]]:
    """The names that a source declares: (kind, name), where kind is a keyword, ``let`` or ``field``.

    Fields are the names before a single colon: those of structs and enum variants, and parameters and struct
    literals too, which need no telling apart here.
    """
    found = set()
    before = ["", "", ""]
    for kind, text in tokens(source):
        name = text.removeprefix("r#")
        if kind == "name" and before[-1] in _DECLARING and name not in ("fn", "mut", "unsafe", "extern"):
            found.add((before[-1], name))
        elif kind == "name" and (before[-1] == "let" or before[-2:] == ["let", "mut"]) and name != "mut":
            found.add(("let", name))
        elif text == ":" and re.fullmatch(r"[A-Za-z_]\w*", before[-1]):
            found.add(("field", before[-1]))
        before = [*before[1:], name]
    return found
