"""A clock for pytest-benchmark that moves only by what was measured elsewhere.

A delay from mouth to ear, or the CPU time of another process, is not the duration of a function. Here the
function only moves the clock by the next measured value, so that minimum, median and maximum in the run's
JSON are those of the measured values, in seconds::

    REPLAY = Replay()

    @pytest.mark.benchmark(timer=REPLAY.now_s)
    def test_delay(benchmark):
        REPLAY.report(benchmark, delays_s)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_benchmark.fixture import BenchmarkFixture


class Replay:
    """The clock."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        return self._now_s

    def report(self, benchmark: BenchmarkFixture, values_s: Sequence[float]) -> None:
        """Makes one round of each value."""
        left = iter(values_s)

        def pass_time() -> None:
            self._now_s += next(left)

        # From 0 each time: differences of small numbers are exact enough.
        self._now_s = 0.0
        benchmark.pedantic(pass_time, rounds=len(values_s))  # type: ignore[no-untyped-call]
