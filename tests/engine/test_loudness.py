"""Loudness is BS.1770's: as the standard's own figures say, and as another meter measures."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulated import VECTORS

from pxbridge.errors import InputError
from pxbridge.personaplex.loudness import _filters, integrated_lufs, normalised
from pxbridge.wav import read_wav, resample

SPEECH = read_wav(VECTORS / "speech_24k.wav")


def test_the_filters_are_the_standards_at_48_khz() -> None:
    (shelf, shelf_back), (high_pass, high_pass_back) = _filters(48_000)
    np.testing.assert_allclose(shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-13)
    np.testing.assert_allclose(shelf_back, [1, -1.69065929318241, 0.73248077421585], atol=1e-13)
    np.testing.assert_allclose(high_pass, [1, -2, 1], atol=1e-13)
    np.testing.assert_allclose(high_pass_back, [1, -1.99004745483398, 0.99007225036621], atol=1e-13)


def test_a_sine_of_full_scale_measures_what_the_standard_says() -> None:
    sine = np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000).astype(np.float32)
    assert integrated_lufs(sine, 48_000) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100, 48_000])
def test_another_meter_agrees_about_speech(rate_hz: int) -> None:
    speech = resample(SPEECH.samples, SPEECH.rate_hz, rate_hz)
    other = pyloudnorm.Meter(rate_hz).integrated_loudness(speech.astype(np.float64))
    assert integrated_lufs(speech, rate_hz) == pytest.approx(other, abs=0.2)


def test_pauses_do_not_count() -> None:
    pause = np.zeros(2 * SPEECH.rate_hz, np.float32)
    with_pauses = np.concatenate([pause, SPEECH.samples, pause])
    measured = integrated_lufs(with_pauses, SPEECH.rate_hz)
    assert measured == pytest.approx(integrated_lufs(SPEECH.samples, SPEECH.rate_hz), abs=0.5)


@settings(deadline=None, max_examples=20)
@given(gain_db=st.floats(-40, 20), lufs=st.floats(-40, -10))
def test_what_is_normalised_measures_what_was_asked_for(gain_db: float, lufs: float) -> None:
    speech = (SPEECH.samples * 10 ** (gain_db / 20)).astype(np.float32)
    assert integrated_lufs(normalised(speech, SPEECH.rate_hz, lufs), SPEECH.rate_hz) == pytest.approx(
        lufs, abs=0.05
    )


def test_silence_has_no_loudness_to_change() -> None:
    silence = np.zeros(24_000, np.float32)
    assert integrated_lufs(silence, 24_000) == -math.inf
    with pytest.raises(InputError, match="silent"):
        normalised(silence, 24_000, -24)


def test_what_is_too_short_to_measure_is_refused() -> None:
    with pytest.raises(InputError, match="shorter than 400 ms"):
        normalised(np.ones(9599, np.float32), 24_000, -24)
