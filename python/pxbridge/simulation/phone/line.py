"""A phone line as a test or a user sets it up: its rate, its chunks, and how its events are written."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from pxbridge.simulation.player import ClearedMarks
from pxbridge.telephony.exotel.spelling import Base64, Spelling

if TYPE_CHECKING:
    from collections.abc import Mapping

SPELLINGS: Mapping[str, Spelling] = {
    "documented": Spelling(),
    "numbers": Spelling(text_numbers=False, encoding="raw", stop_reason="stopped"),
    "camel case": Spelling(camel_case=True, encoding="audio/x-raw"),
    "flat": Spelling(flat=True, flat_dtmf=True, encoding="audio/x-l16", stop_reason="closed"),
    "flat camel case": Spelling(flat=True, camel_case=True, text_numbers=False, stop_reason="callEnd"),
    "leg sid": Spelling(leg_sid=True, rate="{hz}Hz", encoding="base64", empty_custom="key"),
    "kHz": Spelling(rate="{khz}kHz", payload="Payload"),
    "extras": Spelling(empty_custom="missing", extras=True),
    "no rate": Spelling(rate=""),
    "unpadded": Spelling(base64=Base64.UNPADDED),
    "trailing junk": Spelling(base64=Base64.TRAILING_JUNK),
    "odd length": Spelling(base64=Base64.ODD_LENGTH),
    "mu-law": Spelling(encoding="audio/x-mulaw"),
    "A-law": Spelling(encoding="audio/x-alaw"),
}
"""The ways in which Exotel writes its events, by name. A test should try all of them."""


class HangUp(Enum):
    """How the phone's side ends the call."""

    STOP = "stop, then close"
    STOP_ONLY = "stop, and never close"
    CLOSE_ONLY = "close without stop"
    ABORT = "the connection breaks off"


@dataclass(frozen=True)
class Line:
    """The phone line of one call.

    Attributes:
        rate_hz: 8000, 16000 or 24000.
        chunk_ms: The duration of the audio in one `media` message; at least one sample.
        spelling: How events are written.
        hang_up: How this side ends the call.
        dtmf: The pressed keys: (time, digit).
        start_after_s: The time between `connected` and `start`.
        ahead_limit_s: If more audio than this is queued, it is a `Fault.TOO_FAR_AHEAD`. A long queue spoils
            barge-in, and Exotel is known to hang up on a greeting that comes in one burst.
        cleared_marks: What a `clear` does to waiting marks.
    """

    rate_hz: int = 8000
    chunk_ms: float = 100.0
    spelling: Spelling = SPELLINGS["documented"]
    hang_up: HangUp = HangUp.STOP
    dtmf: tuple[tuple[float, str], ...] = ()
    start_after_s: float = 0.0
    ahead_limit_s: float = 2.0
    cleared_marks: ClearedMarks = ClearedMarks.RETURNED
    from_number: str = "+911234567890"
    to_number: str = "+918047100000"
    account_sid: str = "pxbridge-phone"
    custom_parameters: Mapping[str, str] = field(default_factory=dict)
    call_sid: str = field(default_factory=lambda: uuid.uuid4().hex)
    stream_sid: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def chunk_samples(self) -> int:
        """Samples in one `media` message."""
        return max(1, round(self.rate_hz * self.chunk_ms / 1000))
