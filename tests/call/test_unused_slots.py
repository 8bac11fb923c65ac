"""Slots and engines that nobody uses cost calls nothing.

The work is counted in bytecodes of the package that are run, so that no figure depends on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.call.test_engine_maintenance import KIND, PROMPT_S, STERN, Elsewhere, FakeSession
from tests.virtual_time import run

import pxbridge
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.leases import Refusal, Use
from pxbridge.engines.pool import EnginePool, Prompts
from pxbridge.errors import NoEngineFree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import FrameType
    from typing import Any

    from pxbridge.engines.leases import LeaseStore

PACKAGE = str(Path(pxbridge.__file__).parent)
USED = 4
"""Calls that are live while the work is counted."""
MOST = 1.1
"""The most that work may grow with slots and engines that nobody uses."""


class Work:
    """Counts the bytecodes of the package that run in a block."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._begin)
        try:
            yield
        finally:
            sys.settrace(before)

    def _begin(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._run

    def _run(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.count += event == "opcode"
        return self._run


@contextlib.asynccontextmanager
async def pool(
    engines: int, slots: int, *, warm: int = 0, store: LeaseStore | None = None
) -> AsyncIterator[EnginePool]:
    """A pool of engines that are not there, with `USED` live calls and `warm` sessions."""

    async def open_session(
        engine: EngineAddress, prompts: Prompts, connected: Callable[[FakeSession], None]
    ) -> FakeSession:
        session = FakeSession(engine, prompts, lambda: True)
        connected(session)
        await asyncio.sleep(PROMPT_S)
        return session

    async def probe(_engine: EngineAddress) -> None:
        """It answers."""

    async with EnginePool(
        [EngineAddress(f"ws://engine{number}/api/chat") for number in range(engines)],
        slots,
        open_session=open_session,  # type: ignore[arg-type]
        store=store,
        warm={KIND: warm},
        probe_engine=probe,
    ) as running:
        for _ in range(USED):
            await (await running.lease(STERN)).session()
        await asyncio.sleep(60.0)
        yield running


async def calls(pool: EnginePool) -> None:
    """Calls come and go."""
    for _ in range(5):
        lease = await pool.lease(KIND)
        await lease.session()
        lease.release()
        await asyncio.sleep(5.0)


async def questions(pool: EnginePool) -> None:
    """What callers, flows and other bridges ask now and then."""
    for _ in range(10):
        assert pool.free
        pool.promises.make("a call")
        assert pool.has_free_besides(EngineAddress("ws://engine0/api/chat"))
        assert pool.states()


async def upkeep(_pool: EnginePool) -> None:
    """Nothing happens for a while."""
    await asyncio.sleep(20.0)


def cost(
    work: Callable[[EnginePool], Awaitable[None]],
    engines: int,
    slots: int,
    make_store: Callable[[], LeaseStore | None] = lambda: None,
    warm: int = 2,
) -> int:
    async def main() -> int:
        async with pool(engines, slots, warm=warm, store=make_store()) as running:
            clock, counted, probes = asyncio.get_running_loop().time, Work(), Work()
            began_s = clock()
            with counted.counted():
                await work(running)
            if work is calls:  # without the upkeep meanwhile
                took_s = clock() - began_s
                with probes.counted():
                    await asyncio.sleep(took_s)
            return counted.count - probes.count

    return run(main(), limit_s=600.0)


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("work", [calls, questions], ids=lambda work: work.__name__)
def test_a_call_among_5000_unused_slots_costs_what_it_costs_among_few(
    work: Callable[[EnginePool], Awaitable[None]], warm: int
) -> None:
    assert cost(work, 200, 25, warm=warm) <= MOST * cost(work, 4, 5, warm=warm)


def test_upkeep_costs_no_more_for_slots_that_nobody_uses() -> None:
    assert cost(upkeep, 200, 25) <= MOST * cost(upkeep, 200, 1)


def test_upkeep_of_slots_in_a_shared_store_is_bounded() -> None:
    assert cost(upkeep, 4, 1250, Elsewhere) <= MOST * cost(upkeep, 4, 75, Elsewhere)


def test_what_another_bridge_took_among_many_slots_is_known_within_half_a_minute() -> None:
    async def main() -> None:
        store = Elsewhere()
        async with pool(4, 1250, store=store) as b:
            free = b.free
            for number in range(1000):
                await store.acquire(f"ws://engine1/api/chat#{number}", Use.CALL)
            await asyncio.sleep(15.0)
            assert free - b.free == 1000

    run(main(), limit_s=600.0)


def test_a_store_that_has_lost_its_data_is_asked_for_one_slot_and_not_for_each() -> None:
    async def main() -> None:
        store = Elsewhere()
        async with pool(4, 1250, store=store) as b:
            store.theirs, asked = Refusal.SETTLING, store.asked
            with pytest.raises(NoEngineFree):
                await b.lease(STERN)
            assert (store.asked - asked, b.free) == (1, 0)
            store.theirs = None
            await asyncio.sleep(1.0)
            assert b.free == 5000 - USED

    run(main(), limit_s=600.0)
