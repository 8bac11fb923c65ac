"""What happens in a call, for whoever watches: logs, metrics, records, the console, a simulated phone.

A call tells each thing once, when it happens, and does not know who listens. A watcher is called from the
event loop between two packets of somebody's voice: it must be quick, must not block, and what it raises is
logged and otherwise ignored.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pxbridge.calls.call_state import CallRecord


CURRENT_CALL: ContextVar[CallRecord | None] = ContextVar("current_call", default=None)
"""The call that what runs now belongs to: its tasks, and what its sockets set off."""


class Kind(StrEnum):
    """What happened; in brackets what `Event.detail` holds."""

    STARTED = "started"
    """Exotel's `start` came (caller, called, custom)."""
    PERSONA = "persona"
    """Whom the caller speaks with was chosen (name, and record: whether the call is to be recorded)."""
    PHASE = "phase"
    """The call stands elsewhere now (phase: see `calls.record.Phase`; and maybe the reason)."""
    ENGINE_TRIED = "engine tried"
    """An engine was leased and is being prompted, or was ahead of the call (engine, warm)."""
    ENGINE_FAILED = "engine failed"
    """It did not come up (engine, reason)."""
    LIVE = "live"
    """Phone and engine are joined (engine, prompt_s, and warm: prompted before the call)."""
    HEARD = "heard"
    """An engine's first sound went to the phone (engine, after_s: since `start`, or since the loss of the
    engine before it)."""
    WORDS = "words"
    """The agent said something (text)."""
    KEY = "key"
    """The caller pressed a key (digit)."""
    ACTION = "action"
    """A key or a phrase set something off (by, action)."""
    NOTE = "note"
    """Something an operator should know (text)."""
    COUNTERS = "counters"
    """Every second while the call goes on; `CallRecord.stats` is fresh."""
    ENGINE_LOST = "engine lost"
    """The engine is gone in mid-call (engine, reason)."""
    ENDED = "ended"
    """The call is over (by, reason); `CallRecord.stats` is complete."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Args:
        kind: What.
        at_s: When, on the call's clock.
        detail: The rest, by name.
    """

    kind: Kind
    at_s: float
    detail: Mapping[str, Any] = field(default_factory=dict)


class Subscriber(Protocol):
    """Whoever wants to know what happens in calls."""

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Told each event of each call, in order; `record` is the call's, as it is now."""
        ...


class Emit(Protocol):
    """Tells the subscribers that something happened in one call."""

    def __call__(self, kind: Kind, **detail: Any) -> None:
        """Emits an event with this detail, at the present time."""
        ...
