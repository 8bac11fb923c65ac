"""Wakes the tasks that wait for something to change among the engines."""

from __future__ import annotations

import asyncio


class Changes:
    """Wakes tasks that wait for a change of the pool."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def happened(self) -> None:
        """Wakes all waiting tasks."""
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Waits for the next change, at most `timeout_s`."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        await asyncio.wait([change], timeout=timeout_s)
        if not change.done():
            change.cancel()
            self._waiting = [each for each in self._waiting if each is not change]
