"""Who the caller speaks with, from the URL, the flow and the number to what the engine is told."""

from __future__ import annotations

import asyncio

import pytest
from tests.call.rig import bridge
from tests.virtual_time import run
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pxbridge.calls.call_state import Outcome
from pxbridge.calls.persona import Persona, Personas, Where, number_key
from pxbridge.calls.summary import outcome
from pxbridge.calls.unknown_names import NameCheck, UnknownNames
from pxbridge.engines import voices as engine_voices
from pxbridge.engines.voices import EngineVoices
from pxbridge.simulation.phone import Line, Phone, Script, place_call
from pxbridge.telephony.tokens import Scope

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


@pytest.mark.parametrize("path", ["/absent", "/t/{token}"])
def test_a_url_that_names_no_persona_gets_404_at_its_handshake(path: str) -> None:
    async def main() -> None:
        names = NameCheck(UnknownNames.REFUSE)
        async with bridge(personas=PERSONAS, names=names) as home:
            token = home.listener.access._signer.make(Scope.PORT, 60.0, "absent")
            url = home.url().replace("/exotel", "/exotel" + path.format(token=token))
            with pytest.raises(InvalidStatus) as refused:
                await connect(url)
            response = refused.value.response
            assert (response.status_code, response.body) == (404, b"no persona here is called 'absent'\n")
            assert names.counts[Where.PATH] == 1
            assert not home.records and not home.prompted

    run(main())


@pytest.mark.parametrize(
    ("custom", "why"),
    [
        ({"persona": "absent"}, "no persona here is called 'absent'"),
        ({"voice_prompt": "NATM99.pt"}, "no engine has the voice 'NATM99.pt'"),
    ],
)
def test_a_call_that_asks_for_what_does_not_exist_is_closed_and_no_engine_is_asked(
    monkeypatch: pytest.MonkeyPatch, custom: dict[str, str], why: str
) -> None:
    async def tell(*_: object) -> list[str]:
        return ["NATF0.pt", "NATF2.pt"]

    monkeypatch.setattr(engine_voices, "ask_voices", tell)

    async def main() -> None:
        voices = EngineVoices()
        names = NameCheck(UnknownNames.REFUSE, voices)
        async with bridge(personas=PERSONAS, names=names) as home:
            await voices.ask(home.pool.addresses, home.pool.addresses)
            phone = Phone(Script(hang_up_at_s=5.0), Line(custom_parameters=custom))
            await place_call(home.url(), phone)
            record = await home.record()
            assert record.ending is not None
            assert (record.ending.code, record.ending.reason) == (1008, why)
            assert outcome(record) is Outcome.NO_START
            assert not home.prompted

    run(main())
