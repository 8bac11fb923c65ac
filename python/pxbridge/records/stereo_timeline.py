"""The two sides of a call on one time axis, as the caller heard them: the caller left, the agent right.

What the agent says comes with the time at which it is heard. What the caller says comes with the time at
which it arrived, less its duration: a piece that the network held up was said earlier than that. So a piece
is put as late as what follows it allows, for it all was said one after the other: a backlog that comes in a
burst finds its place in the gap before it, and audio that the network lost leaves a gap.
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
    """When each piece of some samples began, in seconds, and how many samples it has."""

HORIZON_S = 2.0
"""So long is waited for a backlog. What comes later than that is put where it arrives."""

CALLER_GAP_S = 0.06
"""The network's usual jitter is no gap."""

AGENT_GAP_S = 0.002
"""Times are in whole microseconds, and samples are not."""

CHANNELS: Final = 2


class _Channel:
    """One side: pieces find their places, and leave in order.

    Args:
        rate_hz: Of the samples.
        began_s: Where frame 0 is.
        gap_s: A gap shorter than this is none.
    """

    def __init__(self, rate_hz: int, began_s: float, gap_s: float) -> None:
        self._rate_hz = rate_hz
        self._began_s = began_s
        self._gap = round(gap_s * rate_hz)
        self._pending: deque[tuple[float, NDArray[np.int16]]] = deque()
        self._placed = np.zeros(0, np.int16)
        self._start = 0
        """Frame of the first sample in `_placed`."""
        self._begun = False

    def put(self, pcm: NDArray[np.int16], pieces: Pieces) -> None:
        at = 0
        for at_s, samples in pieces:
            self._pending.append((at_s, pcm[at : at + samples]))
            at += samples

    def take(self, until_s: float) -> NDArray[np.int16]:
        """The frames before `until_s` that were not taken before."""
        self._place(until_s)
        count = max(0, round((until_s - self._began_s) * self._rate_hz) - self._start)
        out = np.zeros(count, np.int16)
        ready = self._placed[:count]
        out[: len(ready)] = ready
        self._placed = self._placed[count:]
        self._start += count
        return out

    def ahead(self, until_s: float) -> NDArray[np.int16]:
        """What `take` would give, and nothing is taken: what is still to come may change it."""
        trial = copy.copy(self)
        trial._pending = self._pending.copy()
        return trial.take(until_s)

    def _place(self, until_s: float) -> None:
        """Puts what began before `until_s` to its place, which what follows may bring forward."""
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
    """See the module.

    Args:
        rate_hz: The line's.
        began_s: When the recording begins.
    """

    def __init__(self, rate_hz: int, began_s: float) -> None:
        self._caller = _Channel(rate_hz, began_s, CALLER_GAP_S)
        self._agent = _Channel(rate_hz, began_s, AGENT_GAP_S)

    def caller(self, pcm: NDArray[np.int16], pieces: Pieces) -> None:
        """What the caller said, as `Uplink.take_said` gives it."""
        self._caller.put(pcm, pieces)

    def agent(self, pcm: NDArray[np.int16], pieces: Pieces) -> None:
        """What the caller heard, as `Downlink.take_heard` gives it."""
        self._agent.put(pcm, pieces)

    def settled(self, now_s: float) -> NDArray[np.int16]:
        """The frames, interleaved, that nothing to come can change any more."""
        return self._take(now_s - HORIZON_S)

    def unsettled(self, now_s: float) -> NDArray[np.int16]:
        """The frames after those, up to now, as they would be if nothing else came."""
        return _interleave(self._caller.ahead(now_s), self._agent.ahead(now_s))

    def rest(self, now_s: float) -> NDArray[np.int16]:
        """All frames up to the end of the call."""
        return self._take(now_s)

    def _take(self, until_s: float) -> NDArray[np.int16]:
        return _interleave(self._caller.take(until_s), self._agent.take(until_s))


def _interleave(caller: NDArray[np.int16], agent: NDArray[np.int16]) -> NDArray[np.int16]:
    out = np.empty(CHANNELS * len(caller), np.int16)
    out[0::2], out[1::2] = caller, agent
    return out
