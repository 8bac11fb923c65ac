"""When an engine that fails is tried again."""

from __future__ import annotations

from pxbridge.engines.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker


def test_one_failure_costs_an_engine_its_place_and_no_pause() -> None:
    breaker = Breaker()
    breaker.failed(10.0)
    assert breaker.failures == 1
    assert breaker.allows(10.0)
    assert not breaker.on_trial


def test_each_further_failure_doubles_the_pause_up_to_a_bound() -> None:
    breaker = Breaker()
    breaker.failed(0.0)
    pauses = []
    for _ in range(10):
        breaker.failed(0.0)
        pauses.append(breaker.retry_at_s)
        assert not breaker.allows(breaker.retry_at_s - 0.01)
        assert breaker.allows(breaker.retry_at_s)
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_success_forgets_failures_and_a_sign_of_life_shortens_the_pause() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0)
    breaker.retry_soon()
    assert breaker.allows(0.0)
    assert breaker.on_trial, "one at a time until it has worked"
    breaker.worked()
    assert breaker.failures == 0
