"""The command line: what was asked for, run, and told in a way a person can use.

``pxbridge`` alone serves calls. A word after it names a command of :mod:`pxbridge.commands`: a module
with ``add_arguments(parser)`` and ``async def run(args, console) -> int``, the exit status. To add one,
add the module and its line in :data:`COMMANDS`.

Exit status: 0 all well; 1 it did not work out; 2 what was asked for cannot be done (a setting, an
argument, a file); 130 interrupted.
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
from pxbridge.errors import ConfigError, InputError, PxbridgeError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The commands beside serving, and what `--help` says of them.
COMMANDS = {
    "call": "place a simulated phone call: play a WAV file to the agent and record what the caller hears",
    "bench": "place many simulated calls at once: what they cost and how late they are",
    "calls": "list the calls there were, show one, or hand over or end one that goes on",
    "check-config": "show the settings, where each came from, and what is wrong with them",
    "doctor": "look for what is wrong with settings, engines and machine, and say how to mend it",
    "engine": "serve PersonaPlex itself on this machine, or hold a conversation on a file (extra `engine`)",
    "token": "print a URL with a signed token in its path, which lets calls in without a password",
}

EXIT_FAILED = 1
EXIT_UNUSABLE = 2
EXIT_INTERRUPTED = 130

_EXAMPLES = """\
examples:
  pxbridge                              serve calls; without an engine, with the rehearsal engine
  pxbridge --engines wss://gpu1:8998    serve calls with a PersonaPlex server
  pxbridge --config pxbridge.toml --host 0.0.0.0
  pxbridge call --wav question.wav --out heard.wav
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own when None) and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in COMMANDS:
            return _command(words[0], words[1:])
        return _serve(words)
    except PxbridgeError as error:
        _console(stderr=True).print(f"pxbridge: {error}", markup=False, soft_wrap=True)
        return EXIT_UNUSABLE if isinstance(error, ConfigError | InputError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message} (`{self.prog} --help` tells more)")


def _serve(words: Sequence[str]) -> int:
    parser = _Parser(
        prog="pxbridge",
        usage="pxbridge [settings]\n       pxbridge COMMAND ...   (`pxbridge COMMAND --help` tells more)",
        description="Puts PersonaPlex on the telephone: joins Exotel's call streams to its servers.\n\n"
        "commands:\n" + "".join(f"  {name:13} {about}\n" for name, about in COMMANDS.items()),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pxbridge {pxbridge.__version__}")
    settings.add_arguments(parser)
    args = _parse(parser, words)

    def read() -> settings.Loaded:
        return settings.load(vars(args), os.environ)

    loaded = read()
    # Here, so that `--help` and a wrong setting answer at once.
    from pxbridge.app import assembly

    return asyncio.run(assembly.run(loaded, _console(), read_again=read))


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
            mend = f"a command comes first: `pxbridge {written} ...`"
        elif near := difflib.get_close_matches(written, [*known, *COMMANDS], n=1):
            mend = f"did you mean {near[0]}?"
        else:
            mend = f"`{parser.prog} --help` lists what there is"
        raise ConfigError(written, "command line", f"no such argument; {mend}")
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
