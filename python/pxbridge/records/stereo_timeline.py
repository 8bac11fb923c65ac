"""The two sides of a call on one time axis, as the caller heard them: the caller left, the agent right.

The agent's audio comes with the time at which the caller hears it. The caller's audio comes with the time at
which it arrived, minus its duration. If the network held a piece up, it was said earlier than that. A caller
says one piece after the other, so each piece ends at the latest where the next one begins. A backlog that
arrives in a burst therefore fills the gap before it, and lost audio leaves a gap.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Pieces = Sequence[tuple[float, int]]
    """For each piece of audio: when it began, in seconds, and its number of samples."""

HORIZON_S = 2.0
"""How long the network may hold audio up. Audio that is later is placed where it arrives."""

CALLER_GAP_S = 0.06
"""A shorter gap is the usual jitter of the network, and is closed."""

AGENT_GAP_S = 0.002
"""A shorter gap is rounding: times are whole microseconds, and samples are not."""

CHANNELS: Final = 2


class _Channel:
    """One side of the call: pieces are placed on the time axis and taken in order.

    Args:
        rate_hz: The sample rate.
        began_s: The time of frame 0.
        gap_s: A gap that is not longer than this is closed.
    """

    def __init__(self, rate_hz: int, began_s: float, gap_s: float) -> None:
        self._rate_hz = rate_hz
        self._began_s = began_s
        self._gap = round(gap_s * rate_hz)
        self._pending: deque[tuple[float, NDArray[np.int16]]] = deque()
        self._placed = np.zeros(0, np.int16)
        self._start = 0
        """The frame of the first sample in `_placed`."""
        self._begun = False

    def put(self, pcm: NDArray[np.int16], pieces: Pieces) -> None:
        at = 0
        for at_s, samples in pieces:
            self._pending.append((at_s, pcm[at : at + samples]))
            at += samples

    def take(self, until_s: float) -> NDArray[np.int16]:
        """The frames before `until_s` that are not taken yet."""
        self._place(until_s)
        count = max(0, round((until_s - self._began_s) * self._rate_hz) - self._start)
        out = np.zeros(count, np.int16)
        ready = self._placed[:count]
        out[: len(ready)] = ready
        self._placed = self._placed[count:]
        self._start += count
        return out

    def ahead(self, until_s: float) -> NDArray[np.int16]:
        """What `take` would return, without taking it. Audio that comes later may change it."""
        trial = copy.copy(self)
        trial._pending = self._pending.copy()
        return trial.take(until_s)

    def _place(self, until_s: float) -> None:
        """Places the pieces that began before `until_s`. A later piece may move an earlier one back."""
        latest_s: list[float] = []
        for at_s, pcm in reversed(self._pending):
            follows_s = latest_s[-1] - len(pcm) / self._rate_hz if latest_s else at_s
            latest_s.append(min(at_s, follows_s))
        pieces: list[NDArray[np.int16]] = []
        end = self._start + len(self._placed)
        while self._pending and latest_s[-1] < until_s:
            place_s = latest_s.pop()
            _, pcm = self._pending.popleft()
            gap = round((place_s - self._began_s) * self._rate_hz) - end
            if gap > (self._gap if self._begun else 0):
                pieces.append(np.zeros(gap, np.int16))
                end += gap
            pieces.append(pcm)
            end += len(pcm)
            self._begun = True
        if pieces:
            self._placed = np.concatenate([self._placed, *pieces])


class StereoTimeline:
    """Places the audio of both sides; see the module.

    Args:
        rate_hz: The sample rate of the line.
        began_s: When the recording begins.
    """

    def __init__(self, rate_hz: int, began_s: float) -> None:
        self._caller = _Channel(rate_hz, began_s, CALLER_GAP_S)
        self._agent = _Channel(rate_hz, began_s, AGENT_GAP_S)

    def caller(self, pcm: NDArray[np.int16], pieces: Pieces) -> None:
        """Adds what the caller said."""
        self._caller.put(pcm, pieces)

    def agent(self, pcm: NDArray[np.int16], pieces: Pieces) -> None:
        """Adds what the caller heard."""
        self._agent.put(pcm, pieces)

    def settled(self, now_s: float) -> NDArray[np.int16]:
        """Takes the interleaved frames that are final: older than `HORIZON_S`."""
        return self._take(now_s - HORIZON_S)

    def unsettled(self, now_s: float) -> NDArray[np.int16]:
        """The frames after the settled ones, up to now, as they are if no more audio comes."""
        return _interleave(self._caller.ahead(now_s), self._agent.ahead(now_s))

    def rest(self, now_s: float) -> NDArray[np.int16]:
        """Takes all frames up to the end of the call."""
        return self._take(now_s)

    def _take(self, until_s: float) -> NDArray[np.int16]:
        return _interleave(self._caller.take(until_s), self._agent.take(until_s))


def _interleave(caller: NDArray[np.int16], agent: NDArray[np.int16]) -> NDArray[np.int16]:
    out = np.empty(CHANNELS * len(caller), np.int16)
    out[0::2], out[1::2] = caller, agent
    return out
