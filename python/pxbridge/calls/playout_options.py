"""Settings of a call's playout; `rust/core` explains their meaning."""

from __future__ import annotations

from dataclasses import dataclass

from pxbridge.telephony.carrier import PlayoutProfile

__all__ = ["PlayoutOptions", "PlayoutProfile"]


@dataclass(frozen=True)
class PlayoutOptions:
    """How the sound of a call is kept in time.

    Attributes:
        profile: How large payloads to the phone are, and how close to their time they are sent.
        max_backlog_ms: The most late sound, from the phone or from the engine, that is still worth hearing.
            Older sound is cut.
        gate_ms: How much of a call's first sound the engine gets as silence: a line crackles when it opens.
    """

    profile: PlayoutProfile = "standard"
    max_backlog_ms: int = 1000
    gate_ms: int = 200
