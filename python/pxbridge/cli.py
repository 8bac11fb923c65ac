"""The command line.

``pxbridge`` alone serves calls, as ``pxbridge serve`` does. Other words after it name a command, a module of
:mod:`pxbridge.commands` with ``add_arguments(parser)`` and ``async def run(args, console) -> int``, which
returns the exit status. To add a command, add its module and its line in :data:`GROUPS`.

Exit status: 0 success; 1 failure; 2 a setting, an argument or a file cannot be used; 130 interrupted;
141 its output was closed, as by `| head`.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import importlib
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pxbridge
from pxbridge import settings
from pxbridge.commands import terminal, tunnel_option
from pxbridge.commands.terminal import say
from pxbridge.errors import ConfigError, InputError, PeerError, PxbridgeError
from pxbridge.event_loop import EventLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

GROUPS = {
    "serve calls": {
        "serve": "serve phone calls; the same as no command at all",
        "init": "write a first file of settings with fresh secrets: it asks, or takes flags",
        "check-config": "show the settings and where each one comes from, or the first error in them",
        "doctor": "find problems of settings, engines and machine, and say how to fix them",
        "tunnel": "give a bridge or an engine of this machine a public address (cloudflared, ngrok, bore)",
        "token": "print a URL with a signed token in its path, for calls without a password",
    },
    "watch calls": {
        "calls": "list calls, show one of them, or hand over or end a live one",
    },
    "try it out": {
        "call": "place a simulated phone call: play a WAV file to the agent and record what the caller hears",
        "rehearse": "serve the rehearsal engine, which has no model, with any fault that engines have",
        "bench": "place many simulated calls at once and measure what they cost and how late they are",
    },
    "PersonaPlex": {
        "engine": "serve PersonaPlex itself, or hold a conversation on a file (extra `engine`)",
    },
    "help": {
        "help": "explain a command, or the settings: `pxbridge help settings`",
        "completion": "print a script that completes commands and options in bash, zsh or fish",
    },
}
"""The commands by what they are for, with their descriptions in `--help`."""

COMMANDS = {name: about for commands in GROUPS.values() for name, about in commands.items()}

_SERVE = "pxbridge serve"

_FOLDERS = ("FOLDER", "DIR")
_CHOICES = re.compile(r"[\w-]+(\|[\w-]+)+")
"""How help writes the value of an option that is one of a few words."""

SHELLS = ("bash", "zsh", "fish")

EXIT_FAILED = 1
EXIT_UNUSABLE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_EXAMPLES = """\
examples:
  pxbridge                              serve calls; without an engine, with the rehearsal engine
  pxbridge --engines wss://gpu1:8998    serve calls with a PersonaPlex server
  pxbridge init && pxbridge --config pxbridge.toml --tunnel
  pxbridge call --wav question.wav --out heard.wav
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (the process's own if None); returns the exit status."""
    words = _command_first(list(sys.argv[1:] if argv is None else argv))
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except PxbridgeError as error:
        say(terminal.console(stderr=True), f"pxbridge: {error}")
        return EXIT_FAILED if isinstance(error, PeerError) else EXIT_UNUSABLE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough (`... | head`). Python writes what is left when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _command_first(words: list[str]) -> list[str]:
    """`--config FILE COMMAND ...` means `COMMAND --config FILE ...`."""
    taken = 2 if words[:1] == ["--config"] else 1 if words[:1] and words[0].startswith("--config=") else 0
    if taken and words[taken : taken + 1] and words[taken] in COMMANDS:
        return [words[taken], *words[:taken], *words[taken + 1 :]]
    return words


def _dispatch(words: Sequence[str]) -> int:
    match words:
        case ["-h" | "--help" | "help"]:
            return _show(_overview())
        case ["-V" | "--version"]:
            return _show(f"pxbridge {pxbridge.__version__}\n")
        case ["help", "settings" | "serve"]:
            return _show(_serve_parser().format_help())
        case ["help", name] if name in COMMANDS:
            return _show(_command_parser(name).format_help())
        case ["help", "-h" | "--help"]:
            return _show(_command_parser("help").format_help())
        case ["help", name, extra, *_] if name in COMMANDS or name == "settings":
            raise InputError(f"help explains one command; remove {extra!r}")
        case ["help", name, *_]:
            raise _no_command(name)
        case ["completion", *rest]:
            return _show(_completion(_parse(_command_parser("completion"), rest).shell))
        case ["serve", *rest]:
            return _serve(rest)
        case [name, *rest] if name in COMMANDS:
            return _command(name, rest)
    return _serve(words)


def _show(text: str) -> int:
    sys.stdout.write(text)
    return 0


def _overview() -> str:
    """What `--help` prints."""
    lines = [
        "usage: pxbridge [COMMAND] [options]",
        "",
        "Puts PersonaPlex on the telephone: connects Exotel's streams to its servers.",
    ]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:13} {about}" for name, about in commands.items())]
    lines += [
        "",
        "options:",
        "  -h, --help     show this text; `pxbridge COMMAND --help` explains a command",
        "  -V, --version  show the version",
        "  --config FILE  TOML file of settings; stands before a command or behind it",
        "",
        "Each setting is also an option: `pxbridge help settings` lists them.",
        "",
        _EXAMPLES,
    ]
    return terminal.refit("\n".join(lines), terminal.help_width())


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are, and name no type of Python."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.register("type", int, _whole_number)
        self.register("type", float, _number)

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message} (`{self.prog} --help` tells more)")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def _serve(words: Sequence[str]) -> int:
    args = _parse(_serve_parser(), words)

    def read() -> settings.Loaded:
        return settings.load(vars(args), os.environ)

    loaded = read()
    # Imported here, so that `--help` and an error in the settings answer at once.
    if args.tunnel is not None:
        from pxbridge.commands import tunnel

        return _run(tunnel.serve(loaded, args.tunnel, terminal.console(), read))
    from pxbridge.app import lifecycle
    from pxbridge.app.deadline import Deadline

    return _run(lifecycle.run(loaded, terminal.console(), read_again=read, end_within=Deadline().within))


def _serve_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_SERVE,
        usage="pxbridge [serve] [settings]",
        description="Serves phone calls. A setting can also be PXBRIDGE_NAME in the environment, or name in\n"
        "a TOML file (`port = 5060`). A flag wins over the environment, and the environment over the file.",
        formatter_class=terminal.HelpFormatter,
        allow_abbrev=False,
    )
    _declare_serve(parser)
    return parser


def _declare_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-V", "--version", action="version", version=f"pxbridge {pxbridge.__version__}")
    tunnel_option.add_option(parser)
    settings.add_arguments(parser)


def _command(name: str, words: Sequence[str]) -> int:
    args = _parse(_command_parser(name), words)
    return int(_run(_module(name).run(args, terminal.console())))


def _command_parser(name: str) -> argparse.ArgumentParser:
    about = COMMANDS[name]
    parser = _Parser(
        prog=f"pxbridge {name}",
        description=about[0].upper() + about[1:] + ".",
        formatter_class=terminal.HelpFormatter,
        allow_abbrev=False,
    )
    _declare(name, parser)
    return parser


def _declare(name: str, parser: argparse.ArgumentParser) -> None:
    match name:
        case "serve":
            _declare_serve(parser)
        case "help":
            parser.add_argument(
                "topic", nargs="?", choices=["settings", *COMMANDS], metavar="COMMAND|settings"
            )
        case "completion":
            parser.add_argument("shell", choices=SHELLS)
        case _:
            _module(name).add_arguments(parser)


def _module(name: str) -> Any:
    return importlib.import_module(f"pxbridge.commands.{name.replace('-', '_')}")


def _completion(shell: str) -> str:
    """The completion script of a shell, for all commands and options."""
    import shtab

    parser = argparse.ArgumentParser(prog="pxbridge", allow_abbrev=False)
    _declare_serve(parser)
    commands = parser.add_subparsers()
    for name, about in COMMANDS.items():
        _declare(name, commands.add_parser(name, help=about))
    for action in _actions(parser):
        _complete_value(action, shtab.FILE, shtab.DIRECTORY)
    return str(shtab.complete(parser, shell)) + "\n"


def _complete_value(action: argparse.Action, files: object, folders: object) -> None:
    """Says how a shell completes the value of an option, from how help writes the value."""
    written = str(action.metavar)
    if written in _FOLDERS:
        action.complete = folders  # type: ignore[attr-defined]
    elif written == "FILE" or action.type is Path:
        action.complete = files  # type: ignore[attr-defined]
    elif action.choices is None and _CHOICES.fullmatch(written):
        action.choices = written.split("|")


def _run(main: Coroutine[Any, Any, int]) -> int:
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(main)


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    args, unknown = parser.parse_known_args(words)
    if unknown:
        written = unknown[0].partition("=")[0]
        options = [name for action in _actions(parser) for name in action.option_strings]
        bare = {name.lstrip("-"): name for name in [*options, *COMMANDS]}
        near = difflib.get_close_matches(written.lstrip("-"), bare, n=1)
        if written in COMMANDS:
            fix = f"a command comes first: `pxbridge {written} ...`"
        elif near:
            fix = f"did you mean {bare[near[0]]}?"
        elif words[0] == written and not written.startswith("-") and parser.prog == _SERVE:
            raise _no_command(written)
        else:
            fix = f"`{parser.prog} --help` lists the arguments"
        raise ConfigError(written, "command line", f"no such argument; {fix}")
    return args


def _no_command(name: str) -> InputError:
    return InputError(f"there is no command {name!r} (`pxbridge --help` lists the commands)")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
