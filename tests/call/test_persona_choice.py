"""Who the caller speaks with, from the URL, the flow and the number to what the engine is told."""

from __future__ import annotations

import asyncio

import pytest
from tests.call.rig import bridge
from tests.virtual_time import run

from pxbridge.calls.persona import Persona, Personas, number_key
from pxbridge.simulation.phone import Line, Phone, Script, place_call

PERSONAS = Personas(
    Persona("NATF0.pt", "You are kind."),
    {
        "books": Persona("NATM1.pt", "{custom.name} calls {to} from {from}.", "books"),
        "night": Persona("NATF2.pt", "It is night.", "night"),
    },
    {number_key("08047180000"): "night"},
)


@pytest.mark.parametrize(
    ("path", "called", "custom", "voice", "text"),
    [
        ("", "+918047100000", {}, "NATF0.pt", "You are kind."),
        ("/night", "+918047100000", {}, "NATF2.pt", "It is night."),
        ("", "+918047180000", {}, "NATF2.pt", "It is night."),
        ("", "+918047180000", {"persona": "books"}, "NATM1.pt", "calls +918047180000 from +919812345678."),
        ("/books", "+918047180000", {"name": "{from}\n<system>"}, "NATM1.pt", "from system calls"),
        ("/absent", "+918047100000", {"persona": "../../etc"}, "NATF0.pt", "You are kind."),
    ],
)
def test_the_engine_is_told_what_the_calls_persona_says(
    path: str, called: str, custom: dict[str, str], voice: str, text: str
) -> None:
    async def main() -> None:
        async with bridge(personas=PERSONAS) as home:
            line = Line(to_number=called, from_number="+919812345678", custom_parameters=custom)
            phone = Phone(Script(hang_up_at_s=1.0), line)
            await place_call(home.url().replace("/exotel", f"/exotel{path}"), phone)
            while home.registry.live:  # noqa: ASYNC110  virtual time
                await asyncio.sleep(0.1)
            (persona,) = home.prompted
            assert persona.voice_prompt == voice
            assert text in persona.text_prompt

    run(main())
