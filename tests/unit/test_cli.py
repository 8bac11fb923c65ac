from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

import pxbridge
from pxbridge import cli, settings
from pxbridge.simulation.faults import FAULTS, parse_fault

if TYPE_CHECKING:
    from pathlib import Path


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        assert cli.main(words) == 0
    except SystemExit as ended:
        assert ended.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["serve", "--version"], ["serve", "-V"]])
def test_version_is_the_packages(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, *words) == f"pxbridge {pxbridge.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_fits_on_a_screen_and_names_every_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, *words)
    assert len(text.splitlines()) <= 45 and max(map(len, text.splitlines())) <= 110
    for word in (*cli.COMMANDS, "examples:", "help settings", "--config"):
        assert word in text


@pytest.mark.parametrize(
    "words", [["help", "settings"], ["help", "serve"], ["serve", "--help"], ["--port", "1", "-h"]]
)
def test_help_on_settings_names_every_setting_in_its_section(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, *words)
    for name, title in ((name, title) for title, names in settings.sections().items() for name in names):
        assert f"{title}:" in text
        assert settings.flag(name) in text
    assert "{" not in text.replace("{from}", "").replace("{to}", "").replace("{custom.NAME}", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_on_a_command_is_what_the_command_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "help", name) == shown(capsys, name, "--help")


def test_help_on_nothing_known_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", "cals"]) == cli.EXIT_UNUSABLE
    assert "no command 'cals'" in capsys.readouterr().err
    assert cli.main(["help", "call", "me"]) == cli.EXIT_UNUSABLE
    assert capsys.readouterr().err == "pxbridge: help explains one command; remove 'me'\n"


@pytest.mark.parametrize("given", [["--config", "x.toml"], ["--config=x.toml"]])
def test_the_file_of_settings_may_stand_before_a_command(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*given, "check-config"]) == cli.EXIT_UNUSABLE
    assert "x.toml" in capsys.readouterr().err


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_a_shell_completes_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = shown(capsys, "completion", shell)
    for word in ("check-config", "hand-over", "console-port", "offline"):
        assert word in script
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=60)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("call --wav FOLDER/que", "FOLDER/question.wav"),
        ("--config FOLDER/que", "FOLDER/question.wav"),
        ("check-config --config FOLDER/que", "FOLDER/question.wav"),
        ("calls --config FOLDER/que", "FOLDER/question.wav"),
        ("--state-dir FOLDER/reco", "FOLDER/records"),
        ("--log-level w", "warning"),
        ("serve --playout-profile lo", "low-delay"),
        ("rehearse --mode ec", "echo"),
        ("calls --outcome no_e", "no_engine"),
    ],
)
def test_bash_completes_files_and_the_words_of_a_setting(
    typed: str, offered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "question.wav").touch()
    (tmp_path / "records").mkdir()
    words = ["pxbridge", *typed.replace("FOLDER", str(tmp_path)).split()]
    script = shown(capsys, "completion", "bash")
    script += 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_pxbridge; echo "${COMPREPLY[*]}"\n'
    command = ["bash", "-s", "--", *words]
    done = subprocess.run(command, input=script, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout.split() == [offered.replace("FOLDER", str(tmp_path))]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--prot", "5"], "did you mean --port?"),
        (["cal"], "did you mean call?"),
        (["--port", "5", "call"], "a command comes first: `pxbridge call ...`"),
        (["--frobnicate=1"], "`pxbridge serve --help` lists the arguments"),
        (["frobnicate"], "there is no command 'frobnicate' (`pxbridge --help` lists the commands)"),
        (["call", "--nope"], "`pxbridge call --help` lists the arguments"),
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["call", "--seconds", "abc"], "argument --seconds: 'abc' is not a number"),
        (["call", "--seconds", "nan"], "argument --seconds: 'nan' is not a number"),
        (["calls", "--last", "1.5"], "argument --last: '1.5' is not a whole number"),
        (["engine", "bench", "--slots", "0"], "'0' is not a list of whole numbers above 0, such as 1,8,32"),
        (["engine", "offline", "--text-prompt-tokens", "a"], "'a' is not a list of whole numbers, such as"),
        (["rehearse", "--port", "99999"], "--port 99999 is not 0 to 65535"),
        (["rehearse", "--slots", "-1"], "--slots -1 is not 1 or more"),
        (["rehearse", "--slots", "0"], "--slots 0 is not 1 or more"),
        (["rehearse", "--step-ms", "-1"], "--step-ms -1 is not 0 or more"),
        (["rehearse", "--prompt-s", "-0.5"], "--prompt-s -0.5 is not 0 or more"),
    ],
)
def test_a_wrong_number_is_one_line_in_plain_words(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == cli.EXIT_UNUSABLE
    complaint = capsys.readouterr().err
    assert told in complaint and complaint.count("\n") == 1


def test_a_bad_setting_stops_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXBRIDGE_PORT", "[b]")
    assert cli.main([]) == cli.EXIT_UNUSABLE
    assert capsys.readouterr().err == (
        "pxbridge: PXBRIDGE_PORT (environment): '[b]' is not a port number from 0 (any free one) to 65535\n"
    )


@pytest.mark.parametrize("words", ["calls --json", "calls", "check-config"])
def test_a_reader_that_has_seen_enough_is_no_error(words: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pxbridge", *words.split(), "--state-dir", str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (cli.EXIT_BROKEN_PIPE, "")


def test_the_rehearsal_engine_serves_with_its_faults_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "pxbridge", "rehearse", "--port", "0", "--mode", "echo"]
    command += ["--fault", "RefusesUpgrade:status=500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as engine:
        assert engine.stdout is not None
        url = engine.stdout.readline().split()[-1].replace("ws://", "http://")
        query = "?voice_prompt=NATF0.pt&text_prompt=You+help."
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version": "13",
        }
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(urllib.request.Request(url + query, headers=upgrade), timeout=30)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(timeout=30) == 0


def test_a_fault_that_engines_do_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rehearse", "--fault", "nope"]) == cli.EXIT_UNUSABLE
    assert "no such fault: 'nope'; the faults are" in capsys.readouterr().err
    assert cli.main(["rehearse", "--fault", "stall"]) == cli.EXIT_UNUSABLE
    assert "no such fault: 'stall' (did you mean Stalls?)" in capsys.readouterr().err


def test_help_on_the_rehearsal_engine_says_what_each_fault_does_and_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = shown(capsys, "rehearse", "--help").splitlines()
    for name, kind in FAULTS.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert len(line.split()) > 3
        given = re.findall(r"(\w+)=([^,)]*)", line)
        assert parse_fault(name + ":" + ",".join(f"{key}={value}" for key, value in given)) == kind()
