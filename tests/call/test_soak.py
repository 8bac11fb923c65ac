"""Fifty calls while engines are killed and come back: in virtual time, from one seed.

Ten minutes of it take minutes of a processor, so what every change is tested with is shorter; the whole is
``PXBRIDGE_SOAK_S=600 pytest tests/call/test_soak.py``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from tests.call.rig import bridge
from tests.call.test_engines_fail import gaps_s
from tests.call.test_freed import alive, left_to_the_collector, no_collector
from tests.call.test_recording import RECORDED
from tests.virtual_time import run

from pxbridge.calls.call_state import Outcome
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Kind
from pxbridge.calls.summary import outcome
from pxbridge.engines.pool import SlotState
from pxbridge.records.recording import Recorder
from pxbridge.simulation.phone import HangUp, Line, Script
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.call.rig import Bridge

CALLS = 50
SOAK_S = float(os.environ.get("PXBRIDGE_SOAK_S", "10"))
ENGINES = 12
SLOTS = 8
WARM = 16
KILLED_EVERY_S = 3.0
"""On average; each time a twelfth of all calls lose their engine."""
DOWN_S = 4.0
LONGEST_GAP_S = 1.5
SEED = 7

HARD_CALLS = 30
HARD_SLOTS = (3, 6)
"""Engines, and slots of each: fewer than calls, so that some wait, and all the more when one is killed."""
HARD_S = 20.0
HARD_KILLED_EVERY_S = 2.0
DEFINED = {
    Outcome.COMPLETED,
    Outcome.ABANDONED,
    Outcome.NO_ENGINE,
    Outcome.ENGINE_FAILED,
    Outcome.ENGINE_LOST,
    Outcome.PHONE_LOST,  # a phone that breaks off
}
"""What may become of a call when engines are too few."""


def descriptors() -> int:
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))


@dataclass(frozen=True)
class Left:
    """What calls may leave behind."""

    tasks: int
    descriptors: int

    @classmethod
    def now(cls) -> Self:
        return cls(len(asyncio.all_tasks()), descriptors())


@asynccontextmanager
async def engines_killed(
    b: Bridge, chance: random.Random, *, every_s: float, down_s: tuple[float, float]
) -> AsyncIterator[None]:
    """Kills an engine every so often, which comes back after a while; in the end all are new and up."""

    async def kill_engines() -> None:
        while True:
            await asyncio.sleep(chance.expovariate(1 / every_s))
            engine = chance.choice(b.engines)
            await engine.stop()
            await asyncio.sleep(chance.uniform(*down_s))
            await engine.start()

    killer = asyncio.create_task(kill_engines())
    yield
    killer.cancel()
    await asyncio.gather(killer, return_exceptions=True)
    for engine in b.engines:
        await engine.stop()
        await engine.start()


def test_calls_outlive_engines_that_are_killed_at_random() -> None:
    async def main() -> None:
        chance = random.Random(SEED)
        async with bridge(
            *[()] * ENGINES, mode=Mode.CANNED, slots=SLOTS, prompt_s=0.5, warm=WARM, limits=CallLimits()
        ) as b:

            async def one_call(number: int) -> None:
                await asyncio.sleep(chance.uniform(0, 2.0))
                phone = await b.call(
                    Script(hang_up_at_s=SOAK_S), Line(chunk_ms=chance.choice((20.0, 100.0))), seed=number
                )
                assert phone.duration_s >= SOAK_S - 0.2, "a call that could have been kept was lost"
                assert not phone.faults

            await asyncio.sleep(5.0)
            before = (len(asyncio.all_tasks()), descriptors())
            async with engines_killed(b, chance, every_s=KILLED_EVERY_S, down_s=(DOWN_S, DOWN_S)):
                await asyncio.gather(*(one_call(number) for number in range(CALLS)))
            await b.record()
            assert len(b.records) == CALLS
            lost = sum(event.kind is Kind.ENGINE_LOST for event in b.events)
            gaps = gaps_s(b)
            assert lost > CALLS * SOAK_S / 100, "engines were killed"
            assert max(gaps) <= LONGEST_GAP_S
            await asyncio.sleep(60.0)
            gc.collect()
            after = (len(asyncio.all_tasks()), descriptors())
            assert abs(after[0] - before[0]) <= 8, "tasks were left behind"
            assert abs(after[1] - before[1]) <= 8, "sockets were left behind"

    run(main(), limit_s=SOAK_S + 300.0)


@pytest.mark.usefixtures("uncaptured")
def test_calls_for_which_there_are_too_few_engines_end_as_they_should_and_leave_nothing(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        chance = random.Random(SEED)
        engines, slots = HARD_SLOTS
        async with bridge(
            *[()] * engines,
            mode=Mode.RELAY,
            slots=slots,
            prompt_s=0.5,
            warm=2,
            personas=RECORDED,
            call_subscribers=[recorder.subscriber],
        ) as b:
            before = Left.now()

            async def one_call(number: int) -> None:
                await asyncio.sleep(chance.uniform(0.0, HARD_S / 2))
                script = Script(hang_up_at_s=chance.uniform(0.1, HARD_S))
                line = Line(chunk_ms=chance.choice((20.0, 100.0)), hang_up=chance.choice(list(HangUp)))
                await b.call(script, line, seed=number)

            async with engines_killed(b, chance, every_s=HARD_KILLED_EVERY_S, down_s=(0.5, 3.0)):
                await asyncio.gather(*(one_call(number) for number in range(HARD_CALLS)))
            await b.record()
            outcomes = Counter(outcome(record) for record in b.records)
            assert outcomes.total() == HARD_CALLS
            assert set(outcomes) <= DEFINED
            assert sum(event.kind is Kind.ENGINE_LOST for event in b.events) >= 3, "engines were killed"
            assert any(record.failovers for record in b.records), "calls went on with another"
            await asyncio.sleep(60.0)  # breakers have forgotten, what was prompted ahead is again
            b.forget()
            assert alive() == Counter({"_Dialled": 2}), "something of a call is left"
            assert not left_to_the_collector()
            assert b.pool.states() == Counter({SlotState.WARM: 2, SlotState.IDLE: engines * slots - 2})
            recorder.close()
            assert Left.now() == before

    recorder = Recorder(tmp_path, "wav", lambda _record: lambda _name: None)
    with no_collector():
        run(main(), limit_s=HARD_S + 300.0)
    assert len(list(tmp_path.glob("*.wav"))) >= HARD_CALLS // 2, "calls were recorded"
