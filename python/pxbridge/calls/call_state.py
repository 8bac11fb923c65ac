"""What is known of a call: where it stands, what was said, how it ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from pxbridge.calls.delay import DelayHistory


class Phase(StrEnum):
    """Where a call stands::

    starting ──▶ prompting ──▶ live ──▶ leaving ──▶ ended
                    │  ▲        │ ▲
                    ▼  │        ▼ │
                   waiting    failover
    """

    STARTING = "starting"
    """The phone has not said `start`."""
    PROMPTING = "prompting"
    """An engine is being prompted; the caller hears the persona's greeting, or silence."""
    WAITING = "waiting"
    """No engine is free: announcements and music."""
    LIVE = "live"
    """Caller and agent talk."""
    FAILOVER = "failover"
    """The engine is gone and another is sought."""
    LEAVING = "leaving"
    """The last words are being heard."""
    ENDED = "ended"


class Outcome(StrEnum):
    """What became of a call, in one of a few words."""

    LIVE = "live"
    """It goes on."""
    COMPLETED = "completed"
    """It was held, and ended by the caller, the agent or the flow."""
    HANDED_OVER = "handed_over"
    """It went on to a person."""
    ABANDONED = "abandoned"
    """The caller left before an agent spoke."""
    REPLACED = "replaced"
    """A second connection for the same call went on."""
    NO_ENGINE = "no_engine"
    """No engine was free."""
    ENGINE_FAILED = "engine_failed"
    """None came up."""
    ENGINE_LOST = "engine_lost"
    """The engine went in mid-call and was not replaced."""
    PHONE_LOST = "phone_lost"
    """The line died, or broke off, without a close."""
    NO_START = "no_start"
    """Whoever connected did not speak Exotel's protocol."""
    STOPPED = "stopped"
    """The bridge was stopped."""
    FAULT = "fault"
    """An error of the bridge's own, which its log has."""


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
        code: The close code the phone's side gets (RFC 6455 §7.4).
        last_words: Whether what has been said is to be heard before the socket closes.
        sentence: Whether a live agent is to end its sentence first.
        outcome: What became of the call, where that does not follow from who ended it and when.
    """

    by: Party
    reason: str
    code: int = 1000
    last_words: bool = False
    sentence: bool = False
    outcome: Outcome | None = None


@dataclass(slots=True)
class CallRecord:
    """What is known of a call when it has ended.

    Times are in seconds on the call's clock; `stats` are the line's counters (see `Uplink.stats` and
    `Downlink.stats`).
    """

    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """Ours: who connects may never name a call, and two connections may carry the same one."""
    peer: str = ""
    """The address that the connection came from."""
    call_id: str = "-"
    stream_id: str = ""
    caller: str = ""
    called: str = ""
    persona: str = ""
    rate_hz: int = 0
    phase: Phase = Phase.STARTING
    engine: str = ""
    failovers: int = 0
    opened_s: float = 0.0
    started_s: float | None = None
    live_s: float | None = None
    ended_s: float = 0.0
    ending: Ending | None = None
    malformed: int = 0
    ignored: int = 0
    dtmf: str = ""
    words: list[str] = field(default_factory=list)
    stats: dict[str, dict[str, float]] = field(default_factory=dict)
    delay: DelayHistory = field(default_factory=DelayHistory)
