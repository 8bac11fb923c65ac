"""What an operator may do to a call that goes on: hand it over to a person, or end it.

It is done as a key or a phrase would do it: the agent ends its sentence, which is heard, then the socket
closes and the flow goes on. Who did it stands in the call's events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.errors import CallConflict, NoSuchCall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.calls.phrases import Action

MIN_NAME_CHARS: Final = 3
"""The beginning of a CallSid that is shorter was not meant to name one call."""


class LiveCall(Protocol):
    """What is needed of a call."""

    record: CallRecord

    def operate(self, action: Action, by: str) -> bool:
        """Does what was asked; False if the call ends already."""
        ...


def operate(calls: Iterable[LiveCall], name: str, action: Action, operator: str) -> str:
    """Does something to one live call.

    Args:
        calls: Those that go on.
        name: The call's CallSid, or the beginning of it.
        action: What is to be done.
        operator: Who asks, as it will stand in the call's record.

    Returns:
        The call's CallSid.

    Raises:
        NoSuchCall: None begins so.
        CallConflict: Several do, or the call ends already.
    """
    call = _find(calls, name)
    if not call.operate(action, f"the operator {operator}".rstrip()):
        raise CallConflict(f"{call.record.call_id} ends already")
    return call.record.call_id


def _find(calls: Iterable[LiveCall], name: str) -> LiveCall:
    started = [call for call in calls if call.record.started_s is not None]
    exactly = [call for call in started if call.record.call_id == name]
    if not exactly and len(name) < MIN_NAME_CHARS:
        raise NoSuchCall(f"{name!r} is too little of a call's id: give at least {MIN_NAME_CHARS} of it")
    found = exactly or [call for call in started if call.record.call_id.startswith(name)]
    if not found:
        raise NoSuchCall(f"no live call's id begins with {name!r}")
    if exactly:
        return exactly[-1]  # of two connections for one call the newer goes on
    if len({call.record.call_id for call in found}) > 1:
        raise CallConflict(f"{len(found)} live calls' ids begin with {name!r}: give more of it")
    return found[-1]
