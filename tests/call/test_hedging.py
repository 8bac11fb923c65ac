"""An engine that keeps a call waiting: another one is asked too, and the caller is never left in silence."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.call.rig import KIND, bridge
from tests.call.test_engine_maintenance import KIND as PROMPTS
from tests.call.test_engine_maintenance import A, B
from tests.call.test_engine_maintenance import pool as fake_pool
from tests.virtual_time import run

from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Kind
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.pool import PoolLimits, SlotState
from pxbridge.simulation import faults
from pxbridge.simulation.phone import Script
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from numpy.typing import NDArray
    from tests.call.rig import Bridge

    from pxbridge.simulation.phone import Phone

SILENT_S = 2.0
"""The longest that a caller hears nothing while there is no agent."""
QUIET = 100
"""Root mean square of 20 ms of 16-bit sound. Comfort noise is below this, speech and music are above."""
HEDGE_S = PoolLimits().hedge_after_s
PATIENT = CallLimits(max_wait_s=60.0, failover_timeout_s=40.0)


def longest_silence_s(heard: NDArray[np.int16], until_s: float) -> float:
    """The longest stretch without anything that a caller notices."""
    packets = heard[: round(until_s * 8000) // 160 * 160].reshape(-1, 160).astype(np.float64)
    loud = np.flatnonzero(np.sqrt(np.mean(packets**2, axis=1)) > QUIET)
    return float(np.diff(np.concatenate(([0], loud, [len(packets)]))).max()) * 0.02


def live_after_s(b: Bridge) -> list[float]:
    """How long each call waited for its first engine."""
    return [r.live_s - r.started_s for r in b.records if r.live_s is not None and r.started_s is not None]


def test_a_call_whose_engine_never_answers_gets_another_one_soon() -> None:
    async def main() -> None:
        async with bridge((faults.StaysSilent(),), (), mode=Mode.PARROT, handshake_timeout_s=30.0) as b:
            phone = await b.call(Script(hang_up_at_s=12.0))
            record = await b.record()
            assert live_after_s(b) == [pytest.approx(HEDGE_S, abs=0.3)]
            assert record.engine == b.engines[1].url
            assert longest_silence_s(phone.player.heard, 8.0) <= SILENT_S
            assert [event.detail["engine"] for event in b.events if event.kind is Kind.ENGINE_TRIED] == [
                engine.url for engine in b.engines
            ]
            assert b.pool.hedges == {"first": 0, "second": 1, "none": 0}
            assert b.pool.failures()[b.engines[0].url]["setup"] == 1, "it counts against the silent one"
            await asyncio.sleep(1.0)
            assert b.engines[0].clients == 0
            again = await b.call(Script(hang_up_at_s=5.0))
            await b.record()
            assert live_after_s(b)[1] < 0.5, "the next call asks the one that answered"
            assert not (phone.faults or again.faults)

    run(main())


def test_the_first_engine_is_kept_if_it_is_ready_first_and_the_other_is_free_at_once() -> None:
    async def main() -> None:
        async with bridge((), (), prompt_s=4.0) as b:
            calling = asyncio.create_task(b.call(Script(hang_up_at_s=9.0)))
            await asyncio.sleep(HEDGE_S + 0.5)
            assert [engine.clients for engine in b.engines] == [1, 1]
            await asyncio.sleep(4.4 - HEDGE_S)
            assert [engine.clients for engine in b.engines] == [1, 0]
            assert b.pool.states() == {SlotState.LIVE: 1, SlotState.IDLE: 1}
            await calling
            assert b.pool.hedges == {"first": 1, "second": 0, "none": 0}
            assert not any(any(stages.values()) for stages in b.pool.failures().values())

    run(main())


def test_engines_that_usually_take_long_are_given_the_time() -> None:
    async def main() -> None:
        async with bridge((), (), prompt_s=5.0) as b:
            for _ in range(2):
                await b.call(Script(hang_up_at_s=8.0))
            assert b.pool.hedges.total() == 1, "only the first time, when nothing is known of them"
            assert b.pool.hedge_after_s == pytest.approx(10.0, abs=0.5)

    run(main())


def test_a_call_that_hangs_up_while_two_engines_are_asked_frees_both() -> None:
    async def main() -> None:
        async with bridge((faults.StaysSilent(),), (faults.StaysSilent(),), handshake_timeout_s=30.0) as b:
            await b.call(Script(hang_up_at_s=HEDGE_S + 1.0))
            await asyncio.sleep(0.5)
            assert [engine.clients for engine in b.engines] == [0, 0]
            assert b.pool.states() == {SlotState.IDLE: 2}
            assert b.pool.hedges == {"first": 0, "second": 0, "none": 1}

    run(main())


def test_no_slot_is_taken_as_the_second_that_another_call_needs() -> None:
    async def main() -> None:
        async with fake_pool((A, B), warm={PROMPTS: 1}) as pool:
            await asyncio.sleep(5.0)
            place, none = pool.place(), set[EngineAddress]()
            assert pool.states() == {SlotState.WARM: 1, SlotState.IDLE: 1}
            pool.promises.make("one call")
            pool.promises.make("another call")
            assert await pool.hedge(PROMPTS, none, place) is None, "both are promised"
            await asyncio.sleep(11.0)
            first = await pool.hedge(PROMPTS, none, place)
            assert first is not None
            assert await pool.hedge(PROMPTS, none, place) is None, "a warm one is for a call without any"
            first.cancel()
            await asyncio.sleep(1.0)
            warm, other = await pool.lease(PROMPTS), await pool.lease(PROMPTS)
            waits = asyncio.create_task(pool.lease_in_turn(PROMPTS, place))
            await asyncio.sleep(0.5)
            late = pool.place()
            other.cancel()
            await asyncio.sleep(0.1)
            assert await pool.hedge(PROMPTS, none, late) is None, "a call that came earlier waits"
            (await waits).release()
            warm.release()

    run(main())


def test_no_second_engine_is_asked_if_the_setting_is_0() -> None:
    async def main() -> None:
        async with bridge(
            (faults.StaysSilent(),), (), handshake_timeout_s=20.0, pool_limits=PoolLimits(hedge_after_s=0.0)
        ) as b:
            await b.call(Script(hang_up_at_s=25.0))
            await b.record()
            assert live_after_s(b) == [pytest.approx(20.0, abs=0.5)]
            assert b.pool.hedges.total() == 0

    run(main())


async def prompting() -> tuple[Phone, float]:
    """Its only engine takes long."""
    async with bridge(prompt_s=20.0, mode=Mode.PARROT) as b:
        return await b.call(Script(hang_up_at_s=30.0)), 20.0


async def silent_engines() -> tuple[Phone, float]:
    """Two engines never answer."""
    async with bridge((faults.StaysSilent(),), (faults.StaysSilent(),), handshake_timeout_s=60.0) as b:
        return await b.call(Script(hang_up_at_s=30.0)), 30.0


async def waiting() -> tuple[Phone, float]:
    """The only engine is in another call, and then takes long."""
    async with bridge(prompt_s=5.0, mode=Mode.PARROT, limits=PATIENT) as b:
        first = asyncio.create_task(b.call(Script(hang_up_at_s=20.0)))
        await asyncio.sleep(1.0)
        phone = await b.call(Script(hang_up_at_s=30.0))
        await first
        return phone, 24.0


async def failover() -> tuple[Phone, float]:
    """Its engine dies, and the next one never answers."""
    async with bridge(
        (faults.Dies(after_steps=50),),
        (faults.StaysSilent(),),
        mode=Mode.CANNED,
        handshake_timeout_s=60.0,
        limits=PATIENT,
    ) as b:
        return await b.call(Script(hang_up_at_s=30.0)), 30.0


@pytest.mark.parametrize(
    "scene", [prompting, silent_engines, waiting, failover], ids=lambda scene: scene.__name__
)
def test_a_caller_without_an_agent_hears_something_within_two_seconds_at_any_time(
    scene: Callable[[], Coroutine[Any, Any, tuple[Phone, float]]],
) -> None:
    phone, until_s = run(scene())
    assert longest_silence_s(phone.player.heard, until_s) <= SILENT_S


def test_a_conversation_whose_next_engine_never_answers_gets_the_one_after() -> None:
    async def main() -> None:
        async with bridge(
            (faults.Dies(after_steps=50),), (faults.StaysSilent(),), (), mode=Mode.CANNED,
            handshake_timeout_s=60.0, limits=PATIENT, personas=KIND,
        ) as b:  # fmt: skip
            phone = await b.call(Script(hang_up_at_s=20.0))
            record = await b.record()
            assert record.failovers == 1
            assert record.engine == b.engines[2].url
            lost_s = next(event.at_s for event in b.events if event.kind is Kind.ENGINE_LOST)
            live_s = [event.at_s for event in b.events if event.kind is Kind.LIVE]
            assert live_s[1] - lost_s == pytest.approx(HEDGE_S, abs=0.3)
            assert longest_silence_s(phone.player.heard, 20.0) <= SILENT_S

    run(main())
