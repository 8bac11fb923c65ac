"""A call in one line: what logs, records, metrics and the console tell of it, under the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pxbridge.calls import delay

if TYPE_CHECKING:
    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.numbers import Numbers

COMPLETED = "completed"

_BY_CODE = {
    1001: "stopped",
    1008: "no_start",
    1012: "stopped",
    1013: "no_engine",
}
"""What the close code tells of a call that the bridge ended (RFC 6455 §7.4)."""


def outcome(record: CallRecord) -> str:
    """What became of a call, in one of a few words.

    ================  ==============================================================================
    ``live``          it goes on
    ``completed``     it was held, and ended by the caller, the agent or the flow
    ``abandoned``     the caller left before an agent spoke
    ``no_engine``     no engine was free
    ``engine_failed`` none came up
    ``engine_lost``   the engine went in mid-call and was not replaced
    ``phone_lost``    the line died without a close
    ``no_start``      whoever connected did not speak Exotel's protocol
    ``stopped``       the bridge was stopped
    ================  ==============================================================================
    """
    ending = record.ending
    if ending is None:
        return "live"
    by = ending.by.value
    if by == "engine":
        return "engine_failed" if record.live_s is None else "engine_lost"
    if by == "bridge" and ending.code in _BY_CODE:
        return _BY_CODE[ending.code]
    if record.started_s is None:
        return "no_start"
    if by == "bridge" and record.live_s is None:
        return "no_engine"
    if by == "phone" and ending.code != 1000:
        return "phone_lost"
    return "abandoned" if record.live_s is None else COMPLETED


def summary(record: CallRecord, numbers: Numbers, now_s: float) -> dict[str, Any]:
    """A call's figures, by name with their unit; None for what is not known.

    Args:
        record: The call, over or not.
        numbers: How phone numbers are written.
        now_s: On the call's clock; counts while the call goes on.
    """
    stats, course = record.stats, record.delay
    ended_s = now_s if record.ending is None else record.ended_s
    setup_s = None
    if record.live_s is not None and record.started_s is not None:
        setup_s = record.live_s - record.started_s
    downlink, uplink = stats.get("downlink", {}), stats.get("uplink", {})
    figures = {
        "setup_s": setup_s,
        "first_audio_s": delay.first_audio_s(stats, record.started_s),
        "duration_s": ended_s - record.opened_s,
        "mouth_to_ear_s": course.usual_s(),
        "mouth_to_ear_p95_s": course.slow_s(),
        **{f"delay_{part.name}_s": course.usual_s(part.name) for part in delay.PARTS},
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
        "stream": record.stream_sid,
        "caller": numbers(record.caller),
        "called": numbers(record.called),
        "persona": record.persona,
        "engine": record.engine,
        "rate_hz": record.rate_hz,
        "outcome": outcome(record),
        "ended_by": record.ending.by.value if record.ending else None,
        "reason": record.ending.reason if record.ending else None,
        **{name: None if value is None else round(value, 4) for name, value in figures.items()},
        "holes": int(downlink.get("holes") or 0),
        "stalls": int(uplink.get("stalls") or 0),
        "holds": int(uplink.get("holds") or 0),
        "malformed": record.malformed + int(uplink.get("malformed") or 0),
    }
