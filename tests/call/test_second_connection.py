"""Exotel connects again for a call whose first handshake it takes for failed: nothing is lost by it."""

from __future__ import annotations

import asyncio

import pytest
from tests.call.rig import bridge
from tests.call.test_engines_fail import times_heard
from tests.virtual_time import run

from pxbridge.calls.announcements import Sound
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Kind
from pxbridge.simulation.phone import Line, Script
from pxbridge.simulation.rehearsal import Mode

PROMPT_S = 5.0
PATIENT = CallLimits(max_wait_s=60.0)


def test_a_session_in_the_making_goes_on_for_the_second_connection() -> None:
    async def main() -> None:
        async with bridge(prompt_s=PROMPT_S, mode=Mode.CANNED) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=30.0), Line(call_sid="same")))
            await asyncio.sleep(2.0)
            second = await b.call(Script(hang_up_at_s=10.0), Line(call_sid="same"))
            await first
            assert len(b.prompted) == 1
            (after_s,) = [e.detail["after_s"] for e in b.events if e.kind is Kind.HEARD]
            assert after_s == pytest.approx(PROMPT_S - 2.0, abs=0.5)
            assert times_heard(second, Sound.PLEASE_WAIT) == 0

    run(main())


def test_the_second_connection_of_a_caller_who_waits_has_the_place_of_the_first() -> None:
    async def main() -> None:
        async with bridge(limits=PATIENT) as b:
            talks = asyncio.create_task(b.call(Script(hang_up_at_s=20.0)))
            await asyncio.sleep(1.0)
            first = asyncio.create_task(b.call(Script(hang_up_at_s=60.0), Line(call_sid="same")))
            await asyncio.sleep(1.0)
            behind = asyncio.create_task(b.call(Script(hang_up_at_s=50.0), Line(call_sid="behind")))
            await asyncio.sleep(1.0)
            again = asyncio.create_task(b.call(Script(hang_up_at_s=22.0), Line(call_sid="same")))
            await asyncio.gather(talks, first, again, behind)
            served = [r.call_id for r in sorted(b.records, key=lambda r: r.live_s or 1e9) if r.live_s]
            assert served[1:] == ["same", "behind"]

    run(main())


def test_the_second_connection_of_a_live_call_goes_before_those_who_wait_and_is_not_greeted_anew() -> None:
    async def main() -> None:
        async with bridge(prompt_s=2.0, mode=Mode.PARROT, limits=PATIENT) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=60.0), Line(call_sid="same")))
            await asyncio.sleep(8.0)
            waits = asyncio.create_task(b.call(Script(hang_up_at_s=30.0), Line(call_sid="waits")))
            await asyncio.sleep(1.0)
            again = await b.call(Script(hang_up_at_s=10.0), Line(call_sid="same"))
            await asyncio.gather(first, waits)
            lived = sorted((r for r in b.records if r.live_s is not None), key=lambda r: r.live_s or 0.0)
            assert [r.call_id for r in lived] == ["same", "same", "waits"]
            assert lived[1].live_s is not None and lived[1].started_s is not None
            assert lived[1].live_s - lived[1].started_s < 2.0 + 0.5, "the prompts, and no more"
            assert times_heard(again, Sound.PLEASE_WAIT) == 0
            assert b.prompted[1].text_prompt.startswith("You are kind. The line was interrupted")

    run(main())
