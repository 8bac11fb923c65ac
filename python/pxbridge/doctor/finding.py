"""The result of a check: how bad it is, what was found, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad a finding is."""

    GOOD = "good"
    NOTE = "note"
    """Worth knowing. Calls work."""
    WRONG = "wrong"
    """Calls fail, or will fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Args:
        check: What was checked: ``port``, ``engine``.
        verdict: How bad it is.
        what: What was found, in one line.
        fix: What to do about it, in one line; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    what: str
    fix: str = ""


def good(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.GOOD, what)


def note(check: str, what: str, fix: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check, Verdict.NOTE, what, fix)


def wrong(check: str, what: str, fix: str) -> Finding:
    """Something to fix."""
    return Finding(check, Verdict.WRONG, what, fix)
