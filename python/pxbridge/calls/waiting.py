"""What a caller hears while there is no agent to talk to.

Nobody stays on a silent line. These run until they are cancelled, which is when an agent has come: the first
sound of an engine ends the bridge's own with a fade.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.calls.sounds import Sound, sound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REMIND_EVERY_S: Final = 30.0
"""Of music between two announcements: often enough to show that one is not forgotten."""

GAP_WITHOUT_WORDS_S: Final = 2.5
"""A gap in mid-call shorter than this needs no explanation."""

MUSIC_AHEAD_S: Final = 1.0
"""The next round of music is queued so long before the last one ends."""


class OwnVoice(Protocol):
    """A line on which the bridge itself is heard."""

    @property
    def rate_hz(self) -> int:
        """The line's rate."""
        ...

    def play(self, pcm: NDArray[np.float32]) -> None:
        """Queues sound behind what plays."""
        ...

    async def played(self, all_but_s: float = 0.0) -> None:
        """Waits until what is queued has been heard, or all but so much of it."""
        ...


async def say(line: OwnVoice, name: Sound) -> None:
    """Says something, and waits until it has been heard."""
    line.play(sound(name, line.rate_hz))
    await line.played()


async def entertain(line: OwnVoice) -> None:
    """Keeps a caller company for whom no engine is free: for ever."""
    await say(line, Sound.PLEASE_WAIT)
    while True:
        await _music(line, REMIND_EVERY_S)
        await say(line, Sound.STILL_WAITING)


async def cover_gap(line: OwnVoice) -> None:
    """Covers the gap that an engine's death leaves: a short sound, and if it lasts, words and music."""
    line.play(sound(Sound.GAP, line.rate_hz))
    await asyncio.sleep(GAP_WITHOUT_WORDS_S)
    await say(line, Sound.ONE_MOMENT)
    while True:
        await _music(line, REMIND_EVERY_S)


async def _music(line: OwnVoice, at_least_s: float) -> None:
    music = sound(Sound.HOLD_MUSIC, line.rate_hz)
    played_s = 0.0
    while played_s < at_least_s:
        line.play(music)
        played_s += len(music) / line.rate_hz
        await line.played(all_but_s=MUSIC_AHEAD_S)
    await line.played()
