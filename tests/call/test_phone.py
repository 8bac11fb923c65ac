"""The simulated Exotel: what it sends, plays, counts, and how its calls end."""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.simulated import EchoBridge, SayingBridge, media, play, tone
from websockets.asyncio.server import ServerConnection, basic_auth, serve

from pxbridge.errors import CallFailed, CallRefused
from pxbridge.simulation.network import parse_network
from pxbridge.simulation.phone import (
    SPELLINGS,
    Clock,
    Ended,
    Fault,
    HangUp,
    Leaving,
    Line,
    Phone,
    Script,
    decode_a_law,
    decode_mu_law,
    encode_a_law,
    encode_mu_law,
    place_call,
)
from pxbridge.telephony.exotel.messages import Event, Media, Start, line_rate, parse, payload_encoding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def script(seconds: float = 1.0, **fields: Any) -> Script:
    return Script(tone(seconds), **{"speak_at_s": 0.0, "hang_up_at_s": seconds, **fields})


@pytest.mark.parametrize("chunk_ms", [20, 100, 0.125, 33.3])
def test_a_chunk_is_sent_when_its_last_sample_has_been_spoken(chunk_ms: float) -> None:
    bridge = SayingBridge()
    phone = Phone(script(0.5), Line(chunk_ms=chunk_ms))
    play(phone, bridge)
    samples = phone.line.chunk_samples
    arrivals_s = [
        at for at, event in zip(bridge.arrivals_s, bridge.events, strict=True) if event["event"] == "media"
    ]
    assert arrivals_s == pytest.approx([(n + 1) * samples / 8000 for n in range(len(arrivals_s))])
    assert [int(event["media"]["chunk"]) for event in bridge.named("media")] == list(
        range(1, len(arrivals_s) + 1)
    )
    sent = b"".join(base64.b64decode(event["media"]["payload"]) for event in bridge.named("media"))
    np.testing.assert_array_equal(np.frombuffer(sent, "<i2"), phone.said)
    np.testing.assert_array_equal(phone.said[:4000], tone(0.5))


def test_a_call_opens_with_connected_and_start_and_closes_with_stop() -> None:
    bridge = SayingBridge()
    phone = Phone(script(0.2), Line(start_after_s=0.5, custom_parameters={"lang": "hi"}))
    play(phone, bridge)
    assert [event["event"] for event in bridge.events] == ["connected", "start", "media", "media", "stop"]
    assert bridge.arrivals_s[:2] == [-0.5, 0.0]
    start = bridge.events[1]["start"]
    assert start["call_sid"] == phone.line.call_sid
    assert start["custom_parameters"] == {"lang": "hi"}
    assert start["media_format"]["sample_rate"] == "8000"
    assert bridge.events[-1]["stop"]["reason"] == "callended"
    numbers = [int(event["sequence_number"]) for event in bridge.events[1:]]
    assert numbers == sorted(set(numbers))
    assert phone.ended is Ended.BY_CALLER
    assert phone.duration_s == pytest.approx(0.2)


def test_spellings_differ_where_exotels_do() -> None:
    seen: dict[str, SayingBridge] = {}
    for name, spelling in SPELLINGS.items():
        seen[name] = SayingBridge()
        play(
            Phone(script(0.1), Line(spelling=spelling, rate_hz=16000, dtmf=((0.05, "#"),))),
            seen[name],
        )
    assert seen["camel case"].named("start")[0]["start"]["mediaFormat"]["sampleRate"] == "16000"
    assert seen["flat camel case"].named("start")[0]["callSid"]
    assert "start" not in seen["flat"].named("start")[0]
    assert seen["flat"].named("dtmf")[0]["digit"] == "#"
    assert seen["documented"].named("dtmf")[0]["dtmf"]["digit"] == "#"
    assert seen["flat"].named("stop")[0]["reason"] == "closed"
    assert "call_sid" not in seen["leg sid"].named("start")[0]["start"]
    assert seen["leg sid"].named("start")[0]["start"]["media_format"]["sample_rate"] == "16000Hz"
    assert seen["kHz"].named("start")[0]["start"]["media_format"]["sample_rate"] == "16kHz"
    assert seen["kHz"].named("start")[0]["start"]["custom_parameters"] is None
    assert seen["leg sid"].named("start")[0]["start"]["custom_parameters"] == {"key": ""}
    assert "custom_parameters" not in seen["extras"].named("start")[0]["start"]
    assert "sample_rate" not in seen["no rate"].named("start")[0]["start"]["media_format"]
    assert "Payload" in seen["kHz"].named("media")[0]["media"]
    odd = base64.b64decode(seen["odd length"].named("media")[0]["media"]["payload"])
    assert len(odd) == 3201


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_says_the_same_to_the_bridges_reader(name: str) -> None:
    said: list[Event] = []

    class Reader(SayingBridge):
        def receive(self, message: str, now_s: float) -> None:
            said.append(parse(message))
            super().receive(message, now_s)

    line = Line(spelling=SPELLINGS[name], rate_hz=24000, dtmf=((0.05, "#"),), chunk_ms=40)
    phone = Phone(Script(tone(0.2, 24000), speak_at_s=0.0, hang_up_at_s=0.2), line)
    play(phone, Reader((0.1, {"event": "mark", "mark": {"name": "m"}})))
    assert [type(event).__name__ for event in said] == (
        ["Connected", "Start", "Media", "Dtmf", "Media", "Mark", "Media", "Media", "Media", "Stop"]
    )
    start = said[1]
    assert isinstance(start, Start)
    assert start.call_id == line.call_sid
    assert (start.caller, start.called) == (line.from_number, line.to_number)
    laws = {"mu-law": "mulaw", "A-law": "alaw"}
    encoding = payload_encoding(start.encoding).encoding
    assert encoding == laws.get(name, "pcm16")
    assert line_rate(None, start).rate_hz == (8000 if name == "no rate" else 24000)
    payload = b"".join(event.payload[:1920] for event in said if isinstance(event, Media))
    if encoding == "pcm16":
        assert payload == phone.said.tobytes()


def test_unpadded_base64_has_no_padding() -> None:
    bridge = SayingBridge()
    play(Phone(script(0.1), Line(chunk_ms=0.5, spelling=SPELLINGS["unpadded"])), bridge)
    assert not any(event["media"]["payload"].endswith("=") for event in bridge.named("media"))


@pytest.mark.parametrize("law", ["mu-law", "A-law"])
def test_g711_is_heard_as_it_was_said(law: str) -> None:
    phone = Phone(script(), Line(spelling=SPELLINGS[law]))
    play(phone, EchoBridge())
    said, heard = phone.said[:7200].astype(float), phone.player.heard[800:8000].astype(float)
    noise_db = 10 * np.log10(np.mean((heard - said) ** 2) / np.mean(said**2))
    assert noise_db < -35


def test_a_law_values_are_g711s() -> None:
    code = np.array([0x2A, 0xAA, 0xD5, 0x55, 0xC5], np.uint8)
    np.testing.assert_array_equal(decode_a_law(code), [-32256, 32256, 8, -8, 264])
    everything = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(encode_a_law(decode_a_law(everything)), everything)


def test_mu_law_values_are_g711s() -> None:
    code = np.array([0x00, 0x80, 0xFF, 0x7F, 0xF0], np.uint8)
    np.testing.assert_array_equal(decode_mu_law(code), [-32124, 32124, 0, 0, 120])
    everything = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        decode_mu_law(encode_mu_law(decode_mu_law(everything))), decode_mu_law(everything)
    )


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
@pytest.mark.parametrize("chunk_ms", [20, 100])
def test_an_echo_is_heard_one_chunk_and_its_delay_later(rate_hz: int, chunk_ms: int) -> None:
    pcm = tone(1.0, rate_hz)
    phone = Phone(Script(pcm, speak_at_s=0.2, hang_up_at_s=2.0), Line(rate_hz=rate_hz, chunk_ms=chunk_ms))
    play(phone, EchoBridge(delay_s=0.13))
    at = round((0.2 + chunk_ms / 1000 + 0.13) * rate_hz)
    np.testing.assert_array_equal(phone.player.heard[at : at + len(pcm)], pcm)
    assert phone.player.holes == []
    assert not phone.faults


def test_a_stall_of_the_phones_network_makes_a_hole_and_a_queue() -> None:
    phone = Phone(script(4.0), Line(chunk_ms=20), parse_network("stall 1.5s at 2s up"))
    play(phone, EchoBridge())
    (hole,) = phone.player.holes
    assert hole.at_s == pytest.approx(2.0, abs=0.021)
    assert hole.duration_s == pytest.approx(1.5, abs=0.021)
    assert max(depth.depth_s for depth in phone.player.depth_trace) == pytest.approx(1.5, abs=0.041)


def test_a_phone_whose_clock_is_fast_sends_more_in_the_same_time() -> None:
    bridge = SayingBridge()
    phone = Phone(script(100.0), network=parse_network("drift +10000ppm"))
    play(phone, bridge)
    assert len(phone.said) == 800_000
    assert phone.duration_s == pytest.approx(100 / 1.01)


def test_a_mark_comes_back_when_it_was_heard() -> None:
    bridge = SayingBridge(
        (1.0, media(tone(0.4))),
        (1.0, {"event": "mark", "mark": {"name": "said"}}),
        (3.0, {"event": "mark", "mark": {"name": "nothing before"}}),
    )
    play(Phone(script(5.0), network=parse_network("drift -77ppm")), bridge)
    marks = [
        (event["mark"]["name"], at)
        for event, at in zip(bridge.events, bridge.arrivals_s, strict=True)
        if event["event"] == "mark"
    ]
    assert [name for name, _ in marks] == ["said", "nothing before"]
    assert [at for _, at in marks] == pytest.approx([1.4, 3.0], abs=0.001)


def test_keys_are_pressed_when_told() -> None:
    bridge = SayingBridge()
    play(Phone(script(3.0), Line(dtmf=((2.0, "2"), (0.51, "1")))), bridge)
    pressed = [
        (event["dtmf"]["digit"], at)
        for event, at in zip(bridge.events, bridge.arrivals_s, strict=True)
        if event["event"] == "dtmf"
    ]
    assert pressed == [("1", 0.51), ("2", 2.0)]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"\x01abc", Fault.NOT_TEXT),
        ("{", Fault.NOT_JSON),
        ("[1]", Fault.NOT_JSON),
        ({"event": "sing"}, Fault.UNKNOWN_EVENT),
        ({"event": "mark"}, Fault.NAMELESS_MARK),
        ({"event": "media"}, Fault.BAD_PAYLOAD),
        ({"event": "media", "media": {"payload": "?"}}, Fault.BAD_PAYLOAD),
        ({"event": "media", "media": {"payload": ""}}, Fault.EMPTY_PAYLOAD),
        (media(np.zeros(161, np.int16)), Fault.UNEVEN_PAYLOAD),
        (media(np.zeros(160 * 320, np.int16)), Fault.LARGE_PAYLOAD),
        (media(np.zeros(16080, np.int16)), Fault.TOO_FAR_AHEAD),
        (media(tone(0.02), stream_sid="another"), Fault.WRONG_STREAM),
        (media(tone(0.02), sequence_number="0", stream_sid=None), Fault.WRONG_STREAM),
        (media(tone(0.02), sequence_number="x"), Fault.OUT_OF_SEQUENCE),
    ],
)
def test_what_a_bridge_does_wrong_is_counted(message: Any, fault: Fault) -> None:
    phone = Phone(script(1.0))
    play(phone, SayingBridge((0.5, message)))
    assert phone.faults[fault] == 1
    assert phone.ended is Ended.BY_CALLER


def test_what_is_sent_before_start_is_counted_and_not_played() -> None:
    phone = Phone(script(1.0), Line(start_after_s=1.0))
    play(phone, SayingBridge((-0.5, media(tone(0.1)))))
    assert phone.faults == {Fault.BEFORE_START: 1}
    assert phone.player.first_audio_s is None


def test_numbers_that_do_not_rise_are_counted() -> None:
    phone = Phone(script(1.0))
    play(phone, SayingBridge(*((0.1 * n, media(tone(0.02), sequence_number=str(n // 2))) for n in range(4))))
    assert phone.faults == {Fault.OUT_OF_SEQUENCE: 2}


@pytest.mark.parametrize(
    ("hang_up", "events", "code"),
    [
        (HangUp.STOP, ["stop"], 1000),
        (HangUp.STOP_ONLY, ["stop"], 1006),
        (HangUp.CLOSE_ONLY, [], 1000),
        (HangUp.ABORT, [], 1006),
    ],
)
def test_every_way_to_hang_up_ends_the_call(hang_up: HangUp, events: list[str], code: int) -> None:
    bridge = SayingBridge()
    phone = Phone(script(0.3), Line(hang_up=hang_up))
    play(phone, bridge, closes_on_stop=False)
    assert [event["event"] for event in bridge.events[-1:] if event["event"] == "stop"] == events
    assert phone.close_code == code
    assert phone.ended is Ended.BY_CALLER
    assert phone.duration_s == pytest.approx(0.3)
    assert phone.faults[Fault.LEFT_OPEN] == (hang_up is HangUp.STOP_ONLY)


def test_a_cut_network_ends_the_call_without_a_word() -> None:
    bridge = SayingBridge()
    phone = Phone(script(3.0), network=parse_network("cut at 1.05s"))
    play(phone, bridge)
    assert not bridge.named("stop")
    assert phone.ended is Ended.BY_NETWORK
    assert phone.duration_s == pytest.approx(1.05)
    assert len(phone.player.heard) == 8400


def test_words_still_queued_when_the_bridge_closes_are_not_heard() -> None:
    phone = Phone(script(9.0))
    phone.due(0.0)
    phone.receive(json.dumps(media(tone(1.0))), 1.0)
    phone.closed(1.25, 1000)
    assert phone.ended is Ended.BY_BRIDGE
    assert phone.is_over
    assert len(phone.player.heard) == 10_000


def test_a_polite_caller_speaks_after_the_greeting_and_waits_for_the_answer() -> None:
    greeting = [(0.5 + 0.1 * n, media(tone(0.1))) for n in range(20)]
    answer = [(6.0 + 0.1 * n, media(tone(0.1))) for n in range(10)]
    phone = Phone(Script(tone(1.0)))
    play(phone, SayingBridge(*greeting, *answer))
    assert phone.caller.spoke_at_s == pytest.approx(2.5 + 0.8, abs=0.11)
    assert phone.duration_s == pytest.approx(7.0 + 3.0, abs=0.11)
    assert phone.caller.left is Leaving.ANSWERED


def test_a_caller_whom_nobody_answers_speaks_all_the_same_and_hangs_up() -> None:
    phone = Phone(Script(tone(1.0)))
    play(phone, SayingBridge())
    assert phone.caller.spoke_at_s == pytest.approx(5.0, abs=0.11)
    assert phone.duration_s == pytest.approx(5 + 1 + 8, abs=0.21)
    assert phone.caller.left is Leaving.UNANSWERED


def test_an_agent_that_never_pauses_is_interrupted_and_left() -> None:
    endless = [(0.5 + 0.1 * n, media(tone(0.1))) for n in range(600)]
    phone = Phone(Script(tone(1.0), greeting_longest_s=10.0, listen_longest_s=20.0))
    play(phone, SayingBridge(*endless))
    assert phone.caller.interrupted
    assert phone.caller.spoke_at_s == pytest.approx(0.5 + 10, abs=0.11)
    assert phone.duration_s == pytest.approx(0.5 + 10 + 1 + 20, abs=0.21)
    assert phone.caller.left is Leaving.TIRED


@asynccontextmanager
async def echo_server(**options: Any) -> AsyncIterator[str]:
    async def echo(ws: ServerConnection) -> None:
        async for message in ws:
            event = json.loads(message)
            if event["event"] == "media":
                await ws.send(json.dumps({"event": "media", "media": {"payload": event["media"]["payload"]}}))
            elif event["event"] == "stop":
                return

    async with serve(echo, "127.0.0.1", 0, **options) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_call_over_a_real_socket_is_heard() -> None:
    phone = Phone(script(5.0, hang_up_at_s=6.0), Line(chunk_ms=100))
    async with echo_server() as address:
        await place_call(f"ws://{address}/exotel", phone, clock=Clock(speed=20))
    assert phone.ended is Ended.BY_CALLER
    assert phone.close_code == 1000
    assert phone.media_received >= 58
    assert np.count_nonzero(phone.player.heard) > 0.95 * np.count_nonzero(phone.said)


async def test_a_user_and_password_in_the_url_are_basic_authentication() -> None:
    phone = Phone(script(0.5))
    async with echo_server(process_request=basic_auth(credentials=("key", "token"))) as address:
        await place_call(f"ws://key:token@{address}/exotel", phone, clock=Clock(speed=20))
        with pytest.raises(CallRefused, match="401") as refused:
            await place_call(f"ws://{address}/exotel", Phone(script(0.5)))
    assert refused.value.status == 401
    assert phone.ended is Ended.BY_CALLER


async def test_a_bridge_that_closes_ends_the_call() -> None:
    async def hang_up(ws: ServerConnection) -> None:
        await ws.recv()
        await ws.close(1013, "no engine is free")

    phone = Phone(script(60.0))
    async with serve(hang_up, "127.0.0.1", 0) as server:
        await place_call(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", phone)
    assert (phone.ended, phone.close_code, phone.close_reason) == (Ended.BY_BRIDGE, 1013, "no engine is free")


@pytest.mark.parametrize(
    ("url", "problem"),
    [("ws://127.0.0.1:1/exotel", "cannot be reached"), ("http://127.0.0.1", "is not a ws:// or wss:// URL")],
)
async def test_a_call_that_cannot_be_placed_says_why(url: str, problem: str) -> None:
    with pytest.raises(CallFailed, match=problem):
        await place_call(url, Phone(script()))


async def test_a_port_without_tls_is_told_from_one_that_is_not_there() -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CallFailed, match=r"does not speak TLS: this port takes ws:// calls"):
            await place_call(f"wss://127.0.0.1:{port}/exotel", Phone(script()))


TOKEN = "d.ffffffff..AAAAAAAAAAAAAAAA.0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("HTTP/1.1 404 Not Found\r\n\r\nCannot GET {path}", "HTTP 404 Not Found: Cannot GET /exotel/t/…"),
        ("HTTP/1.1 308 Moved\r\nLocation: https://{user}@h{path}\r\n\r\n", "on to https://h/exotel/t/…"),
        ("HTTP/1.1 308 Moved\r\nLocation: ws://h:port{path}\r\n\r\n", "an address that is no URL"),
        ("{path} {user}\r\n\r\n", "is not a WebSocket server"),
        (None, "is not a ws:// or wss:// URL"),
    ],
)
async def test_no_error_shows_a_token_or_a_password_not_even_its_traceback(
    answer: str | None, problem: str
) -> None:
    user, path = "asha:hunter2", f"/exotel/t/{TOKEN}"

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write((answer or "").format(path=path, user=user).encode())
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1] if answer else "port"
        with pytest.raises(CallFailed) as failed:
            await place_call(f"ws://{user}@127.0.0.1:{port}{path}", Phone(script()))
    assert problem in str(failed.value)
    told = "".join(traceback.format_exception(failed.value))
    assert TOKEN not in told and "hunter2" not in told
