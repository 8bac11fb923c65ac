"""Log lines for people: one short line for each event. JSON has the whole of it.

A line has the time, the level and the event. A line about a call ends with the beginning of the call's id,
and `pxbridge calls show` with it shows all details.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pxbridge.calls.call_state import Outcome, Party
from pxbridge.wording import counted, lasted, short_id, with_spaces, with_units_kept

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from structlog.typing import EventDict, WrappedLogger

    from pxbridge.calls.events import Kind

SENTENCE: Final = "sentence"
"""The key of an event's sentence for people, which stands for the event and all its figures."""

OWN_LOGGERS: Final = "pxbridge"

INDENT: Final = " " * len("23:59:59 ")
"""Stands before the rest of a line that is wrapped."""

_STYLE: Final = re.compile(r"\x1b\[\d+m")
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "info": "\x1b[32m"}


class HumanRenderer:
    """Renders lines for a terminal, or for a file that people read.

    On a terminal the time is local, as in `pxbridge calls`, and without its date; a line that is too long is
    wrapped between words. In a file the time is UTC, and nothing is wrapped.

    Args:
        screen: The terminal; None if the lines go elsewhere.
    """

    def __init__(self, screen: TextIO | None) -> None:
        self._screen = screen

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> str:
        """The text of a line; a traceback follows in lines of its own."""
        level, name = line.pop("level", ""), line.pop("logger", "")
        traceback = line.pop("exception", None)
        event, sentence = str(line.pop("event", "")), line.pop(SENTENCE, None)
        call = _call(line)
        figures = (
            []
            if sentence
            else [f"{key}={_figure(key, value)}" for key, value in line.items() if key != "timestamp"]
        )
        of_others = [name] if name and name.split(".")[0] != OWN_LOGGERS else []
        parts = [
            self._styled(_DIM, self._when(line.get("timestamp", ""))),
            self._styled(_COLOURS.get(level, _DIM), level),
            self._styled(_BOLD if level not in ("info", "debug") else "", sentence or event),
            *(self._styled(_DIM, text) for text in (*of_others, *figures, *call)),
        ]
        text = folded(" ".join(part for part in parts if part), self._columns())
        return text if traceback is None else f"{text}\n{traceback}"

    def _columns(self) -> int:
        """The width of the terminal now; 0 if there is none, or if it does not tell."""
        if self._screen is None:
            return 0
        try:
            return os.get_terminal_size(self._screen.fileno()).columns
        except OSError:
            return 0

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._screen is not None and style and text else text

    def _when(self, timestamp: str) -> str:
        if not timestamp:
            return ""
        if self._screen is None:
            return f"{timestamp[:19]}Z"
        return datetime.fromisoformat(timestamp).astimezone().strftime("%H:%M:%S")


def folded(text: str, columns: int) -> str:
    """Wraps styled text between words, indented below its first line; no word is broken.

    A number and its unit stay together.
    """
    if not columns:
        return text
    lines, taken = [""], 0
    for joined in with_units_kept(text).split(" "):
        word = with_spaces(joined)
        length = len(_STYLE.sub("", word))
        if taken and taken + 1 + length > columns:
            lines, taken = [*lines, INDENT + word], len(INDENT) + length
        else:
            lines[-1], taken = f"{lines[-1]} {word}" if taken else word, taken + length + (taken > 0)
    return "\n".join(lines)


def _call(line: EventDict) -> list[str]:
    """The line's call by the beginning of its id; before it has one, of our own key."""
    call, key = str(line.pop("call", "-")), str(line.pop("key", ""))
    line.pop("stream", None)
    if call not in ("", "-"):
        return [f"call={short_id(call)}"]
    return [f"key={short_id(key)}"] if key else []


def _figure(name: str, value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float() if name.endswith("_s"):
            return lasted(value).replace(" ", "")
        case float():
            return f"{value:.3g}"
        case str() if " " in value or not value:
            return repr(value)
        case _:
            return str(value)


def started(figures: Mapping[str, Any]) -> str:
    """The sentence about a call that begins."""
    numbers = f"{number(figures['caller'])} called {number(figures['called'])}"
    return f"call started: {numbers}, {figures['rate_hz'] / 1000:g} kHz, from {figures['peer'] or 'nowhere'}"


def live(detail: Mapping[str, Any]) -> str:
    """The sentence about an agent that is ready."""
    how = "prompted ahead" if detail["warm"] else f"prompted in {lasted(detail['prompt_s'])}"
    return f"agent ready: {detail['engine']}, {how}"


def heard(detail: Mapping[str, Any]) -> str:
    """The sentence about the first sound of an agent."""
    return f"agent heard after {lasted(detail['after_s'])}"


def action(detail: Mapping[str, Any]) -> str:
    """The sentence about what a key, a phrase or an operator caused."""
    return f"action: {detail['action']}, by {detail['by']}"


def failed(kind: Kind, detail: Mapping[str, Any]) -> str:
    """The sentence about an engine that failed."""
    reason = detail["reason"].removeprefix(f"{detail['engine']}: ")  # most reasons begin with it
    return f"{kind.value}: {detail['engine']}: {reason}"


def ended(figures: Mapping[str, Any]) -> str:
    """The sentence about a call that is over: who, how long, how it ended, its delay, and all that was bad.

    Args:
        figures: As `pxbridge.calls.summary.summary` gives them.
    """
    who = number(figures["caller"]) if figures["caller"] else figures["peer"] or "unknown"
    how = figures["outcome"].replace("_", " ")
    if figures["ended_by"] == Party.PHONE.value and figures["outcome"] == Outcome.COMPLETED.value:
        how += " by the phone"  # hung up; the reason tells no more
    elif figures["ended_by"]:
        how += f" by the {figures['ended_by']} ({figures['reason']})"
    texts = [who, lasted(figures["duration_s"]), how]
    if figures["mouth_to_ear_s"] is not None:
        texts.append(f"delay {lasted(figures['mouth_to_ear_s'])}")
    return f"call ended: {', '.join([*texts, *_troubles(figures)])}"


def _troubles(figures: Mapping[str, Any]) -> list[str]:
    """What a caller may have noticed."""
    texts = []
    if figures["setup_s"] is not None and figures["first_audio_s"] is None:
        texts.append("the agent was not heard")
    if figures["failovers"]:
        texts.append(f"{counted(figures['failovers'], 'engine')} lost")
    if figures["holes"]:
        texts.append(f"{counted(figures['holes'], 'hole')} up to {lasted(figures['longest_hole_s'])}")
    if figures["stalls"]:
        stalls = counted(figures["stalls"], "stall of the phone", "stalls of the phone")
        texts.append(f"{stalls} up to {lasted(figures['longest_stall_s'])}")
    if figures["holds"]:
        texts.append(f"engine silent {counted(figures['holds'], 'time')}")
    if figures["slow"]:
        texts.append(f"engine too slow {counted(figures['slow'], 'time')}")
    if figures["malformed"]:
        texts.append(counted(figures["malformed"], "malformed message"))
    return texts


def number(written: str) -> str:
    """A phone number in a sentence, with one star for all that are hidden."""
    hidden = written.lstrip("*")
    return f"*{hidden}" if hidden != written else written or "an unknown number"
