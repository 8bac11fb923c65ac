"""What libopus alone takes for the sound of some calls: the floor under what a bridge can cost.

Each call's audio is encoded at the product's settings and the engine's pages are decoded, as a bridge does,
and nothing else: no sockets, no JSON, no Ogg, no timing. Two figures, in CPU seconds per call-second:

- `paced`: at real time, a message's worth at a time, as messages come to a bridge. Between two of them the
  process sleeps, and the caches are others' meanwhile. This is what a bridge can be held against.
- `flat_out`: the same work without a pause, with warm caches: what libopus takes at its best.

Only the calls into the extension are timed, by the thread's CPU clock: five encodes (100 ms) or one decode
(80 ms) at a time, 50 to 100 µs. What is not libopus's in that, reading the clock and crossing from Python
to Rust, is measured with a crossing that does no work and taken off; it is about 3 %.

    python benches/libopus_alone.py --calls 20

It starts at once, and answers each line on standard input with a line of JSON on standard output: the figures
since the last one.
"""

from __future__ import annotations

import argparse
import heapq
import json
import select
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from call_sound import FRAME_MS, STEP_MS, echo_packets, frames
from pxbridge.audio import OpusDecoder, OpusEncoder, Resampler
from pxbridge.commands.load_callers import RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_MS = 100
FLAT_OUT_S = 1.0
"""Of each call, whenever figures are asked for."""
CALIBRATION = 2000


class Sound(NamedTuple):
    """What all calls share."""

    chunks: list[list[NDArray[np.int16]]]
    packets: list[bytes]


class Call:
    """The codecs of one call. `up` and `down` do one message's work and return its CPU time, in seconds."""

    def __init__(self, sound: Sound, number: int) -> None:
        self._sound = sound
        self._encoder = OpusEncoder(RATE_HZ)
        self._decoder = OpusDecoder(RATE_HZ)
        # No two calls are at the same place of the sound.
        self._chunk = 7 * number
        self._packet = 7 * number

    def up(self) -> float:
        """Encodes a chunk of the caller's."""
        self._chunk += 1
        encode = self._encoder.encode
        chunk = self._sound.chunks[self._chunk % len(self._sound.chunks)]
        began_s = time.thread_time()
        for frame in chunk:
            encode(frame)
        return time.thread_time() - began_s

    def down(self) -> float:
        """Decodes a page of the engine's."""
        self._packet += 1
        decode = self._decoder.decode
        packet = self._sound.packets[self._packet % len(self._sound.packets)]
        began_s = time.thread_time()
        decode(packet)
        return time.thread_time() - began_s


def overhead_s(sound: Sound) -> tuple[float, float]:
    """What is timed with a chunk and with a page although it is not libopus's, in seconds."""
    passes = Resampler(RATE_HZ, RATE_HZ).process  # the same border, and a copy of the samples
    page = np.zeros(RATE_HZ * STEP_MS // 1000, np.float32)
    up_s, down_s = [], []
    for _ in range(CALIBRATION):
        began_s = time.thread_time()
        for frame in sound.chunks[0]:
            passes(frame)
        up_s.append(time.thread_time() - began_s)
        began_s = time.thread_time()
        passes(page)
        down_s.append(time.thread_time() - began_s)
    return float(np.median(up_s)), float(np.median(down_s))


class Meter:
    """CPU time of libopus, and of how much of a call it was."""

    def __init__(self, sound: Sound) -> None:
        self._overhead_up_s, self._overhead_down_s = overhead_s(sound)
        self._cpu_s = self._call_s = 0.0

    def run(self, turn: Turn) -> None:
        """Does a turn's work and counts it. A second of one direction is half a second of a call."""
        if turn.is_up:
            self._cpu_s += turn.call.up() - self._overhead_up_s
        else:
            self._cpu_s += turn.call.down() - self._overhead_down_s
        self._call_s += turn.every_s / 2

    def take(self) -> float:
        """CPU seconds per call-second since the last time; 0 if there was nothing."""
        cost = self._cpu_s / self._call_s if self._call_s else 0.0
        self._cpu_s = self._call_s = 0.0
        return cost


@dataclass(order=True)
class Turn:
    """What one call does next in one direction."""

    at_s: float
    number: int  # of two at the same time the lower goes first
    call: Call = field(compare=False)
    is_up: bool = field(compare=False)

    @property
    def every_s(self) -> float:
        return (CHUNK_MS if self.is_up else STEP_MS) / 1000


class Timetable:
    """Who comes next: the calls' messages as they would come to a bridge, evenly spread."""

    def __init__(self, calls: list[Call]) -> None:
        self._turns = [
            Turn(0.0, 2 * n + is_up, call, is_up) for n, call in enumerate(calls) for is_up in (False, True)
        ]
        for turn in self._turns:
            turn.at_s = turn.number // 2 * turn.every_s / len(calls)
        heapq.heapify(self._turns)

    @property
    def next_at_s(self) -> float:
        """When the next turn is due."""
        return self._turns[0].at_s

    def take(self) -> Turn:
        """The next turn, which comes again after its `every_s`."""
        turn = self._turns[0]
        heapq.heapreplace(self._turns, replace(turn, at_s=turn.at_s + turn.every_s))
        return turn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=20)
    args = parser.parse_args()
    said, per_chunk = frames(), CHUNK_MS // FRAME_MS
    chunks = [said[at : at + per_chunk] for at in range(0, len(said), per_chunk)]
    sound = Sound(chunks, echo_packets())
    calls = [Call(sound, number) for number in range(args.calls)]
    paced, flat_out = Meter(sound), Meter(sound)
    timetable = Timetable(calls)
    began_s = time.monotonic()
    while True:
        left_s = began_s + timetable.next_at_s - time.monotonic()
        asked, _, _ = select.select([sys.stdin], [], [], max(0.0, left_s))
        if not asked:
            paced.run(timetable.take())
            continue
        if not sys.stdin.readline():
            return
        without_pause = Timetable(calls)
        while without_pause.next_at_s < FLAT_OUT_S:
            flat_out.run(without_pause.take())
        print(json.dumps({"paced": paced.take(), "flat_out": flat_out.take()}), flush=True)
        began_s = time.monotonic() - timetable.next_at_s  # what came due meanwhile is left out


if __name__ == "__main__":
    main()
