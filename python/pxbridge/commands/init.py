"""`pxbridge init`: writes a first file of settings, with fresh secrets, from a few answers.

The answers come from flags, and at a terminal from questions; what neither gives has its default. The file is
checked as a start would check it before it gets its name, so it can be started with whatever was answered.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import ssl
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pxbridge import settings
from pxbridge.app.welcome import own_command
from pxbridge.calls.numbers import dialable
from pxbridge.calls.persona import VOICE_NAME, template_fault
from pxbridge.commands.check_config import check
from pxbridge.commands.init_file import Access, Answers, Fresh, Reach, render
from pxbridge.commands.terminal import say, wrapped
from pxbridge.errors import ConfigError, InputError
from pxbridge.settings import files
from pxbridge.settings.values import certificates
from pxbridge.telephony.tls import ServingTls

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from enum import StrEnum

    from rich.console import Console

DEFAULT_FILE: Final = Path("pxbridge.toml")
NOTHING: Final = ""
"""An answer of nothing takes the default."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, which is a flag too.

    Attributes:
        name: The name of the field of `Answers`.
        text: The question.
        read: Reads an answer; raises ValueError that says what would be right.
        metavar: For `--help`; None: the answer is yes or no.
        asked: Whether the answers so far leave this question open.
        together: Checks the answers so far, with this one; raises ValueError.
    """

    name: str
    text: str
    read: Callable[[str], Any]
    metavar: str | None = "TEXT"
    asked: Callable[[Answers], bool] = lambda _: True
    together: Callable[[Answers], None] = lambda _: None


def _setting(name: str) -> Callable[[str], Any]:
    """Reads a value as the setting of this name would."""

    def read(text: str) -> Any:
        try:
            return getattr(settings.load({name: text}, {}).settings, name)
        except ConfigError as error:
            raise ValueError(error.problem) from None

    return read


def _prompt(text: str) -> str:
    prompt: str = _setting("text_prompt")(text)
    if fault := template_fault(prompt):
        raise ValueError(fault)
    return prompt


def _voice(text: str) -> str:
    if VOICE_NAME.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a voice of the engine, such as NATF0.pt")
    return text


def _file(text: str) -> Path:
    path = files.expanded(text).absolute()
    files.check_regular(path)
    files.read_text(path)
    return path


def _certificate(text: str) -> Path:
    path = _file(text)
    certificates(path)
    return path


def _tls_pair(answers: Answers) -> None:
    if answers.tls_cert_file is None:
        if answers.tls_key_file is not None:
            raise ValueError("a key needs a certificate; name its file too")
        return
    try:
        ServingTls(answers.tls_cert_file, answers.tls_key_file)
    except ssl.SSLError:
        raise ValueError(
            "certificate and key do not belong together"
            if answers.tls_key_file
            else f"{str(answers.tls_cert_file)!r} holds no key; name the file of its key"
        ) from None


def _choice(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def read(text: str) -> StrEnum:
        try:
            return kind(text.lower())
        except ValueError:
            raise ValueError(f"{text!r} is not one of {', '.join(kind)}") from None

    return read


def _yes(text: str) -> bool:
    if text.lower() in ("y", "yes", "true"):
        return True
    if text.lower() in ("n", "no", "false"):
        return False
    raise ValueError(f"{text!r} is not yes or no")


QUESTIONS: Final = (
    Question(
        "engines",
        "PersonaPlex servers (wss://HOST:8998/api/chat); none: the rehearsal engine",
        _setting("engines"),
        "URL[,URL]",
    ),
    Question(
        "engine_fingerprint",
        "SHA-256 fingerprint of their certificate, if it is self-signed",
        _setting("engine_fingerprint"),
        asked=lambda so_far: any(url.startswith("wss:") for url in so_far.engines),
    ),
    Question(
        "engine_capacity",
        "calls that each of them takes at once (1 for NVIDIA's server)",
        _setting("engine_capacity"),
        "N",
        asked=lambda so_far: bool(so_far.engines),
    ),
    Question("text_prompt", "who the agent is, and what it should do", _prompt),
    Question("voice_prompt", "the agent's voice", _voice, "NAME"),
    Question("transfer_to", "phone number of a person whom the caller's key 0 asks for", dialable, "NUMBER"),
    Question("record", "record the calls", _yes, None),
    Question(
        "reach",
        "how the carrier reaches the bridge: tunnel (a program here), proxy (one here, with TLS) or direct",
        _choice(Reach),
        "|".join(Reach),
    ),
    Question(
        "tls_cert_file",
        "PEM file of the port's certificate and its chain",
        _certificate,
        "FILE",
        asked=lambda so_far: so_far.reach is Reach.DIRECT,
    ),
    Question(
        "tls_key_file",
        "PEM file of its key, if it is not in the same file",
        _file,
        "FILE",
        asked=lambda so_far: so_far.tls_cert_file is not None,
        together=_tls_pair,
    ),
    Question(
        "public_url",
        "the URL by which the internet reaches the bridge, such as wss://voice.example.com",
        _setting("public_url"),
        "URL",
        asked=lambda so_far: so_far.reach is not Reach.TUNNEL,
    ),
    Question(
        "access",
        "what a caller must show: password, token (in the URL's path) or both",
        _choice(Access),
        "|".join(Access),
    ),
    Question("console_login", "ask for a login at the console, which only this machine reaches", _yes, None),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "file", nargs="?", type=Path, default=DEFAULT_FILE, help="the file to write (default: %(default)s)"
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing: flags and defaults are the answers")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    group = parser.add_argument_group("answers", "a question that has its flag is not asked")
    for question in QUESTIONS:
        option = settings.flag(question.name)
        about = question.text.replace("%", "%%")
        if question.metavar is None:
            group.add_argument(option, action="store_const", const="yes", help=about)
        else:
            group.add_argument(option, metavar=question.metavar, help=about)
    parser.epilog = "Without a terminal nothing is asked. The file is readable by its user only."


async def run(args: argparse.Namespace, console: Console) -> int:
    """Writes the file; returns the exit status.

    Raises:
        InputError: The file is there already or cannot be written, or the questions were not answered.
        ConfigError: A flag's value cannot be used.
    """
    file: Path = args.file
    _require_new(file, replace_it=args.force)
    given = {question.name: getattr(args, question.name) for question in QUESTIONS}
    ask = None if args.yes or not sys.stdin.isatty() else asking(console)
    answers = answered(given, ask, lambda text: say(console, text))
    fresh = Fresh()
    write(file, render(answers, fresh), replace_it=args.force)
    console.print(
        _next(file, answers, fresh, shows_secrets=console.is_terminal), markup=False, soft_wrap=True
    )
    return 0


def _require_new(file: Path, *, replace_it: bool) -> None:
    if not replace_it and os.path.lexists(file):
        raise InputError(f"{file} is there already; name another file, or replace it with --force")


def answered(
    given: dict[str, str | None], ask: Callable[[str], str] | None, emit: Callable[[str], None]
) -> Answers:
    """The answers to all questions.

    Args:
        given: What flags answer, by the question's name.
        ask: Asks for a line; None takes the default. An empty line takes the default too. A wrong answer is
            asked for again.
        emit: Says what is wrong with an answer.

    Raises:
        ConfigError: A flag's value is wrong.
        InputError: The lines have ended.
    """
    answers = Answers()
    for question in QUESTIONS:
        text = given.get(question.name)
        try:
            if text is not None:
                answers = _with(answers, question, text)
            if text is not None or ask is None or not question.asked(answers):
                question.together(answers)
            else:
                answers = _ask_until_right(answers, question, ask, emit)
        except ValueError as error:
            raise ConfigError(settings.flag(question.name), "command line", str(error)) from None
    return answers


def _ask_until_right(
    answers: Answers, question: Question, ask: Callable[[str], str], emit: Callable[[str], None]
) -> Answers:
    default = _shown(getattr(answers, question.name))
    while True:
        try:
            line = ask(f"{question.text} [{default}]: ").strip()
        except EOFError:
            raise InputError("the answers ended too early; `--yes` takes the defaults of the rest") from None
        try:
            changed = answers if line == NOTHING else _with(answers, question, line)
            question.together(changed)
        except ValueError as error:
            emit(f"  {error}")
        else:
            return changed


def _with(answers: Answers, question: Question, text: str) -> Answers:
    return replace(answers, **{question.name: question.read(text)})


def _shown(default: object) -> str:
    match default:
        case None | ():
            return "none"
        case bool():
            return "yes" if default else "no"
        case _:
            return str(default)


def asking(console: Console) -> Callable[[str], str]:
    """Asks a question on a console, on a terminal wrapped between words; returns the answer."""

    def ask(question: str) -> str:
        if console.is_terminal:
            question = "\n  ".join(wrapped(question.rstrip(), console.width - 2)) + " "
        return console.input(question, markup=False)

    return ask


def write(file: Path, text: str, *, replace_it: bool = False) -> None:
    """Writes a file of settings that only its user can read, once a start with it is known to work.

    Raises:
        ConfigError: The bridge could not start with it.
        InputError: The file cannot be written, or is there already.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
        new = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            check(settings.load({"config": name}, {}))
            if replace_it:
                new.replace(file)
            else:
                file.hardlink_to(new)  # fails if the file has come into being meanwhile
        finally:
            with contextlib.suppress(FileNotFoundError):
                new.unlink()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None


def _next(file: Path, answers: Answers, fresh: Fresh, *, shows_secrets: bool) -> str:
    """What to do next. Passwords are shown on a terminal only, because other output is often kept."""
    command, written = own_command(), shlex.quote(str(file))
    tunnel = " --tunnel" if answers.reach is Reach.TUNNEL else ""
    lines = [
        f"{file} is written; only its user can read it. Next:",
        f"  check it     {command} check-config --config {written}",
        f"  start it     {command} --config {written}{tunnel}",
    ]
    if answers.has_password:
        credential = fresh.credential if shows_secrets else "USER:PASSWORD"
        scheme = "ws" if answers.tls_cert_file is None else "wss"
        port = settings.Settings.model_fields["port"].default
        lines.append(f"  try it       {command} call --url {scheme}://{credential}@127.0.0.1:{port}/exotel")
    else:
        lines.append(f"  make a URL   {command} token --config {written}")
    return "\n".join(lines)
