"""Asks a second engine when the first keeps a call waiting: a hedged request.

NVIDIA's server accepts a connection while it is in another conversation, and does not answer it until that
one ends. On the wire this looks like an engine that reads long prompts. So after a while another engine is
asked too, and the call takes the one that is ready first. The other one is released at once.

A hedge must not cost other calls anything. So it takes only an idle slot, and no slot while earlier calls
wait (`EnginePool.hedge`).
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.errors import EngineError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.lease import Lease, Place
    from pxbridge.engines.session import Session
    from pxbridge.engines.slots import Prompts

ASK_AGAIN_S: Final = 0.25
"""How often the pool is asked for a second engine while none is free."""


class Winner(StrEnum):
    """Which engine a call got that asked a second one."""

    FIRST = "first"
    SECOND = "second"
    NONE = "none"
    """Neither: both failed, or the call ended first."""


class Pool(Protocol):
    """What a hedge needs of the pool."""

    hedges: Counter[str]

    @property
    def hedge_after_s(self) -> float | None:
        """When a second engine is asked; None: never."""
        ...

    async def hedge(self, prompts: Prompts, avoid: Collection[EngineAddress], place: Place) -> Lease | None:
        """A lease on an idle slot that no other call needs; None if there is none."""
        ...


async def soonest(
    pool: Pool,
    first: Lease,
    prompts: Prompts,
    place: Place,
    avoid: set[EngineAddress],
    *,
    asks: Callable[[Lease], None],
    failed: Callable[[Lease, EngineError], None],
) -> tuple[Lease, Session]:
    """Returns the session of `first`, or that of a second engine if that one is ready sooner.

    Every lease that is not returned is released.

    Args:
        pool: Where a second engine is leased.
        first: The lease of the first engine.
        prompts: The prompts for a second engine.
        place: The call's place among those that want an engine.
        avoid: Engines that are not asked as the second one. Those that were asked are added.
        asks: Called with each lease whose session is waited for.
        failed: Called with each lease whose session could not be opened. It is released already.

    Raises:
        EngineError: No session could be opened; the last engine's error.
    """
    avoid.add(first.engine)
    opening = {asyncio.create_task(first.session()): first}
    hedged, winner = False, Winner.NONE
    task: asyncio.Task[Session] | None
    try:
        asks(first)
        await asyncio.wait(opening, timeout=pool.hedge_after_s)
        while True:
            for task in [task for task in opening if task.done()]:
                lease = opening.pop(task)
                error = task.exception()
                if error is None:
                    winner = Winner.FIRST if lease is first else Winner.SECOND
                    return lease, task.result()
                lease.release()
                if isinstance(error, EngineError):
                    failed(lease, error)
                if not opening or not isinstance(error, EngineError):
                    raise error
            if len(opening) == 1 and (second := await pool.hedge(prompts, avoid, place)) is not None:
                hedged = True
                avoid.add(second.engine)
                opening[asyncio.create_task(second.session())] = second
                asks(second)
            await asyncio.wait(
                opening,
                timeout=ASK_AGAIN_S if len(opening) == 1 else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
    finally:
        for waits, lease in opening.items():
            waits.cancel()
            if not hedged:
                lease.release()  # the call has ended: the session may serve another one
            elif winner is Winner.SECOND:
                lease.outrun()
            else:
                lease.cancel()
        if hedged:
            pool.hedges[winner] += 1
        opening.clear()
        task = error = None  # they refer to this frame, and so to the whole call
