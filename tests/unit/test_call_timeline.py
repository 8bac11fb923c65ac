"""The timeline of a simulated call: each line once, in order of time, the agent's sentences whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.simulated import SayingBridge, media, tone

from pxbridge.commands.call_telemetry import CallTelemetry
from pxbridge.commands.call_timeline import Moment, Timeline
from pxbridge.simulation.phone import Line, Phone, Script

if TYPE_CHECKING:
    from collections.abc import Sequence

Report = tuple[float, dict[str, Any]]
"""When a report comes, and what it says."""


def told(
    *reports: Report, script: Script | None = None, voice_at_s: float = 0.5, **line: Any
) -> tuple[list[Moment], list[list[Moment]]]:
    """The lines of a call of ten seconds, and the same by when they were given: ten times a second."""
    phone = Phone(script or Script(tone(1.0), speak_at_s=3.0, hang_up_at_s=10.0), Line(**line))
    bridge = SayingBridge((voice_at_s, media(tone(1.0))))
    telemetry = CallTelemetry(phone.line.rate_hz)
    timeline = Timeline(phone, telemetry)
    given, left = [], sorted(reports, key=lambda report: report[0])
    for tick in range(200):
        now_s = tick / 10
        for message in bridge.due(now_s):
            phone.receive(message, now_s)
        while left and left[0][0] <= now_s:
            telemetry.add(left.pop(0)[1])
        phone.due(now_s)
        if phone.ended is not None:
            break
        given.append(timeline.news())
    for _, report in left:
        telemetry.add(report)
    given.append(timeline.rest())
    return [line for lines in given for line in lines], given


def words(at_s: float, text: str) -> Report:
    return at_s, {"kind": "words", "at_s": at_s, "text": text}


def texts(lines: Sequence[Moment]) -> list[str]:
    return [text for _, text in lines]


def test_a_voice_is_heard_before_its_words_and_both_have_the_same_time() -> None:
    lines, _ = told(words(0.3, "Hello,"), words(0.6, " it is"), words(0.9, " me."))
    assert lines[1:3] == [Moment(0.5, "you hear a voice"), Moment(0.5, "agent: Hello, it is me.")]


def test_what_happens_during_a_sentence_is_told_after_it_and_in_order() -> None:
    sentence = [words(2.0 + 0.5 * n, f" word{n}") for n in range(6)] + [words(5.0, " end.")]
    lines, _ = told(*sentence)
    assert texts(lines)[2:] == [
        "agent: word0 word1 word2 word3 word4 word5 end.",
        "you speak",
        "you stop speaking and listen",
        "you hang up",
    ]


def test_a_sentence_without_end_is_told_in_the_end() -> None:
    lines, _ = told(words(9.5, "I was"), words(9.7, " say"), words(9.8, "ing"))
    assert texts(lines)[-2:] == ["agent: I was saying", "you hang up"]


def test_a_lost_engine_and_the_next_one_are_told() -> None:
    lines, _ = told(
        (4.0, {"kind": "engine lost", "at_s": 4.0, "reason": "gpu1: it disconnected"}),
        (4.4, {"kind": "live", "at_s": 4.4, "engine": "gpu2"}),
    )
    assert Moment(4.0, "the engine is lost: gpu1: it disconnected") in lines
    assert Moment(4.4, "an engine takes over: gpu2") in lines


def test_pressed_keys_are_told() -> None:
    lines, _ = told(dtmf=((2.5, "5"), (2.5, "5")))
    assert texts(lines).count("you press 5") == 2


def test_a_bridge_that_hangs_up_says_why() -> None:
    phone = Phone(Script(np.zeros(0, np.int16)))
    telemetry = CallTelemetry(8000)
    telemetry.add({"kind": "ended", "by": "bridge", "reason": "all lines are busy"})
    phone.due(0.0)
    phone.closed(0.3, 1000)
    assert Timeline(phone, telemetry).rest()[-1] == Moment(0.3, "the bridge hangs up: all lines are busy")


@given(
    reports=st.lists(
        st.tuples(
            st.floats(0, 9.9),
            st.floats(0, 2.0),
            st.sampled_from([" a", "b.", " note", "c?", "", "engine lost", "note"]),
        ),
        max_size=30,
    )
)
def test_times_never_fall_and_each_line_is_told_once_however_late_reports_are(
    reports: list[tuple[float, float, str]],
) -> None:
    made: list[Report] = []
    for at_s, late_s, text in reports:
        report: dict[str, Any]
        match text:
            case "engine lost":
                report = {"kind": text, "at_s": at_s, "reason": f"{at_s}"}
            case "note":
                report = {"kind": text, "at_s": at_s, "text": f"{at_s}"}
            case _:
                report = {"kind": "words", "at_s": at_s, "text": text}
        made.append((at_s + late_s, report))
    lines, _ = told(*made)
    times = [at_s for at_s, _ in lines]
    assert times == sorted(times)
    own = ["answered", "you hear a voice", "you speak", "you stop speaking and listen", "you hang up"]
    for text in own:
        assert texts(lines).count(text) == 1
    for name, prefix in (("engine lost", "the engine is lost"), ("note", "note")):
        assert sum(text.startswith(prefix) for text in texts(lines)) == sum(r[2] == name for r in reports)
    said = "".join(text.removeprefix("agent: ") for text in texts(lines) if text.startswith("agent: "))
    expected = "".join(r[1]["text"] for r in sorted(made, key=lambda r: r[0]) if r[1]["kind"] == "words")
    assert said.replace(" ", "") == expected.replace(" ", "")
