"""The engine's server as its clients and operators see it, in virtual time."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.personaplex.fake_model import Costs
from tests.personaplex.rig import PERSONA, Client, Rig, http, serving, voice
from tests.virtual_time import run
from websockets.exceptions import ConnectionClosed

from pxbridge import chat_wire
from pxbridge.commands import engine_offline
from pxbridge.personaplex.config import FRAME_S, FRAME_SAMPLES
from pxbridge.personaplex.query import Defaults
from pxbridge.personaplex.scheduler import Conversation
from pxbridge.personaplex.server import STUCK_S, Rules
from pxbridge.personaplex.session import Control, Session, Why

if TYPE_CHECKING:
    from pathlib import Path


async def ready(rig: Rig) -> dict[str, object]:
    told: dict[str, object] = json.loads((await rig.get("/readyz"))[2])
    return told


async def metric(rig: Rig, name: str) -> float:
    text = (await rig.get("/metrics"))[2].decode()
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


async def free(rig: Rig, slots: int) -> None:
    async with asyncio.timeout(10):
        while rig.places.free != slots or rig.stepper._slots:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.01)


# A conversation.


def test_a_conversation_is_a_handshake_then_headers_then_80_ms_for_80_ms() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            await client.converse(50)
            assert [message[0] for message in client.messages[:3]] == [0, 1, 1]
            assert client.messages[0] == chat_wire.handshake()
            assert client.heard_samples == 50 * FRAME_SAMPLES
            assert client.text == " né" * 5
            heard = np.concatenate(client.heard)
            said = voice(50)
            lag = 60 + 60  # both codecs look 2.5 ms ahead
            snr = np.sum(said[:-lag] ** 2) / np.sum((said[:-lag] - heard[lag:]) ** 2)
            assert 10 * np.log10(snr) > 15

    run(main())


def test_without_sound_the_model_stands_still() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            await client.converse(3)
            await asyncio.sleep(60.0)
            assert client.heard_frames == 3
            await client.converse(3)

    run(main())


def test_prompt_and_sampling_reach_the_model_as_they_were_asked_for() -> None:
    async def main() -> None:
        async with serving() as rig:
            asked = {
                "voice_prompt": "anna",
                "text_prompt": "one two three",
                "seed": 7,
                "text_temperature": 0.5,
                "text_topk": 500,
                "audio_temperature": 0,
                "audio_topk": "1",
                "pad_mult": -1,
                "worker_auth_id": "",
            }
            client = await rig.call(asked)
            await client.live()
            (_, prompt, sampling) = rig.stepper.opened[-1]
            assert prompt.voice.key == "anna.wav"
            assert len(prompt.text) == 3
            assert (sampling.seed, sampling.text_temperature, sampling.text_top_k) == (7, 0.5, 500)
            assert (sampling.audio_temperature, sampling.audio_top_k) == (0, 1)

    run(main())


def test_sessions_without_a_seed_have_different_ones() -> None:
    async def main() -> None:
        async with serving() as rig:
            for seed in ("", "&seed=-1"):
                for _ in range(2):
                    await (await rig.call(f"voice_prompt=NATF0&text_prompt=x{seed}")).live()
            assert len({sampling.seed for _, _, sampling in rig.stepper.opened}) == 4

    run(main())


def test_a_client_that_asks_for_nothing_has_the_defaults_where_there_are_some() -> None:
    async def main() -> None:
        rules = Rules(defaults=Defaults("NATM1", "You are the default."))
        async with serving(rules=rules) as rig:
            client = await rig.call("")
            await client.live()
            await client.converse(3)
            assert rig.stepper.opened[-1][1].voice.key == "NATM1.pt"
        async with serving() as rig:
            assert (await rig.refused("")).told["parameter"] == "voice_prompt"

    run(main())


def test_what_is_said_before_the_handshake_is_heard_with_its_headers() -> None:
    async def main() -> None:
        async with serving(costs=Costs(position_s=0.01)) as rig:
            client = await rig.call()
            await client.say(voice(5))
            assert client.handshakes == 0
            await client.live()
            await client.until(lambda: client.heard_frames >= 5)
            await client.converse(5)

    run(main())


def test_of_much_that_is_said_before_the_handshake_the_last_second_counts() -> None:
    async def main() -> None:
        async with serving(costs=Costs(position_s=0.1)) as rig:
            client = await rig.call()
            await client.say(voice(60))
            await client.live()
            await asyncio.sleep(3.0)
            assert client.heard_frames == 12
            await client.converse(5)

    run(main())


def test_messages_that_mean_nothing_here_change_nothing() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            for odd in (
                b"",
                b"\x00",
                b"\x02hi",
                b"\x04{",
                b"\x05oh",
                b"\x07",
                b"\xff" * 100,
                "text",
                b"\x01",
            ):
                await client.socket.send(odd)
            await client.converse(5)

    run(main())


def test_a_ping_is_answered_but_not_each_of_a_storm() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            for _ in range(100):
                await client.socket.send(chat_wire.ping())
            await client.live()
            await client.converse(3)
            assert client.messages.count(chat_wire.ping()) == 1

    run(main())


# Control messages.


async def control(client: Client, what: int) -> None:
    await client.socket.send(bytes([3, what]))


def test_pause_stops_the_model_until_start() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            await client.converse(5)
            await control(client, Control.PAUSE)
            await client.say(voice(20))
            await asyncio.sleep(1.0)
            assert client.heard_frames == 5
            await control(client, Control.START)
            await client.converse(5)
            assert client.heard_frames == 10

    run(main())


def test_restart_begins_the_same_conversation_anew_in_the_same_slot_and_stream() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            await client.converse(5)
            await control(client, Control.RESTART)
            await client.live(2)
            await client.converse(5)
            assert client.heard_frames == 10, "one reader has read it all"
            (first, second) = rig.stepper.opened
            assert first[0] == second[0]
            assert first[2] == second[2]
            assert sum(b"OpusHead" in message for message in client.messages) == 1

    run(main())


# Many.


def test_one_more_than_there_are_slots_is_told_so_at_once() -> None:
    async def main() -> None:
        async with serving(2) as rig:
            callers = [await rig.call() for _ in range(2)]
            refused = await rig.refused()
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
            assert refused.told["error"] == "full"
            assert "all 2 slots are taken" in refused.told["reason"]
            told = await ready(rig)
            assert (told["ready"], told["free"], told["slots"]) == (False, 0, 2)
            await callers[0].hang_up()
            assert (await ready(rig))["free"] == 1
            await (await rig.call()).live()

    run(main())


def test_who_waits_is_told_its_place_and_has_the_next_slot() -> None:
    async def main() -> None:
        async with serving(1, line=3) as rig:
            first = await rig.call()
            waiting = [await rig.call({**PERSONA, "queue": 1}) for _ in range(3)]
            for n, client in enumerate(waiting, 1):
                await client.until(lambda client=client: bool(client.messages))  # type: ignore[misc]
                assert client.messages[-1] == chat_wire.metadata({"queue": {"place": n}})
            assert (await rig.refused({**PERSONA, "queue": 1})).told["error"] == "full"
            assert (await ready(rig))["waiting"] == 3
            await waiting[1].hang_up()
            await waiting[2].until(lambda: len(waiting[2].messages) == 2)
            assert waiting[2].messages[-1] == chat_wire.metadata({"queue": {"place": 2}})
            await first.hang_up()
            await waiting[0].live()
            await waiting[0].converse(5)
            assert waiting[2].messages[-1] == chat_wire.metadata({"queue": {"place": 1}})
            await waiting[0].hang_up()
            await waiting[2].live()
            assert (await ready(rig))["waiting"] == 0

    run(main())


def test_nobody_is_told_of_a_line_who_did_not_ask_for_one() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.converse(20)
            assert {message[0] for message in client.messages} == {0, 1, 2}

    run(main())


def test_a_client_that_leaves_in_any_state_gives_its_slot_back() -> None:
    async def main() -> None:
        async with serving(1, costs=Costs(position_s=0.01)) as rig:
            for state in ("prompting", "live", "paused", "cut"):
                client = await rig.call({"voice_prompt": "NATF0", "text_prompt": state})
                if state != "prompting":
                    await client.live()
                    await client.converse(2)
                if state == "paused":
                    await control(client, Control.PAUSE)
                if state == "cut":
                    client.socket.transport.abort()
                else:
                    await client.hang_up()
                await free(rig, 1)
            client = await rig.call()
            await client.live()
            await client.converse(3)

    run(main())


def test_nothing_of_a_session_stays_in_memory_when_it_is_over() -> None:
    gc.collect()  # what other tests left

    async def main() -> None:
        async with serving() as rig:
            for hangs_up in (True, False) * 5:
                client = await rig.call()
                await client.live()
                await client.converse(2)
                if hangs_up:
                    await client.hang_up()
                else:
                    client.socket.transport.abort()
                rig.stepper.opened.clear()
            await asyncio.sleep(1.0)
            left = [each for each in gc.get_objects() if type(each) in (Session, Conversation)]
            assert not left
            assert not rig.engine._listeners

    run(main())


def test_32_callers_hear_their_own_answers_in_time() -> None:
    async def main() -> None:
        async with serving(32) as rig:
            callers = []
            for n in range(32):
                callers.append(await rig.call({"voice_prompt": "NATF0", "text_prompt": f"number {n}"}))
                await asyncio.sleep(0.013)
            await asyncio.gather(*(caller.live() for caller in callers))
            await asyncio.gather(*(caller.converse(50) for caller in callers))
            assert all(caller.heard_frames == 50 for caller in callers)
            text = (await rig.get("/metrics"))[2].decode()
            late = 'pxbridge_engine_wait_seconds_bucket{le="0.06"}'
            counted = next(line for line in text.splitlines() if line.startswith(late))
            assert float(counted.split()[1]) == 32 * 50

    run(main())


# Its end, and faults.


def test_a_prompt_that_cannot_be_read_ends_one_session_with_a_reason() -> None:
    async def main() -> None:
        async with serving() as rig:
            other = await rig.call()
            await other.live()
            rig.voices.damaged.add("NATM1.pt")
            unlucky = await rig.call({"voice_prompt": "NATM1", "text_prompt": "x"})
            assert await unlucky.closed() == (1011, "voice NATM1.pt: it is damaged")
            assert unlucky.messages == [chat_wire.error("voice NATM1.pt: it is damaged")]
            await other.converse(5)
            assert rig.places.free == 3

    run(main())


def test_a_voice_that_was_found_damaged_is_refused_before_the_upgrade_until_it_is_mended() -> None:
    asked = {"voice_prompt": "NATM1", "text_prompt": "x"}

    async def main() -> None:
        async with serving() as rig:
            rig.voices.damaged.add("NATM1.pt")
            assert (await (await rig.call(asked)).closed())[0] == 1011
            refused = await rig.refused(asked)
            assert (refused.status, refused.told["parameter"]) == (400, "voice_prompt")
            assert refused.told["reason"] == "cannot be used: voice NATM1.pt: it is damaged"
            assert json.loads((await rig.get("/voices"))[2])["voices"] == ["NATF0.pt", "anna.wav"]
            rig.voices.damaged.clear()
            await (await rig.call(asked)).live()

    run(main())


def test_a_voice_that_was_added_is_measured_at_its_first_use() -> None:
    asked = {"voice_prompt": "late.wav", "text_prompt": "a b c"}

    async def main() -> None:
        async with serving(longest_prompt=60) as rig:
            rig.voices.there.append("late.wav")
            code, reason = await (await rig.call(asked)).closed()
            assert code == 1011 and reason is not None and "60 is the most" in reason
            refused = await rig.refused(asked)
            assert (refused.status, refused.told["parameter"]) == (400, "text_prompt")

    run(main())


def test_a_fault_in_one_session_ends_that_one(uncaptured: None) -> None:
    async def main() -> None:
        async with serving() as rig:
            one, other = await rig.call(), await rig.call()
            await one.live()
            await other.live()
            victim = next(iter(each for each in rig.server.sessions if each.peer.endswith(port_of(one))))

            def broken(token: int) -> str:
                raise ZeroDivisionError

            victim._text.feed = broken  # type: ignore[method-assign]
            await one.say(voice(1))
            assert (await one.closed())[0] == 1011
            await other.converse(5)
            assert rig.places.free == 3
            assert await metric(rig, 'pxbridge_engine_sessions_total{why="fault"}') == 1

    run(main())


def port_of(client: Client) -> str:
    return str(client.socket.local_address[1])


def test_a_fault_of_the_device_ends_all_with_1011(uncaptured: None) -> None:
    async def main() -> None:
        async with serving() as rig:
            callers = [await rig.call() for _ in range(3)]
            for caller in callers:
                await caller.live()
            rig.stepper.raises = RuntimeError("CUDA error: an illegal memory access was encountered")
            watching = asyncio.create_task(rig.server.watch())
            await callers[0].say(voice(1))
            fault = await watching
            assert "CUDA" in str(fault)
            rig.server.send_away(1011, "the engine's device failed", Why.FAULT)
            for caller in callers:
                assert (await caller.closed()) == (1011, "the engine's device failed")
            assert (await rig.refused()).told["reason"] == "the device failed"

    run(main())


def test_a_device_that_hangs_is_noticed() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            rig.stepper.costs.tick_s = 1000.0
            await client.say(voice(1))
            assert (await rig.get("/livez"))[0] == 200
            fault = await rig.server.watch()
            assert isinstance(fault, TimeoutError)
            assert (await rig.get("/livez"))[0] == 503

    async def limited() -> None:
        async with asyncio.timeout(STUCK_S + 10):
            await main()

    run(limited())


def test_draining_lets_conversations_end_and_takes_no_new_ones() -> None:
    async def main() -> None:
        async with serving(1) as rig:
            client = await rig.call()
            waiting = await rig.call({**PERSONA, "queue": 1})
            await client.live()
            draining = asyncio.create_task(rig.server.drain(60.0))
            assert await waiting.closed() == (1001, "the engine ends")
            assert (await rig.refused()).status == 503
            told = await ready(rig)
            assert (told["ready"], told["draining"], told["free"]) == (False, True, 0)
            await client.converse(50)
            assert not draining.done()
            await client.hang_up()
            await draining

    run(main())


def test_draining_ends_what_does_not_end_in_time() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            await rig.server.drain(5.0)
            assert await client.closed() == (1001, "the engine ends")

    run(main())


def test_when_it_stops_listening_nothing_is_left() -> None:
    async def main() -> None:
        async with serving() as rig:
            callers = [await rig.call() for _ in range(4)]
            await callers[0].live()
        for caller in callers:
            with contextlib.suppress(ConnectionClosed):
                await caller.closed()
        assert rig.server.sessions == set()
        assert rig.places.free == 4

    run(main())


# What operators ask.


def test_before_it_has_warmed_up_it_is_alive_and_not_ready() -> None:
    async def main() -> None:
        async with serving(warm_up_s=20.0, wait_ready=False) as rig:
            assert (await rig.get("/livez"))[0] == 200
            status, _, _ = await rig.get("/readyz")
            told = await ready(rig)
            assert status == 503
            assert told["reasons"] == ["warming up"]
            refused = await rig.refused()
            assert (refused.status, refused.told["error"]) == (503, "not_ready")
            await rig.engine.ready.wait()
            assert (await ready(rig))["ready"] is True

    run(main())


def test_voices_are_listed() -> None:
    async def main() -> None:
        async with serving() as rig:
            _, _, body = await rig.get("/voices")
            assert json.loads(body)["voices"] == ["NATF0.pt", "NATM1.pt", "anna.wav"]

    run(main())


def test_metrics_tell_of_ticks_waits_prompts_and_drops() -> None:
    async def main() -> None:
        async with serving() as rig:
            for _ in range(2):
                client = await rig.call()
                await client.live()
                await client.converse(10)
                await client.hang_up()
            assert await metric(rig, "pxbridge_engine_tick_seconds_count") == 20
            assert await metric(rig, "pxbridge_engine_frames_total") == 20
            assert await metric(rig, "pxbridge_engine_wait_seconds_count") == 20
            assert await metric(rig, 'pxbridge_engine_prompts_total{prefix="hit"}') == 1
            assert await metric(rig, 'pxbridge_engine_prompts_total{prefix="miss"}') == 1
            assert await metric(rig, 'pxbridge_engine_dropped_frames_total{why="cut"}') == 0
            assert await metric(rig, 'pxbridge_engine_sessions_total{why="left"}') == 2
            assert await metric(rig, 'pxbridge_engine_slots{state="free"}') == 4

    run(main())


def test_a_stall_of_the_device_is_counted_and_caught_up_with() -> None:
    async def main() -> None:
        async with serving(1) as rig:
            client = await rig.call()
            await client.live()
            await client.converse(10)
            rig.stepper.costs.tick_s = 3.0
            await client.say(voice(1))
            rig.stepper.costs.tick_s = 0.03
            await client.say(voice(60))
            cut = await metric(rig, 'pxbridge_engine_dropped_frames_total{why="cut"}')
            assert cut == pytest.approx(3.0 / FRAME_S - 12, abs=2)
            await asyncio.sleep(1.0)
            assert client.heard_frames == 71 - cut
            assert await metric(rig, "pxbridge_engine_backlog_frames") == 0

    run(main())


@pytest.mark.parametrize("path", ["/api/chat", "/livez", "/readyz", "/voices", "/metrics", "/"])
def test_nothing_but_get_is_answered(path: str) -> None:
    async def main() -> None:
        async with serving() as rig:
            status, headers, _ = await http(rig.server.port, path, "POST", Content_Length="0")
            assert status == 405
            assert headers["Allow"] == "GET, HEAD"

    run(main())


def test_a_plain_request_for_a_conversation_is_told_what_is_missing() -> None:
    async def main() -> None:
        async with serving() as rig:
            status, _, _ = await rig.get("/api/chat?voice_prompt=NATF0&text_prompt=x")
            assert status == 426
            assert rig.places.free == 4

    run(main())


def test_a_web_client_is_served_from_its_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<p>hello")
    (folder / "assets" / "app.js").write_text("1")
    (folder / ".env").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")

    async def main() -> None:
        async with serving(static=folder) as rig:
            status, headers, body = await rig.get("/")
            assert (status, body) == (200, b"<p>hello")
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert (await rig.get("/assets/app.js"))[2] == b"1"
            for path in ("/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "/.env"):
                assert (await rig.get(path))[0] == 404, path
        async with serving() as rig:
            assert (await rig.get("/"))[0] == 404

    run(main())


# A record of what was heard.


def test_what_the_model_heard_is_written_down_to_the_bit(tmp_path: Path) -> None:
    from pxbridge.wav import read_wav

    heard = []

    async def main() -> None:
        async with serving(record=tmp_path) as rig:
            step = rig.stepper.step

            def step_and_keep(frames):  # type: ignore[no-untyped-def]
                heard.extend(frames.values())
                return step(frames)

            rig.stepper.step = step_and_keep  # type: ignore[method-assign]
            client = await rig.call({**PERSONA, "seed": 99, "audio_topk": 77})
            await client.live()
            await client.converse(30)
            await client.hang_up()

    run(main())
    (wav,) = tmp_path.glob("*.wav")
    (about,) = tmp_path.glob("*.json")
    sound = read_wav(wav)
    assert sound.rate_hz == 24_000
    np.testing.assert_array_equal(sound.samples, np.concatenate(heard))
    told = json.loads(about.read_text())
    assert (told["seed"], told["audio_topk"], told["voice_prompt"]) == (99, 77, "NATF0.pt")
    assert "--seed 99" in told["replay"]
    assert "--audio-topk 77" in told["replay"]
    assert (wav.stat().st_mode & 0o777, about.stat().st_mode & 0o777) == (0o600, 0o600)


def test_a_record_of_a_prompt_that_begins_with_a_hyphen_can_be_replayed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(record=tmp_path) as rig:
            client = await rig.call({**PERSONA, "text_prompt": "--seed=1"})
            await client.live()
            await client.hang_up()

    run(main())
    (about,) = tmp_path.glob("*.json")
    *command, words = json.loads(about.read_text())["replay"].split(" ", 3)
    assert command == ["pxbridge", "engine", "offline"]
    parser = argparse.ArgumentParser()
    engine_offline.add_arguments(parser)
    asked = parser.parse_args(shlex.split(words))
    assert (asked.text_prompt, asked.voice_prompt) == ("--seed=1", "NATF0.pt")
