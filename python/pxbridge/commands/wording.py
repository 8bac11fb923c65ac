"""Figures in words, for people: counts with the right plural, and times with a fitting unit."""

from __future__ import annotations


def counted(count: float, noun: str) -> str:
    """``1 gap``, ``2 gaps``."""
    return f"{count:.0f} {noun}" if round(count) == 1 else f"{count:.0f} {noun}s"


def length(seconds: float) -> str:
    """``78 ms``, ``1.23 s``."""
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{seconds * 1e3:.0f} ms"
