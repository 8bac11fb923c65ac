"""What the console's API tells and takes, and that its description is true."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.web
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.call.rig import speech
from tests.console.rig import served
from tests.fault.processes import until

from pxbridge.calls.call_state import CallRecord
from pxbridge.calls.numbers import Numbers, dialable
from pxbridge.calls.persona import Persona, Personas
from pxbridge.calls.summary import summary
from pxbridge.console import models
from pxbridge.console.api import ENDPOINTS
from pxbridge.console.openapi import document
from pxbridge.console.server import Console
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.voices import ask_voices
from pxbridge.records import database
from pxbridge.records.find_recording import find_recording
from pxbridge.simulation.phone import Script

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


# -- the description --------------------------------------------------------------------------------------


def references(part: Any) -> Iterator[str]:
    match part:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for each in part.values():
                yield from references(each)
        case list():
            for each in part:
                yield from references(each)


def test_the_description_is_whole() -> None:
    described = document(ENDPOINTS, "1")
    schemas = described["components"]["schemas"]
    for target in references(described):
        assert target.removeprefix("#/components/schemas/") in schemas
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == len(ENDPOINTS)
    assert {"Session", "Talk", "Snapshot", "LiveCall", "LiveEngine"} <= schemas.keys()


def test_every_field_of_an_answer_is_described_as_always_there() -> None:
    schemas = document(ENDPOINTS, "1")["components"]["schemas"]
    for name in ("Snapshot", "LiveCall", "Talk", "Session", "CallFigures"):
        assert set(schemas[name]["required"]) == schemas[name]["properties"].keys()


def test_the_clients_types_are_made_from_this_api() -> None:
    place = ROOT / ".ci" / "openapi.py"
    spec = importlib.util.spec_from_file_location("openapi_file", place)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.FILE.read_text(encoding="utf-8") == script.text(), "run `make openapi`"


def test_a_calls_figures_are_all_described() -> None:
    told = {"began_at": 0.0, "phase": "live", **summary(CallRecord(), Numbers(), 1.0)}
    models.CallFigures.model_validate(told)


def test_each_endpoint_is_routed() -> None:
    app = Console(lambda: b"", lambda: {"live": [], "recent": []}, tuple, lambda *_: "").application()
    routed = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    assert {(each.method, each.path) for each in ENDPOINTS} <= routed


# -- asking and telling -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        ("{}", "application/json", 400, "call: Field required"),
        ('{"call": 1}', "application/json", 400, "call: Input should be a valid string"),
        ("[]", "application/json", 400, "the body: "),
        ("{", "application/json", 400, "the body: Invalid JSON"),
        ('{"call": "CA-none"}', "application/json", 404, "no live call's id begins with 'CA-none'"),
        ('{"call": "CA-none", "more": 1}', "application/json", 404, "no live call"),
        ("call=CA-none", "application/x-www-form-urlencoded", 415, "application/json"),
        ('{"call": "' + "x" * 70_000 + '"}', "application/json", 413, "too large"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_in_words(
    body: str, kind: str, status: int, why: str
) -> None:
    async with served() as s, aiohttp.ClientSession(s.url) as session:
        answer = await session.post("/api/calls/end", data=body, headers={"Content-Type": kind})
        told = await answer.json()
        assert (answer.status, list(told)) == (status, ["error"])
        assert why in told["error"]


@given(st.text(alphabet="0123456789+-(). x", max_size=24))
def test_the_description_of_a_phone_number_is_what_is_taken(written: str) -> None:
    schema = document(ENDPOINTS, "1")["components"]["schemas"]["HandOverCall"]
    described = re.search(schema["properties"]["numbers"]["items"]["pattern"], written) is not None
    try:
        dialable(written)
        taken = True
    except ValueError:
        taken = False
    assert described == taken


async def test_what_is_not_there_is_refused_as_json_where_programs_ask() -> None:
    async with served() as s, aiohttp.ClientSession(s.url) as session:
        for method, path, status in (("GET", "/api/nothing", 404), ("PUT", "/api/calls", 405)):
            answer = await session.request(method, path)
            assert (answer.status, list(await answer.json())) == (status, ["error"])
        assert "GET" in answer.headers["Allow"]


async def test_the_talk_page_learns_what_it_can_offer() -> None:
    personas = Personas(
        Persona("NATF2.pt", "You are kind."),
        {"nurse": Persona("NATM1.pt", "You are a nurse.", name="nurse", record=True)},
    )
    async with served(personas=personas) as s, aiohttp.ClientSession(s.url) as session:
        answer = await session.get("/api/talk")
        told = models.Talk.model_validate(await answer.json())
    assert len(told.voices) == 18 and "NATF0.pt" in told.voices
    assert (told.voice, told.prompt_limit, told.rehearsal) == ("NATF2.pt", 2000, True)
    assert [(each.name, each.recorded) for each in told.personas] == [("default", False), ("nurse", True)]


async def test_a_console_without_logins_says_that_it_asks_for_none() -> None:
    async with served() as s, aiohttp.ClientSession(s.url) as session:
        told = await (await session.get("/api/session")).json()
        assert (told["login"], told["user"]) == (False, None)
        answer = await session.post("/api/session", json={"user": "asha", "password": "x"})
        assert answer.status == 204
        assert "Set-Cookie" not in answer.headers


# -- recordings -------------------------------------------------------------------------------------------

WAV = b"RIFF" + bytes(range(256)) * 8


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder with the records of calls, two of which were recorded."""
    with database.open_database(tmp_path / database.FILE) as connection:
        for key, call, recording in (
            ("k1", "CA1", "CA1.wav"), ("k2", "CA2", None), ("k3", "CA3", "CA3.opus"),
            ("k4", "CA4", "../numbers.key"), ("k5", "CA5", "gone.wav"), ("k6", "CA6", "link.wav"),
            ("k7", "CA1", "CA1-2.wav"),
        ):  # fmt: skip
            row = {**dict.fromkeys(database.COLUMNS, ""), "key": key, "call": call, "began_at": int(key[1:])}
            connection.execute(database.PUT_CALL, row)
            connection.execute(database.PUT_RECORDING, {"key": key, "recording": recording})
    connection.close()
    folder = tmp_path / database.RECORDINGS
    folder.mkdir()
    for name in ("CA1.wav", "CA3.opus"):
        (folder / name).write_bytes(WAV)
    (folder / "CA1-2.wav").write_bytes(WAV + b"later")
    (tmp_path / "numbers.key").write_bytes(b"secret")
    (folder / "link.wav").symlink_to(tmp_path / "numbers.key")
    return tmp_path


async def test_a_recording_is_sent_whole_or_in_ranges(state: Path) -> None:
    find = {"find_recording": lambda call: find_recording(state, call)}
    async with served(console=find) as s, aiohttp.ClientSession(s.url) as session:
        answer = await session.get("/api/calls/k1/recording")
        assert (answer.status, answer.content_type, await answer.read()) == (200, "audio/wav", WAV)
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Cache-Control"] == "no-store"
        answer = await session.get("/api/calls/k1/recording", headers={"Range": "bytes=4-7"})
        assert (answer.status, await answer.read()) == (206, WAV[4:8])
        assert answer.headers["Content-Range"] == f"bytes 4-7/{len(WAV)}"
        answer = await session.get("/api/calls/k1/recording", headers={"Range": "bytes=99999-"})
        assert answer.status == 416
        answer = await session.head("/api/calls/k1/recording")
        assert (answer.status, answer.content_length, await answer.read()) == (200, len(WAV), b"")
        answer = await session.get("/api/calls/CA1/recording")
        assert (await answer.read()).endswith(b"later"), "an id's last call"


async def test_a_recording_in_opus_says_so(state: Path) -> None:
    find = {"find_recording": lambda call: find_recording(state, call)}
    async with served(console=find) as s, aiohttp.ClientSession(s.url) as session:
        answer = await session.get("/api/calls/CA3/recording")
        assert (answer.status, answer.content_type) == (200, "audio/ogg")


@pytest.mark.parametrize("name", ["k2", "k4", "k5", "k6", "CA9", "k"])
def test_what_was_not_recorded_has_no_recording(state: Path, name: str) -> None:
    assert find_recording(state, name) is None


def test_without_records_there_are_no_recordings(tmp_path: Path) -> None:
    assert find_recording(tmp_path, "k1") is None
    (tmp_path / database.FILE).write_bytes(b"no database")
    assert find_recording(tmp_path, "k1") is None


# -- live data --------------------------------------------------------------------------------------------


async def test_a_call_and_its_engine_are_on_the_live_page_and_an_operator_ends_it() -> None:
    async with served() as s, aiohttp.ClientSession(s.url) as session:
        phone = asyncio.create_task(
            s.bridge.call(Script(np.tile(speech(), 3), speak_at_s=0.1, hang_up_at_s=20.0))
        )
        live = await session.ws_connect("/api/live")

        async def snapshot() -> models.Snapshot:
            return models.Snapshot.model_validate_json((await live.receive()).data)

        seen = [await snapshot()]
        while not any(each.caller_speaks and each.agent_speaks for each in seen[-1].calls):
            seen.append(await snapshot())
            assert len(seen) < 100
        call, engine = seen[-1].calls[0], seen[-1].engines[0]
        assert (call.carrier, call.phase, call.engine) == ("exotel", "live", engine.name)
        assert call.caller.endswith("7890") and call.caller.startswith("***")
        assert call.caller_share > 0 and call.agent_share > 0
        assert (engine.state, engine.slots, engine.taken, engine.idle) == ("busy", 1, 1, 0)
        assert seen[-1].ready and seen[-1].rehearsal
        assert seen[0].engines[0].step_ms is None, "nothing was asked of it yet"
        while (step_ms := (await snapshot()).engines[0].step_ms) is None:
            pass
        assert step_ms > 0
        answer = await session.post("/api/calls/end", json={"call": call.id, "by": "asha"})
        assert answer.status == 202
        while (shown := await snapshot()).calls:
            asked = shown.calls[0].operator_asked
            assert asked == "end" or shown.calls[0].phase == "live"
        await phone
        await until(lambda: s.bridge.records, "the call is over")
        record = s.bridge.records[-1]
        assert record.ending is not None and record.ending.reason == "ended by the operator asha"
        while (await snapshot()).engines[0].state != "ready":
            pass
        await live.close()
        await until(lambda: s.live.subscribers == 0, "nobody watches")
        assert s.live._timer is None, "nothing is made for nobody"


async def test_snapshots_come_five_a_second_and_say_what_is_not_ready() -> None:
    async with served() as s, aiohttp.ClientSession(s.url) as session:
        live = await session.ws_connect("/api/live")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for _ in range(6):
            shown = json.loads((await live.receive()).data)
        assert 0.7 < loop.time() - began_s < 5.0
        assert shown["ready"] is True
        draining = asyncio.create_task(s.bridge.listener.drain())
        while json.loads((await live.receive()).data)["ready"]:
            pass
        draining.cancel()
        await live.close()


async def test_what_is_no_handshake_is_answered_and_the_connection_stays() -> None:
    async with served() as s, aiohttp.ClientSession(s.url) as session:
        for path in ("/api/chat", "/api/live"):
            answer = await session.get(path)
            assert answer.status == 426
            assert answer.headers["Upgrade"] == "websocket"
            upgrade = {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "short",
            }
            answer = await session.get(path, headers=upgrade)
            assert answer.status == 400
        assert (await session.get("/livez")).status == 200
        assert s.bridge.registry.live == 0


async def test_voices_are_those_that_an_engine_tells() -> None:
    async def voices(request: aiohttp.web.Request) -> aiohttp.web.Response:
        assert request.headers["Authorization"] == "Bearer the-token"
        return aiohttp.web.json_response({"voices": ["a.pt", "b.wav", 7, "x" * 1000], "default": "a.pt"})

    async def nothing(_request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="<html>")

    app = aiohttp.web.Application()
    app.router.add_get("/voices", voices)
    silent = aiohttp.web.Application()
    silent.router.add_get("/voices", nothing)
    addresses = []
    runners = [aiohttp.web.AppRunner(each) for each in (silent, app)]
    for runner in runners:
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"ws://127.0.0.1:{runner.addresses[0][1]}/api/chat"
        addresses.append(EngineAddress(url, token="the-token"))
    gone = EngineAddress("ws://127.0.0.1:9/api/chat")
    try:
        assert await ask_voices([gone, *addresses]) == ["a.pt", "b.wav"]
        assert await ask_voices([gone, addresses[0]]) is None
    finally:
        for runner in runners:
            await runner.cleanup()


async def test_websockets_do_not_count_as_connections_of_the_console(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pxbridge.console.connections.most_connections", lambda: 4)
    async with served() as s, aiohttp.ClientSession(s.url) as session:
        open_now = [await session.ws_connect("/api/live") for _ in range(6)]
        for _ in range(6):
            await (await session.ws_connect("/api/live")).close()
        for live in open_now:
            assert (await live.receive()).data
            await live.close()
        assert s.console.connections.cut == 0
