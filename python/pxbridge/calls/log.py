"""What happens in calls, as log lines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pxbridge.calls.events import Kind

if TYPE_CHECKING:
    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event

log = logging.getLogger("pxbridge.call")

KEPT_DIGITS = 4
"""Of a phone number, at its end: enough to tell two callers apart, too few to call one."""


def masked(number: str) -> str:
    """A phone number as it may stand in a log."""
    return "*" * max(0, len(number) - KEPT_DIGITS) + number[-KEPT_DIGITS:] if number else "unknown"


def log_call(record: CallRecord, event: Event) -> None:
    """Writes a line for an event; the agent's words are nobody's business and stay out."""
    detail = event.detail
    match event.kind:
        case Kind.STARTED:
            log.info(
                "call %s: started by %s, %d Hz", record.call_id, masked(detail["caller"]), record.rate_hz
            )
        case Kind.LIVE:
            log.info(
                "call %s: live with %s, prompts took %.2f s",
                record.call_id,
                detail["engine"],
                detail["prompt_s"],
            )
        case Kind.KEY:
            log.info("call %s: a key was pressed", record.call_id)
        case Kind.ENGINE_FAILED | Kind.ENGINE_LOST:
            log.warning("call %s: %s: %s", record.call_id, event.kind.value, detail["reason"])
        case Kind.NOTE:
            log.warning("call %s: %s", record.call_id, detail["text"])
        case Kind.ENDED:
            log.info(
                "call %s: ended by the %s after %.1f s: %s",
                record.call_id,
                detail["by"],
                record.ended_s - record.opened_s,
                detail["reason"],
            )
        case _:
            pass
