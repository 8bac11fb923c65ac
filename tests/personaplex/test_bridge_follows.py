"""A bridge in front of engines that tell how many conversations they take: it goes by what they tell."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from tests.call.test_engines_fail import times_heard
from tests.personaplex.bridged import CommonLeases, bridge_to
from tests.personaplex.fake_model import Costs
from tests.personaplex.rig import PERSONA, serving
from tests.virtual_time import run

from pxbridge.calls.announcements import Sound
from pxbridge.calls.call_state import Phase
from pxbridge.calls.conversation import CallLimits
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.pool import Prompts, SlotState
from pxbridge.errors import EngineFull, NoEngineFree
from pxbridge.personaplex.server import Rules
from pxbridge.simulation.phone import Phone, Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.call.rig import Bridge

    from pxbridge.engines.lease import Lease

TOKEN = "a token of the engine"
KIND = Prompts("NATF0.pt", "You are kind.")
STERN = Prompts("NATM1.pt", "You are stern.")
PATIENT = CallLimits(max_wait_s=60.0)


async def becomes(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.05)


def phases(b: Bridge) -> list[str]:
    return [str(event.detail["phase"]) for event in b.events if event.kind.value == "phase"]


def busy(b: Bridge) -> int:
    (failures,) = b.pool.failures().values()
    assert failures["setup"] == failures["call"] == failures["ahead"] == 0
    return failures["busy"]


def test_an_engine_is_leased_as_often_as_it_tells() -> None:
    async def main() -> None:
        async with serving(4) as rig, bridge_to(rig) as b:
            await becomes(lambda: b.pool.free == 4)
            leases = [await b.pool.lease(KIND) for _ in range(4)]
            for lease in leases:
                await lease.session()
            with pytest.raises(NoEngineFree, match="4 live"):
                await b.pool.lease(KIND)
            for lease in leases:
                lease.release()
            await becomes(lambda: b.pool.free == 4)
            assert rig.places.free == 4

    run(main())


def test_an_engine_that_tells_of_itself_draws_tokens_as_a_call_asks_for() -> None:
    async def main() -> None:
        async with serving(1) as rig, bridge_to(rig) as b:
            await becomes(lambda: b.pool.takes_sampling)
            lease = await b.pool.lease(KIND._replace(sampling="text_temperature=0.5&seed=42"))
            await lease.session()
            _, _, sampling = rig.stepper.opened[-1]
            assert (sampling.text_temperature, sampling.seed) == (0.5, 42)
            lease.release()

    run(main())


def test_what_others_have_of_an_engine_is_not_offered_and_their_leaving_is_noticed_within_a_second() -> None:
    async def main() -> None:
        async with serving(3) as rig, bridge_to(rig) as b:
            await becomes(lambda: b.pool.free == 3)
            lease = await b.pool.lease(KIND)
            await lease.session()
            strangers = [await rig.call() for _ in range(2)]
            await becomes(lambda: b.pool.free == 0)
            assert b.pool.states() == {SlotState.LIVE: 1, SlotState.ELSEWHERE: 2}
            await strangers[0].hang_up()
            await becomes(lambda: b.pool.free == 1, within_s=1.5)
            await strangers[1].hang_up()
            await becomes(lambda: b.pool.free == 2, within_s=1.5)
            lease.release()
            await becomes(lambda: b.pool.free == 3)

    run(main())


def test_a_full_engine_is_busy_and_not_broken_and_the_call_keeps_its_place() -> None:
    async def main() -> None:
        async with serving(1, line=0) as rig, bridge_to(rig, limits=PATIENT) as b:
            await asyncio.sleep(2.0)
            stranger = await rig.call()  # until the next probe the bridge does not know
            assert b.pool.free == 1
            call = asyncio.create_task(b.call(Script(hang_up_at_s=20.0)))
            await asyncio.sleep(3.0)
            assert phases(b) == [Phase.PROMPTING, Phase.WAITING]
            assert busy(b) >= 1
            later = asyncio.create_task(b.pool.lease_in_turn(STERN))
            await asyncio.sleep(3.0)
            assert b.pool.states() == {SlotState.ELSEWHERE: 1}, "not unhealthy"
            await stranger.hang_up()
            await becomes(lambda: Phase.LIVE in phases(b), within_s=2.0)
            assert not later.done(), "who came first is served first"
            await call
            (await later).release()
            assert busy(b) <= 3, "it was not tried over and over"

    run(main())


def test_a_caller_waits_in_the_line_of_an_engine_that_others_have_filled() -> None:
    async def main() -> None:
        async with serving(2, line=8) as rig, bridge_to(rig, limits=PATIENT) as b:
            strangers = [await rig.call() for _ in range(2)]
            ahead = await rig.call({**PERSONA, "queue": 1})
            await becomes(lambda: b.pool.free == 0)
            place = b.pool.place()
            waits = asyncio.create_task(b.pool.lease_in_turn(KIND, place))
            behind = b.pool.place()
            waits_behind = asyncio.create_task(b.pool.lease_in_turn(STERN, behind))
            await becomes(lambda: place.in_line == 2)
            assert (b.pool.position(place), b.pool.position(behind)) == (2, 3)
            assert b.pool.free == 0
            after = await rig.call({**PERSONA, "queue": 1})
            await strangers[0].hang_up()
            await ahead.live()
            await becomes(lambda: place.in_line == 1)
            assert (b.pool.position(place), b.pool.position(behind)) == (1, 2)
            await strangers[1].hang_up()
            lease = await waits
            session = await lease.session()
            assert session.is_live
            assert b.pool.position(place) is None
            assert b.prompted == [KIND], "one call at a time stands in the line"
            await becomes(lambda: behind.in_line == 2)
            await ahead.hang_up()
            await after.live()
            waits_behind.cancel()
            await becomes(lambda: rig.places.waiting == 0)
            lease.release()
            await becomes(lambda: rig.places.free == 1)

    run(main())


def test_a_slot_that_a_call_of_the_bridge_leaves_goes_to_its_own_caller_in_the_engines_line() -> None:
    async def main() -> None:
        slow = Costs(chunk_s=0.3)  # a prompt takes longer than it takes until the slot could be leased
        async with serving(2, line=8, costs=slow) as rig, bridge_to(rig, limits=PATIENT) as b:
            await becomes(lambda: b.pool.free == 2)
            ours = await b.pool.lease(KIND)
            await ours.session()
            await rig.call()
            await becomes(lambda: b.pool.free == 0)
            place = b.pool.place()
            waits = asyncio.create_task(b.pool.lease_in_turn(STERN, place))
            await becomes(lambda: place.in_line == 1)
            behind = await rig.call({**PERSONA, "queue": 1})
            await asyncio.sleep(1.0)
            ours.release()
            lease = await waits
            assert (await lease.session()).is_live
            assert behind.handshakes == 0, "whoever came later still waits"
            lease.release()
            await behind.live()

    run(main())


def test_a_caller_hears_its_place_in_the_engines_line() -> None:
    async def main() -> Phone:
        async with serving(1, line=8) as rig, bridge_to(rig, limits=PATIENT) as b:
            stranger = await rig.call()
            ahead = await rig.call({**PERSONA, "queue": 1})
            await asyncio.sleep(6.0)
            call = asyncio.create_task(b.call(Script(hang_up_at_s=30.0)))
            await asyncio.sleep(15.0)
            await stranger.hang_up()
            await ahead.live()
            await ahead.hang_up()
            await becomes(lambda: Phase.LIVE in phases(b))
            return await call

    phone = run(main())
    assert [times_heard(phone, place) for place in (Sound.PLACE_1, Sound.PLACE_2)] == [0, 1]


def test_who_waits_in_an_engines_line_takes_another_engine_that_is_free_sooner() -> None:
    async def main() -> None:
        async with serving(1) as one, serving(1) as other, bridge_to(one, other, limits=PATIENT) as b:
            strangers = [await rig.call() for rig in (one, other)]
            await becomes(lambda: b.pool.free == 0)
            waits = asyncio.create_task(b.pool.lease_in_turn(KIND))
            await becomes(lambda: one.places.waiting + other.places.waiting == 1)
            line, free = (one, other) if one.places.waiting else (other, one)
            await strangers[0 if free is one else 1].hang_up()
            lease = await waits
            assert f":{free.server.port}/" in str(lease.engine)
            await lease.session()
            await becomes(lambda: line.places.waiting == 0)
            lease.release()

    run(main())


def test_an_engine_that_drains_gets_no_calls_and_loses_what_was_prompted_ahead() -> None:
    async def main() -> None:
        async with serving(3) as rig, bridge_to(rig, warm=1) as b:
            await becomes(lambda: b.pool.states()[SlotState.WARM] == 1)
            lease = await b.pool.lease(STERN)
            session = await lease.session()
            draining = asyncio.create_task(rig.server.drain(60.0))
            await becomes(lambda: b.pool.free == 0)
            await becomes(lambda: b.pool.states() == {SlotState.LIVE: 1, SlotState.UNHEALTHY: 2})
            assert session.is_live and not draining.done(), "the call goes on"
            lease.release()
            await draining

    run(main())


def test_an_engine_that_warms_up_gets_calls_when_it_is_ready() -> None:
    async def main() -> None:
        async with serving(2, warm_up_s=20.0, wait_ready=False) as rig, bridge_to(rig) as b:
            await becomes(lambda: b.pool.states() == {SlotState.UNHEALTHY: 2})
            with pytest.raises(NoEngineFree):
                await b.pool.lease(KIND)
            await rig.engine.ready.wait()
            await becomes(lambda: b.pool.free == 2, within_s=1.5)

    run(main())


def test_slots_follow_an_engine_that_is_replaced_by_a_smaller_or_larger_one() -> None:
    async def main() -> None:
        async with serving(4) as rig, bridge_to(rig) as b:
            await becomes(lambda: b.pool.free == 4)
            for slots in (2, 6, 1):
                rig.places.slots = slots
                rig.places._free.clear()
                rig.places._free.extend(range(slots))
                await becomes(lambda slots=slots: b.pool.free == slots)  # type: ignore[misc]
                assert sum(b.pool.states().values()) == slots

    run(main())


def test_the_token_is_shown_to_probes_and_conversations_and_a_wrong_one_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with serving(2, rules=Rules(token=TOKEN)) as rig:
            async with bridge_to(rig, token=TOKEN, warm=1) as b:
                await becomes(lambda: b.pool.states()[SlotState.WARM] == 1)
            for token, mend in ((None, "set PXBRIDGE_ENGINE_TOKEN"), ("another", "the same here and there")):
                caplog.clear()
                async with bridge_to(rig, token=token) as b:
                    await becomes(lambda b=b: b.pool.free == 0, within_s=60.0)  # type: ignore[misc]
                    assert mend in caplog.text
            async with bridge_to(rig, token=TOKEN) as b:
                # Wrong ones from the same address have not shut out who has the right one.
                await becomes(lambda: b.pool.free == 2)
            assert TOKEN not in caplog.text

    with caplog.at_level(logging.INFO):
        run(main(), 300.0)


def test_a_token_that_is_mended_by_a_reload_opens_the_engine_at_once() -> None:
    async def main() -> None:
        async with serving(2, rules=Rules(token=TOKEN)) as rig, bridge_to(rig, token="another") as b:
            await becomes(lambda: b.pool.free == 0, within_s=60.0)
            await asyncio.sleep(2.0)
            b.pool.replace_engines([EngineAddress(rig.url("").rstrip("?"), token=TOKEN)])
            await becomes(lambda: b.pool.free == 2, within_s=2.0)

    run(main())


def test_two_bridges_without_a_common_store_share_an_engine() -> None:
    async def main() -> None:
        async with serving(4) as rig, bridge_to(rig) as one, bridge_to(rig) as other:
            await becomes(lambda: one.pool.free == other.pool.free == 4)
            leases: list[Lease] = []
            full = 0
            for n in range(8):
                pool = (one, other)[n % 2].pool
                try:
                    lease = await pool.lease(KIND)
                except NoEngineFree:
                    continue
                try:
                    await lease.session()
                    leases.append(lease)
                except EngineFull:
                    full += 1
                    lease.release()
            assert len(leases) == 4
            assert full <= 2, "each learns of the other at the first refusal"
            for lease in leases:
                lease.release()
            await becomes(lambda: one.pool.free == other.pool.free == 4)

    run(main())


def test_bridges_with_a_common_store_share_an_engine_and_refuse_each_other_nothing() -> None:
    async def main() -> None:
        store = CommonLeases()
        async with (
            serving(4) as rig,
            bridge_to(rig, store=store) as one,
            bridge_to(rig, store=store) as other,
        ):
            await becomes(lambda: one.pool.free == other.pool.free == 4)
            leases = [await (one, other)[n % 2].pool.lease(KIND) for n in range(4)]
            for lease in leases:
                await lease.session()
            await asyncio.sleep(7.0)
            assert one.pool.states() == other.pool.states() == {SlotState.LIVE: 2, SlotState.ELSEWHERE: 2}
            waits = asyncio.create_task(other.pool.lease_in_turn(STERN))
            await asyncio.sleep(2.0)
            leases[0].release()
            async with asyncio.timeout(1.0):
                late = await waits
            await late.session()
            stranger_came = await rig.refused()
            assert stranger_came.status == 503
            assert busy(one) == busy(other) == 0
            leases[1].release()
            stranger = await rig.call()
            await becomes(lambda: one.pool.free == other.pool.free == 0)
            await stranger.hang_up()
            await becomes(lambda: one.pool.free == other.pool.free == 1)
            for lease in (*leases[2:], late):
                lease.release()
            await becomes(lambda: one.pool.free == other.pool.free == 4)

    run(main())
