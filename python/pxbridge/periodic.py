"""What is done again and again beside the calls, whatever becomes of one time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

AFTER_FAULT_S: Final = 1.0
"""From a round that went wrong to the next: no reason to believe that it fares better at once."""


async def repeat(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Round after round, whatever becomes of one. Each waits by itself until the next is due."""
    while True:
        try:
            await job()
        except Exception:
            log.exception("a round of %s failed", name)
            await asyncio.sleep(AFTER_FAULT_S)
