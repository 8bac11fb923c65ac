"""`pxbridge engine`: PersonaPlex itself, on this machine: served to callers, or one of its own commands.

Everything here needs the extra `engine`, which brings torch. Arguments are declared without it, so that
`--help` works everywhere, and what needs it is imported when it is run.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import TYPE_CHECKING

from pxbridge.commands import engine_bench, engine_offline, engine_serve
from pxbridge.errors import InputError

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

_COMMANDS = {
    "offline": (engine_offline, "hold a conversation on a file: the caller's sound in, the agent's out"),
    "bench": (engine_bench, "measure how many conversations this machine keeps in real time"),
}

_NEEDED = ("torch", "safetensors", "sentencepiece", "huggingface_hub", "cryptography")
OLDEST_TORCH = (2, 11)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's own commands, and the arguments of serving, which is what it does without
    one.
    """
    parser.epilog = engine_serve.EPILOG
    engine_serve.add_arguments(parser)
    commands = parser.add_subparsers(dest="engine_command", metavar="[COMMAND]", title="commands")
    for name, (module, about) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        module.add_arguments(command)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Runs what was asked for; returns the exit status.

    Raises:
        InputError: The extra is not installed, or an argument or a file cannot be used.
    """
    _require_extra()
    if args.engine_command is None:
        return await engine_serve.run(args, console)
    module, _ = _COMMANDS[args.engine_command]
    return int(await module.run(args, console))


def _require_extra() -> None:
    """Raises InputError unless what the extra `engine` brings is there."""
    missing = [name for name in _NEEDED if not _is_there(name)]
    if missing:
        raise InputError(
            f"the engine needs {', '.join(missing)}, which is not installed: "
            "`pip install 'pxbridge[engine]'` brings it (5.5 GB with torch for CUDA)"
        )
    version = metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise InputError(f"torch {version} is too old for the engine: `pip install 'torch>={oldest}'`")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # somebody keeps it from being imported
        return False
