"""The bridge's own sound while the caller hears no agent: announcements, music, and a sound for gaps.

A caller is never left on a silent line. These functions run until they are cancelled, when an agent is ready.
The agent's first sound ends the bridge's own sound with a fade.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pxbridge.calls.announcements import Sound, sound

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.calls.call_line import CallLine

REMIND_EVERY_S: Final = 30.0
"""How much music is played between two announcements: the caller must not feel forgotten."""

QUIET_S: Final = 1.2
"""An engine that is prompted within this time needs no explanation. The caller hears something within 2 s."""

GAP_WITHOUT_WORDS_S: Final = 2.0
"""A gap in mid-call that is shorter than this needs no explanation."""

PAUSE_S: Final = 0.1
"""Between two stretches of music. While an engine speaks, music takes no time, and this bounds the loop."""

MUSIC_PIECE_S: Final = 2.0
"""Music is queued in pieces of this length, because queued music takes memory for each caller who waits."""

MUSIC_AHEAD_S: Final = 1.0
"""The next piece of music is queued this long before the last one ends."""


async def say(line: CallLine, name: Sound) -> None:
    """Plays an announcement, and waits until the caller has heard it."""
    line.play(sound(name, line.rate_hz))
    await line.wait_played()


async def play_hold_music(line: CallLine, position: Callable[[], int | None]) -> None:
    """Plays announcements and music for a caller who waits for an engine. Runs until it is cancelled.

    Args:
        line: The call's sound.
        position: The caller's place in line, 1 for the next; None if it is not known.
    """
    await say(line, Sound.PLEASE_WAIT)
    while True:
        if (place := position()) is not None and (words := Sound.place(place)) is not None:
            await say(line, words)
        await _music(line, REMIND_EVERY_S)
        await say(line, Sound.STILL_WAITING)


async def keep_company(line: CallLine) -> None:
    """Explains the wait if an engine takes long for its prompts, then plays music. Runs until cancelled."""
    await asyncio.sleep(QUIET_S)
    await say(line, Sound.ONE_MOMENT)
    while True:
        await _music(line, REMIND_EVERY_S)


class GapCover:
    """Covers the gap for the caller when an engine dies or hangs.

    Args:
        line: The call's sound.
    """

    def __init__(self, line: CallLine) -> None:
        self._line = line
        self._task: asyncio.Task[None] | None = None

    @property
    def covered(self) -> bool:
        """Whether `begin` was called, and `end` was not called since."""
        return self._task is not None

    def begin(self) -> None:
        """Lets the caller hear that there is a gap. Does nothing if the gap is covered already."""
        if self._task is None:
            self._task = asyncio.create_task(_cover(self._line), name="gap")

    def end(self) -> None:
        """Queues nothing more. What is queued plays on until an engine speaks."""
        if self._task is not None:
            self._task.cancel()
            self._task = None


async def _cover(line: CallLine) -> None:
    """A short sound; then, if the gap lasts, words and music."""
    line.play(sound(Sound.GAP, line.rate_hz))
    await asyncio.sleep(GAP_WITHOUT_WORDS_S)
    await say(line, Sound.ONE_MOMENT)
    while True:
        await _music(line, REMIND_EVERY_S)


async def _music(line: CallLine, at_least_s: float) -> None:
    music = sound(Sound.HOLD_MUSIC, line.rate_hz)
    piece = round(MUSIC_PIECE_S * line.rate_hz)
    played_s = 0.0
    while played_s < at_least_s:
        for begin in range(0, len(music), piece):
            line.play(music[begin : begin + piece])
            await line.wait_played(all_but_s=MUSIC_AHEAD_S)
        played_s += len(music) / line.rate_hz
    await line.wait_played()
    await asyncio.sleep(PAUSE_S)
