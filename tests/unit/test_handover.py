from __future__ import annotations

from pxbridge.calls import handover
from pxbridge.calls.handover import HandOvers


class Clock:
    def __init__(self) -> None:
        self.now_s = 5000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_call_that_was_handed_over_is_found_as_often_as_it_is_asked_for() -> None:
    calls = HandOvers(Clock())
    calls.decide("CA1", ["+911", "+912"])
    calls.decide("CA2")
    assert [calls.find("CA1"), calls.find("CA1")] == [("+911", "+912")] * 2
    assert calls.find("CA2") == ()
    assert calls.find("CA3") is None


def test_the_last_decision_about_a_call_holds() -> None:
    calls = HandOvers(Clock())
    calls.decide("CA1", ["+911"])
    calls.decide("CA1", ["+912"])
    assert calls.find("CA1") == ("+912",)
    assert len(calls) == 1


def test_a_decision_is_forgotten_after_an_hour() -> None:
    clock = Clock()
    calls = HandOvers(clock)
    calls.decide("CA1", ["+911"])
    clock.now_s += handover.KEPT_S - 1
    assert calls.find("CA1") == ("+911",)
    clock.now_s += 1
    assert calls.find("CA1") is None
    calls.decide("CA2")
    assert len(calls) == 1


def test_decisions_are_bounded_and_the_oldest_goes_first() -> None:
    calls = HandOvers(Clock())
    for n in range(handover.MOST_KEPT + 10):
        calls.decide(f"CA{n}")
    assert len(calls) == handover.MOST_KEPT
    assert calls.find("CA9") is None
    assert calls.find("CA10") == ()


def test_a_call_without_a_sid_is_not_remembered() -> None:
    calls = HandOvers(Clock())
    calls.decide("", ["+911"])
    assert calls.find("") is None
