"""Talks with whole bridges: processes, real time, killed engines, and what the records say afterwards."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest
from tests.call.rig import speech
from tests.console.talker import RATE_HZ, Talker
from tests.fault.processes import bridge_process, engine_program, until

from pxbridge.chat_wire import Kind
from pxbridge.commands.processes import free_port
from pxbridge.simulation.phone import Line, Script

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[personas.nurse]
text_prompt = "You are a nurse."
record = true
"""


def rows(state: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(state / "calls.db")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


async def test_a_talk_has_a_record_and_a_recording_that_can_be_heard_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "pxbridge.toml").write_text(CONFIG)
    port = free_port()
    async with bridge_process(
        console_port=str(port),
        state_dir=str(tmp_path),
        environ={"PXBRIDGE_CONFIG": str(tmp_path / "pxbridge.toml")},
    ):
        talker = Talker(np.concatenate([np.zeros(RATE_HZ, np.int16), speech(RATE_HZ)]), {"persona": "nurse"})
        await talker.talk(port)
        assert talker.metadata[0]["call"]["recorded"] is True
        call_id = talker.metadata[0]["call"]["id"]
        ended = "SELECT call, persona, outcome, recording, figures FROM calls WHERE ended_at IS NOT NULL"
        await until(lambda: rows(tmp_path, ended), "the record is written")
        ((call, persona, outcome, recording, figures),) = rows(tmp_path, ended)
        assert (call, persona, outcome) == (call_id, "nurse", "completed")
        assert json.loads(figures)["carrier"] == "browser"
        assert recording.endswith(".wav")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            answer = await session.get(f"/api/calls/{call_id}/recording", headers={"Range": "bytes=0-43"})
            assert answer.status == 206
            head = await answer.read()
    assert head[:4] == b"RIFF"
    assert int.from_bytes(head[22:24], "little") == 2, "the caller left, the agent right"
    assert int.from_bytes(head[24:28], "little") == RATE_HZ


async def test_an_engine_that_is_killed_in_mid_talk_is_replaced_for_a_browser_and_a_phone_alike() -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(engine_program("echo", slots=2)) for _ in range(2)]
        bridge = await stack.enter_async_context(
            bridge_process(
                engines=f"{first.url} {second.url}",
                engine_capacity="2",
                allow_anonymous="true",
                console_port=str(port),
            )
        )
        said = np.tile(speech(RATE_HZ), 4)
        talker = Talker(said)
        talk = asyncio.create_task(talker.talk(port))
        await talker.ready.wait()
        await bridge.call(Script(speech(), hang_up_at_s=600.0), Line(call_sid="CA-phone"))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            live = (await (await session.get("/api/calls")).json())["live"]
            engines = {call["carrier"]: call["engine"] for call in live}
            assert engines.keys() == {"browser", "exotel"}
            killed = first if engines["browser"] == first.url else second
            await asyncio.sleep(1.0)
            killed.process.send_signal(signal.SIGKILL)
            await until(lambda: {"agent": "back"} in talker.metadata, "another engine goes on")
            assert {"agent": "lost"} in talker.metadata
            sounds = talker.counts[Kind.AUDIO]
            await until(lambda: talker.counts[Kind.AUDIO] > sounds + 10, "the agent is heard again")
            live = (await (await session.get("/api/calls")).json())["live"]
            of_browser = next(call for call in live if call["carrier"] == "browser")
            assert of_browser["failovers"] == 1
            assert of_browser["engine"] != killed.url
        talk.cancel()
        await asyncio.gather(talk, return_exceptions=True)


async def test_a_login_that_sighup_takes_away_opens_nothing_more_and_calls_go_on(tmp_path: Path) -> None:
    logins = tmp_path / "logins"
    logins.write_text("asha:correct-horse-battery\n")
    port = free_port()
    async with (
        bridge_process(console_port=str(port), console_credentials_file=str(logins)) as bridge,
        aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", cookie_jar=aiohttp.CookieJar(unsafe=True)
        ) as session,
    ):
        phone = await bridge.call()

        async def log_in(login: str) -> int:
            user, _, password = login.partition(":")
            return (await session.post("/api/session", json={"user": user, "password": password})).status

        assert await log_in("asha:correct-horse-battery") == 204
        assert (await session.get("/api/calls")).status == 200
        logins.write_text("ravi:another-long-password\n")
        bridge.signal(signal.SIGHUP)
        await until(lambda: bridge.said("changed settings: console_credentials"), "it reloads")
        assert (await session.get("/api/calls")).status == 401
        assert await log_in("asha:correct-horse-battery") == 401
        assert await log_in("ravi:another-long-password") == 204
        heard = phone.media_received
        await until(lambda: phone.media_received > heard + 5, "the call goes on")


async def test_a_bridge_that_stops_tells_its_talkers_and_ends() -> None:
    port = free_port()
    async with bridge_process(console_port=str(port), drain_s="0") as bridge:
        talker = Talker(np.zeros(40 * RATE_HZ, np.int16))
        talk = asyncio.create_task(talker.talk(port))
        await talker.ready.wait()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            live = await session.ws_connect("/api/live")
            await live.receive_json()
            bridge.signal(signal.SIGTERM)
            await talk
            assert (talker.close_code, talker.errors) == (1012, ["The service restarts. Please call again."])
            while (await live.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert live.close_code == 1001
            assert await bridge.ends() == 0
        assert '"level": "error"' not in bridge.log


async def test_a_url_that_names_no_persona_is_refused_and_counted_by_a_whole_bridge(tmp_path: Path) -> None:
    (tmp_path / "pxbridge.toml").write_text(CONFIG)
    port = free_port()
    async with (
        bridge_process(
            console_port=str(port), environ={"PXBRIDGE_CONFIG": str(tmp_path / "pxbridge.toml")}
        ) as bridge,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"http://127.0.0.1:{bridge.port}/exotel/nurze")
        assert refused.value.status == 404
        metrics = await (await session.get(f"http://127.0.0.1:{port}/metrics")).text()
        assert 'pxbridge_unknown_names_total{where="path"} 1.0' in metrics
        await until(lambda: bridge.said("(did you mean nurse?), or add [personas.nurze]"), "it is logged")
