"""What the bridge tells a simulated phone that asks, and what `pxbridge call` makes of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.call.rig import bridge, speech
from tests.virtual_time import run

from pxbridge.calls.delay import PARTS
from pxbridge.commands.call_telemetry import CallTelemetry
from pxbridge.commands.plot import draw_call
from pxbridge.commands.report import make_report
from pxbridge.simulation.network import parse_network
from pxbridge.simulation.phone import HangUp, Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from pathlib import Path

    from pxbridge.commands.report import Report

SAID = Script(speech(), speak_at_s=1.0, hang_up_at_s=7.5)


def observed(
    network: str = "", *, mode: Mode = Mode.ECHO, hang_up: HangUp = HangUp.STOP, script: Script = SAID
) -> Report:
    """A call whose phone asks to be told, in virtual time."""

    async def main() -> Report:
        async with bridge(mode=mode) as b:
            phone = Phone(script, Line(hang_up=hang_up), parse_network(network))
            telemetry = CallTelemetry(phone.line.rate_hz)
            await place_call(b.url(), phone, observe=telemetry.add)
            return make_report(phone, telemetry)

    return run(main())


@pytest.mark.parametrize("hang_up", [HangUp.STOP, HangUp.STOP_ONLY])
def test_a_phone_that_asks_is_told_the_counters_up_to_the_end(hang_up: HangUp) -> None:
    report = observed(hang_up=hang_up)
    telemetry = report.telemetry
    assert telemetry.ending.startswith("phone: stop")
    assert telemetry.times_s[0] == pytest.approx(0.0, abs=0.01)
    assert telemetry.times_s[-1] == pytest.approx(report.phone.duration_s, abs=0.1)
    assert telemetry.series("uplink", "received")[-1] == len(report.phone.said)
    assert not report.phone.faults, "what it is told is no part of the call"


def test_the_agents_words_are_told_when_they_are_heard() -> None:
    report = observed(mode=Mode.PARROT, script=Script(speech()))
    words = report.telemetry.words
    assert "".join(text for _, text in words).strip().startswith("Hello")
    first_voice_s = report.hearing.first_voice_s
    assert first_voice_s is not None
    assert words[0][0] == pytest.approx(first_voice_s, abs=0.5)


def test_the_parts_of_the_delay_add_up_to_it() -> None:
    report = observed()
    parts = dict(report.telemetry.parts())
    assert list(parts) == [part.title for part in PARTS]
    assert parts["phone's chunk"] == pytest.approx(0.04)
    assert parts["engine's round trip"] == pytest.approx(0.03, abs=0.01)
    assert parts["intake"] == pytest.approx(0.0, abs=0.01)
    delay_s = report.hearing.delay_s()
    assert delay_s is not None
    assert 0.005 < delay_s - sum(parts.values()) < 0.02, "the codecs are what is left"
    assert "engine's round trip 30" in dict(report.details())["of the delay"]


def test_a_long_way_is_told_as_the_networks() -> None:
    told = dict(observed("delay 150ms").details())["of the delay"]
    assert (found := re.search(r"networks and codecs (\d+) ms", told))
    assert 300 < int(found[1]) < 325


def test_a_stall_is_told_with_what_was_inserted_and_removed(tmp_path: Path) -> None:
    report = observed("stall 1s at 3s up")
    rows = dict(report.details())
    assert rows["to the agent"].startswith("1 stall, the longest ")
    assert "of noise inserted" in rows["to the agent"]
    assert "removed from pauses" in rows["to the agent"]
    inserted = report.telemetry.series("uplink", "inserted") / 8000
    assert inserted[report.telemetry.times_s < 3.0].max() == 0
    assert inserted[-1] == pytest.approx(1.0, abs=0.2)
    draw_call(report, tmp_path / "call.png")
    assert (tmp_path / "call.png").stat().st_size > 10_000


def test_a_phone_that_does_not_ask_is_told_nothing() -> None:
    async def main() -> Phone:
        async with bridge() as b:
            return await b.call(SAID)

    assert not run(main()).faults, "an unknown event would be one"


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        ("stall 1s at 3s up", "the phone's audio stalled for 1 s on its way to the bridge"),
        ("lose 2s at 3s", "of your words came back damaged, or not at all"),
        ("stall 1s at 3s down", "a gap of "),
        ("delay 400ms", "a bad call: 1.01 s from mouth to ear"),
    ],
)
def test_a_bad_network_makes_a_bad_call_and_the_verdict_says_how(network: str, problem: str) -> None:
    report = observed(network)
    assert report.verdict.startswith("a bad call: ")
    assert problem in report.verdict
    assert "echoed" in dict(report.rows())["your words"], "it is an echo still"


@pytest.mark.parametrize("network", ["", "jitter 60ms", "drift +100ppm", "delay 100ms"])
def test_on_a_line_that_is_good_enough_no_word_is_said_to_be_missing(network: str) -> None:
    report = observed(network)
    assert re.fullmatch(r"a good call: [0-9]+ ms from mouth to ear, no gaps", report.verdict)
    assert dict(report.rows())["your words"].endswith("echoed")
