"""When a process that runs late refuses new calls, and when it takes them again. The lag is injected."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.virtual_time import VirtualTimeLoop, run

from pxbridge.ops.loop_lag import MEASURE_EVERY_S, WINDOW_S, Shedding, measured

if TYPE_CHECKING:
    from collections.abc import Iterable

IN_A_WINDOW = round(WINDOW_S / MEASURE_EVERY_S)


class Measured:
    """A `Shedding` and its clock."""

    def __init__(self, above_ms: float = 40, below_ms: float = 20) -> None:
        self.shedding = Shedding(above_ms, below_ms)
        self.refused = False
        self._now_s = 0.0

    def after(self, lags_ms: Iterable[float]) -> bool:
        """Whether calls are refused after these measurements."""
        for lag_ms in lags_ms:
            self._now_s += MEASURE_EVERY_S + lag_ms / 1000
            self.shedding.measured(lag_ms / 1000, self._now_s)
            self.refused |= self.shedding.is_shedding
        return self.shedding.is_shedding


def test_calls_are_refused_while_the_loop_is_late_and_taken_again_when_it_is_on_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    it = Measured()
    assert not it.after([30] * IN_A_WINDOW)
    assert it.after([50] * IN_A_WINDOW)
    assert it.shedding.reasons() == ("overloaded: the event loop is 50 ms late",)
    assert it.after([30] * IN_A_WINDOW), "between the two limits it stays as it was"
    assert not it.after([10] * IN_A_WINDOW)
    assert it.shedding.reasons() == ()
    assert not it.after([30] * IN_A_WINDOW)
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "new calls are refused",
        "new calls are accepted again",
    ]


def test_one_pause_however_long_refuses_nobody() -> None:
    it = Measured()
    for pauses_ms in ([], [2000], [300, 300]):
        it.after([*pauses_ms, *[1] * IN_A_WINDOW])
    assert not it.refused


def test_what_happened_at_the_start_refuses_nobody() -> None:
    it = Measured()
    it.after([500] * 3)
    it.shedding.restart()
    it.after([1, 200, 200, *[1] * IN_A_WINDOW])
    assert not it.refused


def test_a_start_that_was_late_for_long_refuses_nobody_afterwards() -> None:
    it = Measured()
    assert it.after([500] * IN_A_WINDOW)
    it.shedding.restart()
    assert it.shedding.reasons() == ()


def test_a_loop_that_is_seconds_late_refuses_though_it_measures_seldom() -> None:
    assert Measured().after([3000] * 3)


def test_zero_never_refuses_and_a_reload_takes_effect_at_once() -> None:
    it = Measured(above_ms=0)
    assert not it.after([5000] * IN_A_WINDOW)
    it.shedding.use(40, 20)
    assert it.after([5000])
    it.shedding.use(0, 20)
    assert it.shedding.reasons() == ()


@given(st.lists(st.floats(0, 1000), max_size=200), st.floats(1, 500), st.floats(1, 500))
def test_it_refuses_and_accepts_again_whatever_the_two_limits(
    lags_ms: list[float], above_ms: float, below_ms: float
) -> None:
    it = Measured(above_ms, below_ms)
    it.after(lags_ms)
    assert it.after([above_ms + 1] * 2 * IN_A_WINDOW)
    assert not it.after([0] * 2 * IN_A_WINDOW)


@pytest.mark.parametrize(("busy_ms", "refuses"), [(0, False), (10, False), (150, True)])
def test_a_loop_with_too_much_to_do_is_measured_as_late(busy_ms: float, refuses: bool) -> None:
    async def main() -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        shedding = Shedding(40, 20)

        async def work() -> None:
            while True:
                loop._jumping.now_s += busy_ms / 1000  # as a computation would that holds the loop
                await asyncio.sleep(0.001)

        async with measured(shedding.measured):
            working = asyncio.create_task(work())
            await asyncio.sleep(2 * WINDOW_S)
            working.cancel()
        return shedding.is_shedding

    assert run(main()) is refuses
