"""What the README and the documentation tell people to type is what the program takes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pxbridge import cli
from pxbridge.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_README_LINES: Final = 170

PREFIXES: Final = (".venv/bin/python -m pxbridge", "python -m pxbridge", "pxbridge")
"""How pages call the program."""


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^ *```{language}\n(.*?)^ *```", text(page))


def shell_lines(page: Path) -> Iterator[str]:
    """The commands of a page: lines of shell blocks, and code within the text."""
    for block in blocks(page, "sh"):
        yield from block.replace("\\\n", " ").splitlines()
    outside = re.sub(r"(?ms)^ *```.*?^ *```", "", text(page))
    yield from re.findall(r"`([^`\n]+)`", outside)


def commands(page: Path) -> list[list[str]]:
    """The words of each call of the program on a page, after its name."""
    found = []
    for line in shell_lines(page):
        command = re.sub(r"^(?:[A-Z_]+=\S+ +|chrt -r 1 )*", "", line.strip())
        for prefix in PREFIXES:
            if command == prefix or command.startswith(f"{prefix} "):
                found.append(shlex.split(command.removeprefix(prefix), comments=True))
                break
    return found


def parse(words: list[str]) -> None:
    """Parses them as the program does; a number that the reader chooses is written N."""
    words = cli._command_first(["1" if word == "N" else word for word in words])
    name, rest = (words[0], words[1:]) if words and words[0] in cli.COMMANDS else ("serve", words)
    cli._parse(cli._command_parser(name), rest)


COMMANDS: Final = [(page.name, words) for page in PAGES for words in commands(page) if "..." not in words]


def test_pages_have_commands() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_command_on_a_page_is_one_that_the_program_takes(page: str, words: list[str]) -> None:
    try:
        parse(words)
    except SystemExit as ended:
        assert ended.code == 0, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_on_a_page_exist(page: Path) -> None:
    makefile = text(ROOT / "Makefile")
    for line in shell_lines(page):
        if found := re.match(r"make ([a-z-]+)", line):
            assert re.search(rf"(?m)^{found[1]}:", makefile), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_on_a_page_exist(page: Path) -> None:
    known = {f"PXBRIDGE_{name.upper()}" for name in Settings.model_fields} | {"PXBRIDGE_CONFIG"}
    for name in re.findall(r"PXBRIDGE_[A-Z_]*[A-Z]", text(page)):
        assert name in known or name.removesuffix("_FILE") in known or name in OTHER_NAMES, name


OTHER_NAMES: Final = {"PXBRIDGE_BENCH_BASELINE"}
"""Names in the environment that are not settings of the bridge."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_runs(page: Path) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})


def test_the_readme_is_short() -> None:
    assert len(text(ROOT / "README.md").splitlines()) <= MAX_README_LINES


def test_the_readmes_plot_has_one_command() -> None:
    options = re.search(r"`(--wav \S+ --speak-at .*?)`", text(ROOT / "README.md"))
    assert options, "README names the options of its plot"
    assert f"pxbridge call {options[1]} --plot" in text(ROOT / "docs" / "troubleshooting.md")


METRIC: Final = r"`([a-z_*]+_(?:total|seconds|calls|slots|tasks))(?:\{[^}]*\})?`"


def test_metrics_of_the_runbook_stand_in_the_table_of_metrics() -> None:
    table, runbook = re.split(r"(?m)^## Runbook$", text(ROOT / "docs" / "operations.md"))
    known = re.findall(METRIC, table)
    for name in re.findall(METRIC, runbook):
        assert name in known, name


def run_example(name: str, *words: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_example_of_a_line_carries_sound_both_ways() -> None:
    from_phone, to_phone = (float(line.split()[-2]) for line in run_example("line.py").splitlines())
    assert from_phone == pytest.approx(3.0, abs=0.1)
    assert to_phone > 2.0


def test_the_example_of_a_decoder_writes_the_five_seconds_of_the_file(tmp_path: Path) -> None:
    stream = ROOT / "tests" / "vectors" / "streams" / "ffmpeg-1s-pages.ogg"
    run_example("ogg_to_wav.py", str(stream), str(tmp_path / "out.wav"))
    with wave.open(str(tmp_path / "out.wav")) as wav:
        assert wav.getframerate() == 8000
        assert wav.getnframes() == 5 * 8000


def test_every_example_runs_in_a_test() -> None:
    assert {file.name for file in (ROOT / "examples").iterdir()} == {"line.py", "ogg_to_wav.py"}
