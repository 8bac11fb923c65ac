"""The soak: what it says of a run."""

from __future__ import annotations

import io

import pytest

from gate import MOST_LATE_MS
from pxbridge.commands import terminal
from soak_callers import CallOutcome, Gap
from soak_report import report
from soak_troubles import QUIET_AFTER_S, QUIET_BEFORE_S, Troubles
from soak_verdict import STARVED_MS, Kill, Soak

HALF_S, END_S = 300.0, 600.0


def run(*gaps: Gap, calls: int = 50, holder: CallOutcome | None = None, late_ms: float = 1.0) -> Soak:
    """Calls of which one caller heard these gaps. The run is too short for memory to be judged."""
    outcomes = [CallOutcome("hung up", 0.0, END_S, first_s=0.5) for _ in range(calls)]
    outcomes[0].gaps.extend(gaps)
    result = Soak(1.0, calls, short=False, troubles=Troubles(HALF_S, END_S), late_ms=late_ms)
    result.outcomes = outcomes
    result.holder = holder or CallOutcome("hung up", HALF_S, END_S, said_s=250.0, heard_s=249.0)
    result.counted = {"completed": calls + 1}
    result.kills = [Kill(100.0, live=5, warm=5, idle=20)]
    result.assign()
    return result


def test_a_run_without_gaps_keeps_its_promises() -> None:
    assert run().broken_promises() == []


def test_a_gap_after_a_kill_is_not_blamed_on_the_troubles_and_may_not_be_long() -> None:
    assert run(Gap(100.5, 1.0)).broken_promises() == []
    (broken,) = run(Gap(100.5, 2.0)).broken_promises()
    assert broken == "2.00 s of the agent lost in a failure although a slot was free"


def test_neighbours_who_miss_more_beside_the_troubles_than_before_are_a_broken_promise() -> None:
    before, beside = [Gap(20.0 + n, 0.5) for n in range(50)], [Gap(400.0 + n, 0.5) for n in range(50)]
    few = run(*before, *beside, calls=1)
    assert few.neighbours(troubled=False).share == pytest.approx(25 / 300)
    assert few.neighbours(troubled=True).share == pytest.approx(25 / 300)
    assert few.broken_promises() == []
    (broken,) = run(*beside, calls=1).broken_promises()
    assert broken == "neighbours missed 8.33% of the agent beside the troubles, 0.00% before"


def test_what_callers_hear_is_not_judged_where_the_soak_itself_got_no_processor() -> None:
    late = run(*[Gap(400.0 + n, 0.5) for n in range(50)], calls=1, late_ms=MOST_LATE_MS + 1)
    assert late.too_busy
    assert late.broken_promises() == []


def test_nothing_is_judged_where_the_soak_itself_starved() -> None:
    starved = run(late_ms=STARVED_MS + 1)
    starved.outcomes[0].ended = "timed out during opening handshake"
    assert starved.broken_promises() == []


def test_a_flood_that_was_not_closed_as_one_is_a_broken_promise() -> None:
    result = run()
    assert result.troubles is not None
    result.troubles.floods, result.floods_closed, result.counted = 3, 2, {"completed": 54}
    assert result.broken_promises() == ["3 floods, of which 2 were closed as such"]


def test_a_phone_whose_words_after_a_hold_are_lost_is_a_broken_promise() -> None:
    lost = CallOutcome("hung up", HALF_S, END_S, said_s=250.0, heard_s=205.0)
    assert run(holder=lost).broken_promises() == [
        "of the 250.0 s that a phone said which holds, 205.0 s came back"
    ]


def test_no_engine_is_killed_while_the_store_grants_nothing() -> None:
    troubles = Troubles(HALF_S, END_S)
    first_s, _ = troubles._kills_s
    assert troubles.may_kill_engines(first_s - QUIET_BEFORE_S - 1.0)
    assert not troubles.may_kill_engines(first_s - 1.0)
    assert not troubles.may_kill_engines(first_s + QUIET_AFTER_S - 1.0)
    assert troubles.may_kill_engines(first_s + QUIET_AFTER_S + 1.0)


def test_the_report_is_written_for_people() -> None:
    result = run(calls=8)
    result.minutes, result.counted = 2 / 3, {"no_engine": 1, "completed": 9}
    result.slots_after = {"idle": 70}
    printed = io.StringIO()
    report(result, terminal.console(file=printed))
    told = printed.getvalue()
    assert "8 callers for 40 s, 1 engine killed" in told
    assert "how calls ended: 8 hung up; by the bridge's count: 9 completed, 1 no engine" in told
    assert "slots afterwards: 70 idle" in told
    assert "{" not in told and "0.666" not in told
