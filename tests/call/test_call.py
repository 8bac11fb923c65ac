"""A phone call from end to end: a simulated Exotel, the bridge, a rehearsal engine, in virtual time."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import gc
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tests.call.rig import bridge, speech
from tests.virtual_time import run
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from pxbridge.calls.call import START_TIMEOUT_S, Party
from pxbridge.calls.call_state import Outcome, Phase
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Kind
from pxbridge.calls.phrases import End
from pxbridge.calls.summary import outcome
from pxbridge.engines.client import open_session
from pxbridge.engines.pool import SlotState
from pxbridge.simulation import faults
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.network import parse_network
from pxbridge.simulation.phone import SPELLINGS, HangUp, Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from pxbridge.calls.call import CallRecord
    from pxbridge.engines.session import Session

HANG_UP_AT_S = 7.0


def script(rate_hz: int = 8000, hang_up_at_s: float = HANG_UP_AT_S) -> Script:
    """A second of silence, five of speech, and the rest to hear the end of it."""
    return Script(speech(rate_hz), speak_at_s=1.0, hang_up_at_s=hang_up_at_s)


def assert_heard_well(phone: Phone) -> None:
    """What a caller notices: the words, as loud, as fast and as high as they were said, without a gap."""
    hearing = listen(phone.said, phone.player.heard, phone.line.rate_hz)
    assert hearing.correlation > 0.85
    assert hearing.gain_db == pytest.approx(0.0, abs=1.0)
    assert hearing.speed == pytest.approx(1.0, abs=0.002)
    assert hearing.dropouts == ()
    first_s = min(hole.end_s for hole in phone.player.holes) if phone.player.holes else 0.0
    assert [hole for hole in phone.player.holes if hole.at_s > first_s + 1.0] == []
    assert not phone.faults


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
@pytest.mark.parametrize("chunk_ms", [20, 100])
def test_the_callers_words_come_back_as_they_were_said(rate_hz: int, chunk_ms: int) -> None:
    async def main() -> Phone:
        async with bridge() as b:
            return await b.call(script(rate_hz), Line(rate_hz=rate_hz, chunk_ms=chunk_ms))

    assert_heard_well(run(main()))


@pytest.mark.parametrize(("rate_hz", "chunk_ms"), [(8000, 1000.0), (8000, 6240.0), (24000, 2080.0)])
def test_an_engine_is_fed_however_long_the_phones_chunks_are(rate_hz: int, chunk_ms: float) -> None:
    """The last two are as long as a payload may be, 100 kB."""

    async def main() -> dict[str, float]:
        async with bridge() as b:
            await b.call(script(rate_hz, hang_up_at_s=30.0), Line(rate_hz=rate_hz, chunk_ms=chunk_ms))
            return (await b.record()).stats["uplink"]

    stats = run(main())
    assert stats["holds"] == 0, "an engine that was given nothing owes no answer"
    assert stats["emitted"] > 0.9 * stats["received"]


def start_with(**fields: object) -> str:
    return json.dumps({"event": "start", "start": {"stream_sid": "s", "call_sid": "c", **fields}})


def test_a_codec_that_is_not_read_is_refused_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[int, str, CallRecord]:
        async with bridge() as b, connect(b.url(), compression=None) as ws:
            await ws.send(start_with(media_format={"encoding": "audio/G722"}))
            with pytest.raises(ConnectionClosedError) as closed:
                await ws.recv()
            assert closed.value.rcvd is not None
            return closed.value.rcvd.code, closed.value.rcvd.reason, await b.record()

    code, reason, record = run(main())
    assert code == 1003
    assert reason == "the phone sends G.722 (encoding 'audio/G722'): use linear PCM, mu-law or A-law"
    assert outcome(record) is Outcome.NO_START
    assert reason in caplog.text


def test_an_unknown_encoding_and_another_track_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> dict[str, float]:
        async with bridge() as b, connect(b.url(), compression=None) as ws:
            start = start_with(media_format={"encoding": "weird"}, tracks=["inbound", "outbound"])
            await ws.send(start)
            await ws.send(start)
            for track in ("inbound", "outbound", "outbound"):
                media = {"track": track, "payload": base64.b64encode(bytes(320)).decode()}
                await ws.send(json.dumps({"event": "media", "media": media}))
            await ws.send(json.dumps({"event": "stop", "stop": {"reason": "callended"}}))
            return (await b.record()).stats["uplink"]

    stats = run(main())
    assert (stats["messages"], stats["other_track"], stats["received"]) == (3, 2, 160)
    assert caplog.text.count("the encoding 'weird' is not known, so payloads are read as 16-bit PCM") == 1
    assert caplog.text.count("the stream also carries the track outbound, which is left out") == 1


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_call_goes_through_however_exotel_spells_it(spelling: str) -> None:
    async def main() -> tuple[Phone, Party]:
        async with bridge() as b:
            phone = await b.call(script(), Line(spelling=SPELLINGS[spelling], dtmf=((2.0, "5"), (2.5, "#"))))
            record = await b.record()
            assert [each.detail["digit"] for each in b.events if each.kind is Kind.KEY] == ["5", "#"]
            assert record.malformed == 0
            assert record.ending is not None
            return phone, record.ending.by

    phone, by = run(main())
    assert_heard_well(phone)
    assert by is Party.PHONE


def test_the_rehearsal_engine_greets_and_brings_the_words_back() -> None:
    async def main() -> tuple[Phone, str]:
        async with bridge(mode=Mode.PARROT, prompt_s=0.6) as b:
            phone = await b.call(Script(speech()))
            return phone, "".join((await b.record()).words)

    phone, words = run(main())
    hearing = listen(phone.said, phone.player.heard, 8000)
    assert hearing.first_voice_s is not None
    assert hearing.first_voice_s < 1.5, "the greeting is late"
    assert hearing.correlation > 0.85
    assert "rehearsal engine" in words


def test_sound_begins_at_once_although_the_engine_reads_its_prompts() -> None:
    async def main() -> Phone:
        async with bridge(prompt_s=5.0) as b:
            return await b.call(Script(hang_up_at_s=4.5))

    phone = run(main())
    assert phone.media_received >= 4, "silence now and then: some routes drop a stream without audio"
    second = phone.line.rate_hz
    assert not phone.player.heard[:second].any(), "an engine that answers soon is heard first"
    assert phone.player.heard[: 2 * second].any(), "a longer silence sounds like a dead line"


@pytest.mark.parametrize("hang_up", HangUp)
def test_every_way_to_hang_up_ends_the_call(hang_up: HangUp) -> None:
    async def main() -> None:
        async with bridge() as b:
            phone = await b.call(script(hang_up_at_s=2.0), Line(hang_up=hang_up))
            assert not phone.faults
            await asyncio.sleep(1.0)
            assert b.registry.live == 0
            assert b.pool.free == 1
            assert b.engines[0].clients == 0
            assert b.records[0].ending is not None
            assert b.records[0].ending.by is Party.PHONE

    run(main())


def test_a_second_connection_for_the_same_call_takes_its_place() -> None:
    async def main() -> None:
        async with bridge(slots=2) as b:
            first = asyncio.create_task(b.call(script(), Line(call_sid="same")))
            await asyncio.sleep(1.5)
            second = await b.call(script(), Line(call_sid="same"))
            assert (await first).close_code == 1000
            assert_heard_well(second)
            await b.record()
            older, newer = b.records
            assert older.ending is not None and "second connection" in older.ending.reason
            assert newer.ending is not None and newer.ending.by is Party.PHONE

    run(main())


def test_a_second_connection_gets_an_engine_during_the_last_words_of_the_first() -> None:
    async def main() -> None:
        async with bridge((faults.RefusesUpgrade(400),)) as b:
            first = asyncio.create_task(b.call(Script(hang_up_at_s=30.0), Line(call_sid="same")))
            await asyncio.sleep(1.5)
            (older,) = b.registry
            assert older.record.phase is Phase.LEAVING, "it hears that there is a problem"
            b.engines[0].faults = ()
            second = asyncio.create_task(b.call(Script(hang_up_at_s=20.0), Line(call_sid="same")))
            await asyncio.sleep(2.0)
            assert [each.record.live_s is not None for each in b.registry if each is not older] == [True]
            await asyncio.gather(first, second)

    run(main())


def test_calls_are_listed_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        async with bridge(slots=20) as b:
            calls = [asyncio.create_task(b.call(Script(hang_up_at_s=8.0))) for _ in range(20)]
            await asyncio.sleep(4.0)
            opened_s = [each.record.opened_s for each in b.registry]
            assert len(opened_s) == 20 and opened_s == sorted(opened_s), "an operator means the newer one"
            await asyncio.gather(*calls)

    run(main())


def test_a_caller_who_hangs_up_during_the_goodbye_frees_the_engine_at_once() -> None:
    async def main() -> None:
        async with bridge(mode=Mode.ECHO) as b:
            call = asyncio.create_task(b.call(script(hang_up_at_s=4.0)))
            await asyncio.sleep(3.9)  # the echo is in the middle of its words
            (live,) = b.registry
            live.operate(End(), "a test")
            await asyncio.sleep(0.3)
            assert b.pool.states()[SlotState.LIVE] == 0
            await call

    run(main())


def test_a_repeated_start_and_events_nobody_knows_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with bridge() as b, connect(b.url(), compression=None) as ws:
            start = {"event": "start", "stream_sid": "S", "start": {"call_sid": "C"}}
            for event in ({"event": "connected"}, start, start, {"event": "weather"}):
                await ws.send(json.dumps(event))
            for junk in ("", "{", "[]", '{"event":7}', "\x00", b"\xff\xfe"):
                await ws.send(junk)
            await ws.send(json.dumps({"event": "stop", "stop": {"reason": "callended"}}))
            await ws.wait_closed()
            record = await b.record()
            assert (record.call_id, record.ignored, record.malformed) == ("C", 2, 6)

    run(main())
    assert "sends an unknown event: 'weather'" in caplog.text


def test_a_phone_that_never_starts_is_hung_up() -> None:
    async def main() -> None:
        async with bridge() as b, connect(b.url(), compression=None) as ws:
            began_s = asyncio.get_running_loop().time()
            await ws.send(json.dumps({"event": "connected"}))
            await ws.wait_closed()
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(START_TIMEOUT_S, abs=0.5)
            assert ws.close_code == 1008

    run(main())


def test_a_line_that_falls_silent_without_a_close_is_hung_up() -> None:
    async def main() -> None:
        async with bridge() as b, connect(b.url(), compression=None) as ws:
            await ws.send(json.dumps({"event": "start", "stream_sid": "S", "start": {"call_sid": "C"}}))
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionClosedError, match="nothing from the phone"):
                while True:
                    await ws.recv()
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(
                CallLimits().phone_silent_s, abs=0.5
            )
            await asyncio.sleep(0.5)
            assert b.pool.free == 1

    run(main())


def test_a_call_tries_the_next_engine_when_one_does_not_come_up() -> None:
    async def main() -> None:
        async with bridge((faults.RefusesUpgrade(500),), (faults.BreaksOffPrompting(),), ()) as b:
            phone = await b.call(script())
            assert_heard_well(phone)
            await asyncio.sleep(0.5)
            assert b.pool.free == 3

    run(main())


def test_bad_sound_from_an_engine_costs_only_itself() -> None:
    async def main() -> None:
        async with bridge((faults.SendsGarbage(),), ()) as b:
            spoiled, fine = await asyncio.gather(b.call(script()), b.call(script()))
            assert_heard_well(fine)
            assert spoiled.duration_s == pytest.approx(HANG_UP_AT_S)

    run(main())


@pytest.mark.usefixtures("uncaptured")
@pytest.mark.parametrize("waits", [False, True])
def test_a_call_that_ends_just_as_its_engine_is_ready_gives_it_back(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine's slot that nobody gives back would be lost until the bridge starts again."""
    turns: int | None = None  # of the event loop, between the session and the end of the call

    async def main() -> None:
        nonlocal turns
        async with bridge(prompt_s=1.0) as b:

            def end(left: int) -> None:
                if left:
                    asyncio.get_running_loop().call_soon(end, left - 1)
                    return
                for each in b.registry:
                    each.end("told by a test")

            async def open_and_end(*args: Any, **options: Any) -> Session:
                session = await open_session(*args, **options)
                if turns is not None:
                    end(turns)
                return session

            monkeypatch.setattr("tests.call.rig.open_session", open_and_end)
            for after in range(25):
                turns = None
                others = [asyncio.create_task(b.call(Script(hang_up_at_s=3.0)))] if waits else []
                await asyncio.sleep(2.0)  # the other call has the engine
                turns = after
                await b.call(Script(hang_up_at_s=20.0), Line(call_sid="mine"))
                await asyncio.gather(*others)
                await b.record()
                await asyncio.sleep(3.0)  # a session that was on its way may wait for another call
                assert b.pool.states()[SlotState.IDLE] == 1, f"{after} turns later"

    run(main(), limit_s=600.0)


def test_nothing_is_left_of_a_thousand_calls() -> None:
    process = psutil.Process()

    async def main() -> None:
        async with bridge(slots=10) as b:

            async def ten() -> None:
                ways = list(HangUp)
                await asyncio.gather(
                    *(b.call(Script(hang_up_at_s=0.3), Line(hang_up=ways[n % len(ways)])) for n in range(10))
                )
                await asyncio.sleep(5.0)
                assert len(b.records) == 10
                b.forget()  # what the test itself notes of a thousand calls would scatter the heap

            for _ in range(20):  # so that caches and pools are as large as they get
                await ten()
            before = await settled()
            for _ in range(100):
                await ten()
            after = await settled()
            assert after.tasks == before.tasks
            assert after.descriptors == before.descriptors
            assert after.objects - before.objects < 1000, "objects of a thousand calls were kept"
            assert after.memory - before.memory < 4e6, "memory of a thousand calls was kept"

    class Left:
        def __init__(self) -> None:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what was freed and is still held by malloc is not kept
            self.tasks = len(asyncio.all_tasks())
            self.descriptors = len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))
            self.objects = len(gc.get_objects())
            self.memory = process.memory_info().rss

    async def settled() -> Left:
        await asyncio.sleep(30.0)
        return Left()

    run(main(), limit_s=7200.0)


@pytest.mark.parametrize(("claimed_hz", "real_hz"), [(8000, 16000), (16000, 8000), (24000, 16000)])
def test_a_wrong_sample_rate_is_noticed(
    claimed_hz: int, real_hz: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with bridge() as b:
            phone = Phone(Script(hang_up_at_s=15.0), Line(rate_hz=real_hz))
            await place_call(b.url(claimed_hz), phone)

    run(main())
    assert f"says {claimed_hz} Hz" in caplog.text
    assert f"write ?sample-rate={real_hz}" in caplog.text


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_a_stall_is_not_taken_for_a_wrong_sample_rate(rate_hz: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with bridge() as b:
            network = parse_network("stall 1s at 1.2s up")
            await b.call(Script(hang_up_at_s=15.0), Line(rate_hz=rate_hz), network=network)

    run(main())
    assert "sample-rate" not in caplog.text


def test_a_fault_of_ours_is_recorded_as_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("pxbridge.calls.call.Conversation", breaks)

    async def main() -> None:
        async with bridge() as b:
            phone = await b.call(script())
            record = await b.record()
            assert record.ending is not None
            assert (record.ending.by, record.ending.reason) == (Party.BRIDGE, "internal error")
            assert phone.close_code == 1011

    run(main())
    assert "a bug" in caplog.text
