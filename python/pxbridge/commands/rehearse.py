"""`pxbridge rehearse`: the rehearsal engine as a server of its own, for rehearsing failures."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from pxbridge.commands.terminal import say
from pxbridge.simulation.faults import described
from pxbridge.simulation.rehearsal import program

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

_EPILOG = """\
examples:
  pxbridge rehearse --mode echo --step-ms 0
  pxbridge rehearse --prompt-s 5 --fault StaysSilent
  pxbridge rehearse --fault Dies:after_steps=100       breaks off after 8 s of each call
  pxbridge --engines ws://127.0.0.1:8998/api/chat --allow-anonymous      in another terminal: its bridge
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.epilog = "\n".join(["faults, with the defaults of their fields:", *described(), "", _EPILOG])
    program.add_arguments(parser)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Serves until SIGINT or SIGTERM.

    Raises:
        InputError: An argument cannot be used, or the port cannot be listened on.
    """

    def ready(url: str) -> None:
        say(console, f"the rehearsal engine ({args.mode}, no model) is at {url}")
        say(console, "stop it with Ctrl-C")

    serving = asyncio.create_task(program.serve(args, ready))
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    return 0
