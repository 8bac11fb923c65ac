"""The bridge as a process: engine, listener, signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pxbridge.settings import Loaded


async def run(loaded: Loaded, console: Console) -> int:
    """Serve calls until a signal ends it; the exit status."""
    raise NotImplementedError
