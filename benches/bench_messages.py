"""What one message costs, ours beside plain Python.

The clock is the thread's CPU time and the gate goes by the quickest round, so that what else the machine does
matters little.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from message_work import PAIRS

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.benchmark(timer=time.thread_time)
@pytest.mark.parametrize("side", ["ours", "plain"])
@pytest.mark.parametrize("work", PAIRS)
def test_message(benchmark: BenchmarkFixture, work: str, side: str) -> None:
    pair = PAIRS[work]()
    benchmark.group = work
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        getattr(pair, side), rounds=20, iterations=pair.messages, warmup_rounds=1
    )
