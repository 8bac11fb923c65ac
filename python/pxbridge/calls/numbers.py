"""Phone numbers as they may be written down, and as they may be rung.

A hash without a key hides nothing: there are so few phone numbers that all of them can be tried. So the hash
is keyed, with a key of this installation; the same caller has the same hash in every call, and nobody without
the key can tell who that is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

SHOWN_DIGITS = 4
"""Of a number, at its end: enough to tell two callers apart, too few to call one."""

HASH_BYTES = 8

MIN_DIGITS, MAX_DIGITS = 3, 15
"""An emergency number; ITU-T E.164's longest."""

MAX_NUMBERS = 10
"""A call is handed over to no more: they are rung one after the other."""

MAX_CHARS = 64
"""Characters: E.164 has 15 digits, a SIP address more; the rest is nobody's number."""


class Form(StrEnum):
    """How a number is written."""

    MASKED = "masked"
    HASHED = "hashed"
    FULL = "full"


def dialable(written: object) -> str:
    """A number that a flow can ring, without what people put between its digits.

    Raises:
        ValueError: It is none.
    """
    if isinstance(written, str):
        number = written.translate(str.maketrans("", "", " -()."))
        digits = number.removeprefix("+")
        if digits.isascii() and digits.isdigit() and MIN_DIGITS <= len(digits) <= MAX_DIGITS:
            return number
    raise ValueError(f'{written!r} is not a phone number in quotes, such as "+918047180000"')


@dataclass(frozen=True, slots=True)
class Numbers:
    """Writes numbers in one form.

    Args:
        form: Which.
        key: Of the hash; at most 64 bytes.
    """

    form: Form = Form.MASKED
    key: bytes = b""

    def __call__(self, number: str) -> str:
        """The number, as it may be written; empty for none."""
        number = "".join(each if each.isprintable() else "?" for each in number[:MAX_CHARS])
        if not number:
            return ""
        match self.form:
            case Form.MASKED:
                hidden = max(0, len(number) - SHOWN_DIGITS)
                return "*" * hidden + (number[hidden:] if hidden else "*" * len(number))
            case Form.HASHED:
                return hashlib.blake2b(number.encode(), key=self.key, digest_size=HASH_BYTES).hexdigest()
            case Form.FULL:
                return number
