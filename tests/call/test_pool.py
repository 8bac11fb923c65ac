"""The pool's own rules: which slot a call gets, and what engines are asked without a call."""

from __future__ import annotations

import asyncio

import pytest
from tests.call.rig import bridge
from tests.virtual_time import run

from pxbridge.engines.address import EngineAddress
from pxbridge.engines.pool import Prompts, SlotState
from pxbridge.engines.probe import Wrong, probe
from pxbridge.errors import EngineRejected, NoEngineFree
from pxbridge.simulation import faults

KIND = Prompts("NATF0.pt", "You are kind.")
STERN = Prompts("NATF1.pt", "You are stern.")


def test_an_engine_that_knows_the_persona_is_chosen_and_then_the_one_that_failed_least() -> None:
    async def main() -> None:
        async with bridge((), ()) as b:
            first = await b.pool.lease(KIND)
            await first.session()
            second = await b.pool.lease(STERN)
            await second.session()
            first.release()
            second.release()
            await asyncio.sleep(1.0)
            again = await b.pool.lease(STERN)
            assert again.engine == second.engine
            await again.session()
            again.lost()
            await asyncio.sleep(1.0)
            other = await b.pool.lease(STERN)
            assert other.engine == first.engine, "the one that knows it has just failed"
            other.release()

    run(main())


def test_a_slot_goes_through_its_states_and_comes_back() -> None:
    async def main() -> None:
        async with bridge(prompt_s=2.0) as b:

            def states() -> set[SlotState]:
                return {state for state, count in b.pool.states().items() if count}

            lease = await b.pool.lease(KIND)
            assert states() == {SlotState.CONNECTING}
            opening = asyncio.create_task(lease.session())
            await asyncio.sleep(1.0)
            assert states() == {SlotState.PROMPTING}
            await opening
            assert states() == {SlotState.LIVE}
            with pytest.raises(NoEngineFree, match="1 live"):
                await b.pool.lease(KIND)
            lease.release()
            assert states() == {SlotState.COOLING}
            await asyncio.sleep(1.0)
            assert states() == {SlotState.IDLE}
            await b.engines[0].stop()
            await asyncio.sleep(15.0)
            assert states() == {SlotState.UNHEALTHY}
            await b.engines[0].start()
            await asyncio.sleep(10.0)
            assert states() == {SlotState.IDLE}

    run(main())


def test_an_engine_on_trial_is_tried_with_one_conversation_and_then_takes_the_others_together() -> None:
    async def main() -> None:
        async with bridge(prompt_s=2.0, slots=4) as b:
            loop = asyncio.get_running_loop()
            for _ in range(2):  # two failures in a row: it is on trial from now on
                lease = await b.pool.lease(KIND)
                await lease.session()
                lease.lost()
                await asyncio.sleep(1.5)
            leases = [asyncio.create_task(b.pool.lease_in_turn(KIND)) for _ in range(4)]
            await asyncio.sleep(0.5)
            assert sum(lease.done() for lease in leases) == 1, "one finds out whether it works"
            (first,) = [lease.result() for lease in leases if lease.done()]
            await first.session()
            proved_s = loop.time()
            others = [lease for lease in await asyncio.gather(*leases) if lease is not first]
            await asyncio.gather(*(lease.session() for lease in others))
            assert loop.time() - proved_s == pytest.approx(2.0, abs=0.4), "together, not one after the other"
            for lease in (first, *others):
                lease.release()

    run(main())


def test_a_trial_that_fails_costs_one_conversation() -> None:
    async def main() -> None:
        async with bridge(prompt_s=2.0, slots=4) as b:
            for _ in range(2):
                lease = await b.pool.lease(KIND)
                await lease.session()
                lease.lost()
                await asyncio.sleep(1.5)
            b.engines[0].faults = (faults.ClosesPrompting(after_s=1.0),)
            tried = len(b.prompted)
            leases = [asyncio.create_task(b.pool.lease_in_turn(KIND)) for _ in range(4)]
            await asyncio.sleep(0.5)
            (trial,) = [lease.result() for lease in leases if lease.done()]
            with pytest.raises(EngineRejected):
                await trial.session()
            trial.release()
            await asyncio.sleep(1.0)
            assert len(b.prompted) == tried + 1
            assert not [lease for lease in leases if lease.done() and lease.result() is not trial]
            for waits in leases:
                waits.cancel()

    run(main())


def test_whether_an_engine_is_there_is_asked_without_a_conversation() -> None:
    async def main() -> None:
        async with bridge() as b:
            await asyncio.sleep(60.0)
            assert b.engines[0].conversations == 0
            assert b.prompted == []
            assert await probe(EngineAddress(b.engines[0].url)) is None
            await b.engines[0].stop()
            found = await probe(EngineAddress(b.engines[0].url))
            assert found == Wrong("does not answer (Connection refused)")

    run(main())


def test_engines_that_are_replaced_keep_their_live_sessions() -> None:
    async def main() -> None:
        async with bridge((), ()) as b:
            lease = await b.pool.lease(KIND)
            session = await lease.session()
            rest = [EngineAddress(e.url) for e in b.engines if EngineAddress(e.url) != lease.engine]
            b.pool.replace_engines(rest)
            assert session.is_live
            other = await b.pool.lease(KIND)
            assert other.engine == rest[0]
            other.release()
            lease.release()
            await asyncio.sleep(1.0)
            assert b.pool.addresses == rest

    run(main())
