"""What the simulated Exotel plays, to the sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulated import tone

from pxbridge.simulation.player import ClearedMarks, PlayedMark, Player


def test_audio_is_heard_from_when_it_arrives() -> None:
    player = Player()
    pcm = tone(0.1)
    player.push(pcm, 0.25)
    player.advance(1.0)
    assert len(player.heard) == 8000
    np.testing.assert_array_equal(player.heard[2000:2800], pcm)
    assert not player.heard[:2000].any()
    assert not player.heard[2800:].any()
    assert player.first_audio_s == 0.25
    assert player.holes == []


def test_audio_that_arrives_in_time_is_played_without_a_hole() -> None:
    player = Player()
    pcm = tone(1.0)
    for n in range(10):
        player.push(pcm[800 * n : 800 * (n + 1)], 0.1 * n + (0.03 if n == 0 else 0.0))
    player.advance(2.0)
    assert player.holes == []
    np.testing.assert_array_equal(player.heard[240:8240], pcm)


def test_late_audio_makes_a_hole_and_delays_what_follows_for_good() -> None:
    player = Player()
    player.push(tone(0.1), 0.0)
    player.push(tone(0.1), 0.15)
    player.push(tone(0.1), 0.2)
    player.advance(1.0)
    (hole,) = player.holes
    assert hole.at_s == pytest.approx(0.1)
    assert hole.duration_s == pytest.approx(0.05)
    assert not hole.after_clear
    np.testing.assert_array_equal(player.heard[2000:2800], tone(0.1))


def test_a_short_tail_costs_the_rest_of_a_packet() -> None:
    player = Player()
    player.push(tone(0.025), 0.0)
    player.push(tone(0.1), 0.0)
    player.advance(1.0)
    (hole,) = player.holes
    assert hole.at_s == pytest.approx(0.025)
    assert hole.duration_s == pytest.approx(0.015)
    np.testing.assert_array_equal(player.heard[320:1120], tone(0.1))


def test_silence_before_the_first_and_after_the_last_audio_is_no_hole() -> None:
    player = Player()
    player.push(tone(0.1), 3.0)
    player.advance(9.0)
    assert player.holes == []
    assert player.silent_for_s == pytest.approx(5.9)


def test_a_mark_comes_back_when_what_came_before_it_has_been_heard() -> None:
    player = Player()
    player.push(tone(0.1), 1.0)
    player.mark("a", 1.0)
    player.push(tone(0.1), 1.0)
    player.mark("b", 1.0)
    assert player.next_mark_s == pytest.approx(1.1)
    assert player.advance(1.0999) == []
    assert player.advance(1.1) == [PlayedMark("a", 1.1)]
    assert player.advance(5.0) == [PlayedMark("b", 1.2)]
    assert player.next_mark_s is None


def test_a_mark_with_nothing_before_it_comes_back_at_once() -> None:
    player = Player()
    player.mark("a", 2.0)
    assert player.next_mark_s == 2.0
    assert [mark.at_s for mark in player.advance(2.0)] == [2.0]


def test_clear_drops_only_what_is_not_yet_playing() -> None:
    player = Player()
    player.push(tone(0.1), 0.0)
    player.clear(0.03)
    player.push(tone(0.02, hz=900), 0.08)
    player.advance(1.0)
    np.testing.assert_array_equal(player.heard[:320], tone(0.1)[:320])
    assert not player.heard[320:640].any()
    np.testing.assert_array_equal(player.heard[640:800], tone(0.02, hz=900))
    assert player.samples_cleared == 480
    (hole,) = player.holes
    assert hole.after_clear
    assert hole.duration_s == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("cleared_marks", "expected"), [(ClearedMarks.RETURNED, ["a"]), (ClearedMarks.FORGOTTEN, [])]
)
def test_a_cleared_mark_is_returned_or_forgotten(cleared_marks: ClearedMarks, expected: list[str]) -> None:
    player = Player(cleared_marks=cleared_marks)
    player.push(tone(0.1), 0.0)
    player.mark("a", 0.0)
    player.clear(0.01)
    assert [mark.name for mark in player.advance(0.01)] == expected


def test_depth_is_what_is_here_and_not_yet_heard() -> None:
    player = Player(16000)
    player.push(tone(0.2, 16000), 1.0)
    assert player.depth_s == pytest.approx(0.2)
    player.advance(1.05)
    assert player.depth_s == pytest.approx(0.15)
    player.advance(3.0)
    assert player.depth_s == 0.0


@given(st.lists(st.tuples(st.floats(0, 0.3), st.integers(0, 2000), st.booleans()), min_size=1, max_size=40))
def test_every_sample_is_heard_or_cleared_once_and_holes_are_what_lies_between(
    arrivals: list[tuple[float, int, bool]],
) -> None:
    player, now_s, sent = Player(), 0.0, 0
    for wait_s, samples, clear in arrivals:
        now_s += wait_s
        player.push(np.ones(samples, np.int16), now_s)
        sent += samples
        if clear:
            player.clear(now_s)
    player.advance(now_s + 60.0)
    heard = int(player.heard.sum())
    assert heard + player.samples_cleared == sent
    if heard:
        sounding = np.flatnonzero(player.heard)
        silent = sounding[-1] + 1 - sounding[0] - heard
        assert sum(hole.duration_s for hole in player.holes) * 8000 == pytest.approx(silent)
