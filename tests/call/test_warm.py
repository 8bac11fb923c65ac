"""Sessions prompted ahead: callers hear the agent at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from tests.call.rig import KIND, bridge
from tests.call.test_engines_fail import times_heard
from tests.virtual_time import run

from pxbridge.calls.announcements import Sound
from pxbridge.calls.events import Kind
from pxbridge.calls.handover import HandOvers
from pxbridge.calls.persona import End, HandOver, Personas
from pxbridge.engines.pool import PoolLimits, SlotState
from pxbridge.simulation import faults
from pxbridge.simulation.parrot import greeting
from pxbridge.simulation.phone import Line, Phone, Script
from pxbridge.simulation.rehearsal import Mode

PROMPT_S = 5.0
FIRST_SOUND_S = 0.3
AUDIBLE = 30  # of 32768: below the greeting's softest sound, above what the codec makes of silence


def silent_for_s() -> float:
    """How long the agent's own greeting is silent before its first sound."""
    return float(np.argmax(np.abs(greeting().pcm) > AUDIBLE / 32768)) / 24_000


def test_with_warm_sessions_the_first_sound_comes_within_300_ms() -> None:
    async def main() -> list[float]:
        first: list[float] = []
        async with bridge(prompt_s=PROMPT_S, mode=Mode.CANNED, slots=8, warm=2) as b:
            for n in range(60):
                chunk_ms = (20.0, 40.0, 100.0)[n % 3]
                phone = await b.call(Script(hang_up_at_s=2.0), Line(chunk_ms=chunk_ms))
                heard = np.abs(phone.player.heard) > AUDIBLE
                first.append(float(np.argmax(heard)) / 8000 - silent_for_s() if heard.any() else np.inf)
                await asyncio.sleep(4.0 + n % 3)
            sent = [e.detail["after_s"] for e in b.events if e.kind is Kind.HEARD]
            assert len(sent) == 60
            assert np.percentile(sent, 95) <= FIRST_SOUND_S
        return first

    first = run(main(), limit_s=1200)
    assert np.percentile(first, 95) <= FIRST_SOUND_S


def test_a_warm_session_that_dies_is_replaced() -> None:
    async def main() -> None:
        async with bridge(prompt_s=1.0, warm=1) as b:
            assert b.pool.states()[SlotState.WARM] == 1
            b.engines[0].drop_clients()
            await asyncio.sleep(5.0)
            assert b.pool.states()[SlotState.WARM] == 1
            assert len(b.prompted) == 2
            phone = await b.call()
            assert not phone.faults

    run(main())


def test_a_warm_session_that_is_old_is_renewed() -> None:
    async def main() -> None:
        async with bridge(prompt_s=1.0, warm=2, slots=2, pool_limits=PoolLimits(warm_max_age_s=60.0)) as b:
            await asyncio.sleep(300.0)
            assert 8 <= len(b.prompted) <= 12
            assert b.pool.states()[SlotState.WARM] == 2
            assert b.engines[0].clients == 2

    run(main(), limit_s=400)


def test_another_persona_takes_the_slot_of_a_warm_session() -> None:
    async def main() -> None:
        async with bridge(prompt_s=1.0, warm=1) as b:
            phone = await b.call(
                Script(hang_up_at_s=6.0), Line(custom_parameters={"text_prompt": "You are stern."})
            )
            assert not phone.faults
            assert [p.text_prompt for p in b.prompted] == ["You are kind.", "You are stern."]
            await asyncio.sleep(3.0)
            assert b.prompted[-1].text_prompt == "You are kind.", "and the warm one comes back"

    run(main())


def test_a_call_takes_the_session_that_is_just_being_prompted_for_it() -> None:
    async def main() -> None:
        async with bridge(prompt_s=PROMPT_S, warm=1, mode=Mode.CANNED) as b:
            await b.call(Script(hang_up_at_s=2.0))
            await asyncio.sleep(3.0)  # the next one is three seconds into its prompts
            await b.call(Script(hang_up_at_s=6.0))
            after = [e.detail["after_s"] for e in b.events if e.kind is Kind.HEARD]
            assert after[1] < 3.0
            assert len(b.prompted) == 2

    run(main())


def test_prompts_that_every_engine_refuses_are_not_tried_without_end() -> None:
    async def main() -> None:
        async with bridge((faults.BreaksOffPrompting(),), warm=1) as b:
            await asyncio.sleep(100.0)
            assert len(b.prompted) < 15

    run(main(), limit_s=200)


def test_nothing_is_sent_to_a_warm_session_before_its_call() -> None:
    async def main() -> None:
        async with bridge(prompt_s=0.5, warm=1, mode=Mode.CANNED) as b:
            await asyncio.sleep(120.0)
            phone = await b.call(Script(hang_up_at_s=3.0))
            assert phone.player.voice_from_s is not None
            assert len(b.prompted) == 1

    run(main(), limit_s=300)


def persona(**changes: object) -> Personas:
    return Personas(replace(KIND.default, **changes))  # type: ignore[arg-type]


def test_a_phrase_of_the_agents_ends_the_call_after_it_was_heard() -> None:
    async def main() -> None:
        goodbye = persona(phrases={"I will repeat it": End()})
        async with bridge(mode=Mode.PARROT, personas=goodbye) as b:
            phone = await b.call(Script(hang_up_at_s=60.0))
            record = await b.record()
            assert phone.close_code == 1000
            assert record.ending is not None and record.ending.reason == "ended by the agent's words"
            assert phone.duration_s == pytest.approx(9.5, abs=1.5), "the greeting's 8.3 s and what is around"
            assert phone.player.depth_s == 0.0

    run(main())


def test_a_key_hands_the_call_over() -> None:
    async def main() -> None:
        handovers = HandOvers(asyncio.get_running_loop().time)
        keys = persona(keys={"0": HandOver(("+911234567890",))})
        async with bridge(mode=Mode.PARROT, personas=keys, handovers=handovers) as b:
            phone = await b.call(
                Script(hang_up_at_s=60.0), Line(call_sid="C1", dtmf=((2.0, "5"), (3.0, "0")))
            )
            assert phone.close_code == 1000
            assert handovers.find("C1") == ("+911234567890",)
            assert 3.0 < phone.duration_s < 12.0

    run(main())


def test_a_persona_that_has_talked_long_enough_ends_the_call() -> None:
    async def main() -> None:
        async with bridge(personas=persona(max_duration_s=10.0)) as b:
            phone = await b.call(Script(hang_up_at_s=60.0))
            assert phone.duration_s == pytest.approx(11.0, abs=1.0)
            assert phone.close_code == 1000

    run(main())


def test_a_personas_greeting_is_heard_at_once_and_then_the_agent() -> None:
    file = Path(str(resources.files("pxbridge") / "assets" / "one-moment.ogg"))

    async def main(prompt_s: float, warm: int) -> tuple[Phone, float]:
        async with bridge(
            personas=persona(greeting=file), prompt_s=prompt_s, warm=warm, mode=Mode.CANNED
        ) as b:
            phone = await b.call(Script(hang_up_at_s=8.0))
            return phone, next(e.detail["after_s"] for e in b.events if e.kind is Kind.HEARD)

    for prompt_s, warm in ((4.0, 0), (1.0, 1)):
        phone, agent_s = run(main(prompt_s, warm))
        assert times_heard(phone, Sound.ONE_MOMENT) == 1, "to its end, although the agent may be there"
        voice_s = phone.player.voice_from_s
        assert voice_s is not None and voice_s < 0.5
        assert agent_s == pytest.approx(max(prompt_s if not warm else 0.0, 1.9), abs=0.5)
