"""When a bridge is ready."""

from __future__ import annotations

from pxbridge.ops.health import engines_not_ready, no_engine


def test_it_is_ready_as_long_as_one_engine_may_work() -> None:
    assert engines_not_ready({"a": {"unhealthy": 2}, "b": {"idle": 0, "live": 1}}) == []


def test_engines_that_are_all_taken_can_be_waited_for() -> None:
    assert engines_not_ready({"a": {"idle": 0, "live": 1}}) == []


def test_it_says_that_no_engine_works() -> None:
    snapshot = {"ws://b": {"unhealthy": 1, "idle": 0}, "ws://a": {"unhealthy": 2}}
    assert engines_not_ready(snapshot) == ["no engine works: ws://a, ws://b"]
    assert engines_not_ready({}) == ["there is no engine"]


def test_strangers_do_not_learn_where_the_engines_are() -> None:
    assert no_engine({"ws://b": {"unhealthy": 1}, "ws://a": {"unhealthy": 2}}) == [
        "none of the 2 engines works"
    ]
    assert no_engine({"ws://b": {"unhealthy": 1}}) == ["the only engine does not work"]
    assert no_engine({"ws://b": {"unhealthy": 1}, "ws://a": {"live": 1}}) == []
