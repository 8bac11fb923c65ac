"""What the live page is told, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pxbridge.calls.call_state import CallRecord, Ending, Party, Phase
from pxbridge.calls.delay import DelayHistory
from pxbridge.calls.numbers import Numbers
from pxbridge.calls.summary import summary
from pxbridge.console.live_view import LiveView

if TYPE_CHECKING:
    from pxbridge.console.models import Snapshot


@dataclass
class Call:
    record: CallRecord
    spoken_s: tuple[float, float] = (0.0, 0.0)


class Engines:
    waiting = 0

    def __init__(self, failures: dict[str, int] | None = None) -> None:
        self.told = failures or {}

    def snapshot(self) -> dict[str, dict[str, int]]:
        return {"ws://gpu": {"idle": 1}}

    def failures(self) -> dict[str, dict[str, int]]:
        return {"ws://gpu": self.told}


def snapshot(*calls: Call, engines: Engines | None = None, now_s: float = 100.0) -> Snapshot:
    view = LiveView(calls, engines or Engines(), tuple, Numbers(), rehearsal=False, clock=lambda: now_s)
    return view.snapshot()


def test_an_engine_that_says_that_it_is_full_has_not_failed() -> None:
    (engine,) = snapshot(engines=Engines({"ahead": 1, "setup": 2, "call": 0, "busy": 40})).engines
    assert engine.failures == 3


def test_the_delay_of_the_live_page_is_that_of_the_calls_figures() -> None:
    history = DelayHistory(newest_s={"mouth_to_ear": 0.2345})
    record = CallRecord(started_s=0.0, live_s=1.0, phase=Phase.LIVE, delay=history)
    (call,) = snapshot(Call(record)).calls
    assert call.delay_ms == 1000 * summary(record, Numbers(), 100.0)["mouth_to_ear_now_s"] == 234.5
    record.ending = Ending(Party.PHONE, "stop")
    assert summary(record, Numbers(), 100.0)["mouth_to_ear_now_s"] is None, "it is over"


def test_what_a_caller_said_before_there_was_an_agent_is_no_part_of_the_conversation() -> None:
    record = CallRecord(started_s=0.0, live_s=90.0, said_before_s=30.0, phase=Phase.LIVE)
    (call,) = snapshot(Call(record, spoken_s=(32.0, 5.0))).calls
    assert call.caller_share == pytest.approx(0.2)
    assert call.agent_share == pytest.approx(0.5)
