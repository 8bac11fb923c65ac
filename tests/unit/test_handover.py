from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.virtual_time import run

from pxbridge.calls import handover
from pxbridge.calls.handover import HandOvers

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    for n in range(handover.MAX_KEPT + 10):
        calls.decide(f"CA{n}")
    assert len(calls) == handover.MAX_KEPT
    assert calls.find("CA9") is None
    assert calls.find("CA10") == ()


def test_a_call_without_a_sid_is_not_remembered() -> None:
    calls = HandOvers(Clock())
    calls.decide("", ["+911"])
    assert calls.find("") is None


class Deaf:
    """A shelf that takes what it is given and never says what it has."""

    def __init__(self) -> None:
        self.has: dict[str, Sequence[str] | None] = {}

    async def put(self, call_sid: str, numbers: Sequence[str] | None) -> None:
        self.has[call_sid] = numbers

    async def get(self, call_sid: str) -> tuple[str, ...] | None:
        await asyncio.sleep(3600.0)
        return None

    async def close(self) -> None:
        pass


def test_a_shelf_that_does_not_answer_keeps_no_flow_waiting() -> None:
    async def main() -> tuple[object, object, float]:
        loop, shelf = asyncio.get_running_loop(), Deaf()
        calls = HandOvers(loop.time, shelf)
        calls.decide("CA1", ["+911"])
        await asyncio.sleep(0.1)
        assert shelf.has == {"CA1": ("+911",)}
        began_s = loop.time()
        found, other = await calls.look_up("CA1"), await calls.look_up("CA2")
        took_s = loop.time() - began_s
        await calls.close()
        return found, other, took_s

    found, other, took_s = run(main())
    assert (found, other) == (("+911",), None)
    assert took_s / 2 < 1.5, "Exotel waits 2 s"


def test_a_bridge_that_ends_knows_whether_a_flow_may_still_ask() -> None:
    clock = Clock()
    calls = HandOvers(clock)
    awaited = [calls.awaits_question]
    calls.decide("CA1")
    awaited.append(calls.awaits_question)
    clock.now_s += handover.RECENT_S
    awaited.append(calls.awaits_question)
    assert awaited == [False, True, False]
