"""The parts of a call's delay, off its counters."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge.calls import delay

STATS: dict[str, dict[str, float | None]] = {
    "uplink": {"chunk_us": 100_000.0, "delay_us": 10_000.0, "inserted": 800.0, "cut": 80.0},
    "downlink": {
        "round_trip_us": 45_000.0,
        "queued_us": 5_000.0,
        "exotel_us": 90_000.0,
        "noise": 160.0,
        "flushed": 1600.0,
    },
}


def after(seconds: float, **downlink: float | None) -> dict[str, dict[str, float | None]]:
    """The counters when the engine has spoken for so long."""
    return {**STATS, "downlink": {**STATS["downlink"], "received": 8000 * seconds, **downlink}}


def test_the_parts_add_up_to_what_the_caller_waits() -> None:
    history = delay.DelayHistory()
    history.add(after(1))
    assert history.newest_s["mouth_to_ear"] == pytest.approx(0.19)
    assert history.median_s() == pytest.approx(0.19)
    assert history.median_s("engine") == pytest.approx(0.045)


def test_a_delay_of_which_a_part_is_unknown_is_not_told() -> None:
    history = delay.DelayHistory()
    history.add(after(1, round_trip_us=None))
    assert history.newest_s == {}
    assert history.median_s() is None
    assert history.p95_s() is None


def test_while_the_engine_says_nothing_there_is_no_delay_to_tell() -> None:
    history = delay.DelayHistory()
    for spoken_s in (1, 2, 2, 2, 2):
        history.add(after(spoken_s))
    assert history.newest_s == {}
    assert len(history.samples_s["mouth_to_ear"]) == 2
    history.add(after(3, round_trip_us=1_045_000.0))
    assert history.newest_s["mouth_to_ear"] == pytest.approx(1.19)


def test_one_bad_second_in_twenty_is_the_slow_figure_and_not_the_usual_one() -> None:
    history = delay.DelayHistory()
    for second in range(40):
        history.add(after(second + 1, queued_us=1_000_000.0 if second % 10 == 9 else 0.0))
    assert history.median_s() == pytest.approx(0.185)
    assert history.p95_s() == pytest.approx(1.185)


@given(st.lists(st.floats(0.0, 10.0, width=32), min_size=1, max_size=60))
def test_the_figures_are_the_median_and_the_95th_percentile(waits_s: list[float]) -> None:
    history = delay.DelayHistory()
    for second, wait_s in enumerate(waits_s):
        history.add(after(second + 1, round_trip_us=wait_s * 1e6))
    samples = list(history.samples_s["engine"])
    assert history.median_s("engine") == pytest.approx(statistics.median(samples))
    if len(samples) > 1:
        slow_s = statistics.quantiles(samples, n=20, method="inclusive")[-1]
        assert history.p95_s("engine") == pytest.approx(slow_s)


@pytest.mark.parametrize(("chunk_ms", "adds_ms"), [(20, 0), (40, 0), (80, 0), (100, 40), (160, 40), (37, 18)])
def test_a_chunk_adds_what_does_not_fill_the_models_frames(chunk_ms: int, adds_ms: float) -> None:
    ends_ms = range(80, 80 * chunk_ms + 1, 80)  # of the frames, until their beat with the chunks comes round
    waits_ms = [-end_ms % chunk_ms for end_ms in ends_ms]
    assert sum(waits_ms) / len(waits_ms) == pytest.approx(adds_ms)
    assert delay.parts_s({"uplink": {"chunk_us": 1e3 * chunk_ms}}) == {
        "phone_chunk": pytest.approx(adds_ms / 1e3)
    }


def test_what_was_put_in_and_taken_out_is_told_in_seconds_of_both_directions() -> None:
    assert delay.changed_s(STATS, delay.PUT_IN, 8000) == pytest.approx(0.12)
    assert delay.changed_s(STATS, delay.TAKEN_OUT, 8000) == pytest.approx(0.21)
    assert delay.changed_s({}, delay.PUT_IN, 0) == 0.0


def test_the_parts_have_the_names_that_dashboards_and_records_know() -> None:
    assert [part.name for part in delay.PARTS] == ["phone_chunk", "intake", "engine", "playout", "carrier"]
    assert [part.figure for part in delay.PARTS] == [
        "delay_phone_chunk_s",
        "delay_intake_s",
        "delay_engine_s",
        "delay_playout_s",
        "delay_exotel_s",
    ]
