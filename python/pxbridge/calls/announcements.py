"""The bridge's own sounds: announcements, hold music, and the short sound that marks a gap.

They are shipped as Ogg Opus, and are decoded once for each sample rate. A persona's greeting is a file that
the operator provides.
"""

from __future__ import annotations

import contextlib
import functools
from enum import StrEnum
from importlib import resources
from typing import TYPE_CHECKING, Final

from pxbridge.audio import OggOpusReader, Resampler
from pxbridge.calls.greeting import GREETING_HZ, read_greeting
from pxbridge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


class Sound(StrEnum):
    """A sound's file in ``pxbridge/assets``, without its ending."""

    HOLD_MUSIC = "hold-music"
    """Soft. It can be repeated without an audible seam."""
    PLEASE_WAIT = "please-wait"
    """"All our lines are busy at the moment. Please stay on the line.\""""
    STILL_WAITING = "still-waiting"
    """"Thank you for waiting. You will be connected as soon as a line is free.\""""
    ALL_BUSY = "all-busy"
    """"All our lines are still busy. Please try again later. Goodbye.\""""
    GAP = "gap"
    """Two soft notes, played when the agent breaks off."""
    ONE_MOMENT = "one-moment"
    """"One moment, please.\""""
    SORRY = "sorry"
    """"I am sorry, we have a technical problem. Please call again later. Goodbye.\""""
    PLACE_1 = "place-1"
    """"You are next in line.\""""
    PLACE_2 = "place-2"
    """"You are number two in line.\", and so on."""
    PLACE_3 = "place-3"
    PLACE_4 = "place-4"
    PLACE_5 = "place-5"
    PLACE_6 = "place-6"
    PLACE_7 = "place-7"
    PLACE_8 = "place-8"
    PLACE_9 = "place-9"

    @classmethod
    def place(cls, number: int) -> Sound | None:
        """Says a place in line, 1 for the next; None for one that there is no sound for."""
        return cls(f"place-{number}") if 1 <= number <= LAST_PLACE else None


LAST_PLACE: Final = 9
"""A caller who is further back is not told the place: it would only say that the wait is long."""


@functools.cache
def sound(name: Sound, rate_hz: int) -> NDArray[np.float32]:
    """The samples of a sound at a line's rate. All calls share them."""
    ogg = (resources.files("pxbridge") / "assets" / f"{name}.ogg").read_bytes()
    pcm = OggOpusReader(rate_hz, trim=True).read(ogg)
    pcm.setflags(write=False)
    return pcm


USUAL_LINE_HZ: Final = 8000
"""The rate of most phone lines. Other rates: sounds are decoded in the first call that needs them."""


def load(greetings: Iterable[Path], rate_hz: int = USUAL_LINE_HZ) -> None:
    """Decodes all sounds and greetings ahead. May be called from any thread.

    Otherwise the first call would do it, and all calls would wait: 40 ms for the sounds, and up to 300 ms for
    a long greeting.
    """
    for name in Sound:
        sound(name, rate_hz)
    for path in greetings:
        with contextlib.suppress(InputError):  # the call that wants it says so
            greeting(path, rate_hz)


def greeting(path: Path, rate_hz: int) -> NDArray[np.float32]:
    """The samples of a persona's greeting at a line's rate. The file is read again when it has changed.

    Raises:
        InputError: The file cannot be read, or holds no audio.
    """
    try:
        changed_ns = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    return _greeting(path, changed_ns, rate_hz)


@functools.lru_cache(maxsize=64)
def _greeting(path: Path, _changed_ns: int, rate_hz: int) -> NDArray[np.float32]:
    pcm = read_greeting(path)
    if rate_hz != GREETING_HZ:
        pcm = Resampler(GREETING_HZ, rate_hz).process(pcm)
    pcm.setflags(write=False)
    return pcm
