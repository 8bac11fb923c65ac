"""Text for people: how every command writes to a terminal, a pipe or a file.

In a pipe or a file nothing is wrapped, truncated or padded, so that `grep`, a log or a copied URL has whole
lines. On a terminal, sentences are wrapped between words. Paths and URLs are never broken: one that is longer
than a line is left to the terminal, which still copies it as one word.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pxbridge.wording import with_spaces, with_units_kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from rich.table import Table

UNLIMITED = 1_000_000
"""A width, in columns, that no line reaches."""

MIN_WRAPPED = 20
"""Text with fewer columns beside its title is not wrapped: it would be a column of single words."""

_LAST_COLUMN = re.compile(r" *\S.*?\S {2,}(?=\S)")
"""What stands before the last column of a line of help."""


def console(*, stderr: bool = False, file: TextIO | None = None) -> Console:
    """The console of a command; every one is made here.

    Args:
        stderr: It writes to stderr instead of stdout.
        file: It writes to this file instead.
    """
    stream = file or (sys.stderr if stderr else sys.stdout)
    if _is_terminal(stream):
        return _Terminal(stderr=stderr, file=file, highlight=False)
    return _Unlimited(stderr=stderr, file=file, highlight=False, width=UNLIMITED, force_terminal=False)


class _Terminal(Console):
    """A console that leaves strings to the terminal, instead of breaking paths and URLs where a line ends."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Prints as rich does, but wraps no string: `say` wraps sentences."""
        if all(isinstance(each, str) for each in objects):
            how.setdefault("soft_wrap", True)
        super().print(*objects, **how)


class _Unlimited(Console):
    """A console without a width. The cells of a table are aligned, and no line ends with spaces."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Prints as rich does, without the spaces that fill up a line."""
        with self.capture() as captured:
            super().print(*objects, **how)
        self.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))
        self.file.flush()


def say(to: Console, text: str, title: str | Text = "") -> None:
    """Prints a sentence, on a terminal wrapped between words and indented below its beginning.

    Commands that a user may copy are printed with ``soft_wrap=True`` instead: a line break would end them.

    Args:
        to: Where to print.
        text: The sentence. It is no markup.
        title: What stands before it in its first line.
    """
    head = title if isinstance(title, Text) else Text(title)
    lines = wrapped(text, to.width - head.cell_len) if to.is_terminal else text.split("\n")
    body = f"\n{' ' * head.cell_len}".join(lines)
    to.print(Text.assemble(head, body), soft_wrap=True)


def say_fields(to: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Prints titles with their texts in two columns."""
    width = max((cell_len(title) for title, _ in rows), default=0)
    for title, text in rows:
        say(to, text, Text(title + " " * (width - cell_len(title) + 2), "bold"))


def say_table(to: Console, table: Table) -> None:
    """Prints a table whose cells are whole, such as ids to copy. Rows that are too long wrap."""
    whole = to.measure(table, options=to.options.update(max_width=UNLIMITED)).maximum
    if whole <= to.width:
        to.print(table)
        return
    # Rich prints nothing wider than its console.
    with to.capture() as captured:
        to.width, width = whole, to.width
        to.print(table)
        to.width = width
    to.file.write(captured.get())
    to.file.flush()


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text of at most `width` columns, each longer word in a line of its own.

    A number and its unit stay together.
    """
    if width < MIN_WRAPPED:
        return text.split("\n")
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")))
        fold = textwrap.TextWrapper(
            width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        folded = fold.wrap(with_units_kept(line)) or [""]
        lines += [with_spaces(part) for part in folded] if cell_len(line) > width else [line]
    return lines


def plain(value: object) -> str:
    """A value as text in one line, with its control characters escaped; nothing for None."""
    text = "" if value is None else str(value)
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def refit(text: str, width: int) -> str:
    """Fits a text of help to a narrower terminal.

    Paragraphs at the margin are filled anew. Lists, such as those of commands, are wrapped in their last
    column. Other indented lines are left as they are, because most of them are commands to copy.
    """
    lines: list[str] = []
    for at_margin, group in itertools.groupby(text.split("\n"), key=lambda line: line[:1].strip() != ""):
        paragraph = list(group)
        if all(cell_len(line) <= width for line in paragraph):
            lines += paragraph
        elif at_margin:
            lines += wrapped(" ".join(paragraph), width)
        else:
            lines += itertools.chain.from_iterable(_in_last_column(line, width) for line in paragraph)
    return "\n".join(lines)


def _in_last_column(line: str, width: int) -> list[str]:
    column = _LAST_COLUMN.match(line)
    if column is None or cell_len(line) <= width:
        return [line]
    first, *rest = wrapped(line[column.end() :], width - column.end())
    return [column[0] + first, *(" " * column.end() + more for more in rest)]


def help_width() -> int:
    """The columns for a text of help on stdout."""
    return shutil.get_terminal_size().columns - 2 if _is_terminal(sys.stdout) else UNLIMITED


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Argparse's, with unbroken words and, off a terminal, unbroken lines."""

    def __init__(self, prog: str, indent_increment: int = 2, max_help_position: int = 24) -> None:
        super().__init__(prog, indent_increment, max_help_position, help_width())

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return refit(super()._fill_text(text, width, indent), width)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()
