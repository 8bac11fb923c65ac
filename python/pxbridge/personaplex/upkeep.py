"""What is done for engines beside any call: leases are renewed, and engines are asked whether they are there.

Every round is for itself. One that goes wrong is told, and the next one comes all the same: a bridge whose
leases nobody renews any more loses its calls.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pxbridge.errors import StoreUnreachable
from pxbridge.personaplex.leases import Renewal
from pxbridge.personaplex.slots import PROBES_TO_FAIL, Engine, Live, Slot, Warm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pxbridge.personaplex.client import EngineAddress
    from pxbridge.personaplex.fleet import Fleet
    from pxbridge.personaplex.leases import Grant, LeaseStore

log = logging.getLogger(__name__)

PROBE_EVERY_S: Final = 5.0

AFTER_FAULT_S: Final = 1.0
"""From a round that went wrong to the next: no reason to believe that it fares better at once."""


async def for_ever(name: str, one_round: Callable[[], Awaitable[None]]) -> None:
    """Round after round, whatever becomes of one. Each waits by itself until the next is due."""
    while True:
        try:
            await one_round()
        except Exception:
            log.exception("engine pool: a round of %s failed", name)
            await asyncio.sleep(AFTER_FAULT_S)


class Probes:
    """Asks engines whether they are there.

    Args:
        fleet: The engines.
        answers: Whether one is.
    """

    def __init__(self, fleet: Fleet, answers: Callable[[EngineAddress], Awaitable[bool]]) -> None:
        self._fleet = fleet
        self._answers = answers

    async def round(self) -> None:
        """Asks all of them."""
        await asyncio.gather(*(self._probe(engine) for engine in tuple(self._fleet.engines)))
        await asyncio.sleep(PROBE_EVERY_S)

    async def _probe(self, engine: Engine) -> None:
        if any(isinstance(slot.state, Warm | Live) for slot in engine.slots):
            engine.probes_failed = 0  # a session is a better proof
            return
        if await self._answers(engine.address):
            if engine.probes_failed >= PROBES_TO_FAIL:
                log.info("%s answers again", engine.address)
                engine.breaker.retry_soon()
                self._fleet.changes.happened()
            engine.probes_failed = 0
        else:
            engine.probes_failed += 1
            if engine.probes_failed == PROBES_TO_FAIL:
                log.warning("%s does not answer: no call goes there until it does", engine.address)


class Renewals:
    """Renews leases.

    Args:
        fleet: Whose.
        store: Where.
        every_s: How often.
    """

    def __init__(self, fleet: Fleet, store: LeaseStore, every_s: float) -> None:
        self._fleet = fleet
        self._store = store
        self._every_s = every_s

    async def round(self) -> None:
        """Renews all that are held."""
        await asyncio.sleep(self._every_s)
        held = [(slot, slot.grant) for slot in self._fleet.slots()]
        await asyncio.gather(*(self._renew(slot, grant) for slot, grant in held if grant is not None))

    async def _renew(self, slot: Slot, grant: Grant) -> None:
        try:
            renewal = await self._store.renew(grant)
        except StoreUnreachable as error:
            log.warning("%s: %s keeps its session", error, slot.engine.address)
            return
        if renewal is Renewal.LOST and slot.grant == grant:
            self._fleet.fence_off(slot)
