"""What happens in a simulated call, as lines in order of time.

The phone knows its own events, and the bridge reports its events and the agent's words. Reports come a little
later than what they are about. So a line is given only when its time is `SETTLED_S` ago: until then an
earlier one may come.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from pxbridge.simulation.phone import BROKEN_OFF, Ended, Leaving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pxbridge.commands.call_telemetry import CallTelemetry
    from pxbridge.simulation.phone import Phone

SETTLED_S: Final = 0.5
"""Reports that come later than this are given in the order in which they come."""
SENTENCE_ENDS = (".", "!", "?", "…", "।")
WORDS_PAUSE_S: Final = 1.0
"""Without a new word for this long, the agent has paused."""
LONGEST_SENTENCE_S: Final = 8.0
"""A longer sentence is cut: it must not hold up what happens meanwhile."""

_LEFT: Final = {
    Leaving.TOLD: "you hang up",
    Leaving.ANSWERED: "you hang up: the agent has finished",
    Leaving.UNANSWERED: "you hang up: the agent does not answer",
    Leaving.TIRED: "you hang up: you have listened long enough (--seconds sets another time)",
}


_ENDED: Final = {
    Ended.BY_CALLER: "you hang up",
    Ended.BY_BRIDGE: "the bridge hangs up",
    Ended.BY_NETWORK: "the line is cut",
}


class Moment(NamedTuple):
    """A line of the timeline."""

    at_s: float
    text: str


class _Event(NamedTuple):
    at_s: float
    name: str
    """Different for each event of a call."""
    text: str
    words: int = 0
    """How many of the agent's words are given with it and before it."""


class Timeline:
    """The lines of one call, each given once. Times never fall from one line to the next.

    The agent's words are given sentence by sentence, with the time at which the sentence begins. What happens
    during a sentence is given after it.
    """

    def __init__(self, phone: Phone, telemetry: CallTelemetry) -> None:
        self._phone = phone
        self._telemetry = telemetry
        self._given: set[str] = set()
        self._words_given = 0
        self._last_s = 0.0

    @property
    def unfinished(self) -> str:
        """The words that are not given yet."""
        return "".join(piece for _, piece in self._telemetry.words[self._words_given :]).strip()

    def news(self) -> list[Moment]:
        """The lines since the last time."""
        return self._until(self._phone.spoken_s - SETTLED_S)

    def rest(self) -> list[Moment]:
        """All lines that are left, when the call is over."""
        return self._until(math.inf)

    def _until(self, until_s: float) -> list[Moment]:
        sentences, unfinished_s = self._sentences(until_s)
        lines: list[Moment] = []
        # Of two at the same time, the event comes first: a voice is heard, and then its words.
        for event in sorted([*self._events(), *sentences], key=lambda event: event.at_s):
            if event.at_s > min(until_s, unfinished_s):
                break
            self._given.add(event.name)
            self._words_given = max(self._words_given, event.words)
            self._last_s = max(self._last_s, event.at_s)
            if event.text:
                lines.append(Moment(self._last_s, event.text))
        return lines

    def _events(self) -> Iterator[_Event]:
        """The events that are known and not given yet."""
        for at_s, name, text in (*self._of_the_phone(), *self._of_the_bridge()):
            if at_s is not None and name not in self._given:
                yield _Event(at_s, name, text)

    def _of_the_phone(self) -> Iterator[tuple[float | None, str, str]]:
        phone = self._phone
        caller = phone.caller
        speaks = "you speak, as the greeting does not end" if caller.interrupted else "you speak"
        yield 0.0 if phone.chunks_sent else None, "answered", "answered"
        yield phone.player.voice_from_s, "voice", "you hear a voice"
        yield caller.spoke_at_s, "spoke", speaks
        yield caller.spoke_until_s, "stopped", "you stop speaking and listen"
        for number, (at_s, key) in enumerate(phone.line.dtmf):
            yield at_s if at_s <= phone.spoken_s else None, f"key {number}", f"you press {key}"
        if phone.ended is not None:
            yield phone.duration_s, "ended", self._end(phone.ended)

    def _of_the_bridge(self) -> Iterator[tuple[float, str, str]]:
        for number, (at_s, text) in enumerate(self._telemetry.happenings):
            yield at_s, f"report {number}", text

    def _end(self, ended: Ended) -> str:
        phone = self._phone
        if ended is Ended.BY_CALLER and phone.caller.left is not None:
            return _LEFT[phone.caller.left]
        if ended is not Ended.BY_BRIDGE:
            return _ENDED[ended]
        if phone.close_code == BROKEN_OFF:
            return "the connection to the bridge breaks off"
        _, _, why = self._telemetry.ending.partition(": ")
        return f"{_ENDED[ended]}: {why}" if why else _ENDED[ended]

    def _sentences(self, until_s: float) -> tuple[list[_Event], float]:
        """The finished sentences up to a time, and when the unfinished one begins; infinity without one."""
        words, found = self._telemetry.words, []
        begin = self._words_given
        for end in range(begin + 1, len(words) + 1):
            at_s, last_s = self._heard_s(begin), self._heard_s(end - 1)
            next_s = self._heard_s(end) if end < len(words) else until_s
            ended = words[end - 1][1].rstrip().endswith(SENTENCE_ENDS)
            if ended or next_s - last_s > WORDS_PAUSE_S or next_s - at_s > LONGEST_SENTENCE_S:
                text = "".join(piece for _, piece in words[begin:end]).strip()
                found.append(_Event(at_s, f"words {end}", f"agent: {text}" if text else "", end))
                begin = end
        return found, self._heard_s(begin) if begin < len(words) else math.inf

    def _heard_s(self, number: int) -> float:
        """When a piece of the agent's words is heard: not before the first voice."""
        return max(self._telemetry.words[number][0], self._phone.player.voice_from_s or 0.0)
