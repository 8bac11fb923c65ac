"""Runs a job repeatedly. A failed run is logged and does not stop the next."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

AFTER_FAULT_S: Final = 1.0
"""The pause after a failed run, because an immediate retry would probably fail too."""


async def repeat(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Runs `job` repeatedly until it is cancelled. The job itself waits until its next run is due."""
    while True:
        try:
            await job()
        except Exception:
            log.exception("%s failed; it will run again", name)
            await asyncio.sleep(AFTER_FAULT_S)
