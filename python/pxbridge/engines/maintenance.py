"""Background jobs for engines: they renew leases and probe engines.

If leases are not renewed, the bridge loses its calls. So a failed run of a job must not stop the next one
(`pxbridge.periodic`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from typing import TYPE_CHECKING, Final

from pxbridge.engines.leases import Renewal
from pxbridge.engines.probe import TIMEOUT_S, Told, Wrong
from pxbridge.engines.slots import PROBES_TO_FAIL, Engine, Live, Slot, Stage, Warm
from pxbridge.errors import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.probe import Found
    from pxbridge.engines.slot_transitions import SlotTransitions

log = logging.getLogger(__name__)

PROBE_EVERY_S: Final = 5.0

FOLLOW_EVERY_S: Final = 1.0
"""How often an engine is probed that tells of itself and is closed, or that others share: the bridge learns
at the next probe that a slot is free."""

WRONG_TOKEN_PAUSE_S: Final = 30.0
"""An engine takes one wrong token in ten seconds from an address, and other bridges may have ours."""

IDLE_LOOKED_UP: Final = 256
"""How many idle slots are looked up at each renewal. So a bridge with thousands of slots asks for all of them
within half a minute. It learns of a slot that is taken meanwhile when it asks for its lease."""

SOON_S: Final = 0.25
"""The pause before the store is asked again, if it did not answer or if a caller waits for a slot."""


class Probes:
    """Probes engines, follows what they tell of themselves, and pings the engines of warm sessions.

    A live call is better proof that an engine works than a probe. If the engine stops sending, the call's
    conversation notices.

    Args:
        transitions: The engines.
        probe: Finds out whether an engine is there, and what it tells.
    """

    def __init__(
        self, transitions: SlotTransitions, probe: Callable[[EngineAddress], Awaitable[Found]]
    ) -> None:
        self._transitions = transitions
        self._probe_one = probe
        self._began = False
        self._probing: dict[Engine, asyncio.Task[None]] = {}

    async def run_once(self) -> None:
        """Probes the engines that are due, then waits until others may be.

        The first time all at once. After that, they are spread over the time, because a hundred probes at
        once would make calls wait. No engine waits for the answer of another one.
        """
        began_s = self._transitions.clock()
        ends_s = began_s + FOLLOW_EVERY_S
        due = [
            engine
            for engine in self._transitions.directory.engines
            if engine.probe_at_s < ends_s and engine not in self._probing
        ]
        apart_s = FOLLOW_EVERY_S / max(1, len(due)) if self._began else 0.0
        self._began = True
        try:
            for number, engine in enumerate(due):
                if apart_s and number:
                    await asyncio.sleep(began_s + number * apart_s - self._transitions.clock())
                engine.probe_at_s = math.inf
                self._probing[engine] = asyncio.create_task(self._probe(engine))
            await asyncio.sleep(ends_s - self._transitions.clock())
        except asyncio.CancelledError:
            for probe in self._probing.values():
                probe.cancel()
            raise

    async def _probe(self, engine: Engine) -> None:
        began_s = self._transitions.clock()
        try:
            await self._ask(engine)
        except Exception:
            log.exception("%s: its probe failed; there will be another one", engine.address)
        finally:
            del self._probing[engine]
            pause_s = FOLLOW_EVERY_S if _is_scarce(engine) else PROBE_EVERY_S
            engine.probe_at_s = began_s + max(pause_s, engine.probe_pause_s)

    async def _ask(self, engine: Engine) -> None:
        was_failed, conversations = engine.probes_failed, engine.conversations
        found, *_ = await asyncio.gather(
            self._probe_one(engine.address), *(self._ping(slot) for slot in engine.used)
        )
        if not isinstance(found, Wrong) or any(isinstance(slot.state, Live) for slot in engine.used):
            answers_again = engine.probes_failed >= PROBES_TO_FAIL
            engine.probe_answered()
            if answers_again:
                log.info("%s answers again", engine.address)
                self._transitions.changes.happened()
        else:
            engine.probe_failed()
            if engine.probes_failed >= PROBES_TO_FAIL > was_failed:
                log.warning("%s %s: it gets no calls until it answers again", engine.address, found.what)
        engine.probe_pause_s = 0.0
        match found:
            case Told():
                self._transitions.follow(engine, found, conversations)
            case None:
                self._transitions.unfollow(engine)
            case Wrong(token=True):
                engine.probe_pause_s = WRONG_TOKEN_PAUSE_S
            case Wrong():
                pass

    async def _ping(self, slot: Slot) -> None:
        """Drops a warm session whose engine hangs, or whose connection a firewall has forgotten."""
        match slot.state:
            case Warm(session=session) as warm:
                if not await session.answers(TIMEOUT_S) and slot.state is warm:
                    log.warning("%s: its warm session does not answer and is dropped", slot.engine.address)
                    self._transitions.failed(slot, Stage.AHEAD)
                    slot.engine.probe_failed()
                    self._transitions.cool(slot)
            case _:
                pass


class Renewals:
    """Renews leases, releases warm slots that another bridge wants, and refreshes how other slots are held.

    Args:
        transitions: The engines.
        every_s: How often leases are renewed.
        callers_wait: Whether a caller of this bridge waits for a slot.
    """

    def __init__(
        self, transitions: SlotTransitions, every_s: float, callers_wait: Callable[[], bool]
    ) -> None:
        self._transitions = transitions
        self._every_s = every_s
        self._callers_wait = callers_wait
        self._looked = False
        self._turn = 0

    async def run_once(self) -> None:
        """Renews all leases held here, looks up all other slots, then waits until the next run is due."""
        try:
            await self._renew()
            await self._look()
        except StoreUnreachable:  # WatchedLeases has logged it
            await asyncio.sleep(min(SOON_S, self._every_s))
        else:
            await asyncio.sleep(min(SOON_S, self._every_s) if self._callers_wait() else self._every_s)

    async def _renew(self) -> None:
        held = [(slot, slot.grant) for slot in self._transitions.directory.used]
        mine = [(slot, grant) for slot, grant in held if grant is not None]
        renewals = (
            await self._transitions.store.renew([(grant, slot.use) for slot, grant in mine]) if mine else []
        )
        for (slot, grant), renewal in zip(mine, renewals, strict=True):
            if slot.grant != grant:
                continue
            if renewal is Renewal.LOST:
                self._transitions.fence_off(slot)
            elif renewal is Renewal.WANTED and slot.ahead is not None:
                log.info("%s: its warm session is dropped for a call of another bridge", slot.engine.address)
                self._transitions.cool(slot)

    async def _look(self) -> None:
        """Looks up slots not held here. Asks even if there are none, to learn whether the store answers.

        All that others hold, and as many of the idle ones as `IDLE_LOOKED_UP`. The first time all, so that no
        call has to try what others hold already.
        """
        directory = self._transitions.directory
        slots = [*directory.elsewhere, *directory.taken, *self._next_idle()]
        states = [slot.state for slot in slots]
        refusals = await self._transitions.store.look([slot.key for slot in slots])
        self._looked = True
        for slot, state, refusal in zip(slots, states, refusals, strict=True):
            if slot.state is state:  # otherwise the answer may describe our own lease
                self._transitions.seen(slot, refusal)

    def _next_idle(self) -> list[Slot]:
        """The idle slots that are looked up next."""
        engines = tuple(self._transitions.directory.engines)
        if not self._looked:
            return [slot for engine in engines for slot in engine.idle]
        idle: list[Slot] = []
        for _ in engines:
            self._turn = (self._turn + 1) % len(engines)
            engine = engines[self._turn]
            next_ones = list(itertools.islice(engine.idle, IDLE_LOOKED_UP - len(idle)))
            for slot in next_ones:
                engine.idle.move_to_end(slot)  # the next time, others come first
            idle += next_ones
            if len(idle) == IDLE_LOOKED_UP:
                break
        return idle


def _is_scarce(engine: Engine) -> bool:
    """Whether something may change that calls wait for, and only a probe tells of it."""
    if engine.told is None:
        return False
    return engine.closed is not None or bool(engine.taken)
