"""What a check found: how bad it is, what it is, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad a finding is."""

    GOOD = "good"
    NOTE = "note"
    """Worth knowing; calls go through."""
    WRONG = "wrong"
    """Calls fail, or will."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check looked at.

    Args:
        check: What was looked at: ``port``, ``engine``.
        verdict: How bad it is.
        what: What was found, in one line.
        mend: What to do about it; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    what: str
    mend: str = ""


def good(check: str, what: str) -> Finding:
    """All well."""
    return Finding(check, Verdict.GOOD, what)


def note(check: str, what: str, mend: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check, Verdict.NOTE, what, mend)


def wrong(check: str, what: str, mend: str) -> Finding:
    """To be mended."""
    return Finding(check, Verdict.WRONG, what, mend)
