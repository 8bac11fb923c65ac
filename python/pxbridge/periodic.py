"""Runs a job repeatedly, and stops tasks within a limit. A failed run is logged and does not stop the next.

A cancellation can be lost: code between the task and the future that it waits for may catch it.
`asyncio.wait_for` of Python 3.11 drops a cancellation that comes together with a result. So code that cancels
a task and waits for its end must use `stop`, which has a limit.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

log = logging.getLogger(__name__)

AFTER_FAULT_S: Final = 1.0
"""The pause after a failed run, because an immediate retry would probably fail too."""


STOP_TIMEOUT_S: Final = 2.0
"""How long stopped tasks may take to end. They have nothing to do any more but to clean up."""


async def repeat(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Runs `job` repeatedly until it is cancelled. The job itself waits until its next run is due.

    It ends even if the job lost the cancellation on its way.
    """
    while True:
        failed = False
        try:
            await job()
        except Exception:
            log.exception("%s failed; it will run again", name)
            failed = True
        if cancellations():
            raise asyncio.CancelledError
        if failed:
            await asyncio.sleep(AFTER_FAULT_S)


async def stop(tasks: Iterable[asyncio.Task[Any]], limit_s: float = STOP_TIMEOUT_S) -> None:
    """Cancels tasks and waits until they have ended, for at most `limit_s`. Logs those that have not.

    After half of the time they are cancelled once more, because the first cancellation may have been lost.
    """
    left = set(tasks)
    for _ in range(2):
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=limit_s / 2)
    for task in left:
        log.error("%s did not stop within %g s and is left behind", task.get_name(), limit_s)


def cancellations() -> int:
    """How often the current task was told to stop, by requests that nothing has answered for yet."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
