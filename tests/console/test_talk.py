"""A talk in a browser is a call like any other: the same line, engines, failover and records."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
import pytest
from tests.call.rig import speech
from tests.console.rig import served
from tests.console.talker import RATE_HZ, Talker
from tests.fault.processes import until
from tests.virtual_time import run

from pxbridge.calls.call_state import Outcome, Party
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.operating import operate
from pxbridge.calls.persona import End, HandOver, Persona, Personas
from pxbridge.calls.summary import outcome
from pxbridge.chat_wire import CHAT_PATH, Kind, sampling_query
from pxbridge.errors import CallConflict
from pxbridge.simulation import faults
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.phone import Line, Script
from pxbridge.simulation.rehearsal import Mode
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.tokens import Signer

if TYPE_CHECKING:
    from pxbridge.calls.call_state import CallRecord


def words(seconds_before: float = 1.0, repeat: int = 1) -> np.ndarray:
    silence = np.zeros(round(seconds_before * RATE_HZ), np.int16)
    return np.concatenate([silence, *[speech(RATE_HZ)] * repeat, silence])


def test_what_is_said_comes_back_with_the_agents_words() -> None:
    async def main() -> tuple[Talker, CallRecord]:
        async with served() as s:
            talker = Talker(words())
            await talker.talk(s.port)
            return talker, await s.bridge.record()

    talker, record = run(main())
    assert talker.listened_at_s is not None
    heard = talker.player.heard[round(talker.listened_at_s * RATE_HZ) :]
    hearing = listen(talker.said, heard, RATE_HZ)
    assert hearing.correlation > 0.85
    assert hearing.dropouts == ()
    assert talker.kinds.count(Kind.HANDSHAKE) == 1
    assert talker.close_code == 1000
    assert talker.metadata[0]["call"]["persona"] == "default"
    assert talker.metadata[0]["call"]["id"] == record.call_id
    assert (record.carrier, record.rate_hz, outcome(record)) == ("browser", RATE_HZ, Outcome.COMPLETED)
    assert record.ending is not None and record.ending.by is Party.PHONE
    assert record.malformed == 0


def test_the_agents_words_come_as_text() -> None:
    async def main() -> Talker:
        async with served(mode=Mode.PARROT) as s:
            talker = Talker(words())
            await talker.talk(s.port, stays_s=3.0)
            return talker

    talker = run(main())
    assert talker.text.strip()
    assert talker.kinds.index(Kind.HANDSHAKE) < talker.kinds.index(Kind.TEXT)


def test_a_talk_waits_in_the_same_line_as_phone_calls_and_is_told_its_place() -> None:
    async def main() -> tuple[Talker, Talker]:
        async with served(slots=1) as s:
            phone = asyncio.create_task(s.bridge.call(Script(speech(), speak_at_s=0.5, hang_up_at_s=6.0)))
            await asyncio.sleep(1.0)
            first, second = Talker(words()), Talker(words())
            first_talk = asyncio.create_task(first.talk(s.port))
            await asyncio.sleep(0.5)
            second_talk = asyncio.create_task(second.talk(s.port))
            await asyncio.sleep(3.0)
            assert not first.ready.is_set() and not second.ready.is_set()
            second_talk.cancel()
            await asyncio.gather(phone, first_talk)
            await asyncio.gather(second_talk, return_exceptions=True)
            return first, second

    first, second = run(main())
    assert {"queue": {"place": 1}} in first.metadata
    assert {"queue": {"place": 2}} in second.metadata
    assert first.counts[Kind.HANDSHAKE] == 1
    assert first.counts[Kind.AUDIO] > 100, "music is heard meanwhile, and then the agent"
    assert first.close_code == 1000


def test_an_engine_that_dies_in_mid_talk_is_replaced_and_the_talker_is_told() -> None:
    async def main() -> tuple[Talker, CallRecord]:
        async with served([faults.Dies(after_steps=60)], []) as s:
            talker = Talker(words(repeat=3))
            await talker.talk(s.port)
            return talker, await s.bridge.record()

    talker, record = run(main())
    assert record.failovers == 1
    agents = [told["agent"] for told in talker.metadata if "agent" in told]
    assert agents == ["lost", "back"]
    assert talker.counts[Kind.HANDSHAKE] == 1, "the client goes on; it does not begin again"
    assert outcome(record) is Outcome.COMPLETED


def test_a_talk_that_gets_no_engine_is_told_why_and_closed() -> None:
    async def main() -> Talker:
        async with served(slots=1, limits=CallLimits(max_wait_s=2.0)) as s:
            phone = asyncio.create_task(s.bridge.call(Script(speech(), hang_up_at_s=30.0)))
            await asyncio.sleep(1.0)
            talker = Talker(words())
            await talker.talk(s.port)
            phone.cancel()
            await asyncio.gather(phone, return_exceptions=True)
            return talker

    talker = run(main())
    assert talker.close_code == 1013
    assert talker.errors == ["All agents are busy. Please try again later."]
    assert Kind.HANDSHAKE not in talker.kinds


def test_a_talker_who_waits_in_silence_for_a_minute_is_still_there() -> None:
    async def main() -> Talker:
        async with served(prompt_s=50.0, handshake_timeout_s=60.0) as s:
            talker = Talker(words())
            await talker.talk(s.port)
            return talker

    talker = run(main(), limit_s=300.0)
    assert talker.listened_at_s is not None and talker.listened_at_s > 45.0
    assert talker.close_code == 1000


def test_a_stall_of_the_socket_leaves_no_delay() -> None:
    async def main() -> Talker:
        async with served() as s:
            talker = Talker(words(repeat=4))
            talker.stalls = {8.0: 1.5}
            await talker.talk(s.port)
            return talker

    talker = run(main())
    assert talker.listened_at_s is not None
    heard = talker.player.heard[round(talker.listened_at_s * RATE_HZ) :]
    hearing = listen(talker.said, heard, RATE_HZ)
    before = [each.delay_s for each in hearing.delays if each.at_s < 7.5]
    after = [each.delay_s for each in hearing.delays if each.at_s > 12.5]
    assert len(before) > 5 and len(after) > 5
    assert np.median(after) <= np.median(before) + 0.04


def test_the_persona_or_the_prompts_of_the_query_are_used() -> None:
    personas = Personas(
        Persona("NATF0.pt", "You are kind."),
        {"nurse": Persona("NATM1.pt", "You are a nurse.", name="nurse")},
    )

    async def main() -> list[tuple[str, str]]:
        async with served(personas=personas) as s:
            for query in (
                {"persona": "nurse"},
                {"voice_prompt": "VARM2.pt", "text_prompt": "You sell <b>tea</b>.", "seed": "1"},
            ):
                await Talker(words(0.2), query).talk(s.port)
            return [(each.voice_prompt, each.text_prompt) for each in s.bridge.prompted]

    assert run(main()) == [("NATM1.pt", "You are a nurse."), ("VARM2.pt", "You sell btea/b.")]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"persona": "nobody"}, "no persona here"),
        ({"voice_prompt": "../x.pt"}, "is not a voice"),
        ({"text_prompt": "x" * 2001}, "2001 characters"),
        ({"text_prompt": "नमस्ते " * 250}, "write it shorter"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(query: dict[str, str], why: str) -> None:
    async def main() -> Talker:
        async with served() as s:
            talker = Talker(words(), query)
            await talker.talk(s.port)
            assert s.bridge.registry.live == 0
            return talker

    talker = run(main())
    assert talker.close_code == 1008
    assert why in talker.errors[0]


def test_a_full_or_draining_bridge_says_so_after_the_upgrade() -> None:
    async def main() -> Talker:
        async with served() as s:
            draining = asyncio.create_task(s.bridge.listener.drain())
            await asyncio.sleep(0)
            talker = Talker(words())
            await talker.talk(s.port)
            draining.cancel()
            return talker

    talker = run(main())
    assert (talker.close_code, talker.errors) == (1013, ["draining: no new calls"])


def test_a_phone_and_a_browser_talk_at_once_and_have_the_same_delays() -> None:
    async def main() -> list[CallRecord]:
        async with served(slots=2) as s:
            phone = asyncio.create_task(
                s.bridge.call(Script(words_at_8k(), speak_at_s=1.0, hang_up_at_s=12.0), Line(chunk_ms=20))
            )
            talker = Talker(words(repeat=2))
            await talker.talk(s.port)
            await phone
            await s.bridge.record()
            return s.bridge.records

    records = run(main())
    delay_s = {record.carrier: record.delay.median_s() for record in records}
    assert delay_s.keys() == {"browser", "exotel"}
    browser_s, phone_s = delay_s["browser"], delay_s["exotel"]
    assert browser_s is not None and phone_s is not None
    assert abs(browser_s - phone_s) < 0.03


def words_at_8k() -> np.ndarray:
    return np.concatenate([speech(8000), speech(8000)])


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ({}, ""),
        # As NVIDIA's web client always sends: the defaults, which a session that was prompted ahead has.
        ({"text_temperature": "0.7", "text_topk": "25", "audio_temperature": "0.8", "audio_topk": "250"}, ""),
        ({"seed": "-1"}, ""),
        (
            {"text_temperature": "0", "audio_topk": "1", "seed": "42"},
            "text_temperature=0&audio_topk=1&seed=42",
        ),
        ({"text_temperature": " .55 ", "more": "x"}, "text_temperature=0.55"),
    ],
)
def test_how_tokens_are_drawn_is_asked_for_in_one_way(given: dict[str, str], query: str) -> None:
    assert sampling_query(given) == query


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text_temperature", "11"), ("text_temperature", "-1"), ("text_temperature", "nan"),
        ("audio_temperature", "1e9"), ("text_topk", "0"), ("audio_topk", "501"), ("text_topk", "1.5"),
        ("seed", "-2"), ("seed", str(2**63)), ("seed", "1&text_prompt=x"), ("seed", "9" * 5000),
    ],
)  # fmt: skip
def test_a_wrong_number_is_refused_before_an_engine_is_asked(name: str, value: str) -> None:
    async def main() -> Talker:
        async with served() as s:
            talker = Talker(words(), {name: value})
            await talker.talk(s.port)
            assert s.bridge.prompted == []
            return talker

    talker = run(main())
    assert talker.close_code == 1008
    assert talker.errors[0].startswith(f"{name} is ")


def test_an_engine_that_tells_nothing_of_itself_is_asked_for_no_seed() -> None:
    async def main() -> list[str]:
        async with served() as s:
            await Talker(words(0.2), {"seed": "7", "text_temperature": "0.5"}).talk(s.port)
            return [each.sampling for each in s.bridge.prompted]

    assert run(main()) == [""]


@pytest.mark.parametrize(("proxies", "peer"), [(["127.0.0.1"], "198.51.100.7"), ([], "127.0.0.1")])
async def test_a_talk_comes_from_where_a_trusted_proxy_says(proxies: list[str], peer: str) -> None:
    networks = [ipaddress.ip_network(each) for each in proxies]
    access = AccessControl(Signer([b"k" * 32], time.time), time.monotonic, proxies=networks)
    async with (
        served(console={"client": access.client_behind}) as s,
        aiohttp.ClientSession(s.url, headers={"X-Forwarded-For": "198.51.100.7"}) as session,
    ):
        async with session.ws_connect(CHAT_PATH):
            await until(lambda: s.bridge.registry.live, "the talk has begun")
        assert (await s.bridge.record()).peer == peer


def test_an_operator_can_end_a_talk_and_nobody_can_take_it_over() -> None:
    async def main() -> tuple[Talker, CallRecord]:
        async with served() as s:
            talker = Talker(words(repeat=4))
            talk = asyncio.create_task(talker.talk(s.port))
            await talker.ready.wait()
            (call,) = s.bridge.registry
            name = call.record.call_id
            with pytest.raises(CallConflict, match="nobody can take this call over"):
                operate(s.bridge.registry, name, HandOver(("+911",)), "asha")
            await asyncio.sleep(2.0)
            assert talker.close_code is None
            operate(s.bridge.registry, name, End(), "asha")
            await talk
            return talker, await s.bridge.record()

    talker, record = run(main())
    assert (talker.close_code, talker.close_reason) == (1000, "ended by the operator asha")
    assert record.ending is not None and record.ending.reason == "ended by the operator asha"
    assert talker.errors == []
