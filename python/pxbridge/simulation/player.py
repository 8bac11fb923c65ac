"""Exotel's player: how it plays the audio that it receives, and what the caller hears.

Exotel queues the audio, cuts each payload into packets of 20 ms and plays one packet every 20 ms. A bridge
must therefore know three rules. If a payload is not a multiple of a packet, the rest of its last packet is a
hole. Late audio is not dropped, so it adds permanent delay. `clear` drops only packets that are not playing
yet.

Time is counted in samples since the start of the call. A packet starts to play when it has arrived and the
packet before it has ended. So what the caller hears is known to the sample, and a hole is the distance
between the two times. Nothing here reads a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKET_MS = 20
"""The packet that Exotel plays at a time: 320 bytes at 8 kHz."""

VOICE_DBFS = -45.0
"""A louder packet is voice. Speech is at -30 to -15 dBFS, comfort noise below -50."""

FULL_SCALE = 32768.0
SILENT_DBFS = -96.0
"""The level that is reported for digital silence. One step of 16 bits is -90 dBFS."""


class ClearedMarks(Enum):
    """What `clear` does to marks that wait behind audio. Exotel's documentation does not say."""

    FORGOTTEN = "forgotten"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Hole:
    """A silence between two pieces of audio.

    Attributes:
        at_s: When it began, since the call's start.
        duration_s: Its duration.
        after_clear: The bridge caused it on purpose, with a `clear`.
    """

    at_s: float
    duration_s: float
    after_clear: bool = False

    @property
    def end_s(self) -> float:
        """When the audio continued."""
        return self.at_s + self.duration_s


@dataclass(frozen=True, slots=True)
class PlayedMark:
    """A returned mark: all audio sent before it was heard by `at_s`."""

    name: str
    at_s: float


class Depth(NamedTuple):
    """The depth of the queue after a change.

    Attributes:
        at_s: The time of the change.
        depth_s: Seconds of queued audio after it.
        wait_s: How long the new audio waits before it is heard; None if the change was a `clear`.
    """

    at_s: float
    depth_s: float
    wait_s: float | None


@dataclass(slots=True)
class _Packet:
    samples: NDArray[np.int16]  # fewer than a packet has, at the end of a payload
    arrived: int  # as a sample index


@dataclass(slots=True)
class _Mark:
    name: str
    arrived: int


class Player:
    """The queue and the loudspeaker of one call.

    Args:
        rate_hz: The sample rate of the line: 8000, 16000 or 24000.
        cleared_marks: What a `clear` does to waiting marks.
    """

    def __init__(self, rate_hz: int = 8000, cleared_marks: ClearedMarks = ClearedMarks.RETURNED) -> None:
        self.rate_hz = rate_hz
        self.packet_samples = rate_hz * PACKET_MS // 1000
        self.holes: list[Hole] = []
        """The holes, in order. Silence before the first audio is not a hole."""
        self.depth_trace: list[Depth] = []
        """The depth of the queue at each arrival and each `clear`."""
        self.first_audio_s: float | None = None
        """When the first packet began to play, even if it was silent."""
        self.voice_from_s: float | None = None
        """When the first packet with voice began to play."""
        self.voice_until_s: float | None = None
        """When the last packet with voice ends."""
        self.samples_received = 0
        self.samples_cleared = 0
        self._cleared_marks = cleared_marks
        self._queue: deque[_Packet | _Mark] = deque()
        self._queued_packets = 0
        self._queued_marks = 0
        self._free = 0  # the sample index at which the current packet ends
        self._packet_dbfs = SILENT_DBFS  # the level of the current packet
        self._tail = 0  # samples of padding at the end of the current packet
        self._now = 0
        self._cleared = False  # a clear emptied the queue, and nothing has played since
        self._released: list[PlayedMark] = []
        self._heard = np.zeros(rate_hz * 60, np.int16)

    def push(self, pcm: NDArray[np.int16], now_s: float) -> None:
        """Queues one payload that arrived at `now_s`, cut into packets; the last one may be shorter."""
        self._advance_to(now_s)
        arrived, wait_s = self._now, self.depth_s
        for at in range(0, len(pcm), self.packet_samples):
            self._queue.append(_Packet(pcm[at : at + self.packet_samples], arrived))
            self._queued_packets += 1
        self.samples_received += len(pcm)
        self._advance_to(now_s)
        self.depth_trace.append(Depth(now_s, self.depth_s, wait_s))

    def mark(self, name: str, now_s: float) -> None:
        """Queues a mark. `advance` returns it when all audio before it has been played."""
        self._advance_to(now_s)
        self._queue.append(_Mark(name, self._now))
        self._queued_marks += 1

    def clear(self, now_s: float) -> None:
        """Drops all packets that are not playing yet."""
        self._advance_to(now_s)
        for item in self._queue:
            if isinstance(item, _Packet):
                self.samples_cleared += len(item.samples)
            elif self._cleared_marks is ClearedMarks.RETURNED:
                self._released.append(PlayedMark(item.name, self._seconds(self._now)))
        self._queue.clear()
        self._queued_packets = 0
        self._queued_marks = 0
        self._cleared = True
        self.depth_trace.append(Depth(now_s, self.depth_s, None))

    def advance(self, now_s: float) -> list[PlayedMark]:
        """Plays up to `now_s`, which never decreases; returns the marks that have come back."""
        self._advance_to(now_s)
        released, self._released = self._released, []
        return released

    @property
    def next_mark_s(self) -> float | None:
        """When the next mark comes back if nothing else happens; None without a waiting mark."""
        if self._released:
            return self._seconds(self._now)
        if self._queued_marks == 0:
            return None
        free = self._free
        for item in self._queue:
            free = max(free, item.arrived)
            if isinstance(item, _Mark):
                return self._seconds(free)
            free += self.packet_samples
        return None

    @property
    def depth_s(self) -> float:
        """Seconds of audio that are not heard yet, with the rest of the current packet."""
        return self._seconds(max(0, self._free - self._now) + self._queued_packets * self.packet_samples)

    @property
    def heard(self) -> NDArray[np.int16]:
        """What the caller heard up to the last given time: int16, with silence where nothing played."""
        if len(self._heard) < self._now:
            self._grow(self._now)
        return self._heard[: self._now]

    @property
    def heard_dbfs(self) -> float:
        """The level of the current packet."""
        return self._packet_dbfs if self._free > self._now else SILENT_DBFS

    @property
    def silent_for_s(self) -> float:
        """How long nothing has played; 0 while a packet plays."""
        return self._seconds(max(0, self._now - self._free))

    def _advance_to(self, now_s: float) -> None:
        now = max(self._now, round(now_s * self.rate_hz))
        while self._queue:
            item = self._queue[0]
            start = max(self._free, item.arrived)
            if start > now:
                break
            self._queue.popleft()
            if isinstance(item, _Mark):
                self._queued_marks -= 1
                self._released.append(PlayedMark(item.name, self._seconds(start)))
                continue
            self._queued_packets -= 1
            self._play(item.samples, start)
        self._now = now

    def _play(self, samples: NDArray[np.int16], start: int) -> None:
        if self.first_audio_s is None:
            self.first_audio_s = self._seconds(start)
        else:
            silent_from = self._free - self._tail
            if start > silent_from:
                length = self._seconds(start - silent_from)
                self.holes.append(Hole(self._seconds(silent_from), length, self._cleared))
        self._cleared = False
        self._free = start + self.packet_samples
        self._tail = self.packet_samples - len(samples)
        if len(self._heard) < self._free:
            self._grow(self._free)
        self._heard[start : start + len(samples)] = samples
        self._packet_dbfs = level_dbfs(samples)
        if self._packet_dbfs > VOICE_DBFS:
            self.voice_until_s = self._seconds(self._free)
            if self.voice_from_s is None:
                self.voice_from_s = self._seconds(start)

    def _grow(self, needed: int) -> None:
        grown = np.zeros(max(needed, 2 * len(self._heard)), np.int16)
        grown[: len(self._heard)] = self._heard
        self._heard = grown

    def _seconds(self, samples: int) -> float:
        return samples / self.rate_hz


def level_dbfs(pcm: NDArray[np.int16]) -> float:
    """The RMS level of int16 audio in dB relative to full scale; `SILENT_DBFS` for silence."""
    if len(pcm) == 0:
        return SILENT_DBFS
    samples = pcm.astype(np.float32)
    power = float(np.dot(samples, samples)) / len(pcm) / FULL_SCALE**2
    return max(SILENT_DBFS, 10.0 * float(np.log10(power))) if power > 0 else SILENT_DBFS
