from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.virtual_time import VirtualTimeLoop, run

from pxbridge.calls import handover
from pxbridge.calls.handover import HandOvers, Stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


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


class Shelf:
    """A store in memory, which a test makes forget."""

    def __init__(self) -> None:
        self.has: dict[str, Stored] = {}
        self.now_s = 0.0

    async def put(
        self, call_sid: str, numbers: Sequence[str] | None, changed_at: float | None = None
    ) -> float:
        self.now_s += 1.0
        at = self.now_s if changed_at is None else changed_at
        if call_sid not in self.has or self.has[call_sid].changed_at < at:
            self.has[call_sid] = Stored(at, None if numbers is None else tuple(numbers))
        return at

    async def get(self, call_sid: str) -> Stored | None:
        return self.has.get(call_sid)

    async def close(self) -> None:
        pass


class Deaf(Shelf):
    """A shelf that takes what it is given and never says what it has."""

    async def get(self, call_sid: str) -> Stored | None:
        await asyncio.sleep(3600.0)
        return None


def test_a_shelf_that_does_not_answer_keeps_no_flow_waiting() -> None:
    async def main() -> tuple[object, object, float]:
        loop, shelf = asyncio.get_running_loop(), Deaf()
        calls = HandOvers(loop.time, shelf)
        calls.decide("CA1", ["+911"])
        await asyncio.sleep(0.1)
        assert shelf.has["CA1"].numbers == ("+911",)
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


def test_the_process_that_decided_answers_although_the_store_forgot_and_stores_it_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        shelf = Shelf()
        calls, others = (HandOvers(asyncio.get_running_loop().time, shelf) for _ in range(2))
        calls.decide("CA1", ["+911"])
        calls.decide("CA2")
        await asyncio.sleep(0.1)
        before = dict(shelf.has)
        shelf.has.clear()
        assert await calls.look_up("CA1") == ("+911",)
        await asyncio.sleep(0.1)
        assert shelf.has == before, "with the times that it had"
        assert await others.look_up("CA2") == ()
        for each in (calls, others):
            await each.close()

    run(main())
    assert caplog.text.count("changes stored again: 2") == 1


def test_a_store_that_forgot_hears_of_a_young_hand_over_before_the_flow_asks_another_bridge() -> None:
    async def main() -> None:
        shelf = Shelf()
        calls, others = (HandOvers(asyncio.get_running_loop().time, shelf) for _ in range(2))
        calls.decide("CA1", ["+911"])
        calls.begin("CA2")
        await asyncio.sleep(0.1)
        older = {"CA1": shelf.has["CA1"]}
        for memory in ({}, older):
            shelf.has = dict(memory)
            await asyncio.sleep(handover.CHECK_EVERY_S + 0.1)
            assert set(shelf.has) == {"CA1", "CA2"}
            assert await others.look_up("CA1") == ("+911",)
        for each in (calls, others):
            await each.close()

    run(main())


def test_a_process_whose_hand_overs_are_old_asks_the_store_no_more() -> None:
    async def main() -> bool:
        calls = HandOvers(asyncio.get_running_loop().time, Shelf())
        calls.decide("CA1", ["+911"])
        await asyncio.sleep(handover.WATCHED_S + handover.CHECK_EVERY_S + 1.0)
        over = calls._timer is None
        await calls.close()
        return over

    assert run(main(), limit_s=1000.0)


def test_a_later_change_of_another_bridge_is_not_taken_for_a_loss() -> None:
    async def main() -> None:
        shelf = Shelf()
        calls, others = (HandOvers(asyncio.get_running_loop().time, shelf) for _ in range(2))
        calls.decide("CA1", ["+911"])
        await asyncio.sleep(0.1)
        others.begin("CA1")  # the flow has brought the caller back, to another bridge
        await asyncio.sleep(0.1)
        assert await calls.look_up("CA1") is None
        shelf.has.clear()
        # Each bridge stores what it knows, in whatever order. The later change holds.
        for first, second in ((calls, others), (others, calls)):
            shelf.has.clear()
            for each in (first, second):
                each._store_again()
                await asyncio.sleep(0.1)
            assert await calls.look_up("CA1") is None
            assert await others.look_up("CA1") is None
        for each in (calls, others):
            await each.close()

    run(main())


class Knows(RuleBasedStateMachine):
    """Three bridges, a store that forgets, and one flow. Whatever happens, the last change holds.

    The bridges have time to store what they know before the next thing happens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.shelf = Shelf()
        self.bridges = [HandOvers(self.runner.get_loop().time, self.shelf) for _ in range(3)]
        self.last: tuple[str, ...] | None = None
        self.snapshot: dict[str, Stored] = {}

    def settle(self, seconds: float = 0.1) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @rule(which=st.integers(0, 2), number=st.sampled_from(["+911", "+912"]))
    def decide(self, which: int, number: str) -> None:
        async def do() -> None:
            self.bridges[which].decide("CA1", [number])

        self.runner.run(do())
        self.last = (number,)
        self.settle()

    @rule(which=st.integers(0, 2))
    def begin(self, which: int) -> None:
        async def do() -> None:
            self.bridges[which].begin("CA1")

        self.runner.run(do())
        self.last = None
        self.settle()

    @rule()
    def save(self) -> None:
        self.snapshot = dict(self.shelf.has)

    @rule()
    def forget(self) -> None:
        self.shelf.has = dict(self.snapshot)
        self.settle(handover.CHECK_EVERY_S + 0.2)

    @rule(which=st.integers(0, 2))
    def asks(self, which: int) -> None:
        found = self.runner.run(self.bridges[which].look_up("CA1"))
        assert found == self.last

    def teardown(self) -> None:
        async def close() -> None:
            for each in self.bridges:
                await each.close()

        self.runner.run(close())
        self.runner.close()


Knows.TestCase.settings = settings(max_examples=40, stateful_step_count=20)
TestKnows = Knows.TestCase
