"""An operator at the console ends a call or hands it over: from the command line to what the flow is told."""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from rich.console import Console
from tests.fault.processes import BridgeProcess, bridge_process, fetch, until

from pxbridge.calls.call_state import CallRecord
from pxbridge.calls.operating import operate
from pxbridge.calls.phrases import Action, End, HandOver
from pxbridge.commands import calls as command
from pxbridge.commands.processes import free_port
from pxbridge.errors import CallConflict, InputError, NoSuchCall
from pxbridge.simulation.phone import Line, Script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LOGIN = "asha:correct-horse-battery"


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeProcess]:
    async with bridge_process(
        console_port=str(free_port()), console_credentials=LOGIN, state_dir=str(tmp_path)
    ) as running:
        yield running


def console_port(bridge: BridgeProcess) -> int:
    line = next(line for line in bridge.lines if "watch it" in line)
    return int(line.split("/live")[0].rpartition(":")[2])


async def run(bridge: BridgeProcess, *words: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `pxbridge calls ...` prints, with the bridge's settings in the environment."""
    monkeypatch.setenv("PXBRIDGE_CONSOLE_PORT", str(console_port(bridge)))
    monkeypatch.setenv("PXBRIDGE_CONSOLE_CREDENTIALS", LOGIN)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    printed = io.StringIO()
    assert await command.run(parser.parse_args(words), Console(file=printed, width=200)) == 0
    return printed.getvalue()


async def test_an_operator_hands_a_live_call_over_and_the_flow_and_the_record_tell_it(
    bridge: BridgeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = await bridge.call(Script(hang_up_at_s=600.0), Line(call_sid="CA-one"))
    other = await bridge.call(Script(hang_up_at_s=600.0), Line(call_sid="CA-two"))
    listed = await run(bridge, "--live", monkeypatch=monkeypatch)
    assert "CA-one" in listed and "CA-two" in listed and "live" in listed
    said = await run(bridge, "hand-over", "CA-o", "+91 80471-80000", "+912222", monkeypatch=monkeypatch)
    assert said == "CA-one is handed over once the agent has finished its sentence\n"
    await until(lambda: phone.close_code is not None, "the call is over")
    assert phone.close_code == 1000

    async def ask(name: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{bridge.port}/exotel/{name}?CallSid=CA-one"
        return await asyncio.to_thread(fetch, url)

    assert (await ask("passthru"))[0] == 302
    assert json.loads((await ask("connect"))[1]) == {"destination": {"numbers": ["+918047180000", "+912222"]}}
    with sqlite3.connect(tmp_path / "calls.db") as connection:

        def events() -> list[Any]:
            return [
                json.loads(detail)
                for (detail,) in connection.execute("SELECT detail FROM events WHERE kind = 'action'")
            ]

        await until(events, "it is in the records")
        assert events() == [{"by": "the operator asha", "action": "hand over"}]
    connection.close()
    assert other.close_code is None, "the other call goes on"
    said = await run(bridge, "end", "CA-two", monkeypatch=monkeypatch)
    assert said == "CA-two ends once the agent has finished its sentence\n"
    await until(lambda: other.close_code is not None, "the other call is over")
    with pytest.raises(InputError, match="no live call's id begins with 'CA-two'"):
        await run(bridge, "end", "CA-two", monkeypatch=monkeypatch)
    assert "no live calls" in await run(bridge, "--live", monkeypatch=monkeypatch)


async def test_a_live_call_is_shown_with_the_figures_that_the_console_has_of_it(
    bridge: BridgeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXBRIDGE_STATE_DIR", str(tmp_path))
    phone = await bridge.call(Script(hang_up_at_s=600.0), Line(call_sid="CA-one"))

    async def as_json(*words: str) -> Any:
        await run(bridge, *words, "--json", monkeypatch=monkeypatch)
        return json.loads(capsys.readouterr().out)

    while (listed := (await as_json("--live"))[0])["mouth_to_ear_s"] is None:
        pass
    kinds: set[str] = set()
    while not kinds >= {"started", "live", "heard"}:  # a thread writes them
        shown = await as_json("show", "CA-o")
        kinds = {event["kind"] for event in shown["events"]}
    assert shown.keys() >= listed.keys() and "note" not in shown
    for figure in ("key", "phase", "engine", "setup_s", "first_sound_s", "first_audio_s", "began_at"):
        assert shown[figure] == pytest.approx(listed[figure], abs=0.01), figure
    assert shown["duration_s"] >= listed["duration_s"] and shown["mouth_to_ear_s"] is not None
    assert shown["counters"]["downlink"]["received"] > 0
    assert listed["mouth_to_ear_now_s"] is None or listed["mouth_to_ear_now_s"] > 0
    assert "no, still live" in await run(bridge, "show", listed["key"], monkeypatch=monkeypatch)
    await run(bridge, "end", "CA-one", monkeypatch=monkeypatch)
    await until(lambda: phone.close_code is not None, "the call is over")
    while (ended := await as_json("show", "CA-one"))["ended_at"] is None:
        pass
    assert ended["mouth_to_ear_now_s"] is None
    assert ended["outcome"] == "completed" and "phase" not in ended and "note" not in ended


async def test_nobody_without_a_login_and_no_page_elsewhere_ends_a_call(bridge: BridgeProcess) -> None:
    phone = await bridge.call(Script(hang_up_at_s=600.0), Line(call_sid="CA-one"))
    base = f"http://127.0.0.1:{console_port(bridge)}/api/calls/"
    asha = {"Authorization": "Basic " + base64.b64encode(LOGIN.encode()).decode()}
    body = json.dumps({"call": "CA-one"})
    as_json = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session:

        async def status(method: str, path: str, data: str = body, **more: Any) -> int:
            async with session.request(method, base + path, data=data, **more) as answer:
                return answer.status

        for path in ("end", "hand-over"):
            assert await status("POST", path, headers=as_json) == 401
            assert await status("GET", path, headers=asha) == 405
            assert await status("OPTIONS", path, headers=asha | {"Origin": "http://evil.example"}) == 405
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                assert await status("POST", path, headers=asha | {"Content-Type": kind}) == 415
            for wrong in ("", "[]", "{", '{"call": 1}', "[" * 60_000):
                assert await status("POST", path, wrong, headers=asha | as_json) == 400
        for numbers in ('"+911"', '["x"]', "[1]", json.dumps(["+91123"] * 11)):
            wrong = '{"call": "CA-one", "numbers": ' + numbers + "}"
            assert await status("POST", "hand-over", wrong, headers=asha | as_json) == 400
    assert phone.close_code is None


# Which call is meant


class Call:
    def __init__(self, call_id: str, *, ends: bool = False) -> None:
        self.record = CallRecord(call_id=call_id, started_s=1.0)
        self.ends = ends
        self.told: list[tuple[Action, str]] = []

    def operate(self, action: Action, by: str) -> bool:
        self.told.append((action, by))
        return not self.ends


def test_a_call_is_named_by_its_id_or_by_enough_of_its_beginning() -> None:
    calls = [Call("CA1"), Call("CA12"), Call("CA2", ends=True)]
    assert operate(calls, "CA1", End(), "asha") == "CA1"
    assert operate(calls, "CA12", HandOver(("+911",)), "") == "CA12"
    assert calls[0].told == [(End(), "the operator asha")]
    assert calls[1].told == [(HandOver(("+911",)), "the operator")]
    for name, error in (("CA", NoSuchCall), ("", NoSuchCall), ("CA9", NoSuchCall), ("CA2", CallConflict)):
        with pytest.raises(error):
            operate(calls, name, End(), "asha")
    with pytest.raises(CallConflict, match="2 live calls"):
        operate([Call("CA11"), Call("CA12")], "CA1", End(), "asha")
    not_started = Call("-")
    not_started.record.started_s = None
    with pytest.raises(NoSuchCall):
        operate([not_started], "-", End(), "asha")
