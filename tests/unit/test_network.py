"""The language of bad networks, and what they do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge.errors import InputError
from pxbridge.simulation.network import Direction, Jitter, Network, Stall, parse_network

TIMES_S = st.floats(0, 60)


def test_a_good_network_delivers_at_once() -> None:
    link = parse_network("").link(Direction.UP)
    assert [link.deliver_at(t) for t in (0.0, 1.0, 1.0, 2.5)] == [0.0, 1.0, 1.0, 2.5]


def test_what_a_stall_held_back_arrives_in_a_burst() -> None:
    link = parse_network("stall 1.5s at 8s").link(Direction.DOWN)
    assert [link.deliver_at(t) for t in (7.9, 8.0, 9.0, 9.49, 9.6)] == [7.9, 9.5, 9.5, 9.5, 9.6]


def test_a_stall_of_one_direction_leaves_the_other_alone() -> None:
    network = parse_network("stall 2s at 1s up")
    assert network.link(Direction.UP).deliver_at(1.5) == 3.0
    assert network.link(Direction.DOWN).deliver_at(1.5) == 1.5


def test_stalls_hand_over_to_each_other() -> None:
    link = parse_network("stall 1s at 2s; stall 1s at 1s; delay 100ms").link(Direction.UP)
    assert link.deliver_at(0.95) == pytest.approx(3.0)


def test_jitter_lasts_as_long_as_told_and_is_the_same_for_the_same_seed() -> None:
    network = parse_network("jitter 40ms up from 1s to 2s")
    link = network.link(Direction.UP, seed=7)
    times_s = [n * 0.1 for n in range(30)]
    late_s = [link.deliver_at(t) - t for t in times_s]
    assert not any(late_s[:10])
    assert all(0 <= late <= 0.04 for late in late_s)
    assert max(late_s[10:20]) > 0.02
    assert not any(late_s[20:])
    again = network.link(Direction.UP, seed=7)
    assert [again.deliver_at(t) - t for t in times_s] == late_s
    other = network.link(Direction.UP, seed=8)
    assert [other.deliver_at(t) - t for t in times_s] != late_s


def test_drift_and_cut_belong_to_the_whole_call() -> None:
    assert parse_network("drift +100ppm").drift_ppm == 100
    assert parse_network("drift -20.5ppm; cut at 1min").drift_ppm == -20.5
    assert parse_network("cut at 1min").cut_at_s == 60
    assert parse_network("drift 30ppm").cut_at_s is None


def test_the_language_is_read_in_any_case_and_spacing() -> None:
    network = parse_network("  Stall 500ms at 2min UP ;; jitter 40ms; ")
    assert network.stalls == (Stall(120, 0.5, frozenset({Direction.UP})),)
    assert network.jitters == (Jitter(0.04),)


def test_lost_audio_is_lost_from_its_time_on() -> None:
    network = parse_network("lose 5s at 6s; lose 1s at 20s")
    assert [network.loses(t) for t in (5.9, 6.0, 10.9, 11.0, 20.5)] == [False, True, True, False, True]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stall", "a duration is missing"),
        ("stall 2 at 3s", "'2' is not a duration"),
        ("stall 2s in 3s", "expected 'at', found 'in'"),
        ("stall 2s at 3s sideways", "unexpected 'sideways' at the end"),
        ("jitter 40ms from 3s to 2s", "ends before it begins"),
        ("drift 2%", "is not a drift"),
        ("drift 99999ppm", "is not a drift"),
        ("loss 3%", "'loss' is not a kind of fault"),
        ("delay -3ms", "is not a duration"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_grammar(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        parse_network(f"delay 1ms; {text}")
    assert repr(text) in str(error.value)
    assert "stall D at T" in str(error.value)


@given(
    st.lists(st.tuples(TIMES_S, st.floats(0, 20)), max_size=6),
    st.lists(st.tuples(st.floats(0, 0.5), TIMES_S, TIMES_S), max_size=3),
    st.lists(TIMES_S, min_size=1, max_size=50),
    st.integers(),
)
def test_nothing_arrives_early_or_out_of_order(
    stalls: list[tuple[float, float]],
    jitters: list[tuple[float, float, float]],
    sends_s: list[float],
    seed: int,
) -> None:
    network = Network(tuple(Stall(*stall) for stall in stalls), tuple(Jitter(*jitter) for jitter in jitters))
    link = network.link(Direction.UP, seed)
    last_s = 0.0
    for send_s in sorted(sends_s):
        arrives_s = link.deliver_at(send_s)
        assert arrives_s >= max(send_s, last_s)
        assert not any(stall.at_s < arrives_s < stall.at_s + stall.duration_s for stall in network.stalls)
        last_s = arrives_s
