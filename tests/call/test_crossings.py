"""A message of sound costs one call into Rust, in either direction, and so does a mark that comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.call.rig import bridge
from tests.virtual_time import run

from pxbridge.audio import Line
from pxbridge.calls.call_line import CallLine
from pxbridge.simulation import phone as simulated
from pxbridge.simulation.phone import Script
from pxbridge.telephony.exotel import carrier

if TYPE_CHECKING:
    from collections.abc import Callable


class CountedLine:
    """A `Line` that notes each use of it."""

    uses: list[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        self._line = Line(*args, **options)

    def __getattr__(self, name: str) -> Any:
        self.uses.append(name)
        return getattr(self._line, name)


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    CountedLine.uses = []
    monkeypatch.setattr(carrier, "Line", CountedLine)
    return CountedLine.uses


def counting(handle: Callable[..., None], uses: list[str], counts: list[list[str]]) -> Callable[..., None]:
    def counted(*args: Any) -> None:
        before = len(uses)
        handle(*args)
        counts.append(uses[before:])

    return counted


@pytest.mark.parametrize("chunk_ms", [20, 100])
def test_a_message_of_sound_crosses_into_rust_once(
    chunk_ms: int, uses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from_phone: list[list[str]] = []
    from_engine: list[list[str]] = []
    on_phone = counting(CallLine._on_phone_message, uses, from_phone)
    monkeypatch.setattr(CallLine, "_on_phone_message", on_phone)
    monkeypatch.setattr(CallLine, "_on_engine_audio", counting(CallLine._on_engine_audio, uses, from_engine))

    async def main() -> int:
        async with bridge() as b:
            phone = await b.call(Script(hang_up_at_s=10.0), simulated.Line(chunk_ms=chunk_ms))
            return phone.media_received

    assert run(main()) > 50
    assert len(from_phone) >= 9.5 / (chunk_ms / 1000)
    assert all(each == ["phone_message"] for each in from_phone)
    assert "mark_played" not in uses, "marks that come back need no reader of events"
    assert len(from_engine) > 100
    assert all(each == ["engine_audio"] for each in from_engine)
    asked = [name for name in uses if name in ("stats", "exchanged_s", "paused_s")]
    assert len(asked) < 10 * 10, "what is asked for does not grow with the messages"
