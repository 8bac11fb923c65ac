from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import pxbridge
from pxbridge import cli

if TYPE_CHECKING:
    from pathlib import Path


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"pxbridge {pxbridge.__version__}\n"


def test_help_names_every_setting_every_command_and_gives_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for word in ("--port", "--engines", "--voice-prompt", "call", "examples:", "PXBRIDGE_"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--prot", "5"], "did you mean --port?"),
        (["cal"], "did you mean call?"),
        (["--port", "5", "call"], "a command comes first: `pxbridge call ...`"),
        (["--frobnicate=1"], "`pxbridge --help` lists the arguments"),
    ],
)
def test_an_unknown_argument_is_one_line_with_a_fix(
    words: list[str], fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == cli.EXIT_UNUSABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pxbridge: ") and captured.err.count("\n") == 1
    assert fix in captured.err


def test_a_bad_setting_stops_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXBRIDGE_PORT", "[b]")
    assert cli.main([]) == cli.EXIT_UNUSABLE
    assert capsys.readouterr().err == (
        "pxbridge: PXBRIDGE_PORT (environment): '[b]' is not a port number from 0 (any free one) to 65535\n"
    )


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pxbridge", "calls", "--json", "--state-dir", str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (cli.EXIT_BROKEN_PIPE, "")
