"""`pxbridge bench`: what its callers measure is what was done to them, and its table says it."""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console
from tests.call.rig import bridge
from tests.virtual_time import run
from websockets.asyncio.server import ServerConnection, serve

from pxbridge.calls.conversation import CallLimits
from pxbridge.commands import bench, load_measurement
from pxbridge.commands.bench import show, write_rows
from pxbridge.commands.load_callers import RATE_HZ, TONE_EVERY_S, Outcome, Part, media_messages, play, spoken
from pxbridge.commands.load_measurement import Load, Row, sound_changes
from pxbridge.commands.output import require_writable
from pxbridge.commands.processes import Meter
from pxbridge.errors import InputError
from pxbridge.ops.metrics import Metrics
from pxbridge.simulation.network import parse_network

if TYPE_CHECKING:
    from pathlib import Path

    from pxbridge.calls.call_state import CallRecord


def callers(
    *, calls: int = 2, seconds: float = 13.0, network: str = "", chunk_ms: float = 100, lag_s: float = 0.0
) -> list[Outcome]:
    """Some callers of a bridge that sends each chunk back `lag_s` after it came, in virtual time."""

    async def echo(ws: ServerConnection) -> None:
        def later(answer: str) -> None:
            asyncio.ensure_future(ws.send(answer))  # noqa: RUF006  gone before the test ends

        async for message in ws:
            event = json.loads(message)
            if event["event"] == "media":
                answer = json.dumps({"event": "media", "media": {"payload": event["media"]["payload"]}})
                asyncio.get_running_loop().call_later(lag_s, later, answer)

    async def main() -> list[Outcome]:
        now_s = asyncio.get_running_loop().time()
        async with serve(echo, "127.0.0.1", 0, compression=None) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            part = Part(url, calls, 0, chunk_ms, network, now_s, 0.2, now_s + 1.0, now_s + seconds)
            outcomes = await play(part)
            await asyncio.sleep(1.0)
            return outcomes

    return run(main())


def test_what_is_said_is_heard_as_one_period_of_speech_and_tone() -> None:
    said = spoken()
    assert len(said) == TONE_EVERY_S * RATE_HZ
    payloads = [json.loads(message)["media"]["payload"] for message in media_messages(30.0)]
    sent = np.concatenate([np.frombuffer(base64.b64decode(payload), np.int16) for payload in payloads])
    assert np.array_equal(sent, np.resize(said, len(sent)))
    assert len(sent) % len(said) == 0


@pytest.mark.parametrize(("chunk_ms", "lag_s"), [(100, 0.0), (20, 0.25)])
def test_the_delay_of_an_echo_is_measured_as_it_is(chunk_ms: float, lag_s: float) -> None:
    outcomes = callers(chunk_ms=chunk_ms, lag_s=lag_s)
    for outcome in outcomes:
        assert outcome.broken is None
        assert outcome.holes_s == []
        assert len(outcome.delays_s) == 3
        assert outcome.delays_s == pytest.approx([chunk_ms / 1000 + lag_s] * 3, abs=0.005)


def test_a_stall_is_a_hole_and_delay_from_then_on() -> None:
    (outcome,) = callers(calls=1, network="stall 500ms at 6s up")
    assert outcome.holes_s == pytest.approx([0.5], abs=0.11)
    assert outcome.delays_s[0] == pytest.approx(0.1, abs=0.005)
    assert outcome.delays_s[-1] == pytest.approx(0.1 + outcome.holes_s[0], abs=0.005)


def test_a_call_that_breaks_off_is_told() -> None:
    outcomes = callers(calls=1, network="cut at 3s")
    assert outcomes[0].broken is None, "the network cut it, not the bridge"

    async def main() -> list[Outcome]:
        now_s = asyncio.get_running_loop().time()
        async with bridge(slots=3) as b:
            part = Part(b.url(), 3, 0, 100, "", now_s, 0.1, now_s + 1, now_s + 5)
            playing = asyncio.create_task(play(part))
            await asyncio.sleep(2.0)
            for call in b.registry:
                call.end("so that it breaks off", 1011)
            return await playing

    assert all(outcome.broken is not None for outcome in run(main())), "the bridge ended them"


def test_a_bridge_that_is_not_there_is_told_in_plain_words() -> None:
    async def main() -> list[Outcome]:
        now_s = asyncio.get_running_loop().time()
        return await play(Part("ws://127.0.0.1:1/exotel", 1, 0, 100, "", now_s, 0.1, now_s + 1, now_s + 2))

    assert [outcome.broken for outcome in run(main())] == ["Connection refused"]


def test_what_is_made_up_in_place_of_the_agent_and_what_is_lost_are_told_beside_the_holes() -> None:
    metrics = Metrics()

    async def main() -> tuple[list[Outcome], CallRecord]:
        now_s = asyncio.get_running_loop().time()
        network = parse_network("stall 4s at 6s up")
        async with bridge(engine_network=network, limits=CallLimits(), subscribers=[metrics]) as b:
            part = Part(b.url(), 1, 0, 100, "", now_s, 0.1, now_s + 1, now_s + 14)
            return await play(part), await b.record()

    (outcome,), record = run(main())
    assert outcome.holes_s == [], "the line's noise was heard"
    up, down = record.stats["uplink"], record.stats["downlink"]
    sound = sound_changes(metrics.scrape().decode())
    assert sound.filled_s == pytest.approx((down["noise"] + down["concealed"]) / RATE_HZ)
    assert sound.filled_s > 3.5
    assert sound.lost_s == pytest.approx((up["withheld"] + up["cut"] + down["cut"]) / RATE_HZ)
    assert sound.lost_s > 2.0


def test_a_process_is_metered_and_one_that_is_not_there_is_told() -> None:
    meter = Meter(os.getpid())
    assert meter.cpu_s() > 0
    assert 1e6 < meter.private_bytes() < 1e10
    with pytest.raises(InputError, match="cannot be measured"):
        Meter(2**22 + 1)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--calls", "3", "0"], "--calls 0 is not at least 1"),
        (["--seconds", "0"], "--seconds 0 is not 1 or more"),
        (["--seconds", "inf"], "--seconds inf is not "),
        (["--chunk-ms", "0"], "--chunk-ms 0 is not 1 to 2000"),
        (["--step-ms", "-5"], "--step-ms -5 is not 0 or more"),
        (["--prompt-s", "nan"], "--prompt-s nan is not 0 or more"),
        (["--network", "stall"], "network 'stall'"),
        (["--json", "/no/where/rows.json"], "--json /no/where/rows.json: there is no such folder"),
        (["--json", "/"], "--json /: Is a directory"),
        (["--url", "http://h/exotel"], "--url http://h/exotel is not a ws:// or wss:// URL; write ws://"),
    ],
)
async def test_a_wrong_argument_stops_before_the_run(words: list[str], problem: str) -> None:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    with pytest.raises(InputError, match=problem):
        await bench.run(parser.parse_args(words), Console(file=io.StringIO()))


def test_a_file_that_is_there_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("old")
    for name in ("rows.json", "new.json"):
        require_writable("--json", tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rows.json", "old")]


@pytest.mark.parametrize(("calls", "known"), [(9, False), (10, True)])
async def test_memory_per_call_is_told_of_as_many_calls_as_make_it_mean_something(
    monkeypatch: pytest.MonkeyPatch, calls: int, known: bool
) -> None:
    async def nobody(part: Part) -> list[Outcome]:
        return [Outcome() for _ in range(part.calls)]

    for name in ("JOIN_S", "STARTS_SPREAD_S", "SETTLE_S"):
        monkeypatch.setattr(load_measurement, name, 0.0)
    monkeypatch.setattr(load_measurement, "play_elsewhere", nobody)
    console = Console(file=io.StringIO())
    row = await load_measurement.measure("bridge", "", Meter(os.getpid()), calls, Load(seconds=0.55), console)
    assert (row.memory_kib_per_call is not None) is known
    assert row.cpu_ms_per_call_s is not None


def test_the_table_fits_a_terminal_and_says_what_is_not_known(tmp_path: Path) -> None:
    row = Row(
        "pxbridge", 100, None, None, None, 234.4, 241.0, 1243.2, 70, 0.04, 17.2, None, 11234.0, 2, "[so]"
    )
    console = Console(width=80, record=True)
    show(console, [row], Load(network="jitter 40ms"))
    text = console.export_text()
    assert "234" in text and "1243" in text and "–" in text and "11234" in text and "…" not in text
    assert "2 of 100 calls broke off: [so]" in text
    write_rows(tmp_path / "rows.json", [row], Load())
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][0]["calls"] == 100
    with pytest.raises(InputError, match="--json"):
        write_rows(tmp_path / "no" / "rows.json", [row], Load())
