"""What is measured on the sound is what was done to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.simulated import VECTORS, tone

from pxbridge.simulation.mouth_to_ear import listen, loudness_dbfs
from pxbridge.wav import read_wav, resample, to_pcm

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEECH = read_wav(VECTORS / "speech_8k.wav").samples
SAID = np.concatenate([np.zeros(4000, np.float32), SPEECH, np.zeros(80_000, np.float32)])


def heard(delay_s: float = 0.0, gain: float = 1.0, of: NDArray[np.float32] = SAID) -> NDArray[np.float32]:
    lag = round(delay_s * 8000)
    return np.concatenate([np.zeros(lag, np.float32), of[: len(of) - lag] * np.float32(gain)])


def noise(dbfs: float, seed: int = 1) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    return (10 ** (dbfs / 20) * chance.standard_normal(len(SAID))).astype(np.float32)


@pytest.mark.parametrize("delay_s", [0.0, 0.126, 0.4, 1.8])
def test_the_delay_of_an_echo_is_found_to_the_sample(delay_s: float) -> None:
    hearing = listen(to_pcm(SAID), to_pcm(heard(delay_s, 0.5)), 8000)
    assert hearing.windows == len(hearing.delays) >= 12
    assert hearing.delay_s(0.5) == hearing.delay_s(0.99) == pytest.approx(delay_s, abs=0.0002)
    assert hearing.correlation > 0.99
    assert hearing.gain_db == pytest.approx(-6.02, abs=0.05)
    assert hearing.speed == pytest.approx(1.0, abs=0.0005)
    assert not hearing.repeated
    assert hearing.dropouts == ()


@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_the_lines_rate_does_not_matter(rate_hz: int) -> None:
    said, echo = (to_pcm(resample(x, 8000, rate_hz)) for x in (SAID, heard(0.3)))
    hearing = listen(said, echo, rate_hz)
    assert hearing.delay_s() == pytest.approx(0.3, abs=0.0002)
    assert hearing.gain_db == pytest.approx(0, abs=0.05)


def test_words_repeated_later_as_a_whole_are_known_as_such() -> None:
    hearing = listen(to_pcm(SAID), to_pcm(heard(5.3)), 8000)
    assert hearing.repeated
    assert hearing.delay_s() == pytest.approx(5.3, abs=0.0002)
    assert hearing.correlation > 0.99


def test_a_delay_that_changes_is_followed() -> None:
    late = heard(0.2)
    late[28_000:] = heard(0.6)[28_000:]
    hearing = listen(to_pcm(SAID), to_pcm(late), 8000)
    assert hearing.delays[0].delay_s == pytest.approx(0.2, abs=0.001)
    assert hearing.delays[-1].delay_s == pytest.approx(0.6, abs=0.001)


def test_words_that_are_hurried_are_followed_down_to_where_they_settle() -> None:
    late = heard(0.8)
    hurried = [late[at : at + 3680] for at in range(12_800, 36_800, 4000)]  # of half a second, 40 ms are lost
    echo = np.concatenate([late[:12_800], *hurried, late[36_800:], np.zeros(1920, np.float32)])
    delays = [delay.delay_s for delay in listen(to_pcm(SAID), to_pcm(echo), 8000).delays]
    assert len(delays) >= 8
    assert delays == sorted(delays, reverse=True)
    assert delays[-1] == pytest.approx(0.56)
    assert delays[0] > 0.7


def test_words_said_twice_are_each_heard_in_their_turn() -> None:
    twice = np.concatenate([SPEECH, SPEECH, SPEECH, np.zeros(8000, np.float32)])
    hearing = listen(to_pcm(twice), to_pcm(heard(0.25, of=twice)), 8000)
    assert len(hearing.delays) == hearing.windows == 36
    assert all(delay.delay_s == pytest.approx(0.25) for delay in hearing.delays)


def test_an_echo_with_a_hole_is_not_mistaken_for_the_next_time_the_words_are_said() -> None:
    twice = np.concatenate([SPEECH, SPEECH, np.zeros(8000, np.float32)])
    echo = heard(0.25, of=twice)
    echo[18_000:18_120] = 0
    hearing = listen(to_pcm(twice), to_pcm(np.insert(echo, 14_000, np.zeros(80))[: len(twice)]), 8000)
    assert len(hearing.delays) == hearing.windows
    assert all(delay.delay_s == pytest.approx(0.255, abs=0.0051) for delay in hearing.delays)


@pytest.mark.parametrize("snr_db", [20, 10, 5])
def test_noise_gives_no_wrong_delay(snr_db: float) -> None:
    level = 10 * np.log10(np.mean(SPEECH**2))
    hearing = listen(to_pcm(SAID), to_pcm(heard(0.3) + noise(level - snr_db)), 8000)
    assert hearing.came_back
    assert all(delay.delay_s == pytest.approx(0.3, abs=0.001) for delay in hearing.delays)


@pytest.mark.parametrize(
    "other",
    [
        np.zeros(len(SAID), np.float32),
        noise(-20),
        tone(15, amplitude=9000).astype(np.float32) / 32768,
        SAID[::-1].copy(),
    ],
    ids=["silence", "noise", "tone", "other speech"],
)
def test_what_is_not_the_words_gives_no_delay(other: NDArray[np.float32]) -> None:
    hearing = listen(to_pcm(SAID), to_pcm(other), 8000)
    assert not hearing.came_back
    assert hearing.delay_s() is None
    assert hearing.gain_db is None
    assert hearing.speed is None


@pytest.mark.parametrize("speed", [0.99, 0.997, 1.003, 1.01, 1.03])
def test_a_wrong_speed_is_found(speed: float) -> None:
    at = np.arange(int(len(SPEECH) / speed)) * speed
    fast = np.interp(at, np.arange(len(SPEECH)), SPEECH).astype(np.float32)
    echo = np.zeros_like(SAID)
    echo[6000 : 6000 + len(fast)] = fast
    hearing = listen(to_pcm(SAID), to_pcm(echo), 8000)
    assert hearing.speed == pytest.approx(speed, abs=0.001)


@pytest.mark.parametrize(("played_as_hz", "speed"), [(16_000, 2.0), (24_000, 3.0), (4_000, 0.5)])
def test_a_line_at_the_wrong_rate_is_found(played_as_hz: int, speed: float) -> None:
    wrong = resample(SPEECH, played_as_hz, 8000)
    echo = np.zeros_like(SAID)
    wrong = wrong[: len(echo) - 48_000]
    echo[48_000 : 48_000 + len(wrong)] = wrong
    assert listen(to_pcm(SAID), to_pcm(echo), 8000).speed == pytest.approx(speed, rel=0.01)


def test_words_that_are_missing_are_found() -> None:
    echo = heard(0.3)
    echo[24_000 + 2400 : 24_000 + 2400 + 1600] = 0
    hearing = listen(to_pcm(SAID), to_pcm(echo), 8000)
    (gap,) = hearing.dropouts
    assert gap.at_s == pytest.approx(3.0, abs=0.045)
    assert gap.duration_s == pytest.approx(0.2, abs=0.09)


def test_the_first_voice_is_heard_when_it_sounds() -> None:
    greeting = np.concatenate([noise(-70)[:16_000], tone(3)[:24_000] / 32768]).astype(np.float32)
    hearing = listen(np.zeros(0, np.int16), to_pcm(greeting), 8000)
    assert hearing.first_voice_s == pytest.approx(2.0, abs=0.05)
    assert hearing.heard_voice_s > 2.5
    assert hearing.said_voice_s == 0


@pytest.mark.parametrize("samples", [0, 1, 159, 4000])
def test_calls_of_any_shortness_are_measured(samples: int) -> None:
    for hearing in (
        listen(np.ones(samples, np.int16), np.ones(samples, np.int16), 8000),
        listen(to_pcm(SAID), np.ones(samples, np.int16), 8000),
    ):
        assert not hearing.came_back


def test_loudness_is_in_decibels_below_full_scale() -> None:
    levels = loudness_dbfs(np.concatenate([tone(0.1, amplitude=32767), np.zeros(800, np.int16)]), 8000)
    assert levels[0] == pytest.approx(-3.01, abs=0.05)
    assert levels[-1] == pytest.approx(-96)
