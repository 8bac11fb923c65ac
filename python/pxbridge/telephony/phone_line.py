"""The sound of one call, as any carrier offers it.

`pxbridge.audio.Line` is the implementation. An adapter whose wire Rust does not speak may wrap it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pxbridge.audio import AgentHeard, AllPlayed, EngineSilent, OddPayloads, RateMismatch

    LineEvent = AgentHeard | AllPlayed | EngineSilent | OddPayloads | RateMismatch
    Audio = tuple[NDArray[np.int16], list[tuple[float, int]]]
    """Samples, and for each piece of them its start time in seconds and its number of samples."""


class LineOutput(Protocol):
    """The result of one input to a `PhoneLine`."""

    @property
    def to_phone(self) -> Sequence[tuple[bytes, bool]]:
        """Messages for the phone's socket, in order, each with a flag that is true for a text message."""
        ...

    @property
    def to_engine(self) -> bytes:
        """Bytes for the engine; may be empty."""
        ...

    @property
    def ping(self) -> bool:
        """Whether to ping the phone's socket now."""
        ...

    @property
    def wake_s(self) -> float:
        """When `PhoneLine.poll` is due if no input comes earlier; infinity for never."""
        ...

    @property
    def events(self) -> Sequence[LineEvent]:
        """Events that this input caused."""
        ...


class PhoneLine(Protocol):
    """The audio of one call in both directions, with this carrier's messages on the phone's side.

    `pxbridge.audio.Line` implements it and documents each method. Times are on the event loop's clock.
    """

    def phone_message(self, message: bytes, now_s: float, is_text: bool) -> LineOutput | None:
        """A message from the phone; None if it is neither audio nor a mark that came back."""
        ...

    def engine_audio(self, ogg: bytes, now_s: float) -> LineOutput:
        """Bytes of the engine's Ogg Opus stream."""
        ...

    def mark_played(self, name: str, now_s: float) -> LineOutput:
        """The phone has played everything before this mark."""
        ...

    def pong(self, rtt_s: float, now_s: float) -> LineOutput:
        """A ping of the phone's socket came back after `rtt_s`."""
        ...

    def poll(self, now_s: float) -> LineOutput:
        """Does the work that is due by time alone."""
        ...

    def open_engine(self, now_s: float) -> LineOutput:
        """An engine is ready."""
        ...

    def close_engine(self, now_s: float) -> LineOutput:
        """The engine is gone."""
        ...

    def play(self, pcm: NDArray[np.float32], now_s: float) -> LineOutput:
        """Queues the bridge's own audio (an announcement), at the line's rate."""
        ...

    def fade_out(self, now_s: float) -> LineOutput:
        """Ends the bridge's own audio."""
        ...

    def flush(self, now_s: float) -> LineOutput:
        """Drops the audio that the caller has not heard yet."""
        ...

    def finish(self, now_s: float) -> LineOutput:
        """Tells the line that no more audio follows."""
        ...

    def playing_s(self, now_s: float) -> float:
        """How long the bridge's own audio will still be heard, seconds."""
        ...

    @property
    def paused_s(self) -> float | None:
        """How long the agent has paused, seconds; None until it has spoken."""
        ...

    @property
    def exchanged_s(self) -> tuple[float, float]:
        """Seconds of audio sent to engines, and received from them."""
        ...

    @property
    def spoken_s(self) -> tuple[float, float]:
        """How long the caller has spoken, and the agent, seconds."""
        ...

    def keep_audio(self) -> None:
        """Keeps the audio of caller and agent from now on."""
        ...

    def take_said(self, now_s: float) -> Audio:
        """The caller's audio since the last call of this method."""
        ...

    def take_heard(self, now_s: float) -> Audio:
        """The audio that the caller has heard since the last call of this method."""
        ...

    def stats(self) -> dict[str, dict[str, float]]:
        """Counters so far: ``uplink`` and ``downlink``."""
        ...
