"""One suite of the wire, against both engines; and each fault that it is there to find, it finds."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.personaplex.fake_model import Costs
from tests.personaplex.rig import serving
from tests.virtual_time import run

from pxbridge.commands import doctor
from pxbridge.doctor import Verdict
from pxbridge.doctor.conformance import Target, examine_wire
from pxbridge.engines.address import EngineAddress
from pxbridge.personaplex.server import Rules
from pxbridge.simulation import faults
from pxbridge.simulation.rehearsal import Mode, Rehearsal

if TYPE_CHECKING:
    from pxbridge.doctor import Finding


async def findings(target: Target) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine_wire(target)}


def of(found: dict[str, Finding], verdict: Verdict) -> dict[str, str]:
    return {name: finding.what for name, finding in found.items() if finding.verdict is verdict}


@pytest.mark.parametrize("slots", [1, 8])
def test_our_engine_conforms_in_everything(slots: int) -> None:
    async def main() -> None:
        async with serving(slots) as rig:
            found = await findings(Target(EngineAddress(rig.url("").rstrip("?"))))
            assert of(found, Verdict.WRONG) == {}
            assert of(found, Verdict.NOTE) == {}
            assert len(found) == 12
            assert found["pace"].what == "a frame is answered after 30 ms at the median, 30 ms at most"

    run(main(), 600.0)


@pytest.mark.parametrize("mode", list(Mode))
def test_the_rehearsal_engine_conforms_as_nvidias_server_does(mode: Mode) -> None:
    async def main() -> None:
        async with Rehearsal(mode=mode) as engine:
            found = await findings(Target(EngineAddress(engine.url)))
            assert of(found, Verdict.WRONG) == {}
            assert set(of(found, Verdict.NOTE)) <= {"words", "early", "refusals", "second"}
            assert {"early", "refusals", "second"} <= set(of(found, Verdict.NOTE))

    run(main(), 600.0)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (faults.DamagesPages(every_steps=5), "stream"),
        (faults.LosesPages(every_steps=5), "stream"),
        (faults.Hangs(after_steps=3), "clock"),
        (faults.StaysSilent(), "handshake"),
        (faults.RefusesUpgrade(500), "handshake"),
        (faults.Dies(3), "packets"),
        (faults.Hangs(0), "pace"),
        (faults.SendsGarbage(every_steps=5), "stream"),
        (faults.Floods(after_steps=3, times=50), "clock"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_a_fault_on_the_wire_is_found(fault: faults.Fault, check: str) -> None:
    async def main() -> None:
        async with Rehearsal(mode=Mode.ECHO, faults=[fault]) as engine:
            found = await findings(Target(EngineAddress(engine.url)))
            assert check in of(found, Verdict.WRONG)

    run(main(), 2000.0)


def test_an_engine_that_is_too_slow_is_found() -> None:
    async def main() -> None:
        async with serving(costs=Costs(tick_s=0.3)) as rig:
            found = await findings(Target(EngineAddress(rig.url("").rstrip("?"))))
            assert "clock" in of(found, Verdict.WRONG)

    run(main(), 600.0)


def test_a_token_is_shown() -> None:
    async def main() -> None:
        async with serving(rules=Rules(token="secret")) as rig:
            address = EngineAddress(rig.url("").rstrip("?"))
            assert of(await findings(Target(address, token="secret")), Verdict.WRONG) == {}
            refused = await findings(Target(address))
            assert "401" in refused["handshake"].what

    run(main(), 600.0)


def test_an_engine_that_is_not_there_is_told_so_once_a_check() -> None:
    async def main() -> None:
        async with asyncio.timeout(100):
            found = await findings(Target(EngineAddress("ws://127.0.0.1:1/api/chat")))
            assert set(of(found, Verdict.WRONG)) == set(found)

    run(main())


def test_the_command_shows_the_token_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(rules=Rules(token="of-the-environment")) as rig:
            monkeypatch.setenv("PXBRIDGE_ENGINE_TOKEN", "of-the-environment")
            args = argparse.Namespace(conformance=rig.url("").rstrip("?"))
            found = [finding async for finding in doctor._examined(args)]
            assert {finding.verdict for finding in found} == {Verdict.GOOD}

    run(main(), 600.0)
