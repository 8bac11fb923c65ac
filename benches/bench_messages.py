"""What one message costs, ours beside plain Python: `make bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sides import PAIRS

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("side", ["ours", "plain"])
@pytest.mark.parametrize("work", PAIRS)
def test_message(benchmark: BenchmarkFixture, work: str, side: str) -> None:
    pair = PAIRS[work]()
    benchmark.group = work
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        getattr(pair, side), rounds=10, iterations=pair.messages, warmup_rounds=1
    )
