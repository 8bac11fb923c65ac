"""The times at a call's start, each counted from the carrier's start message."""

from __future__ import annotations

import pytest

from pxbridge.calls.call_state import CallRecord
from pxbridge.calls.start_times import START_TIMES, start_times_s

FIGURES = {each.figure for each in START_TIMES}


def test_each_time_counts_from_the_start_message() -> None:
    record = CallRecord(opened_s=2.0, started_s=3.0, ready_s=3.4, live_s=5.0)
    record.stats = {"downlink": {"first_sound_us": 3_020_000, "first_audio_us": 5_250_000}}
    assert start_times_s(record) == {
        "setup_s": pytest.approx(0.4),
        "first_sound_s": pytest.approx(0.02),
        "first_audio_s": pytest.approx(2.25),
    }


@pytest.mark.parametrize(
    "record",
    [
        CallRecord(),
        CallRecord(started_s=3.0),
        CallRecord(ready_s=3.4, stats={"downlink": {"first_sound_us": 3_020_000, "first_audio_us": 1}}),
    ],
)
def test_what_has_not_happened_is_not_known(record: CallRecord) -> None:
    assert start_times_s(record) == dict.fromkeys(FIGURES)


def test_a_sound_at_once_is_not_heard_before_the_start() -> None:
    record = CallRecord(started_s=3.000_000_9, stats={"downlink": {"first_sound_us": 3_000_000}})
    assert start_times_s(record)["first_sound_s"] == 0.0
