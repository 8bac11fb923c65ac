"""`pxbridge engine bench`: what the model costs on this machine, and how many conversations it can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""


async def run(args: argparse.Namespace, console: Console) -> int:
    """Measures."""
    return 0
