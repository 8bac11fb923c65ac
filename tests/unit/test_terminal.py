"""What commands print: whole lines off a terminal, unbroken paths and URLs on one."""

from __future__ import annotations

import ast
import errno
import io
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from pxbridge import cli
from pxbridge.commands import terminal
from pxbridge.commands.terminal import refit, say, say_fields, say_table, wrapped
from pxbridge.wording import all_are, counted, lasted, os_problem, short_id

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

PATH = "/var/lib/private/pxbridge/" + "recordings-of-a-long-name/" * 6 + "call.wav"
URL = "wss://voice.example.com/exotel/" + "t/0123456789-abcdef" * 8
SENTENCE = f"what callers say is written to {PATH}, and it can be heard at {URL} until it is too old"


class Screen(io.StringIO):
    """A terminal that keeps what is printed."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(columns: int) -> tuple[Console, Screen]:
    screen = Screen()
    return Console(file=screen, width=columns, force_terminal=True, highlight=False, no_color=True), screen


def off_a_terminal() -> tuple[Console, io.StringIO]:
    printed = io.StringIO()
    return terminal.console(file=printed), printed


def constructions(file: Path) -> Iterator[int]:
    """The lines in which a file makes a rich console of its own."""
    tree = ast.parse(file.read_text())
    rich = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("rich", "rich.console")
        for alias in node.names
    } & {"Console", "console", "print", "get_console"}
    rich |= {"rich.console.Console", "rich.print"}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=made) if ast.unparse(made) in rich:
                yield node.lineno
            case ast.ClassDef(bases=bases) if rich & set(map(ast.unparse, bases)):
                yield node.lineno


def test_all_consoles_are_made_in_one_place() -> None:
    files = [*(ROOT / "python").rglob("*.py"), *(ROOT / "benches").rglob("*.py")]
    made = {file.relative_to(ROOT).as_posix() for file in files if list(constructions(file))}
    assert made == {"python/pxbridge/commands/terminal.py"}


def test_off_a_terminal_a_sentence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console, printed = off_a_terminal()
    say(console, SENTENCE, "note: ")
    console.print(SENTENCE, markup=False)
    say_fields(console, [("recording", SENTENCE), ("ended", "by the phone")])
    assert printed.getvalue().splitlines() == [
        f"note: {SENTENCE}",
        SENTENCE,
        f"recording  {SENTENCE}",
        "ended      by the phone",
    ]


def test_off_a_terminal_a_table_is_as_wide_as_its_cells_and_not_padded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table(box=None, pad_edge=False)
    table.add_column("call", no_wrap=True)
    table.add_column("where")
    table.add_row("CA1", PATH)
    table.add_row("CA2", "here")
    console, printed = off_a_terminal()
    console.print(table)
    assert printed.getvalue().splitlines() == ["call  where", f"CA1   {PATH}", "CA2   here"]


def test_a_pipe_is_no_terminal_whatever_the_environment_says_of_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console, _ = off_a_terminal()
    assert not console.is_terminal, "secrets are shown on a terminal only"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_on_a_terminal_a_sentence_is_wrapped_between_words_below_its_beginning(columns: int) -> None:
    console, screen = on_a_terminal(columns)
    say(console, SENTENCE, "note: ")
    first, *rest = screen.getvalue().splitlines()
    assert first.startswith("note: ") and all(line.startswith(" " * 6) for line in rest)
    assert PATH in screen.getvalue() and URL in screen.getvalue()
    assert all(len(line) <= columns or len(line.split()) == 1 for line in [first, *rest])


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_on_a_narrow_terminal_a_table_keeps_its_cells_whole(columns: int) -> None:
    screen = io.StringIO()
    table = Table(box=None)
    for name in ("call", "persona", "outcome", "duration"):
        table.add_column(name, no_wrap=True)
    cells = ("2dbe26fa5413", "appointments-in-english", "engine_failed", "12:05")
    table.add_row(*cells)
    say_table(Console(file=screen, force_terminal=True, width=columns, color_system=None), table)
    assert screen.getvalue().split() == ["call", "persona", "outcome", "duration", *cells]
    assert len(screen.getvalue().splitlines()) == 2


def test_on_a_terminal_a_string_is_left_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    terminal.console(file=screen).print(f"calling {URL} …", markup=False)
    assert screen.getvalue() == f"calling {URL} …\n"


@given(st.lists(st.text("ab-/:", min_size=1, max_size=60), max_size=20), st.integers(1, 100))
def test_wrapping_breaks_no_word(words: list[str], width: int) -> None:
    assert " ".join(wrapped(" ".join(words), width)).split() == words


def help_texts() -> Iterator[tuple[str, str]]:
    yield "the overview", cli._overview()
    yield "serve", cli._serve_parser().format_help()
    for name in cli.COMMANDS:
        yield name, cli._command_parser(name).format_help()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_breaks_no_word_on_a_narrow_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {name: text.split() for name, text in help_texts()}
    monkeypatch.setattr(terminal, "help_width", lambda: columns - 2)
    narrow = dict(help_texts())
    assert {name: text.split() for name, text in narrow.items()} == wide


def test_a_list_of_commands_is_wrapped_in_its_last_column() -> None:
    assert refit("serve:\n  init      write a first file of settings with fresh secrets\n", 40) == (
        "serve:\n  init      write a first file of\n            settings with fresh secrets\n"
    )
    assert refit("\nIt reads settings,\nand more of them than fit.\n\n  a command --to copy\n", 20) == (
        "\nIt reads settings,\nand more of them\nthan fit.\n\n  a command --to copy\n"
    )


def test_help_into_a_pipe_has_each_option_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["help", "settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (engines,) = (line for line in lines if line.startswith("  --engines "))
    assert "PersonaPlex" in engines and len(engines) > 80


@pytest.mark.parametrize("command", ["check-config", "doctor", "calls", "calls show CA1", "token", "init"])
def test_no_command_knows_the_width_of_a_terminal_that_it_does_not_write_to(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("a-folder-with-a-long-name-" * 6)
    folder.mkdir()
    file = folder / "pxbridge.toml"
    if command != "init":
        file.write_text('token_keys = ["0123456789abcdef0123456789abcdef"]\nport = 0\nconsole_port = 0\n')
    name, *words = command.split()
    words += [str(file), "--yes"] if name == "init" else ["--config", str(file), "--state-dir", str(folder)]
    shown = []
    for columns in ("30", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        cli.main([name, *words, *(["--force"] if name == "init" else [])])
        out, err = capsys.readouterr()
        shown.append((out, err))
        lines = (out + err).splitlines()
        assert lines and not [line for line in lines if line != line.rstrip()]
    (out, _), (again, _) = shown
    assert len(out.splitlines()) == len(again.splitlines())
    if command in ("check-config", "calls", "init"):
        assert str(folder) in out


def test_no_sentence_says_1_holes() -> None:
    """Of messages with %d; `counted` writes the number of a noun that may be one."""
    said = [
        f"{file.name}:{node.lineno}: {node.value}"
        for file in (ROOT / "python").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"%(\(\w+\))?d ([a-z]+ )?[a-z]{2,}s\b", node.value)
    ]
    assert not said


def test_check_config_into_a_pipe_cuts_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = (
        "You are Asha, of the bookshop Blue Door. You take orders, and you tell when they are ready.\nBye."
    )
    assert cli.main(["check-config", "--text-prompt", prompt, "--state-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    whole = prompt.replace("\n", r"\n")
    assert f"text_prompt = {whole}  (" in out and "…" not in out


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 7160)"), "Connection refused"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
                "[Errno 111] Connect call failed ('127.0.0.1', 1)"
            ),
            "Connection refused",
        ),
        (
            OSError("Multiple exceptions: [Errno 101] Connect call failed ('::1'), [Errno 111] Connect"),
            "Network is unreachable, Connection refused",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError(), "no answer in time"),
    ],
)
def test_what_the_operating_system_says_is_told_without_its_addresses(error: OSError, told: str) -> None:
    assert os_problem(error) == told


def test_numbers_of_things_lengths_and_ids_are_written_for_people() -> None:
    assert [counted(n, "hole") for n in (0, 1, 2, 33.0)] == ["no holes", "1 hole", "2 holes", "33 holes"]
    assert [all_are(n, "slot") for n in (1, 2)] == ["the only slot is", "all 2 slots are"]
    assert counted(2, "stall of the phone", "stalls of the phone") == "2 stalls of the phone"
    lengths = {
        0.0404: "40 ms",
        0.9999: "1 s",
        1.25: "1.25 s",
        40.0: "40 s",
        60.0: "1 min",
        125.4: "2 min 5 s",
    }
    assert [lasted(seconds) for seconds in lengths] == list(lengths.values())
    assert lasted(3 * 3600 + 120) == "3 h 2 min"
    assert short_id("422ae84269554ff79a408dc15af1f270") == "422ae8426955"
