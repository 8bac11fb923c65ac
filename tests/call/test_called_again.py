"""A flow that brings a call back to the agent: what became of the first stream is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.call.rig import bridge, speech
from tests.virtual_time import run

from pxbridge.calls.handover import HandOvers
from pxbridge.calls.persona import End, HandOver, Persona, Personas
from pxbridge.simulation.phone import Line, Script

if TYPE_CHECKING:
    from collections.abc import Sequence

DESK = Personas(Persona("NATF0.pt", "You are kind.", keys={"0": HandOver(("+911",)), "#": End()}))


def outcomes(*streams: Sequence[tuple[float, str]]) -> list[tuple[str, ...] | None]:
    """What the flow is told after each of a call's streams, in which these keys are pressed."""

    async def main() -> list[tuple[str, ...] | None]:
        handovers = HandOvers(asyncio.get_running_loop().time)
        told = []
        async with bridge(personas=DESK, handovers=handovers) as b:
            for keys in streams:
                script = Script(speech(), speak_at_s=1.0, hang_up_at_s=20.0)
                await b.call(script, Line(call_sid="CA1", dtmf=tuple(keys)))
                told.append(await handovers.look_up("CA1"))
        return told

    return run(main())


def test_the_flow_is_told_how_the_last_stream_of_a_call_ended() -> None:
    assert outcomes([(2.0, "0")], [(2.0, "#")], [(2.0, "0")]) == [("+911",), None, ("+911",)]


def test_a_key_that_is_pressed_when_the_call_ends_already_changes_nothing() -> None:
    assert outcomes([(2.0, "#"), (2.05, "0")]) == [None]
    assert outcomes([(2.0, "0"), (2.05, "#")]) == [("+911",)]
