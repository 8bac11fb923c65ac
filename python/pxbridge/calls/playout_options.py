"""What an operator may set of how a call's sound is kept in time; what it means is told in `rust/core`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Profile = Literal["standard", "strict", "low-delay"]
"""What an Exotel account wants of payloads; `PlayoutProfile` in `rust/core/src/downlink/playout.rs`."""


@dataclass(frozen=True)
class PlayoutOptions:
    """How the sound of a call is kept in time.

    Attributes:
        profile: How large payloads to Exotel are, and how close to their time they are sent.
        max_backlog_ms: Of sound that comes late, from the phone or from the engine, the most that is still
            worth hearing; what is older is cut.
        gate_ms: So much of a call's first sound is silence to the engine: a line cracks when it opens.
    """

    profile: Profile = "standard"
    max_backlog_ms: int = 1000
    gate_ms: int = 200
