"""`pxbridge call` with a whole bridge, in virtual time: what it says of good calls, and of bad ones."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from tests.call.rig import Bridge, bridge
from tests.virtual_time import run

from pxbridge.calls.events import Event, Kind
from pxbridge.commands import call
from pxbridge.commands.report import EXIT_BAD, EXIT_BROKEN, EXIT_SILENT
from pxbridge.simulation.faults import Dies, Hangs, RefusesUpgrade, Stalls
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.simulation.faults import Fault

LOST_AT = 60
"""The step before which an engine dies: after 4.8 s."""


def placed(*faults: Sequence[Fault], words: Sequence[str] = (), **options: Any) -> tuple[int, str]:
    """The exit status and the output of a call with engines that have these faults.

    An engine that is lost does not come back.
    """

    def stay_away(record: CallRecord, event: Event) -> None:
        if event.kind is Kind.ENGINE_LOST:
            running[0].engines[0].faults = [RefusesUpgrade()]

    running: list[Bridge] = []

    async def main() -> tuple[int, str]:
        async with bridge(*faults, subscribers=[stay_away], **options) as b:
            running.append(b)
            parser = argparse.ArgumentParser()
            call.add_arguments(parser)
            out = Console(file=io.StringIO(), width=100, highlight=False)
            status = await call.run(parser.parse_args(["--url", b.url(), *words]), out)
            return status, out.file.getvalue()  # type: ignore[attr-defined]

    return run(main())


def verdict(output: str) -> str:
    """The report's first line."""
    return output.split("\n\n")[1].strip()


def times(output: str) -> list[float]:
    """Of the lines before the report."""
    return [float(found) for found in re.findall(r"(?m)^ *([0-9.]+) s  ", output.split("\n\n")[0])]


@pytest.mark.parametrize("mode", [Mode.PARROT, Mode.ECHO])
def test_a_good_call_says_so_first_with_its_delay(mode: Mode) -> None:
    status, output = placed(mode=mode)
    assert status == 0
    assert re.fullmatch(r"a good call: (1[5-9]|2[0-4])\d ms from mouth to ear, no gaps", verdict(output))
    assert times(output) == sorted(times(output)) != []
    assert not re.search(r"[0-9a-f]{32}|not come back|Exotel's rules", output), "that is for -v"


def test_the_first_voice_is_one_figure() -> None:
    _, output = placed(mode=Mode.PARROT, words=["--json"])
    heard_s = json.loads(output)["first_voice_s"]
    _, output = placed(mode=Mode.PARROT)
    assert f"{heard_s:4.1f} s  you hear a voice" in output
    assert f"first voice  {heard_s:.2f} s after the call was answered" in output
    assert f"{heard_s:4.1f} s  agent: Hello" in output
    assert "first audio" not in output


def test_details_are_told_on_demand() -> None:
    _, output = placed(words=["-v"])
    for title in ("of the delay", "queued at the carrier", "to the agent", "to you", "Exotel's rules"):
        assert f"\n{title} " in output
    assert re.search(r"CallSid [0-9a-f]{32}", output)


def test_an_engine_that_dies_in_mid_call_is_told_and_so_is_the_next_one() -> None:
    status, output = placed([Dies(after_steps=LOST_AT)], [], mode=Mode.PARROT)
    assert status == EXIT_BAD
    assert re.match(
        r"a bad call: the engine was lost at \d\.\d s, and another one spoke .* later", verdict(output)
    )
    assert "s  the engine is lost: " in output
    assert "s  an engine takes over: " in output
    assert times(output) == sorted(times(output))


def test_an_engine_that_dies_without_another_one_breaks_the_call_off() -> None:
    status, output = placed([Dies(after_steps=LOST_AT)], mode=Mode.PARROT)
    assert status == EXIT_BROKEN
    assert re.fullmatch(
        r"a bad call: the engine was lost at \d\.\d s, and no other one spoke; "
        r"the bridge ended the call with an error \(1011\)",
        verdict(output),
    )


def test_an_engine_that_stalls_makes_a_gap() -> None:
    status, output = placed([Stalls(after_steps=20, for_s=1.5)], mode=Mode.PARROT)
    assert status == EXIT_BAD
    assert re.match(r"a bad call: a gap of 1\.[2-6]\d s at 1\.\d s", verdict(output))


def test_without_an_engine_the_call_is_no_good_although_a_voice_is_heard() -> None:
    status, output = placed([RefusesUpgrade()])
    assert status == EXIT_SILENT
    assert verdict(output).startswith("a bad call: no agent was reached: ")
    assert "s  you wait: no engine is free" in output
    assert "s  you hear a voice" in output, "an announcement"


def test_an_agent_that_never_pauses_is_left_after_a_limit() -> None:
    status, output = placed(mode=Mode.CANNED)
    assert status == EXIT_BAD
    assert verdict(output) == "a bad call: the agent never paused"
    assert "you speak, as the greeting does not end" in output
    assert times(output)[-1] < call.GREETING_LONGEST_S + call.LISTEN_LONGEST_S + 10.0


def test_seconds_set_when_the_caller_hangs_up() -> None:
    _, output = placed(mode=Mode.CANNED, words=["--seconds", "12"])
    assert "  12.0 s  you hang up\n" in output


def test_an_agent_that_falls_silent_is_told() -> None:
    status, output = placed([Hangs(after_steps=150)], [], mode=Mode.PARROT)
    assert status == EXIT_BAD
    assert "the engine was lost at " in verdict(output)


def test_json_is_the_verdict_and_the_figures_and_nothing_else() -> None:
    status, output = placed([Dies(after_steps=LOST_AT)], [], mode=Mode.PARROT, words=["--json"])
    told = json.loads(output)
    assert told["status"] == status == EXIT_BAD
    assert told["good"] is False
    assert told["verdict"] == "a bad call: " + "; ".join(told["problems"])
    assert told["engines_lost"][0]["until_s"] > told["engines_lost"][0]["at_s"] > 4.0
    assert told["agent_said"].startswith("Hello")
    assert not re.search(r"\d\.\d{4}", output), "no raw floats"


def test_the_documentation_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"(?ms)^```text\n(calling .*?)^```", page)
    _, printed = placed(mode=Mode.PARROT)

    def without_figures(text: str) -> list[str]:
        return [re.sub(r" *[0-9.]+", " N", line) for line in text.splitlines()[1:]]

    assert without_figures(shown) == without_figures(printed)
