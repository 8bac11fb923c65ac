"""A call's figures, under the names that logs, records, metrics and the console share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pxbridge.calls import delay
from pxbridge.calls.call_state import Outcome, Party
from pxbridge.calls.start_times import start_times_s

if TYPE_CHECKING:
    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.numbers import Numbers

_BY_CODE = {
    1001: Outcome.STOPPED,
    1008: Outcome.NO_START,
    1012: Outcome.STOPPED,
}
"""The outcome of a call that the bridge ended, by its close code (RFC 6455 §7.4)."""


def outcome(record: CallRecord) -> Outcome:
    """The outcome of a call."""
    ending = record.ending
    if ending is None:
        return Outcome.LIVE
    if ending.outcome is not None:
        return ending.outcome
    if ending.by is Party.ENGINE:
        return Outcome.ENGINE_FAILED if record.live_s is None else Outcome.ENGINE_LOST
    if ending.by is Party.BRIDGE and ending.code in _BY_CODE:
        return _BY_CODE[ending.code]
    if record.started_s is None:
        return Outcome.NO_START
    return Outcome.ABANDONED if record.live_s is None else Outcome.COMPLETED


def summary(record: CallRecord, numbers: Numbers, now_s: float) -> dict[str, Any]:
    """A call's figures, by name with their unit; None for those that are not known.

    Args:
        record: The call, live or ended.
        numbers: How phone numbers are written.
        now_s: The time on the call's clock; the end of a live call's duration.
    """
    stats, history = record.stats, record.delay
    ended_s = now_s if record.ending is None else record.ended_s
    downlink, uplink = stats.get("downlink", {}), stats.get("uplink", {})
    figures = {
        **start_times_s(record),
        "duration_s": ended_s - record.opened_s,
        "mouth_to_ear_s": history.median_s(),
        "mouth_to_ear_p95_s": history.p95_s(),
        "mouth_to_ear_now_s": history.newest_s.get("mouth_to_ear") if record.ending is None else None,
        **{part.figure: history.median_s(part.name) for part in delay.PARTS},
        "inserted_s": delay.changed_s(stats, delay.PUT_IN, record.rate_hz),
        "removed_s": delay.changed_s(stats, delay.TAKEN_OUT, record.rate_hz),
        "withheld_s": delay.changed_s(stats, {"uplink": ("withheld",)}, record.rate_hz),
        "unheard_s": delay.changed_s(stats, delay.UNHEARD, record.rate_hz),
        "longest_hole_s": (downlink.get("longest_hole_us") or 0) / 1e6,
        "longest_stall_s": (uplink.get("longest_stall_us") or 0) / 1e6,
        "drift_ppm": uplink.get("drift_ppm"),
    }
    return {
        "key": record.key,
        "peer": record.peer,
        "call": record.call_id,
        "stream": record.stream_id,
        "carrier": record.carrier,
        "caller": numbers(record.caller),
        "called": numbers(record.called),
        "persona": record.persona,
        "engine": record.engine,
        "rate_hz": record.rate_hz,
        "outcome": outcome(record).value,
        "ended_by": record.ending.by.value if record.ending else None,
        "reason": record.ending.reason if record.ending else None,
        **{name: None if value is None else round(value, 4) for name, value in figures.items()},
        "failovers": record.failovers,
        "holes": int(downlink.get("holes") or 0),
        "stalls": int(uplink.get("stalls") or 0),
        "holds": int(uplink.get("holds") or 0),
        "slow": int(uplink.get("slow") or 0),
        "malformed": record.malformed + int(uplink.get("malformed") or 0),
    }
