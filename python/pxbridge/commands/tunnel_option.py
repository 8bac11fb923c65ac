"""`--tunnel`, the option of the commands that serve: the names of the tunnel programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

ANY: Final = "any"
PROGRAMS: Final = ("cloudflared", "ngrok", "bore")
"""In this order they are looked for if none is named."""


def add_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declares the option; without it the value is None."""
    parser.add_argument(
        "--tunnel",
        nargs="?",
        const=ANY,
        choices=(ANY, *PROGRAMS),
        metavar="PROGRAM",
        help=f"open a tunnel to the port: {', '.join(PROGRAMS)}; without a name, the first that is there",
    )
