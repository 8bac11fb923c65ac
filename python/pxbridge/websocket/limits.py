"""What an open connection is held to, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PEER_STOPPED_READING: Final = "peer stopped reading"
"""``Closed.error`` of a connection that was cut because the peer did not read our data."""

NO_PONG: Final = "peer did not answer a ping"
"""``Closed.error`` of a connection that was cut after ``Limits.pong_timeout_s``."""

FLOODED: Final = "peer sent too much"
"""``Closed.error`` of a connection that was closed with 1008 after ``Limits.flood_timeout_s``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one open connection."""

    max_message_bytes: int = 256 * 1024
    """A longer message, in one frame or many, ends the connection with 1009."""
    max_queued_bytes: int = 256 * 1024
    """If more bytes than this wait to be sent, the peer counts as not reading."""
    send_timeout_s: float = 5.0
    """If the queue is not empty for this long, whatever its size, the peer counts as not reading."""
    close_timeout_s: float = 3.0
    """How long a closing handshake may take before the connection is cut."""
    ping_interval_s: float | None = 20.0
    """Interval of the pings that measure the round trip; ``None``: no pings."""
    pong_timeout_s: float | None = None
    """Cut the connection if no data comes for this long after a ping. ``None``: never; pings only measure."""
    max_bytes_per_s: int = 512 * 1024
    """Bytes that are read in a second. The fastest line (24 kHz, 16 bits, in base64) sends 64 KB a second."""
    max_frames_per_s: int = 1000
    """Frames that are read in a second, control frames too. A phone or an engine sends at most 100."""
    burst_s: float = 4.0
    """This many seconds of these two rates may come at once. A phone whose network stalled for 20 s sends
    20 s of audio at once: 1.3 MB and 2000 frames."""
    flood_timeout_s: float = 10.0
    """A peer that is slowed to these rates for this long is closed with 1008."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended.

    Attributes:
        code: Code of the close frame that began the closing, ours or the peer's; 1006 if there was none.
        reason: The text of that close frame.
        error: ``None`` after a complete closing handshake; otherwise the fault.
        by_peer: Whether the peer began the closing, by a close frame or by going away.
    """

    code: int
    reason: str
    error: str | None
    by_peer: bool
