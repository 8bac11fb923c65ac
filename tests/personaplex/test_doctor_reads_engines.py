"""`pxbridge doctor` reads what an engine tells of itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.personaplex.fake_model import Costs
from tests.personaplex.rig import PERSONA, serving
from tests.virtual_time import run

from pxbridge import settings
from pxbridge.doctor import Verdict, engines
from pxbridge.personaplex.server import Rules
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from tests.personaplex.rig import Rig

    from pxbridge.doctor import Finding


async def findings(rig: Rig, **more: str) -> list[Finding]:
    environ = {"PXBRIDGE_ENGINES": rig.url("").rstrip("?"), **PERSONAS, **more}
    loaded = settings.load({}, environ)
    return [each async for each in engines.check(loaded, read_personas(loaded), bridge_runs=False)]


PERSONAS = {"PXBRIDGE_VOICE_PROMPT": PERSONA["voice_prompt"], "PXBRIDGE_TEXT_PROMPT": PERSONA["text_prompt"]}


def test_an_engine_that_tells_is_asked_for_its_figures_and_for_as_many_conversations() -> None:
    async def main() -> None:
        async with serving(4) as rig:
            rig.server.warm_up_s = 9.4
            stranger = await rig.call()
            await stranger.live()
            await stranger.converse(20)
            told, spoken = await findings(rig)
            assert told.verdict is spoken.verdict is Verdict.GOOD
            assert ": fake, 3 of 4 slots free, warmed up in 9.4 s, 20 ticks of 30 ms on average" in told.what
            assert told.what.endswith("99 % within 40 ms, frames answered: 99 % within 40 ms")
            assert "ms for each 80 ms of audio" in spoken.what
            assert len(rig.stepper.opened) == 4, "as many as are free, and none of another's"

    run(main())


def test_an_engine_that_is_full_or_warms_up_is_left_alone() -> None:
    async def main() -> None:
        async with serving(1) as rig:
            await rig.call()
            (told,) = await findings(rig)
            assert told.verdict is Verdict.GOOD and "0 of 1 slot free" in told.what
        async with serving(1, warm_up_s=60.0, wait_ready=False) as rig:
            (told,) = await findings(rig)
            assert told.verdict is Verdict.WRONG and "it takes no calls: warming up" in told.what

    run(main())


@pytest.mark.parametrize(("tick_s", "verdict"), [(0.07, Verdict.GOOD), (0.1, Verdict.WRONG)])
def test_an_engine_whose_ticks_are_slower_than_speech_is_told(tick_s: float, verdict: Verdict) -> None:
    async def main() -> None:
        async with serving(2, costs=Costs(tick_s=tick_s)) as rig:
            stranger = await rig.call()
            await stranger.live()
            await stranger.converse(30)
            told = (await findings(rig))[0]
            assert told.verdict is verdict
            assert "fewer --slots" in told.fix or verdict is Verdict.GOOD

    run(main())


def test_an_engine_that_wants_a_token_is_told_with_the_setting_and_no_secret() -> None:
    async def main() -> None:
        async with serving(2, rules=Rules(token="right-and-secret", model="fake")) as rig:
            (told,) = await findings(rig)
            assert told.verdict is Verdict.WRONG and "PXBRIDGE_ENGINE_TOKEN" in told.what
            (told,) = await findings(rig, PXBRIDGE_ENGINE_TOKEN="wrong-and-secret")
            assert told.verdict is Verdict.WRONG and "must be the same here and there" in told.what
            assert "secret" not in told.what
            told, spoken = await findings(rig, PXBRIDGE_ENGINE_TOKEN="right-and-secret")
            assert told.verdict is spoken.verdict is Verdict.GOOD
            await asyncio.sleep(1.0)
            assert rig.places.free == 2

    run(main())
