"""Compares what the caller said with what the caller heard, both on the phone's clock.

The delay from mouth to ear is the time between a word spoken and the same word heard back, from an agent that
echoes or repeats. It is measured from the sound alone: windows of one second of the caller's speech are
searched in what was heard, by normalised cross-correlation. A window counts only if it is found. So noise,
another voice or a hole gives no delay, rather than a wrong one.

Arrays are 1-D int16 or float; sample 0 is the call's start. Results are in seconds, decibels and ratios.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pxbridge.wav import resample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Signal = NDArray[np.float32]

RATE_HZ = 8000
"""The rate of all measurements: that of a telephone line, and fast."""
FRAME_S = 0.02
WINDOW_S = 1.0
"""Long enough to occur only once in speech, and short enough to follow a changing delay."""
HOP_S = 0.25
LONGEST_DELAY_S = 30.0
FOUND = 0.5
"""From this correlation on, it is the same speech. Codecs leave 0.8 or more; other speech stays below 0.3."""
CERTAIN = 0.8
"""From this correlation on, no further search is needed."""
NEAR_S = 0.25
"""A window is first searched this close to the delay of the window before it."""
ACTIVE_BELOW_PEAK_DB = 30.0
"""Frames at most this much quieter than the loudest one are speech; the others are pauses."""
VOICE_DBFS = -45.0
PIECE_S = 0.4
PIECE_FOUND = 0.7
"""A short piece resembles other speech more easily, so it needs a higher correlation."""
PIECE_REACH_S = 2.0
"""A piece is searched up to this much later than the delay before it."""
SILENT_POWER = 10**-9.6
"""The power that is reported for silence: -96 dBFS."""
QUIET_FLOOR = 1e-4
"""A stretch 40 dB quieter than the window counts as silence and is not scaled up to match."""

STRETCH_WINDOW_S = 0.4
STRETCH_WINDOWS = 6
STRETCH_LONGEST_DELAY_S = 12.0
"""The longest delay that is searched for words at a wrong speed. It limits the work if nothing is found."""
STRETCH_GRID = np.concatenate([np.array([1 / 3, 0.5, 2 / 3, 1.5, 2.0, 3.0]), np.arange(0.95, 1.0501, 0.0025)])
"""The speeds that are tried: wrong sample rates, and ±5 % in fine steps."""

DROPOUT_DB = 25.0
"""Speech that is this much quieter than expected counts as missing."""
DROPOUT_S = 0.04


class Delay(NamedTuple):
    """A window of speech that was found.

    Attributes:
        at_s: When its middle was spoken.
        delay_s: How much later it was heard.
        correlation: 1 for identical sound.
        gain_db: How much louder it was heard.
    """

    at_s: float
    delay_s: float
    correlation: float
    gain_db: float


class Gap(NamedTuple):
    """A stretch of the caller's speech that was not heard."""

    at_s: float
    duration_s: float


@dataclass(frozen=True)
class Hearing:
    """The result of the comparison.

    Attributes:
        first_voice_s: When the first voice was heard, of any words; None for silence.
        heard_voice_s: Seconds of voice that were heard.
        said_voice_s: Seconds of voice that were said.
        delays: The windows that were found, in the order in which they were said.
        windows: How many windows were searched. Those whose echo the end of the call cuts off do not count.
        unfound_s: Seconds of speech that are in windows, and in none that was found.
        repeated: The words came back after they had all been said, not while they were said.
        speed: The speed and pitch of the words that came back: 1 is right; None if none came back.
        dropouts: Missing stretches between words that came back.
    """

    first_voice_s: float | None
    heard_voice_s: float
    said_voice_s: float
    delays: tuple[Delay, ...]
    windows: int
    unfound_s: float
    repeated: bool
    speed: float | None
    dropouts: tuple[Gap, ...]

    @property
    def came_back(self) -> bool:
        """Whether at least some of the words came back."""
        return bool(self.delays)

    @property
    def correlation(self) -> float:
        """The median correlation of the windows that were found."""
        return float(np.median([delay.correlation for delay in self.delays])) if self.delays else 0.0

    @property
    def gain_db(self) -> float | None:
        """The median gain of the windows that were found; None without any."""
        return float(np.median([delay.gain_db for delay in self.delays])) if self.delays else None

    def delay_s(self, quantile: float = 0.5) -> float | None:
        """A quantile of the delay from mouth to ear; None without any."""
        if not self.delays:
            return None
        return float(np.quantile([delay.delay_s for delay in self.delays], quantile))


def listen(
    said: NDArray[np.int16],
    heard: NDArray[np.int16],
    rate_hz: int,
    *,
    hop_s: float = HOP_S,
    longest_delay_s: float = LONGEST_DELAY_S,
) -> Hearing:
    """Compares what was said with what was heard.

    Args:
        said: The caller's audio, int16; sample 0 is the call's start.
        heard: What the caller heard, on the same clock.
        rate_hz: The sample rate of both.
        hop_s: The distance between two windows.
        longest_delay_s: The longest delay that is searched.
    """
    x, y = _prepare(said, rate_hz), _prepare(heard, rate_hz)
    active = _active(x)
    delays, windows, unfound_s = _find_windows(x, y, active, hop_s, longest_delay_s)
    voice = _levels_dbfs(y) > VOICE_DBFS
    first = int(np.argmax(voice)) if voice.any() else None
    return Hearing(
        first_voice_s=None if first is None else first * FRAME_S,
        heard_voice_s=float(voice.sum()) * FRAME_S,
        said_voice_s=float(active.sum()) * FRAME_S,
        delays=delays,
        windows=windows,
        unfound_s=unfound_s,
        repeated=_is_repeated(delays, active),
        speed=_speed(x, y, active, delays, longest_delay_s),
        dropouts=_dropouts(x, y, active, delays),
    )


def loudness_dbfs(pcm: NDArray[np.int16], rate_hz: int, step_s: float = FRAME_S) -> NDArray[np.float32]:
    """The level of each `step_s` of audio, in dBFS; silence is -96."""
    return _levels_dbfs(pcm.astype(np.float32) / 32768.0, round(step_s * rate_hz))


def _prepare(pcm: NDArray[np.int16], rate_hz: int) -> Signal:
    return resample(pcm.astype(np.float32) / np.float32(32768.0), rate_hz, RATE_HZ)


def _levels_dbfs(x: Signal, frame: int = round(FRAME_S * RATE_HZ)) -> Signal:
    frames = x[: len(x) // frame * frame].reshape(-1, frame)
    power = np.mean(frames.astype(np.float64) ** 2, axis=1)
    levels: Signal = (10.0 * np.log10(np.maximum(power, SILENT_POWER))).astype(np.float32)
    return levels


def _active(x: Signal) -> NDArray[np.bool_]:
    """Which 20 ms frames of `x` are speech."""
    levels = _levels_dbfs(x)
    if len(levels) == 0:
        return np.zeros(0, np.bool_)
    return levels > max(float(levels.max()) - ACTIVE_BELOW_PEAK_DB, VOICE_DBFS - 15.0)


def _find_windows(
    x: Signal, y: Signal, active: NDArray[np.bool_], hop_s: float, longest_delay_s: float
) -> tuple[tuple[Delay, ...], int, float]:
    """Searches each second of `x` that is mostly speech in the part of `y` that follows it.

    Returns the windows that were found, the number of those that count, and the `unfound_s` of a `Hearing`.
    """
    length, piece, frame = (round(seconds * RATE_HZ) for seconds in (WINDOW_S, PIECE_S, FRAME_S))
    reach = round(longest_delay_s * RATE_HZ)
    delays: list[Delay] = []
    searched, covered = np.zeros_like(active), np.zeros_like(active)
    windows = 0
    for start in range(0, len(x) - length + 1, round(hop_s * RATE_HZ)):
        frames = slice(start // frame, (start + length) // frame)
        if np.mean(active[frames]) < 0.5:
            continue
        last_s = delays[-1].delay_s if delays else None
        found = _look_for(x[start : start + length], y[start : start + length + reach], last_s)
        if found is None and last_s is not None:
            # Speech that was played faster, or has gaps, does not match over a whole second; a piece may.
            middle = start + (length - piece) // 2
            nearby = piece + round((last_s + PIECE_REACH_S) * RATE_HZ)
            found = _look_for(x[middle : middle + piece], y[middle : middle + nearby], None)
            found = found if found is not None and found.correlation >= PIECE_FOUND else None
        if found is not None:
            delays.append(found._replace(at_s=(start + length / 2) / RATE_HZ))
            covered[frames] = True
        elif last_s is not None and start + length + last_s * RATE_HZ > len(y):
            continue  # the call ended before the whole window could be heard
        windows += 1
        searched[frames] = True
    unfound_s = float(np.sum(active & searched & ~covered)) * FRAME_S
    return tuple(delays), windows, unfound_s


def _look_for(window: Signal, following: Signal, near_s: float | None) -> Delay | None:
    """Searches a window in the audio after its own beginning, first near a given delay; `at_s` stays 0."""
    emphasised = _emphasise(window)
    since, lag, correlation = 0, 0, 0.0
    if near_s is not None:  # near the last delay: nearly always right, and hundreds of times faster
        since = max(0, round((near_s - NEAR_S) * RATE_HZ))
        near = following[since : since + len(window) + round(2 * NEAR_S * RATE_HZ)]
        lag, correlation = _earliest(_Heard(_emphasise(near), len(window)).correlations(emphasised))
    if correlation < CERTAIN:
        since = 0
        lag, correlation = _earliest(_Heard(_emphasise(following), len(window)).correlations(emphasised))
    if correlation < FOUND:
        return None
    lag += since
    found = following[lag : lag + len(window)]
    gain_db = 10.0 * math.log10(float(np.dot(found, found)) / float(np.dot(window, window)))
    return Delay(0.0, lag / RATE_HZ, correlation, gain_db)


def _emphasise(x: Signal) -> Signal:
    """The signal with high frequencies raised, which sharpens correlation peaks and ignores hum."""
    emphasised: Signal = np.diff(x, prepend=x[:1])
    return emphasised


class _Heard:
    """A stretch of heard audio in which windows are searched."""

    def __init__(self, following: Signal, longest_window: int) -> None:
        self.samples = len(following)
        self._size = 1 << (max(self.samples, longest_window) - 1).bit_length()
        self._spectrum = np.fft.rfft(following, self._size)
        self._sums = np.concatenate([[0.0], np.cumsum(following.astype(np.float64) ** 2)])

    def correlations(self, window: Signal) -> NDArray[np.float64]:
        """The correlation at each lag from the start on, up to 1; empty if the window is too long."""
        length, lags = len(window), self.samples - len(window) + 1
        if lags <= 0:
            return np.zeros(0)
        dots = np.fft.irfft(self._spectrum * np.conj(np.fft.rfft(window, self._size)), self._size)[:lags]
        energy = max(float(np.dot(window, window)), 1e-12)
        energies = np.maximum(self._sums[length : length + lags] - self._sums[:lags], QUIET_FLOOR * energy)
        found: NDArray[np.float64] = np.minimum(dots / np.sqrt(energies * energy), 1.0)
        return found


def _earliest(correlations: NDArray[np.float64]) -> tuple[int, float]:
    """The first lag, to a syllable, at which the same speech is found, and its correlation.

    The first lag, not the best: if the same words are said twice, they come back in order, and a hole in the
    first echo must not select the second.
    """
    if len(correlations) == 0:
        return 0, 0.0
    first = int(np.argmax(correlations >= min(FOUND, correlations.max())))
    lag = first + int(np.argmax(correlations[first : first + round(NEAR_S * RATE_HZ)]))
    return lag, float(correlations[lag])


def _is_repeated(delays: tuple[Delay, ...], active: NDArray[np.bool_]) -> bool:
    """Whether most words came back only after their whole sentence had been said."""
    if not delays:
        return False
    late = 0
    for delay in delays:
        until = active[int((delay.at_s) / FRAME_S) : int((delay.at_s + delay.delay_s) / FRAME_S)]
        silent_for = 0
        for frame in reversed(until):  # a repetition follows a pause of the speaker
            if frame:
                break
            silent_for += 1
        late += silent_for * FRAME_S >= 0.3 or delay.delay_s > 3.0
    return 2 * late > len(delays)


def _speed(
    x: Signal, y: Signal, active: NDArray[np.bool_], delays: tuple[Delay, ...], longest_delay_s: float
) -> float | None:
    """The speed at which the speech came back: the one with the highest correlation.

    The windows are short, because over a long one a difference of 1 % shifts the ends too far.
    """
    length, frame = round(STRETCH_WINDOW_S * RATE_HZ), round(FRAME_S * RATE_HZ)
    starts = [
        start
        for start in range(0, len(x) - length + 1, length)
        if np.mean(active[start // frame : (start + length) // frame]) > 0.8
    ]
    if not starts:
        return None
    loudest = sorted(starts, key=lambda start: -float(np.sum(x[start : start + length] ** 2)))
    totals = np.zeros(len(STRETCH_GRID))
    for start in loudest[:STRETCH_WINDOWS]:
        window = x[start : start + length]
        reach = round(_reach_s(start, delays, longest_delay_s) * RATE_HZ)
        heard = _Heard(y[start : start + reach], 3 * length)
        for n, speed in enumerate(STRETCH_GRID):
            totals[n] += heard.correlations(_stretch(window, float(speed))).max(initial=0.0)
    totals /= min(len(loudest), STRETCH_WINDOWS)
    best = int(np.argmax(totals))
    if totals[best] < FOUND:
        return None
    speed = float(STRETCH_GRID[best])
    if 0 < best < len(STRETCH_GRID) - 1 and abs(STRETCH_GRID[best - 1] - speed) < 0.003 > abs(
        STRETCH_GRID[best + 1] - speed
    ):
        before, at, after = totals[best - 1 : best + 2]
        curve = before - 2 * at + after
        if curve < 0:  # the top of the parabola through the three points
            speed += 0.5 * float((before - after) / curve) * float(STRETCH_GRID[best + 1] - speed)
    return speed


def _reach_s(start: int, delays: tuple[Delay, ...], longest_delay_s: float) -> float:
    """How far after a window its echo is searched: near a neighbour's delay, if one was found."""
    near = [delay.delay_s for delay in delays if abs(delay.at_s - start / RATE_HZ) < 2 * WINDOW_S]
    return max(near) + 2 * WINDOW_S if near else min(longest_delay_s, STRETCH_LONGEST_DELAY_S)


def _stretch(window: Signal, speed: float) -> Signal:
    """The window played at `speed` times its speed, band-limited by 8-fold oversampling."""
    if speed == 1.0:
        return window
    fine = np.fft.irfft(np.fft.rfft(window), 8 * len(window)) * 8
    at = np.arange(int(len(window) / speed)) * speed * 8
    stretched: Signal = np.interp(at, np.arange(len(fine)), fine).astype(np.float32)
    return stretched


def _is_silent(y: Signal, said_at: int, delay: Delay, said_dbfs: float) -> bool:
    """Whether the frame spoken at sample `said_at` was heard as silence."""
    frame = round(FRAME_S * RATE_HZ)
    at = said_at + round(delay.delay_s * RATE_HZ)
    around = y[max(0, at - frame) : at + 2 * frame]  # the delay varies a little within a window
    if len(around) < 3 * frame:
        return False
    return float(_levels_dbfs(around).max()) < said_dbfs + delay.gain_db - DROPOUT_DB


def _dropouts(x: Signal, y: Signal, active: NDArray[np.bool_], delays: tuple[Delay, ...]) -> tuple[Gap, ...]:
    """Stretches of speech that are missing although the words around them came back."""
    if not delays:
        return ()
    said, frame = _levels_dbfs(x), round(FRAME_S * RATE_HZ)
    times = np.array([delay.at_s for delay in delays])
    gaps: list[Gap] = []
    run = 0
    for n in range(len(said) + 1):
        missing = False
        if n < len(said) and active[n]:
            # At a jump of the delay, a frame may have the delay of either side.
            near = np.flatnonzero(np.abs(times - n * FRAME_S) <= WINDOW_S)
            missing = len(near) > 0 and all(_is_silent(y, n * frame, delays[k], float(said[n])) for k in near)
        if missing:
            run += 1
        elif run:
            if run * FRAME_S >= DROPOUT_S:
                gaps.append(Gap((n - run) * FRAME_S, run * FRAME_S))
            run = 0
    return tuple(gaps)
