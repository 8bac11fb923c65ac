"""The command line.

``pxbridge`` alone serves calls. A word after it names a command, a module of :mod:`pxbridge.commands` with
``add_arguments(parser)`` and ``async def run(args, console) -> int``, which returns the exit status. To add a
command, add its module and its line in :data:`COMMANDS`.

Exit status: 0 success; 1 failure; 2 a setting, an argument or a file cannot be used; 130 interrupted;
141 its output was closed, as by `| head`.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

import pxbridge
from pxbridge import settings
from pxbridge.commands import tunnel_option
from pxbridge.errors import ConfigError, InputError, PeerError, PxbridgeError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The commands, and their descriptions in `--help`.
COMMANDS = {
    "init": "write a first file of settings with fresh secrets: it asks, or takes flags",
    "call": "place a simulated phone call: play a WAV file to the agent and record what the caller hears",
    "bench": "place many simulated calls at once and measure what they cost and how late they are",
    "calls": "list calls, show one of them, or hand over or end a live one",
    "check-config": "show the settings and where each one comes from, or the first error in them",
    "doctor": "find problems of settings, engines and machine, and say how to fix them",
    "engine": "serve PersonaPlex itself on this machine, or hold a conversation on a file (extra `engine`)",
    "tunnel": "give a bridge or an engine on this machine a public address, by cloudflared, ngrok or bore",
    "token": "print a URL with a signed token in its path, for calls without a password",
}

EXIT_FAILED = 1
EXIT_UNUSABLE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_EXAMPLES = """\
examples:
  pxbridge                              serve calls; without an engine, with the rehearsal engine
  pxbridge --engines wss://gpu1:8998    serve calls with a PersonaPlex server
  pxbridge --config pxbridge.toml --host 0.0.0.0
  pxbridge init && pxbridge --config pxbridge.toml --tunnel
  pxbridge call --wav question.wav --out heard.wav
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (the process's own if None); returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _command(words[0], words[1:]) if words and words[0] in COMMANDS else _serve(words)
        sys.stdout.flush()
        return status
    except PxbridgeError as error:
        _console(stderr=True).print(f"pxbridge: {error}", markup=False, soft_wrap=True)
        return EXIT_FAILED if isinstance(error, PeerError) else EXIT_UNUSABLE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough (`... | head`). Python writes what is left when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message} (`{self.prog} --help` tells more)")


def _serve(words: Sequence[str]) -> int:
    parser = _Parser(
        prog="pxbridge",
        usage="pxbridge [settings]\n       pxbridge COMMAND ...   (details: `pxbridge COMMAND --help`)",
        description="Puts PersonaPlex on the telephone: connects Exotel's streams to its servers.\n\n"
        "commands:\n" + "".join(f"  {name:13} {about}\n" for name, about in COMMANDS.items()),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pxbridge {pxbridge.__version__}")
    settings.add_arguments(parser)
    tunnel_option.add_option(parser)
    args = _parse(parser, words)

    def read() -> settings.Loaded:
        return settings.load(vars(args), os.environ)

    loaded = read()
    # Imported here, so that `--help` and an error in the settings answer at once.
    if args.tunnel is not None:
        from pxbridge.commands import tunnel

        return asyncio.run(tunnel.serve(loaded, args.tunnel, _console(), read))
    from pxbridge.app import lifecycle
    from pxbridge.app.deadline import Deadline

    return asyncio.run(lifecycle.run(loaded, _console(), read_again=read, end_within=Deadline().within))


def _command(name: str, words: Sequence[str]) -> int:
    about = COMMANDS[name]
    parser = _Parser(
        prog=f"pxbridge {name}",
        description=about[0].upper() + about[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module = importlib.import_module(f"pxbridge.commands.{name.replace('-', '_')}")
    module.add_arguments(parser)
    args = _parse(parser, words)
    return int(asyncio.run(module.run(args, _console())))


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    args, unknown = parser.parse_known_args(words)
    if unknown:
        written = unknown[0].partition("=")[0]
        known = _options(parser)
        if written in COMMANDS:
            fix = f"a command comes first: `pxbridge {written} ...`"
        elif near := difflib.get_close_matches(written, [*known, *COMMANDS], n=1):
            fix = f"did you mean {near[0]}?"
        else:
            fix = f"`{parser.prog} --help` lists the arguments"
        raise ConfigError(written, "command line", f"no such argument; {fix}")
    return args


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """All options of a parser and of its commands."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += _options(command)
    return found


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False)
