"""Callers for whom no engine is free: they wait in turn, they are kept company, and they are told."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.call.rig import bridge, speech
from tests.call.test_engines_fail import places, times_heard
from tests.virtual_time import run

from pxbridge.calls.announcements import Sound, sound
from pxbridge.calls.call import Party
from pxbridge.calls.conversation import CallLimits
from pxbridge.engines.pool import PoolLimits
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.phone import HangUp, Line, Phone, Script
from pxbridge.simulation.rehearsal import Mode


def test_a_caller_who_waits_hears_an_announcement_then_music_then_the_agent() -> None:
    async def main() -> Phone:
        async with bridge(mode=Mode.PARROT, limits=CallLimits(max_wait_s=60.0)) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=12.0)))
            await asyncio.sleep(1.0)
            second = await b.call(Script(speech(), speak_at_s=21.0, hang_up_at_s=32.0))
            await first
            return second

    phone = run(main())
    assert times_heard(phone, Sound.PLEASE_WAIT) == times_heard(phone, Sound.PLACE_1) == 1
    music = sound(Sound.HOLD_MUSIC, 8000)[: 3 * 8000]
    (began,) = places(phone.player.heard, music)
    assert began / 8000 == pytest.approx(5.6, abs=0.5)
    hearing = listen(phone.said, phone.player.heard, 8000)
    assert hearing.correlation > 0.85, "the agent repeats what was said, with no music under it"
    assert not phone.faults


def test_callers_are_told_their_place_and_again_when_they_are_reminded() -> None:
    async def main() -> list[Phone]:
        async with bridge(limits=CallLimits(max_wait_s=100.0)) as b:
            talking = asyncio.create_task(b.call(Script(hang_up_at_s=25.0)))
            calls = []
            for _ in range(3):
                await asyncio.sleep(0.5)
                calls.append(asyncio.create_task(b.call(Script(hang_up_at_s=52.0))))
            await talking
            return list(await asyncio.gather(*calls))

    first, second, third = run(main(), 200.0)
    places = (Sound.PLACE_1, Sound.PLACE_2, Sound.PLACE_3)
    heard = [[times_heard(phone, place) for place in places] for phone in (first, second, third)]
    assert heard == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert Sound.place(10) is None and Sound.place(0) is None


def test_callers_are_served_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        async with bridge(limits=CallLimits(max_wait_s=60.0)) as b:
            talk = Script(hang_up_at_s=5.0)
            calls = [asyncio.create_task(b.call(talk, Line(call_sid="0")))]
            for n in range(1, 4):
                await asyncio.sleep(0.1)
                calls.append(
                    asyncio.create_task(b.call(Script(hang_up_at_s=4.0 + 6 * n), Line(call_sid=str(n))))
                )
            await asyncio.gather(*calls)
            await b.record()
            lives = sorted((r.live_s, r.call_id) for r in b.records if r.live_s is not None)
            assert [call_id for _, call_id in lives] == ["0", "1", "2", "3"]

    run(main())


def test_who_has_waited_long_enough_is_told_that_all_lines_are_busy() -> None:
    async def main() -> tuple[Phone, Phone]:
        async with bridge() as b:
            first = asyncio.create_task(b.call(Script(speech(), speak_at_s=12.0, hang_up_at_s=25.0)))
            await asyncio.sleep(1.0)
            second = await b.call(Script(hang_up_at_s=60.0))
            ending = b.records[0].ending
            assert ending is not None and ending.by is Party.BRIDGE
            assert ending.reason.startswith("all lines are busy")
            return await first, second

    talking, waiting = run(main())
    assert waiting.close_code == 1000, "so that Exotel's flow goes on"
    assert times_heard(waiting, Sound.ALL_BUSY) == 1
    assert waiting.duration_s == pytest.approx(8.0 + 4.6, abs=1.0)
    assert listen(talking.said, talking.player.heard, 8000).dropouts == ()


def test_when_too_many_wait_the_next_is_told_at_once() -> None:
    async def main() -> None:
        async with bridge(limits=CallLimits(max_wait_s=60.0), pool_limits=PoolLimits(max_waiting=1)) as b:
            calls = []
            for _ in range(2):
                calls.append(asyncio.create_task(b.call(Script(hang_up_at_s=20.0))))
                await asyncio.sleep(0.5)
            third = await b.call(Script(hang_up_at_s=20.0))
            assert third.duration_s < 6.0
            assert times_heard(third, Sound.ALL_BUSY) == 1
            await asyncio.gather(*calls)

    run(main())


@pytest.mark.parametrize("hang_up", HangUp)
def test_who_hangs_up_while_waiting_leaves_nothing_behind(hang_up: HangUp) -> None:
    async def main() -> None:
        async with bridge(limits=CallLimits(max_wait_s=60.0)) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=15.0)))
            await asyncio.sleep(0.5)
            gone = await b.call(Script(hang_up_at_s=3.0), Line(hang_up=hang_up))
            assert gone.duration_s == pytest.approx(3.0)
            third = await b.call(Script(speech(), speak_at_s=14.0, hang_up_at_s=22.0))
            await first
            assert listen(third.said, third.player.heard, 8000).correlation > 0.85
            await asyncio.sleep(1.0)
            assert (b.pool.free, b.pool.waiting, b.registry.live) == (1, 0, 0)

    run(main())


def test_shutting_down_does_not_wait_for_the_music() -> None:
    async def main() -> Phone:
        async with bridge(limits=CallLimits(max_wait_s=60.0)) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=30.0)))
            await asyncio.sleep(0.5)
            second = asyncio.create_task(b.call(Script(hang_up_at_s=30.0)))
            await asyncio.sleep(10.0)
            await b.registry.close()
            await first
            return await second

    phone = run(main())
    assert phone.duration_s < 13.0
    assert np.abs(phone.player.heard[-16:]).max() < 200, "faded, not cut"
