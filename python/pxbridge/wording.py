"""Numbers and ids in sentences for people. Machines get them whole, in JSON."""

from __future__ import annotations

import os
import re
from typing import Final

SHORT_ID_CHARS: Final = 12
"""Characters of an id that people read. `pxbridge calls show` finds a call by its id's beginning."""


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """A number of things: "no calls", "1 call", "2 calls".

    Args:
        number: How many.
        noun: One of them.
        plural: Several of them, unless that is the noun with an s.
    """
    several = plural or f"{noun}s"
    return f"1 {noun}" if number == 1 else f"{number:.0f} {several}" if number else f"no {several}"


def all_are(number: int, noun: str) -> str:
    """The beginning of a sentence about all of them: "the only slot is", "all 2 slots are"."""
    return f"the only {noun} is" if number == 1 else f"all {number} {noun}s are"


def lasted(seconds: float) -> str:
    """A time as people say it: "40 ms", "1.25 s", "40 s", "2 min 5 s", "1 h 3 min"."""
    if round(seconds, 3) < 1:
        return f"{1000 * seconds:.0f} ms"
    if round(seconds, 2) < 10:
        return f"{f'{seconds:.2f}'.rstrip('0').rstrip('.')} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest_s} s"
    hours, minutes = divmod(minutes, 60)
    larger = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{larger} {rest_s} s" if rest_s and not hours else larger.removesuffix(" 0 min")


def short_id(written: str) -> str:
    """An id as people read it: its beginning."""
    return written[:SHORT_ID_CHARS]


_BEFORE_UNIT: Final = re.compile(r"(?<=\d) (?=(?:ms|s|min|h|Hz|kHz|dB|ppm|MB|GB|times?)\b)")
"""The space between a number and its unit, at which no line is broken."""
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def with_units_kept(text: str) -> str:
    """A text in which a number and its unit count as one word, until `with_spaces` undoes it."""
    return _BEFORE_UNIT.sub(_NO_BREAK, text)


def with_spaces(text: str) -> str:
    """Undoes `with_units_kept`."""
    return text.replace(_NO_BREAK, " ")


_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def os_problem(error: OSError) -> str:
    """Why the operating system refused, in its own words: "Connection refused".

    The text of asyncio's errors is not for people: it has addresses as Python writes them, and, if a name has
    several addresses, one text within the other.
    """
    number = error.errno or 0  # negative, and no errno, if a name does not resolve
    if number > 0:
        return os.strerror(number)
    if numbers := _ERRNO.findall(error.strerror or str(error)):
        return ", ".join(dict.fromkeys(os.strerror(int(each)) for each in numbers))
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    return error.strerror or str(error)
