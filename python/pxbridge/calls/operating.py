"""Operators' actions on live calls: hand a call over to a person, or end it.

Both work as a key or a phrase does: the agent finishes its sentence, the caller hears it, the socket closes,
and the carrier's call flow goes on. The call's events say which operator did it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.errors import CallConflict, NoSuchCall
from pxbridge.wording import short_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.calls.phrases import Action

MIN_NAME_CHARS: Final = 3
"""A shorter beginning of a call's id could match a call by accident."""


class LiveCall(Protocol):
    """The part of a call that this module needs."""

    record: CallRecord

    def operate(self, action: Action, by: str) -> bool:
        """Performs the action. False if the call is ending already."""
        ...


def operate(calls: Iterable[LiveCall], name: str, action: Action, operator: str) -> str:
    """Performs an action on one live call.

    Args:
        calls: The live calls.
        name: The call's id, or the beginning of it.
        action: What to do.
        operator: Who asks; written into the call's record.

    Returns:
        The call's id.

    Raises:
        NoSuchCall: No live call's id begins with `name`.
        CallConflict: Several ids begin with it, or the call is ending already.
    """
    call = _find(calls, name)
    if not call.operate(action, f"the operator {operator}".rstrip()):
        raise CallConflict(f"{short_id(call.record.call_id)} is ending already")
    return call.record.call_id


def _find(calls: Iterable[LiveCall], name: str) -> LiveCall:
    started = [call for call in calls if call.record.started_s is not None]
    exactly = [call for call in started if call.record.call_id == name]
    if not exactly and len(name) < MIN_NAME_CHARS:
        raise NoSuchCall(f"{name!r} is too short for a call's id: give at least {MIN_NAME_CHARS} characters")
    found = exactly or [call for call in started if call.record.call_id.startswith(name)]
    if not found:
        raise NoSuchCall(f"no live call's id begins with {name!r}")
    if exactly:
        return exactly[-1]  # if one call has two connections, the newer one continues
    if len({call.record.call_id for call in found}) > 1:
        raise CallConflict(f"{len(found)} live calls' ids begin with {name!r}: give more characters")
    return found[-1]
