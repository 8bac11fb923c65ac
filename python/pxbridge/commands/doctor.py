"""`pxbridge doctor`: finds problems and says how to fix them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from rich.text import Text

from pxbridge import settings
from pxbridge.app.assembly import engine_addresses
from pxbridge.commands.terminal import say
from pxbridge.doctor import Verdict, examine
from pxbridge.doctor.conformance import Target, examine_wire
from pxbridge.wording import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from rich.console import Console

    from pxbridge.doctor import Finding

EXIT_WRONG = 1

_STYLES = {Verdict.GOOD: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON, one object in each line")
    parser.add_argument(
        "--conformance",
        metavar="URL",
        help="check only the engine at URL: whether it speaks PersonaPlex's wire as its clients expect",
    )
    parser.epilog = (
        "It reads the same settings as the bridge. It talks to engines only while no bridge runs here.\n"
        "With --conformance it holds a dozen conversations of seconds with one engine, by --voice-prompt.\n\n"
        f"exit status: 0 no problem was found, {EXIT_WRONG} there are problems"
    )
    settings.add_arguments(parser)


def _examined(args: argparse.Namespace) -> AsyncIterator[Finding]:
    """What is to be looked at.

    Raises:
        ConfigError: A setting is wrong.
    """
    if args.conformance is None:
        return examine(vars(args), os.environ)
    loaded = settings.load({**vars(args), "engines": args.conformance}, os.environ)
    (engine,) = engine_addresses(loaded.settings)
    chosen = loaded.settings
    token = engine.token if engine.bearer else None
    return examine_wire(Target(engine, chosen.voice_prompt, chosen.text_prompt, token))


async def run(args: argparse.Namespace, console: Console) -> int:
    """Runs the checks and prints each finding as it comes; returns the exit status."""
    wrong = 0
    async for finding in _examined(args):
        wrong += finding.verdict is Verdict.WRONG
        if args.json:
            console.print(json.dumps(_as_json(finding)), markup=False, soft_wrap=True)
            continue
        line = Text(f"{finding.verdict.value:6}", _STYLES[finding.verdict])
        say(console, finding.what, line.append(f"{finding.check:12}", "bold"))
        if finding.fix:
            say(console, finding.fix, f"{'':18}→ ")
    if not args.json:
        console.print(f"\n{counted(wrong, 'problem')} found", markup=False)
    return EXIT_WRONG if wrong else 0


def _as_json(finding: Finding) -> dict[str, str]:
    """A finding under its public keys."""
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "what": finding.what,
        "mend": finding.fix,
    }
