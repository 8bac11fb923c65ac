"""Each frame of a client has a masking key of its own that nobody can foretell (RFC 6455 §5.3)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pxbridge.websocket.frames import BINARY, whole_frame

if TYPE_CHECKING:
    import pytest

FRAMES = 3000
"""More than are drawn at once."""


def _key(frame: bytes) -> bytes:
    return frame[2:6]


def test_no_frame_has_the_key_of_another() -> None:
    keys = {_key(whole_frame(BINARY, b"sound", masked=True)) for _ in range(FRAMES)}
    assert len(keys) >= FRAMES - 2, "two of 3,000 random keys are the same once in a thousand runs"


def test_keys_come_from_the_systems_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def urandom(count: int) -> bytes:
        drawn.append(os.getrandom(count))
        return drawn[-1]

    monkeypatch.setattr("pxbridge.websocket.frames.os.urandom", urandom)
    keys = [_key(whole_frame(BINARY, b"", masked=True)) for _ in range(FRAMES)]
    assert drawn[0] in b"".join(keys), "used whole and in order, each byte once"
