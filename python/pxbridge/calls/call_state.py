"""The state of a call: its phase, the agent's words, and how it ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from pxbridge.calls.delay import DelayHistory


class Phase(StrEnum):
    """The phases of a call::

    starting ──▶ prompting ──▶ live ──▶ leaving ──▶ ended
                    │  ▲        │ ▲
                    ▼  │        ▼ │
                   waiting    failover
    """

    STARTING = "starting"
    """The carrier has not sent its start message."""
    PROMPTING = "prompting"
    """An engine is being prompted, or is ready while the persona's greeting still plays. The caller hears the
    greeting and, if prompting takes long, words and music."""
    WAITING = "waiting"
    """No engine is free. The caller hears announcements and music."""
    LIVE = "live"
    """Caller and agent talk."""
    FAILOVER = "failover"
    """The engine was lost and another one is being leased."""
    LEAVING = "leaving"
    """The caller hears the last words."""
    ENDED = "ended"


class Outcome(StrEnum):
    """How a call ended."""

    LIVE = "live"
    """It has not ended."""
    COMPLETED = "completed"
    """The caller was connected with an agent. The caller, the agent or the flow ended it."""
    HANDED_OVER = "handed_over"
    """It was handed over to a person."""
    ABANDONED = "abandoned"
    """The caller left before an agent was connected."""
    REPLACED = "replaced"
    """A second connection for the same call replaced it."""
    NO_ENGINE = "no_engine"
    """No engine was free."""
    ENGINE_FAILED = "engine_failed"
    """No engine could be used."""
    ENGINE_LOST = "engine_lost"
    """The engine was lost during the call and was not replaced."""
    PHONE_LOST = "phone_lost"
    """The phone's connection was lost without a close."""
    NO_START = "no_start"
    """The peer did not speak a carrier's protocol, or asked for a persona or a voice that does not exist."""
    STOPPED = "stopped"
    """The bridge was stopped."""
    FAULT = "fault"
    """An error of the bridge itself. It is in the log."""


class Party(Enum):
    """Who ended a call."""

    PHONE = "phone"
    ENGINE = "engine"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a call ends.

    Args:
        by: Who ended it.
        reason: For a person, in a log.
        code: The close code for the phone's side (RFC 6455 §7.4).
        last_words: Whether the caller hears what was said before the socket closes.
        sentence: Whether a live agent ends its sentence first.
        outcome: The outcome, if it does not follow from who ended the call and when.
    """

    by: Party
    reason: str
    code: int = 1000
    last_words: bool = False
    sentence: bool = False
    outcome: Outcome | None = None


@dataclass(slots=True)
class CallRecord:
    """Everything known of a call.

    Times are in seconds on the call's clock. `stats` are the line's counters (`pxbridge.audio.Line.stats`).

    Attributes:
        opened_s: The connection was accepted. A call's duration and its events' times count from here.
        started_s: The carrier's start message came. The figures of `pxbridge.calls.start_times` count from
            here.
        ready_s: The first engine was prompted.
        live_s: Phone and engine were connected: after `ready_s`, and after the persona's greeting.
        ended_s: The call was over.
        said_before_s: How long the caller had spoken by `live_s`, in seconds.
    """

    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """Our own id. A peer may never name its call, and two connections may name the same one."""
    peer: str = ""
    """The address that the connection came from."""
    call_id: str = "-"
    stream_id: str = ""
    carrier: str = ""
    """The carrier's name, in lower case."""
    caller: str = ""
    called: str = ""
    persona: str = ""
    rate_hz: int = 0
    phase: Phase = Phase.STARTING
    engine: str = ""
    failovers: int = 0
    opened_s: float = 0.0
    started_s: float | None = None
    ready_s: float | None = None
    live_s: float | None = None
    said_before_s: float = 0.0
    ended_s: float = 0.0
    ending: Ending | None = None
    malformed: int = 0
    ignored: int = 0
    words: list[str] = field(default_factory=list)
    stats: dict[str, dict[str, float]] = field(default_factory=dict)
    delay: DelayHistory = field(default_factory=DelayHistory)
