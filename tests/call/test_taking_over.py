"""What is heard between an engine's last word and the next one's first, and what the next one knows."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from tests.call.rig import Bridge, bridge, speech
from tests.call.test_engines_fail import gaps_s, places, times_heard
from tests.virtual_time import run

from pxbridge.calls.announcements import Sound, sound
from pxbridge.calls.call import Party, Phase
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Kind
from pxbridge.calls.persona import FailoverPrefers, Persona, Personas
from pxbridge.simulation import faults
from pxbridge.simulation.phone import Line, Phone, Script
from pxbridge.simulation.rehearsal import Mode

PROMPT_S = 2.0
STEPS = 75
"""Of 80 ms: so long is the engine heard that dies then."""
ANSWER_S = 0.35
"""From a word said to the same word echoed, at most."""
INFORMED = Persona("NATF0.pt", "You are kind.", failover_prefers=FailoverPrefers.INFORMED)


def lost_after_s(b: Bridge) -> float:
    """When the engine was lost, since the call's start."""
    started_s = next(e.at_s for e in b.events if e.kind is Kind.STARTED)
    return next(e.at_s for e in b.events if e.kind is Kind.ENGINE_LOST) - started_s


@pytest.mark.parametrize("rate_hz", [8000, 24000])
@pytest.mark.parametrize("other", [False, True], ids=["no other engine", "another engine"])
def test_the_last_words_of_an_engine_that_dies_are_heard_before_anything_else(
    rate_hz: int, other: bool
) -> None:
    async def main(steps: int) -> tuple[Phone, float]:
        engines = [(faults.Dies(after_steps=steps),), *([()] if other else [])]
        async with bridge(*engines, mode=Mode.ECHO, prompt_s=PROMPT_S) as b:
            words = np.tile(speech(rate_hz), 4)
            script = Script(words, speak_at_s=0.0, hang_up_at_s=12.0)
            phone = await b.call(script, Line(rate_hz=rate_hz))
            await b.record()
            return phone, lost_after_s(b) if steps == STEPS else 0.0

    # The same call twice, and in one of them the engine lives: what is heard is the same to the last word.
    (died, lost_s), (lived, _) = run(main(STEPS)), run(main(1_000))
    length = min(len(died.player.heard), len(lived.player.heard))
    differs = np.flatnonzero(died.player.heard[:length] != lived.player.heard[:length])
    same_s = float(differs[0]) / rate_hz
    step_s = 0.08
    assert same_s > lost_s + 0.02, "what had been sent when it died is heard to its end"
    assert same_s < lost_s + 2 * step_s + 0.1
    (gap_at,) = places(died.player.heard, sound(Sound.GAP, rate_hz))
    assert abs(gap_at / rate_hz - same_s) < 0.06, "and then, at once, that there is a gap"
    between = [hole for hole in died.player.holes if lost_s < hole.at_s < gap_at / rate_hz + 0.1]
    assert not between, "without a hole between the two"


def test_when_no_other_engine_is_to_be_had_the_goodbye_comes_after_the_last_words_and_to_its_end() -> None:
    async def main() -> tuple[Phone, Party, float]:
        async with bridge((faults.Dies(after_steps=STEPS),), mode=Mode.ECHO) as b:
            call = asyncio.create_task(
                b.call(Script(np.tile(speech(), 4), speak_at_s=0.0, hang_up_at_s=60.0))
            )
            await asyncio.sleep(3.0)
            b.engines[0].faults = (faults.RefusesUpgrade(503),)
            phone = await call
            ending = (await b.record()).ending
            assert ending is not None
            return phone, ending.by, lost_after_s(b)

    phone, by, lost_s = run(main())
    heard = phone.player.heard
    said_last = heard[round((lost_s - 0.2) * 8000) : round((lost_s + 0.05) * 8000)]
    assert np.abs(said_last).max() > 500, "the engine spoke to its end"
    order = [places(heard, sound(name, 8000)) for name in (Sound.GAP, Sound.ONE_MOMENT, Sound.SORRY)]
    assert [len(found) for found in order] == [1, 1, 1]
    assert lost_s < order[0][0] / 8000 < order[1][0] / 8000 < order[2][0] / 8000
    assert (by, phone.close_code) == (Party.ENGINE, 1011)
    assert phone.player.depth_s == 0.0, "the goodbye was cut"


def test_an_engine_that_hangs_is_waited_for_where_no_other_is_free_and_the_caller_hears_so() -> None:
    async def main() -> Phone:
        stall = faults.Stalls(after_steps=50, for_s=9.0)
        async with bridge((stall,), mode=Mode.ECHO, limits=CallLimits()) as b:
            words = np.tile(speech(), 8)
            phone = await b.call(Script(words, speak_at_s=0.0, hang_up_at_s=22.0))
            record = await b.record()
            assert record.failovers == 0, "it was back in time"
            assert [e.kind for e in b.events].count(Kind.ENGINE_LOST) == 0
            notes = [e.detail["text"] for e in b.events if e.kind is Kind.NOTE]
            assert [note for note in notes if "waiting for it" in note]
            return phone

    phone = run(main())
    heard = phone.player.heard
    (gap_at,), (moment_at,) = (places(heard, sound(s, 8000)) for s in (Sound.GAP, Sound.ONE_MOMENT))
    hung_s = 50 * 0.08
    assert hung_s + 2.5 <= gap_at / 8000 <= hung_s + 2.5 + 1.0
    assert gap_at < moment_at
    assert times_heard(phone, Sound.SORRY) == 0
    spoken = np.abs(heard[round((hung_s + 9.0 + 4.0) * 8000) :].astype(np.int32)) > 1000
    assert spoken.any(), "the agent goes on"
    assert not [hole for hole in phone.player.holes if hole.at_s >= hung_s], (
        "the line's noise goes on under it"
    )
    assert not phone.faults


def test_an_engine_that_hangs_for_good_is_given_up_and_its_gap_is_covered_once() -> None:
    async def main() -> tuple[Phone, float, float]:
        async with bridge((faults.Hangs(after_steps=50),), mode=Mode.ECHO, limits=CallLimits()) as b:
            call = asyncio.create_task(b.call(Script(speech(), speak_at_s=0.0, hang_up_at_s=90.0)))
            await asyncio.sleep(5.0)
            b.engines[0].faults = (faults.RefusesUpgrade(503),)
            phone = await call
            record = await b.record()
            assert record.ending is not None and record.ending.by is Party.ENGINE
            started_s = next(e.at_s for e in b.events if e.kind is Kind.STARTED)
            return phone, lost_after_s(b), record.ended_s - started_s

    phone, lost_s, ended_s = run(main())
    limits = CallLimits()
    hung_s = 50 * 0.08
    assert lost_s == pytest.approx(hung_s + limits.engine_silent_s + limits.failover_timeout_s, abs=1.2)
    assert ended_s < lost_s + limits.failover_timeout_s + 10.0
    assert [times_heard(phone, s) for s in (Sound.GAP, Sound.ONE_MOMENT, Sound.SORRY)] == [1, 1, 1]
    assert phone.player.depth_s == 0.0


def test_as_soon_as_another_engine_is_free_one_that_hangs_is_left() -> None:
    async def main() -> None:
        async with bridge((faults.Hangs(after_steps=50),), (), mode=Mode.ECHO, limits=CallLimits()) as b:
            hit = asyncio.create_task(b.call(Script(speech(), speak_at_s=0.0, hang_up_at_s=20.0)))
            await asyncio.sleep(0.5)
            other = asyncio.create_task(b.call(Script(hang_up_at_s=10.0)))
            await asyncio.gather(hit, other)
            await asyncio.sleep(0.5)
            started_s = next(e.at_s for e in b.events if e.kind is Kind.STARTED)
            lost_s = next(e.at_s for e in b.events if e.kind is Kind.ENGINE_LOST) - started_s
            assert 10.0 < lost_s < 12.0, "the other caller hung up after ten seconds"
            assert len(gaps := gaps_s(b)) == 1
            assert gaps[0] < 0.5

    run(main())


@pytest.mark.parametrize("warm", [0, 1])
def test_a_persona_that_wants_an_informed_engine_waits_for_its_prompts(warm: int) -> None:
    async def main() -> tuple[Bridge, Phone]:
        engines = ((faults.Dies(after_steps=100),), ())
        personas = Personas(INFORMED)
        async with bridge(*engines, prompt_s=PROMPT_S, mode=Mode.PARROT, warm=warm, personas=personas) as b:
            phone = await b.call(Script(hang_up_at_s=25.0))
            record = await b.record()
            assert record.failovers == 1 and record.phase is Phase.ENDED
            return b, phone

    b, phone = run(main())
    (told,) = {p.text_prompt for p in b.prompted} - {"You are kind."}
    assert told.startswith("You are kind. The line was interrupted")
    assert "rehearsal engine" in told, "the agent's own words"
    (gap,) = gaps_s(b)
    assert PROMPT_S < gap < PROMPT_S + 0.7
    assert times_heard(phone, Sound.GAP) == 1
    assert [e.detail["warm"] for e in b.events if e.kind is Kind.LIVE] == [bool(warm), False]


def test_who_wants_an_informed_engine_gets_the_soonest_while_there_is_nothing_to_tell() -> None:
    async def main() -> None:
        engines = ((faults.Dies(after_steps=50),), ())
        personas = Personas(INFORMED)
        async with bridge(*engines, prompt_s=PROMPT_S, mode=Mode.ECHO, warm=1, personas=personas) as b:
            await b.call(Script(speech(), speak_at_s=0.0, hang_up_at_s=6.0))
            assert [e.detail["warm"] for e in b.events if e.kind is Kind.LIVE] == [True, True]
            assert gaps_s(b)[0] < 1.0

    run(main())


def test_a_persona_that_wants_the_soonest_engine_is_not_told_and_not_waited_for() -> None:
    async def main() -> None:
        engines = ((faults.Dies(after_steps=100),), ())
        personas = Personas(replace(INFORMED, failover_prefers=FailoverPrefers.SOONEST))
        async with bridge(*engines, prompt_s=PROMPT_S, mode=Mode.PARROT, warm=1, personas=personas) as b:
            await b.call(Script(hang_up_at_s=25.0))
            assert all(p.text_prompt == "You are kind." for p in b.prompted)
            assert gaps_s(b)[0] < 1.0

    run(main())
