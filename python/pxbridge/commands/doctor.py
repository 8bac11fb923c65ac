"""`pxbridge doctor`: looks for what is wrong, and says how to mend it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from pxbridge import settings
from pxbridge.app.assembly import addresses
from pxbridge.doctor import Verdict, examine
from pxbridge.doctor.conformance import Target, examine_wire

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from rich.console import Console

    from pxbridge.doctor import Finding

EXIT_WRONG = 1

TOKEN_VARIABLE = "PXBRIDGE_ENGINE_TOKEN"  # noqa: S105  a variable's name
"""Of the token that `--conformance` shows, where an engine asks for one."""

_STYLES = {Verdict.GOOD: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON, one object a line")
    parser.add_argument(
        "--conformance",
        metavar="URL",
        help="look only at the engine at URL: whether it speaks PersonaPlex's wire as its clients expect",
    )
    parser.epilog = (
        "It takes the settings that the bridge would have. It talks to engines while no bridge runs.\n"
        "With --conformance it holds a dozen conversations of seconds with one engine, by --voice-prompt.\n\n"
        f"exit status: 0 nothing is wrong, {EXIT_WRONG} something is"
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
    (engine,) = addresses(loaded.settings)
    chosen = loaded.settings
    token = os.environ.get(TOKEN_VARIABLE)
    return examine_wire(Target(engine, chosen.voice_prompt, chosen.text_prompt, token))


async def run(args: argparse.Namespace, console: Console) -> int:
    """Examines, and prints what it finds as it finds it."""
    wrong = 0
    async for finding in _examined(args):
        wrong += finding.verdict is Verdict.WRONG
        if args.json:
            console.print(json.dumps(asdict(finding)), markup=False, soft_wrap=True)
            continue
        line = Text(f"{finding.verdict.value:6}", _STYLES[finding.verdict])
        line.append(f"{finding.check:12}", "bold").append(finding.what, "default")
        console.print(line, soft_wrap=True)
        if finding.mend:
            console.print(f"{'':18}→ {finding.mend}", markup=False, soft_wrap=True)
    if not args.json:
        verdict = "nothing is wrong" if not wrong else f"{wrong} to mend"
        console.print(f"\n{verdict}", markup=False)
    return EXIT_WRONG if wrong else 0
