"""The person at the phone: what to say and when, and when to hang up."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pxbridge.simulation.player import Player


@dataclass(frozen=True)
class Script:
    """What the caller does: when to speak, what to say, when to hang up.

    Attributes:
        pcm: What the caller says, int16 at the line's rate.
        speak_at_s: When the caller speaks; None: after the greeting.
        greeting_wait_s: How long the caller waits for a greeting to begin.
        pause_s: A pause of the agent of this length ends its greeting.
        greeting_longest_s: The caller speaks into a greeting that has had no such pause for this long.
        quiet_s: The caller hangs up when the agent has been silent for this long after the caller's words.
        answer_wait_s: The same, if the agent has said nothing since the caller began to speak.
        listen_longest_s: The caller hangs up this long after the caller's words, whatever the agent says.
        hang_up_at_s: The caller hangs up at this time; None: by the three rules above.
    """

    pcm: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    speak_at_s: float | None = None
    greeting_wait_s: float = 5.0
    pause_s: float = 0.8
    greeting_longest_s: float = 3600.0
    quiet_s: float = 3.0
    answer_wait_s: float = 8.0
    listen_longest_s: float = 3600.0
    hang_up_at_s: float | None = None


class Mood(Enum):
    """The caller's place in the script."""

    WAITING = "waiting for the greeting to end"
    SPEAKING = "speaking"
    LISTENING = "listening"
    GONE = "gone"


class Leaving(Enum):
    """Why the caller hung up."""

    TOLD = "as told"
    """At the script's time, or because whoever runs the phone says so."""
    ANSWERED = "the agent had finished"
    UNANSWERED = "the agent did not answer"
    TIRED = "the agent went on and on"


class Caller:
    """A person who follows a script: gives audio chunk by chunk, and silence when there is nothing to say."""

    def __init__(self, script: Script, player: Player) -> None:
        self.mood = Mood.WAITING
        self.spoke_at_s: float | None = None
        """When the first sample of the words was spoken, on the phone's clock."""
        self.spoke_until_s: float | None = None
        self.interrupted = False
        """The greeting had no pause, and the caller spoke into it."""
        self.left: Leaving | None = None
        """Why the caller hung up; None before, and if somebody else ended the call."""
        self._script = script
        self._player = player
        self._position = 0

    def speak(self, samples: int, from_s: float) -> NDArray[np.int16]:
        """The next chunk of the caller's audio, whose first sample is spoken at `from_s`."""
        rate_hz = self._player.rate_hz
        chunk = np.zeros(samples, np.int16)
        until_s = from_s + samples / rate_hz
        offset = 0
        if self.mood is Mood.WAITING:
            at_s = self._script.speak_at_s
            if at_s is not None:
                offset = max(0, round((at_s - from_s) * rate_hz))
            elif not self._greeting_is_over(from_s):
                offset = samples
            if offset < samples:
                self.mood = Mood.SPEAKING
                self.spoke_at_s = from_s + offset / rate_hz
        if self.mood is Mood.SPEAKING:
            words = self._script.pcm[self._position : self._position + samples - offset]
            chunk[offset : offset + len(words)] = words
            self._position += len(words)
            if self._position >= len(self._script.pcm):
                self.mood = Mood.LISTENING
                self.spoke_until_s = from_s + (offset + len(words)) / rate_hz
        if self.left is None:
            self.left = self._reason_to_leave(until_s)
        if self.left is not None:
            self.mood = Mood.GONE
        return chunk

    def leave(self) -> None:
        """Hangs up with the next chunk."""
        self.left = self.left or Leaving.TOLD
        self.mood = Mood.GONE

    def _greeting_is_over(self, now_s: float) -> bool:
        voice_s = self._player.voice_until_s
        if voice_s is None:
            return now_s >= self._script.greeting_wait_s
        if now_s - voice_s >= self._script.pause_s:
            return True
        self.interrupted = now_s - (self._player.voice_from_s or 0.0) >= self._script.greeting_longest_s
        return self.interrupted

    def _reason_to_leave(self, now_s: float) -> Leaving | None:
        script = self._script
        if script.hang_up_at_s is not None:
            return Leaving.TOLD if now_s >= script.hang_up_at_s else None
        if self.mood is not Mood.LISTENING or self.spoke_until_s is None or self.spoke_at_s is None:
            return None
        voice_s = self._player.voice_until_s
        if voice_s is None or voice_s <= self.spoke_at_s:
            unanswered = now_s - self.spoke_until_s >= script.answer_wait_s
            return Leaving.UNANSWERED if unanswered else None
        if now_s - max(self.spoke_until_s, voice_s) >= script.quiet_s:
            return Leaving.ANSWERED
        return Leaving.TIRED if now_s - self.spoke_until_s >= script.listen_longest_s else None
