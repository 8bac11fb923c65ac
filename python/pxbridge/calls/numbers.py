"""Phone numbers: how they are written in logs and records, and which can be dialled.

A hash without a key hides nothing, because all phone numbers can be tried. So the hash uses a key of this
installation. The same caller has the same hash in every call, and the number cannot be found without the key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

SHOWN_DIGITS = 4
"""The last digits of a number: enough to tell two callers apart, too few to call one."""

HASH_BYTES = 8

MIN_DIGITS, MAX_DIGITS = 3, 15
"""An emergency number has 3 digits; the longest number of ITU-T E.164 has 15."""

MAX_NUMBERS = 10
"""The most numbers that a call is handed over to: they are rung one after the other."""

MAX_CHARS = 64
"""What is longer is cut. A number of E.164 has 15 digits; a SIP address is longer."""


class Form(StrEnum):
    """How a number is written."""

    MASKED = "masked"
    HASHED = "hashed"
    FULL = "full"


def dialable(written: object) -> str:
    """A number that a call flow can dial, without spaces, brackets, dots and dashes.

    Raises:
        ValueError: The value is not a phone number.
    """
    if isinstance(written, str):
        number = written.translate(str.maketrans("", "", " -()."))
        digits = number.removeprefix("+")
        if digits.isascii() and digits.isdigit() and MIN_DIGITS <= len(digits) <= MAX_DIGITS:
            return number
    if not isinstance(written, str):
        raise ValueError(f'{written!r} is not a phone number in quotes, such as "+918047180000"')
    raise ValueError(f"{written!r} is not a phone number, such as +918047180000")


@dataclass(frozen=True, slots=True)
class Numbers:
    """Writes numbers in one form.

    Args:
        form: How a number is written.
        key: The key of the hash; at most 64 bytes.
    """

    form: Form = Form.MASKED
    key: bytes = b""

    def __call__(self, number: str) -> str:
        """The number in this form; empty if there is no number."""
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
