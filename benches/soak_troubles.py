"""A soak's troubles: a phone that floods, one that holds, a store that comes back with an older memory.

Each is real: the flood and the store are processes of their own, and the phone that holds sends nothing for
seconds, as a phone does that its user has put on hold. They begin in the middle of a run. Before that, the
same callers have their calm, so both can be compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.store import Store

ROOT = Path(__file__).parents[1]

FLOODS = ("empty messages", "keys", "garbage", "audio")
"""Kinds of `tests/fault/flooder.py`, one after the other."""
FLOOD_BYTES_PER_S = 1_000_000
FLOOD_PAUSE_S = 1.0
FLOOD_LIMIT_S = 20.0
"""A flood that is not closed after this goes on for ever."""

HOLD_S = 5.0

SAVED_BEFORE_S = 4.0
"""The store's snapshot is as old as this when it comes back with it."""
STORE_DOWN_S = 0.5
LEASE_TTL_S = 3.0
QUIET_BEFORE_S = 3.0
QUIET_AFTER_S = LEASE_TTL_S + 2.0
"""No engine is killed about the time when the store is: after its return it grants nothing for a while, so a
call that loses its engine then cannot get another one, except a warm one."""


@dataclass
class Troubles:
    """What the troubles were.

    Attributes:
        from_s: When they begin, on the machine's monotonic clock.
        until_s: When they end.
        floods: How many floods there were.
        restarts: When the store came back.
    """

    from_s: float
    until_s: float
    floods: int = 0
    restarts: list[float] = field(default_factory=list)

    @property
    def _kills_s(self) -> list[float]:
        """When the store is killed."""
        long_s = self.until_s - self.from_s
        return [self.from_s + share * long_s for share in (0.3, 0.75)]

    def may_kill_engines(self, now_s: float) -> bool:
        return not any(at - QUIET_BEFORE_S < now_s < at + QUIET_AFTER_S for at in self._kills_s)

    async def flood(self, port: int) -> None:
        """Floods the bridge again and again."""
        await _until(self.from_s)
        for number in range(sys.maxsize):
            if time.monotonic() > self.until_s - FLOOD_PAUSE_S:
                return
            self.floods += 1
            await _flood(port, FLOODS[number % len(FLOODS)])
            await asyncio.sleep(FLOOD_PAUSE_S)

    async def restart_store(self, store: Store) -> None:
        """Kills the store, and starts it with the snapshot of some seconds ago."""
        for kill_s in self._kills_s:
            await _until(kill_s - SAVED_BEFORE_S)
            await store.save()
            await _until(kill_s)
            await store.stop()
            await asyncio.sleep(STORE_DOWN_S)
            await store.start()
            self.restarts.append(time.monotonic())


async def _until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - time.monotonic()))


async def _flood(port: int, kind: str) -> None:
    """Runs one flood until it is closed, or for `FLOOD_LIMIT_S`."""
    words = (str(port), kind, str(FLOOD_BYTES_PER_S))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fault.flooder", *words, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLOOD_LIMIT_S):
                await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def store_process() -> AsyncIterator[Store | None]:
    """A Redis or Valkey server that keeps a snapshot; None if none is installed."""
    sys.path.append(str(ROOT))  # the tests' package is not installed
    from tests.fault.store import PROGRAM, store

    if PROGRAM is None:
        yield None
        return
    async with store("snapshot") as running:
        yield running
