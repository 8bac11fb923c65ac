"""What a caller hears while there is no agent to talk to.

Nobody stays on a silent line. These run until they are cancelled, which is when an agent has come: the first
sound of an engine ends the bridge's own with a fade.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.calls.announcements import Sound, sound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REMIND_EVERY_S: Final = 30.0
"""Of music between two announcements: often enough to show that one is not forgotten."""

GAP_WITHOUT_WORDS_S: Final = 2.5
"""A gap in mid-call shorter than this needs no explanation."""

BREATH_S: Final = 0.1
"""Between two rounds. Where the bridge is not heard just now, for an engine speaks, no more is waited."""

MUSIC_PIECE_S: Final = 2.0
"""Music is queued in pieces of this length: it lies about in memory for each caller who waits."""

MUSIC_AHEAD_S: Final = 1.0
"""The next piece of music is queued so long before the last one ends."""


class AnnouncementLine(Protocol):
    """A line on which the bridge itself is heard."""

    @property
    def rate_hz(self) -> int:
        """The line's rate."""
        ...

    def play(self, pcm: NDArray[np.float32]) -> None:
        """Queues sound behind what plays."""
        ...

    async def wait_played(self, all_but_s: float = 0.0) -> None:
        """Waits until what is queued has been heard, or all but so much of it."""
        ...


async def say(line: AnnouncementLine, name: Sound) -> None:
    """Says something, and waits until it has been heard."""
    line.play(sound(name, line.rate_hz))
    await line.wait_played()


async def play_hold_music(line: AnnouncementLine) -> None:
    """Keeps a caller company for whom no engine is free: for ever."""
    await say(line, Sound.PLEASE_WAIT)
    while True:
        await _music(line, REMIND_EVERY_S)
        await say(line, Sound.STILL_WAITING)


class GapCover:
    """Covers the gap that an engine leaves which dies or hangs; one that is covered already stays so.

    Args:
        line: Where it is heard.
    """

    def __init__(self, line: AnnouncementLine) -> None:
        self._line = line
        self._task: asyncio.Task[None] | None = None

    @property
    def covered(self) -> bool:
        """Whether it has begun and not ended."""
        return self._task is not None

    def begin(self) -> None:
        """From now on the caller hears that there is a gap."""
        if self._task is None:
            self._task = asyncio.create_task(_cover(self._line), name="gap")

    async def end(self) -> None:
        """Nothing more of it; what is queued plays on, until an engine speaks."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _cover(line: AnnouncementLine) -> None:
    """A short sound, and if the gap lasts, words and music."""
    line.play(sound(Sound.GAP, line.rate_hz))
    await asyncio.sleep(GAP_WITHOUT_WORDS_S)
    await say(line, Sound.ONE_MOMENT)
    while True:
        await _music(line, REMIND_EVERY_S)


async def _music(line: AnnouncementLine, at_least_s: float) -> None:
    music = sound(Sound.HOLD_MUSIC, line.rate_hz)
    piece = round(MUSIC_PIECE_S * line.rate_hz)
    played_s = 0.0
    while played_s < at_least_s:
        for begin in range(0, len(music), piece):
            line.play(music[begin : begin + piece])
            await line.wait_played(all_but_s=MUSIC_AHEAD_S)
        played_s += len(music) / line.rate_hz
    await line.wait_played()
    await asyncio.sleep(BREATH_S)
