"""Both sides of a call on one time axis."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pxbridge.records.stereo_timeline import HORIZON_S, StereoTimeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 8000
CHUNK = 800
CHUNK_S = CHUNK / RATE_HZ


def chunk(number: int) -> NDArray[np.int16]:
    """Samples that tell which chunk they are of."""
    return np.full(CHUNK, number + 1, np.int16)


def recorded(arrivals_s: list[float], lost: frozenset[int] = frozenset()) -> NDArray[np.int16]:
    """The caller's channel when chunk n, said from n × 0.1 s on, arrives at `arrivals_s[n]`."""
    timeline, out = StereoTimeline(RATE_HZ, 0.0), []
    end_s = max(arrivals_s) + HORIZON_S + 0.1
    fetched = 0
    for second in range(1, int(end_s) + 2):
        for number in range(fetched, len(arrivals_s)):
            if arrivals_s[number] > second:
                break
            if number not in lost:
                timeline.caller(chunk(number), [(arrivals_s[number] - CHUNK_S, CHUNK)])
            fetched = number + 1
        out.append(timeline.settled(float(second)))
    out.append(timeline.rest(end_s + 2.0))
    return np.concatenate(out)[0::2]


def where(channel: NDArray[np.int16], number: int) -> float:
    """When a chunk begins in the recording, in seconds."""
    found = np.flatnonzero(channel == number + 1)
    assert len(found) == CHUNK
    return float(found[0]) / RATE_HZ


def test_even_audio_stays_where_it_was_said() -> None:
    channel = recorded([CHUNK_S * (n + 1) for n in range(50)])
    assert [round(where(channel, n), 3) for n in (0, 20, 49)] == [0.0, 2.0, 4.9]


def test_a_backlog_finds_its_place_in_the_gap_before_it() -> None:
    arrivals_s = [max(CHUNK_S * (n + 1), 3.5 if 20 <= n < 34 else 0.0) for n in range(60)]
    channel = recorded(arrivals_s)
    assert [round(where(channel, n), 3) for n in (19, 20, 33, 59)] == [1.9, 2.0, 3.3, 5.9]


def test_audio_that_was_lost_leaves_a_gap_of_its_length() -> None:
    arrivals_s = [CHUNK_S * (n + 1) for n in range(60)]
    channel = recorded(arrivals_s, lost=frozenset(range(20, 30)))
    assert [round(where(channel, n), 3) for n in (19, 30, 59)] == [1.9, 3.0, 5.9]


def test_jitter_makes_no_gaps() -> None:
    random = np.random.default_rng(1)
    arrivals_s = list(np.maximum.accumulate([CHUNK_S * (n + 1) + random.uniform(0, 0.05) for n in range(80)]))
    channel = recorded(arrivals_s)
    voice = channel[channel.nonzero()[0][0] : channel.nonzero()[0][-1] + 1]
    assert (voice != 0).all()


def test_the_agent_is_where_the_caller_heard_it() -> None:
    timeline = StereoTimeline(RATE_HZ, 10.0)
    timeline.agent(np.concatenate([chunk(0), chunk(1)]), [(10.5, CHUNK), (11.25, CHUNK)])
    right = timeline.rest(12.0)[1::2]
    assert (where(right, 0), where(right, 1)) == (0.5, 1.25)
    assert len(right) == 2 * RATE_HZ


@given(
    pieces=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 2000)), max_size=40),
    fetches_s=st.lists(st.floats(0, 3), min_size=1, max_size=20),
)
def test_all_samples_come_out_in_order_whenever_they_are_fetched(
    pieces: list[tuple[float, int]], fetches_s: list[float]
) -> None:
    timeline, at_s = StereoTimeline(RATE_HZ, 0.0), 0.0
    out, now_s = [], 0.0
    for number, (wait_s, samples) in enumerate(pieces, 1):
        at_s += wait_s
        timeline.caller(np.full(samples, number, np.int16), [(at_s, samples)])
    for wait_s in fetches_s:
        now_s += wait_s
        out.append(timeline.settled(now_s))
    out.append(timeline.rest(max(now_s, at_s + 41 * 2000 / RATE_HZ) + HORIZON_S))
    left = np.concatenate(out)[0::2]
    voice = left[left != 0]
    assert len(voice) == sum(samples for _, samples in pieces)
    assert all(a <= b for a, b in pairwise(voice.tolist()))


@given(
    pieces=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 2000)), min_size=1, max_size=40),
    now_s=st.floats(0, 20),
)
def test_what_is_unsettled_follows_what_is_settled_and_looking_at_it_changes_nothing(
    pieces: list[tuple[float, int]], now_s: float
) -> None:
    looked_at, left_alone = StereoTimeline(RATE_HZ, 0.0), StereoTimeline(RATE_HZ, 0.0)
    at_s = 0.0
    for number, (wait_s, samples) in enumerate(pieces, 1):
        at_s += wait_s
        for timeline in (looked_at, left_alone):
            timeline.caller(np.full(samples, number, np.int16), [(at_s, samples)])
    settled = looked_at.settled(now_s)
    assert len(settled) + len(looked_at.unsettled(now_s)) == 2 * max(0, round(now_s * RATE_HZ))
    assert (settled == left_alone.settled(now_s)).all()
    assert (looked_at.rest(now_s + 9) == left_alone.rest(now_s + 9)).all()
