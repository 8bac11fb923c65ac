"""WakeupTimer ring at their moment, whoever else waits, and cost a wake-up only when one may be due."""

from __future__ import annotations

import asyncio
import itertools
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.virtual_time import run

from pxbridge.calls.wakeup_timer import TOGETHER, WakeupTimer

if TYPE_CHECKING:
    import pytest

MOMENTS = st.dictionaries(st.integers(0, 3000), st.integers(0, 3000), max_size=30)
"""When one wakeup is set, and for how much later, in ms; half a ms later, so that nothing happens at once."""


@given(st.lists(MOMENTS, max_size=5))
@settings(max_examples=60, deadline=None)
def test_every_wakeup_fires_at_the_moment_it_was_last_set_to(calls: list[dict[int, int]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timer = WakeupTimer()
        began_s = loop.time()
        fired_at_s: list[list[float]] = [[] for _ in calls]
        for heard, moments in zip(fired_at_s, calls, strict=True):
            wakeup = timer.wakeup(lambda heard=heard: heard.append(loop.time() - began_s))  # type: ignore[misc]
            for at_ms, after_ms in moments.items():
                at_s = began_s + at_ms / 1e3
                loop.call_at(at_s, wakeup.set, at_s + (after_ms + 0.5) / 1e3)
        await asyncio.sleep(10)
        for heard, moments in zip(fired_at_s, calls, strict=True):
            in_order = sorted(moments)
            expected = [
                (at_ms + moments[at_ms] + 0.5) / 1e3
                for at_ms, next_ms in zip(in_order, [*in_order[1:], math.inf], strict=False)
                if at_ms + moments[at_ms] + 0.5 < next_ms
            ]
            assert len(heard) == len(expected)
            assert all(abs(a - b) < 1e-4 for a, b in zip(heard, expected, strict=True))

    run(main())


def test_wakeups_that_are_put_off_all_the_time_hardly_wake_the_process() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        timer = WakeupTimer()
        fired = 0
        fire = timer._fire

        def counted() -> None:
            nonlocal fired
            fired += 1
            fire()

        timer._fire = counted  # type: ignore[method-assign]
        calls = [timer.wakeup(lambda: None) for _ in range(50)]
        for step in range(1000):
            await asyncio.sleep(0.01)
            calls[step % 50].set(loop.time() + 0.6)
        return fired / 10.0

    assert run(main()) < 25, "times a second, for 50 calls with a packet each every half second"


def test_one_that_fails_does_not_silence_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[str]:
        timer, fired = WakeupTimer(), list[str]()

        def fail() -> None:
            raise ValueError("on purpose")

        for ring in (fail, lambda: fired.append("second")):
            timer.wakeup(ring).set(asyncio.get_running_loop().time() + 1)
        await asyncio.sleep(2)
        return fired

    assert run(main()) == ["second"]
    assert "on purpose" in caplog.text


def test_a_wakeup_runs_in_the_context_of_whoever_made_it() -> None:
    whose = ContextVar("whose", default="nobody's")

    async def main() -> list[str]:
        timer, seen = WakeupTimer(), list[str]()

        async def make(name: str, at_s: float) -> None:
            whose.set(name)
            timer.wakeup(lambda: seen.append(whose.get())).set(asyncio.get_running_loop().time() + at_s)

        await asyncio.gather(make("first's", 1.0), make("second's", 0.5))
        await asyncio.sleep(2)
        return seen

    assert run(main()) == ["second's", "first's"]


def test_periodic_wakeups_of_calls_that_began_at_any_time_share_their_moments() -> None:
    async def main() -> tuple[list[list[float]], int]:
        loop = asyncio.get_running_loop()
        timer = WakeupTimer()
        came_s: list[list[float]] = [[] for _ in range(TOGETHER + 1)]
        made = []
        for heard in came_s:
            made.append(timer.every(0.5, lambda heard=heard: heard.append(loop.time())))  # type: ignore[misc]
            await asyncio.sleep(0.013)
        await asyncio.sleep(3.0)
        made[0].cancel()
        rounds = len(came_s[0])
        await asyncio.sleep(1.0)
        assert len(came_s[0]) == rounds
        return came_s, rounds

    came_s, rounds = run(main())
    assert rounds >= 6
    for heard in came_s:
        gaps_s = [later - earlier for earlier, later in itertools.pairwise(heard)]
        assert all(abs(gap_s - 0.5) < 1e-4 for gap_s in gaps_s)
    last = [heard[-1] for heard in came_s[1:TOGETHER]]
    assert max(last) - min(last) < 1e-4, "one group"
    assert abs(came_s[TOGETHER][-1] - last[0]) > 0.05, "the next group has a moment of its own"


def test_a_periodic_wakeup_that_fails_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        count = 0

        def fail() -> None:
            nonlocal count
            count += 1
            raise ValueError("on purpose")

        WakeupTimer().every(0.5, fail)
        await asyncio.sleep(3)
        return count

    assert run(main()) >= 5
    assert "on purpose" in caplog.text
