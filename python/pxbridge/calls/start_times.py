"""How long a caller waits at the start of a call, in seconds after the carrier's start message.

A persona's greeting plays while the engine is prompted, and the agent is held back until it has ended::

    start message
    ├── engine ready ──────────────┐ waits for the greeting's end
    └── first sound: the greeting ─┴── agent's first sound

Without a greeting the first sound is the agent's, or an announcement if prompting takes long. All three are
computed here and nowhere else: logs, records, metrics and the console take them from `start_times_s`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pxbridge.calls.call_state import CallRecord


class StartTime(NamedTuple):
    """One of the times.

    Attributes:
        figure: The JSON key, and the column of a table.
        metric: The name of its histogram.
        title: The name for people.
        about: What it means.
    """

    figure: str
    metric: str
    title: str
    about: str


START_TIMES: Final = (
    StartTime(
        "setup_s",
        "pxbridge_call_setup_seconds",
        "engine ready",
        "From the carrier's start message to a prompted engine. A greeting that plays meanwhile does not "
        "count.",
    ),
    StartTime(
        "first_sound_s",
        "pxbridge_call_first_sound_seconds",
        "first sound",
        "From the carrier's start message to the first sound at the caller's ear: the persona's greeting, an "
        "announcement, or the agent.",
    ),
    StartTime(
        "first_audio_s",
        "pxbridge_call_first_audio_seconds",
        "agent's first sound",
        "From the carrier's start message to the agent's first audio at the caller's ear. The agent speaks "
        "after a greeting, so the greeting counts.",
    ),
)


def start_times_s(record: CallRecord) -> dict[str, float | None]:
    """The times so far, by `StartTime.figure`; None for what has not happened."""
    downlink = record.stats.get("downlink", {})
    times_s = (
        record.ready_s,
        _seconds(downlink.get("first_sound_us")),
        _seconds(downlink.get("first_audio_us")),
    )
    return {
        start_time.figure: None
        if at_s is None or record.started_s is None
        # The line counts whole microseconds, and may round down.
        else max(0.0, at_s - record.started_s)
        for start_time, at_s in zip(START_TIMES, times_s, strict=True)
    }


def _seconds(at_us: float | None) -> float | None:
    return None if at_us is None else at_us / 1e6
