"""Fifty calls while engines are killed and come back: in virtual time, from one seed.

Ten minutes of it take minutes of a processor, so what every change is tested with is shorter; the whole is
``PXBRIDGE_SOAK_S=600 pytest tests/call/test_soak.py``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from pathlib import Path

from tests.call.rig import bridge
from tests.call.test_engines_fail import gaps_s
from tests.virtual_time import run

from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Kind
from pxbridge.exotel.phone import Line, Script
from pxbridge.personaplex.rehearsal import Mode

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


def descriptors() -> int:
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))


def test_calls_outlive_engines_that_are_killed_at_random() -> None:
    async def main() -> None:
        chance = random.Random(SEED)
        async with bridge(
            *[()] * ENGINES, mode=Mode.CANNED, slots=SLOTS, prompt_s=0.5, warm=WARM, limits=CallLimits()
        ) as b:

            async def kill_engines() -> None:
                while True:
                    await asyncio.sleep(chance.expovariate(1 / KILLED_EVERY_S))
                    engine = chance.choice(b.engines)
                    await engine.stop()
                    await asyncio.sleep(DOWN_S)
                    await engine.start()

            async def one_call(number: int) -> None:
                await asyncio.sleep(chance.uniform(0, 2.0))
                phone = await b.call(
                    Script(hang_up_at_s=SOAK_S), Line(chunk_ms=chance.choice((20.0, 100.0))), seed=number
                )
                assert phone.duration_s >= SOAK_S - 0.2, "a call that could have been kept was lost"
                assert not phone.faults

            await asyncio.sleep(5.0)
            before = (len(asyncio.all_tasks()), descriptors())
            killer = asyncio.create_task(kill_engines())
            await asyncio.gather(*(one_call(number) for number in range(CALLS)))
            killer.cancel()
            await asyncio.gather(killer, return_exceptions=True)
            for engine in b.engines:
                await engine.stop()
                await engine.start()
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
