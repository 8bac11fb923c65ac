"""Limits how much of a peer's data is read, so that no peer takes the event loop from the others.

There are two limits. In one turn of the event loop, a connection reads at most its share (`TURN_FRAMES` and
`TURN_BYTES`). The rest waits for the next turn, after the other connections. In the long run, a connection
reads at most the rates of its `Limits`: two token buckets, of bytes and of frames. A peer that has emptied
one is slowed: nothing is read for a while, TCP's window closes, and the peer has to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pxbridge.websocket.limits import Limits

TURN_FRAMES: Final = 32
"""After this many frames a connection waits for its next turn. 32 messages take about a millisecond."""

TURN_BYTES: Final = 64 * 1024
"""After this many bytes a connection waits for its next turn, unless they are one message in one frame."""

PIECE_BYTES: Final = 256
"""Bytes that are given to the parser at once. Its frames are counted after each piece, and a masked frame has
at least 6 bytes, so a turn has at most 42 frames more than `TURN_FRAMES`."""

PAUSE_S: Final = 0.05
"""The shortest time for which a peer is slowed. Shorter pauses would only cost more turns."""


class Allowance:
    """What a peer may still send. The owner subtracts what it reads, and asks `renew` when one is negative.

    Args:
        limits: The rates, and how much may come at once.
        now_s: The time; any clock that does not jump.

    Attributes:
        bytes_left: Bytes that may be read before `renew` is asked.
        frames_left: Frames, likewise.
        slowed_since_s: Since when the peer has been slowed; None if it sends as it should.
    """

    __slots__ = ("_limits", "_renewed_s", "bytes_left", "frames_left", "slowed_since_s")

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        self._renewed_s = now_s
        self.bytes_left = limits.max_bytes_per_s * limits.burst_s
        self.frames_left = limits.max_frames_per_s * limits.burst_s
        self.slowed_since_s: float | None = None

    def renew(self, now_s: float) -> float:
        """Adds what the time since the last call allows.

        Returns:
            For how long nothing may be read, in seconds; 0 if the peer may go on.
        """
        limits = self._limits
        passed_s, self._renewed_s = now_s - self._renewed_s, now_s
        bytes_s = min(limits.burst_s, self.bytes_left / limits.max_bytes_per_s + passed_s)
        frames_s = min(limits.burst_s, self.frames_left / limits.max_frames_per_s + passed_s)
        self.bytes_left = bytes_s * limits.max_bytes_per_s
        self.frames_left = frames_s * limits.max_frames_per_s
        left_s = min(bytes_s, frames_s)
        if left_s > limits.burst_s / 2:
            self.slowed_since_s = None
        if left_s > 0:
            return 0.0
        if self.slowed_since_s is None:
            self.slowed_since_s = now_s
        return PAUSE_S - left_s
