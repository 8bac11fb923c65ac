"""Events of a call, for its subscribers: logs, metrics, records, the console, a simulated phone.

A call emits each event once, when it happens, and does not know its subscribers. A subscriber is called from
the event loop: it must be quick and must not block. An exception that it raises is logged and ignored.
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
"""The call to which the running code belongs: its tasks, and the callbacks of its sockets."""


class Kind(StrEnum):
    """Kinds of events. The keys of `Event.detail` are in brackets."""

    STARTED = "started"
    """The carrier's start message came (caller, called, custom)."""
    PERSONA = "persona"
    """The persona was chosen (name, and record: whether the call is recorded)."""
    PHASE = "phase"
    """The call is in another phase (phase: see `pxbridge.calls.call_state.Phase`; sometimes reason)."""
    ENGINE_TRIED = "engine tried"
    """An engine was leased. It is being prompted, or was prompted before the call (engine, warm)."""
    ENGINE_FAILED = "engine failed"
    """The engine could not be used (engine, reason)."""
    LIVE = "live"
    """Phone and engine are connected (engine; prompt_s: how long the engine took for its prompts; warm:
    whether that was before the call)."""
    HEARD = "heard"
    """An engine's first sound is on its way to the caller (engine; after_s: when the caller hears it, since
    the start message, or since the loss of the engine that was heard before it)."""
    WORDS = "words"
    """The agent said something (text)."""
    KEY = "key"
    """The caller pressed a key (digit)."""
    ACTION = "action"
    """A key, a phrase or an operator caused an action (by, action)."""
    NOTE = "note"
    """A message for the operator (text)."""
    COUNTERS = "counters"
    """Every second of a live call. `CallRecord.stats` is up to date."""
    ENGINE_LOST = "engine lost"
    """The engine was lost during the call (engine, reason)."""
    ENDED = "ended"
    """The call is over (by, reason); `CallRecord.stats` is complete."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Args:
        kind: What happened.
        at_s: When, on the call's clock.
        detail: The rest, by name.
    """

    kind: Kind
    at_s: float
    detail: Mapping[str, Any] = field(default_factory=dict)


class Subscriber(Protocol):
    """A function that receives the events of calls."""

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Called for each event of each call, in order. `record` is the call's record at that moment."""
        ...


class Emit(Protocol):
    """Tells the subscribers that something happened in one call."""

    def __call__(self, kind: Kind, **detail: Any) -> None:
        """Emits an event with this detail, at the present time."""
        ...
