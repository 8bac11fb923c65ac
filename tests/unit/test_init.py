"""`pxbridge init`: whatever is answered, the bridge can start with the file."""

from __future__ import annotations

import io
import itertools
import os
import shlex
import stat
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pxbridge import cli, settings
from pxbridge.commands import init
from pxbridge.commands.init_file import Access, Answers, Fresh, Reach, render
from pxbridge.errors import InputError
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from pathlib import Path

CAN_START = "the bridge can start with these settings"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA().issue_cert("voice.example.com")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(autouse=True)
def no_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PXBRIDGE_"):
            monkeypatch.delenv(name)


PROMPTS = st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=200).filter(str.strip)


def answers(tls: tuple[Path, Path]) -> st.SearchStrategy[Answers]:
    return st.builds(
        Answers,
        engines=st.sampled_from(
            [(), ("ws://10.0.0.9:8998/api/chat",), ("wss://a/api/chat", "wss://u:p%22@b/api/chat")]
        ),
        engine_fingerprint=st.sampled_from([None, "ab" * 32]),
        engine_capacity=st.integers(1, 1000),
        text_prompt=PROMPTS | st.just("You speak to {from}, who calls {to} about {custom.order}."),
        voice_prompt=st.sampled_from(["NATF0.pt", "asha-2.wav"]),
        transfer_to=st.sampled_from([None, "+919876543210", "08047180000"]),
        record=st.booleans(),
        reach=st.sampled_from(Reach),
        tls_cert_file=st.sampled_from([None, tls[0]]),
        public_url=st.sampled_from([None, "wss://voice.example.com", "wss://voice.example.com:8443/one"]),
        access=st.sampled_from(Access),
        console_login=st.booleans(),
    ).map(lambda each: each if each.tls_cert_file is None else _with_key(each, tls[1]))


def _with_key(each: Answers, key: Path) -> Answers:
    return Answers(**{name: getattr(each, name) for name in each.__slots__} | {"tls_key_file": key})


def can_start(file: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    capsys.readouterr()
    return cli.main(["check-config", "--config", str(file)]) == 0 and CAN_START in capsys.readouterr().out


@given(data=st.data())
def test_the_bridge_can_start_with_every_combination_of_answers(
    data: st.DataObject, tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    given_answers = data.draw(answers(tls))
    file = tmp_path_factory.mktemp("init") / "pxbridge.toml"
    init.write(file, render(given_answers, Fresh()))
    loaded = settings.load({"config": str(file)}, {})
    assert loaded.settings.text_prompt == given_answers.text_prompt.strip()
    assert loaded.settings.engines == given_answers.engines
    assert bool(loaded.settings.credentials) == (given_answers.access is not Access.TOKEN)
    assert bool(loaded.settings.token_keys) == (given_answers.access is not Access.PASSWORD)
    assert not loaded.settings.allow_anonymous
    assert read_personas(loaded).default.record is given_answers.record


@pytest.mark.parametrize(
    ("reach", "access", "engines", "login"),
    list(itertools.product(Reach, Access, ["", "wss://gpu1:8998"], [False, True])),
)
def test_check_config_says_so_for_each_choice(
    reach: Reach,
    access: Access,
    engines: str,
    login: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "pxbridge.toml"
    words = ["init", str(file), "--yes", f"--reach={reach}", f"--access={access}"]
    words += [f"--engines={engines}"] if engines else []
    words += ["--console-login"] if login else []
    assert cli.main(words) == 0
    assert can_start(file, capsys)


TYPICAL = """\
wss://gpu1:8998 ws://b|gpu|0|7|{nobody}|You are Asha.|NATM1.pt|+919876543210|yes|no|tunnel|proxy|direct
password|token|both|wss://voice.example.com|https://voice.example.com|/nowhere|CERT|KEY|"|\\""".replace(
    "\n", "|"
).split("|")
LINES = st.lists(st.sampled_from(["", "ab" * 32, *TYPICAL]) | st.text(max_size=20), max_size=60)


@given(lines=LINES)
def test_whatever_is_typed_a_file_that_is_written_can_be_started_with(
    lines: list[str], tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = {"CERT": str(tls[0]), "KEY": str(tls[1])}
    typed = iter([files.get(line, line) for line in lines] + [""] * 20)
    told: list[str] = []

    def ask(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    file = tmp_path_factory.mktemp("init") / "pxbridge.toml"
    try:
        found = init.answered({}, ask, told.append)
    except InputError:  # a certificate whose key was never named
        return
    init.write(file, render(found, Fresh()))
    settings.load({"config": str(file)}, {})


def test_a_wrong_answer_is_told_and_asked_again() -> None:
    typed = iter(["gpu1", "wss://gpu1", *[""] * 20])
    told: list[str] = []
    found = init.answered({}, lambda _: next(typed), told.append)
    assert found.engines == ("wss://gpu1/api/chat",)
    assert told == ["  'gpu1' has no scheme; write wss://gpu1 (TLS) or ws://gpu1 (plain)"]


def test_a_question_is_asked_only_where_its_answer_matters() -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return ""

    init.answered({"text_prompt": "You are Asha."}, ask, asked.append)
    text = " ".join(asked)
    assert "fingerprint" not in text and "certificate" not in text and "who the agent is" not in text
    assert len(asked) == 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engines=gpu1"], "--engines (command line): 'gpu1' has no scheme; write wss://gpu1"),
        (["--reach=post"], "--reach (command line): 'post' is not one of tunnel, proxy, direct"),
        (["--transfer-to=me"], "--transfer-to (command line): 'me' is not a phone number"),
        (["--text-prompt={you}"], "--text-prompt (command line): '{you}' is no field"),
        (["--tls-cert-file=/nowhere"], "--tls-cert-file (command line): cannot read '/nowhere'"),
        (["--tls-key-file=KEY"], "--tls-key-file (command line): a key needs a certificate"),
        (["--tls-cert-file=/dev/zero"], "cannot read '/dev/zero': it is not a regular file"),
        (["--tls-key-file=PIPE"], "it is not a regular file"),
        (["--tls-cert-file=~nobody-here/x"], "there is no such user"),
    ],
)
def test_a_wrong_flag_is_one_line_and_leaves_no_file(
    words: list[str],
    told: str,
    tls: tuple[Path, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe = tmp_path_factory.mktemp("pipe") / "pipe"
    os.mkfifo(pipe)  # nobody writes into it: who reads it waits for ever
    words = [word.replace("PIPE", str(pipe)).replace("KEY", str(tls[1])) for word in words]
    assert cli.main(["init", str(tmp_path / "new.toml"), "--yes", *words]) == cli.EXIT_UNUSABLE
    written = capsys.readouterr().err
    assert told in written and written.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_it_says_next_can_be_pasted_into_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my settings; ls.toml"
    assert cli.main(["init", str(file), "--yes"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "check-config" in line)
    assert shlex.split(line)[-2:] == ["--config", str(file)]


def test_a_certificate_without_its_key_is_told(
    tls: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", str(tmp_path / "new.toml"), "--yes", "--reach=direct", f"--tls-cert-file={tls[0]}"]
    assert cli.main(words) == cli.EXIT_UNUSABLE
    assert "holds no key; name the file of its key" in capsys.readouterr().err
    assert cli.main([*words, f"--tls-key-file={tls[1]}"]) == 0
    assert can_start(tmp_path / "new.toml", capsys)


def test_secrets_are_fresh_and_for_the_files_user_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables: list[dict[str, Any]] = []
    for name in ("one.toml", "two.toml"):
        words = ["init", str(tmp_path / name), "--yes", "--access=both", "--console-login"]
        assert cli.main(words) == 0
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        tables.append(tomllib.loads((tmp_path / name).read_text(encoding="utf-8")))
    written = capsys.readouterr().out
    for name in ("credentials", "token_keys", "console_credentials"):
        (one,), (two,) = (table[name] for table in tables)
        assert one != two and len(one) >= 32
        assert one not in written, "no terminal: what is printed may be kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.toml", "two.toml"]


def test_a_file_that_is_there_is_left_alone_unless_force_says_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pxbridge.toml"
    file.write_text("port = 1\n")
    assert cli.main(["init", str(file), "--yes"]) == cli.EXIT_UNUSABLE
    assert "is there already" in capsys.readouterr().err
    assert file.read_text() == "port = 1\n"
    assert cli.main(["init", str(file), "--yes", "--force"]) == 0
    assert can_start(file, capsys)


def test_every_setting_that_the_file_mentions_is_a_setting() -> None:
    text = render(Answers(), Fresh())
    mentioned = {line.removeprefix("# ").partition(" = ")[0] for line in text.splitlines() if " = " in line}
    personas = {"text_prompt", "voice_prompt", "numbers", "record", "keys"}
    assert mentioned <= set(settings.Settings.model_fields) | personas


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("columns", [40, 80])
def test_on_a_terminal_no_question_is_broken_within_a_word(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _prompt="": "")
    screen = io.StringIO()
    ask = init.asking(Console(file=screen, force_terminal=True, width=columns, highlight=False))
    questions = [f"{question.text} [a default answer of several words]: " for question in init.QUESTIONS]
    for question in questions:
        screen.seek(0)
        screen.truncate()
        assert ask(question) == ""
        shown = screen.getvalue()
        assert shown.split() == question.split() and shown.endswith(": ")
        assert all(len(line) <= columns or len(line.split()) == 1 for line in shown.split("\n"))
