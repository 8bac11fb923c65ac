"""`pxbridge token`: a signed token for the path of a URL, where a password in the URL is not wanted."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from pxbridge import settings
from pxbridge.errors import ConfigError, InputError
from pxbridge.telephony.access import Scope, Signer
from pxbridge.telephony.routes import PERSONA_NAME

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

DEFAULT_DAYS: Final = 90.0
MOST_DAYS: Final = 3650.0
_DAY_S: Final = 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "--days", default=str(DEFAULT_DAYS), metavar="N", help=f"how long it is good for ({DEFAULT_DAYS:g})"
    )
    parser.add_argument("--persona", metavar="NAME", help="only for calls to this persona")
    settings.add_arguments(parser)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Print a URL, or the path of one, with a new token in it.

    Raises:
        ConfigError: No key is set: one that the bridge makes up itself dies with it.
        InputError: An argument is wrong.
    """
    loaded = settings.load(vars(args), os.environ)
    keys = [key.get_secret_value().encode() for key in loaded.settings.token_keys]
    if not keys:
        name = settings.variable("token_keys")
        raise ConfigError(name, "default", "is not set; `openssl rand -hex 32` prints a key")
    try:
        days = float(args.days)
    except ValueError:
        days = 0.0
    if not 0 < days <= MOST_DAYS:
        raise InputError(f"--days {args.days!r} is not a number above 0, up to {MOST_DAYS:g}")
    if args.persona is not None and not PERSONA_NAME.fullmatch(args.persona):
        raise InputError(f"--persona {args.persona!r} is not a name of letters, digits, - and _")
    token = Signer(keys, time.time).make(Scope.PORT, days * _DAY_S, args.persona)
    url = f"{loaded.settings.public_url or ''}/exotel/t/{token}"
    console.print(url, markup=False, soft_wrap=True)
    return 0
