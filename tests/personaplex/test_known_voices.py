"""The bridge knows the voices of engines that tell them, and names those of the personas that they lack."""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from tests.personaplex.rig import serving
from tests.virtual_time import run

from pxbridge import settings
from pxbridge.app.voice_watch import ASK_EVERY_S, VoiceWatch
from pxbridge.calls.persona import Persona, Personas
from pxbridge.commands import check_config
from pxbridge.doctor import Verdict, engines
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.voices import EngineVoices
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from tests.personaplex.rig import Rig

LACKING = "no engine has the voice 'NATM99.pt'"
EXISTING = "the voices are: NATF0.pt, NATM1.pt, anna.wav; correct it (did you mean NATM1.pt?)"


def address(rig: Rig) -> EngineAddress:
    return EngineAddress(rig.url("").rstrip("?"))


@pytest.mark.parametrize(("voice", "lacks"), [("NATM99.pt", True), ("anna.wav", False)])
def test_doctor_and_check_config_name_a_voice_that_the_engine_lacks(
    monkeypatch: pytest.MonkeyPatch, voice: str, lacks: bool
) -> None:
    async def main() -> None:
        async with serving(2) as rig:
            monkeypatch.setenv("PXBRIDGE_ENGINES", address(rig).url)
            monkeypatch.setenv("PXBRIDGE_VOICE_PROMPT", voice)
            monkeypatch.setenv("PXBRIDGE_ALLOW_ANONYMOUS", "true")
            shown = io.StringIO()
            asked = argparse.Namespace(json=False, changed=False)
            assert await check_config.run(asked, Console(file=shown)) == 0
            assert (f"note: voice_prompt: {LACKING}; {EXISTING}" in shown.getvalue()) is lacks

            loaded = settings.load({}, {"PXBRIDGE_ENGINES": address(rig).url, "PXBRIDGE_VOICE_PROMPT": voice})
            for bridge_runs in (True, False):
                found = [
                    each
                    async for each in engines.check(loaded, read_personas(loaded), bridge_runs=bridge_runs)
                ]
                wrong = [each for each in found if each.verdict is Verdict.WRONG]
                assert [each.fix for each in wrong] == [EXISTING] * lacks
                assert all(LACKING in each.what for each in wrong)

    run(main())


def test_a_running_bridge_logs_a_lacking_voice_once_until_something_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "pxbridge")

    def lines() -> list[str]:
        taken = [record.getMessage() for record in caplog.records if "voice" in record.getMessage()]
        caplog.clear()
        return taken

    async def main() -> None:
        async with serving(2) as rig:
            known: list[EngineAddress] = []

            personas = Personas(Persona("NATM99.pt", "You are kind."))
            watch = VoiceWatch(EngineVoices(), lambda: [address(rig)], lambda: [*known], lambda: personas)
            async with watch.running():
                await asyncio.sleep(3)
                assert lines() == [], "the engine may tell what it has"
                await asyncio.sleep(4)
                (doubt,) = lines()
                assert "none of NVIDIA's voices" in doubt
                known.append(address(rig))
                await asyncio.sleep(3)
                assert lines() == [f"voice_prompt: {LACKING}; {EXISTING}"]
                await asyncio.sleep(ASK_EVERY_S + 5)
                assert lines() == []
                watch.look_again()
                await asyncio.sleep(3)
                assert lines() == [f"voice_prompt: {LACKING}; {EXISTING}"]
                rig.voices.there.append("NATM99.pt")
                watch.look_again()
                await asyncio.sleep(3)
                assert lines() == []

    run(main())
