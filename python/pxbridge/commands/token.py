"""`pxbridge token`: a signed token for the path of a URL, in place of a password."""

from __future__ import annotations

import datetime
import os
import time
from typing import TYPE_CHECKING, Final

from pxbridge import settings
from pxbridge.calls.persona import DEFAULT_NAME
from pxbridge.commands import terminal
from pxbridge.commands.terminal import say
from pxbridge.errors import ConfigError, InputError
from pxbridge.telephony.routes import PERSONA_NAME
from pxbridge.telephony.tokens import Scope, Signer

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

APPLET_PATH: Final = "/exotel"
DEFAULT_DAYS: Final = 90.0
MAX_DAYS: Final = 3650.0
_DAY_S: Final = 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--days",
        default=str(DEFAULT_DAYS),
        metavar="N",
        help=f"how long the token is valid, in days (default: {DEFAULT_DAYS:g})",
    )
    parser.add_argument("--persona", metavar="NAME", help="the token is valid for this persona only")
    settings.add_arguments(parser)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Prints a URL with a new token, which a carrier can dial as it is. How long it is valid goes to stderr.

    Raises:
        ConfigError: No key is set, or no public URL. A key that the bridge makes itself ends with the bridge.
        InputError: An argument is wrong.
    """
    loaded = settings.load(vars(args), os.environ)
    keys = [key.get_secret_value().encode() for key in loaded.settings.token_keys]
    if not keys:
        raise _missing("token_keys", "set it to a key, for example from `openssl rand -hex 32`")
    if loaded.settings.public_url is None:
        raise _missing(
            "public_url", "set it to the address that the carrier dials, such as wss://voice.example.com"
        )
    if loaded.settings.public_url.endswith(APPLET_PATH):
        fix = f"leave {APPLET_PATH} out, which is added here"
        raise ConfigError(*loaded.origins["public_url"], f"ends in {APPLET_PATH}; {fix}")
    try:
        days = float(args.days)
    except ValueError:
        days = 0.0
    if not 0 < days <= MAX_DAYS:
        raise InputError(f"--days {args.days!r} is not a number of days above 0, up to {MAX_DAYS:g}")
    if args.persona is not None and not PERSONA_NAME.fullmatch(args.persona):
        raise InputError(f"--persona {args.persona!r} is not a name of letters, digits, - and _")
    token = Signer(keys, time.time).make(Scope.PORT, days * _DAY_S, args.persona)
    console.print(f"{loaded.settings.public_url}{APPLET_PATH}/t/{token}", markup=False, soft_wrap=True)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    stderr = terminal.console(stderr=True)
    say(stderr, f"valid until {until:%Y-%m-%d %H:%M} UTC, for anybody who has it")
    known = {DEFAULT_NAME, *loaded.personas}
    if args.persona not in (None, *known):
        # No error: the bridge may have other settings than this machine.
        say(stderr, f"no persona in these settings is called {args.persona!r}: {', '.join(sorted(known))}")
    return 0


def _missing(setting: str, fix: str) -> ConfigError:
    return ConfigError(settings.variable(setting), "default", f"is not set; {fix}")
