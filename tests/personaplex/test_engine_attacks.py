"""Clients that mean harm. In each of these somebody else is in conversation, and notices nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.personaplex.fake_model import Costs
from tests.personaplex.rig import PERSONA, Client, Rig, http, serving, voice
from tests.virtual_time import run
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pxbridge import chat_wire
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.client import open_session
from pxbridge.personaplex.config import FRAME_S
from pxbridge.personaplex.server import DELAY_S, MAX_DELAYED, Rules
from pxbridge.personaplex.session import LIMITS, Control, Live, Session
from pxbridge.simulation.strict_ogg import PageWriter, page_crc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "a token of some length"


def session_of(rig: Rig, client: Client) -> Session:
    port = str(client.socket.local_address[1])
    (found,) = [session for session in rig.server.sessions if session.peer.endswith(f":{port}")]
    return found


@contextlib.asynccontextmanager
async def undisturbed(rig: Rig, frames: int = 40) -> AsyncIterator[Client]:
    """Somebody talks while the block runs, and every frame is answered at once."""
    client = await rig.call()
    await client.live()
    talking = asyncio.create_task(client.converse(frames))
    try:
        yield client
        await talking
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    assert client.heard_frames == frames
    state = session_of(rig, client).state
    assert isinstance(state, Live)
    assert (state.conversation.cut, state.conversation.dropped_quiet) == (0, 0)
    await client.hang_up()


@pytest.mark.parametrize(
    "name",
    [
        "../secret.pt",
        "..\\secret.pt",
        "/etc/passwd",
        "/secret.pt",
        "....//secret.pt",
        "NATF0.pt/../../secret.pt",
        "NATF0.pt\x00.wav",
        "NATF0.pt\n",
        ".",
        "..",
        "%2e%2e%2fsecret.pt",
        "~/secret.pt",
        "file:///etc/passwd",
        "a" * 5000,
        "NATF0.PT\u202e",
        " ",
        "",
    ],
)
def test_no_path_is_a_voice(name: str) -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig, 5):
            refused = await rig.refused({"voice_prompt": name, "text_prompt": "x"})
            assert refused.status == 400
            assert refused.told["parameter"] == "voice_prompt"
            assert len(refused.told["reason"]) < 400

    run(main())


@pytest.mark.parametrize("size", [9_000, 20_000, 1_000_000])
def test_a_prompt_that_is_too_long_for_a_url_is_refused_before_it_costs_anything(size: int) -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
            with contextlib.suppress(ConnectionError):
                writer.write(b"GET /api/chat?voice_prompt=NATF0&text_prompt=" + b"a" * size)
                writer.write(b" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                await writer.drain()
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert answer.split(b" ")[1] in (b"400", b"414", b"431")
            writer.close()
            assert rig.places.free == 3

    run(main())


def test_a_prompt_longer_than_the_context_is_refused_and_told_what_fits() -> None:
    async def main() -> None:
        async with serving(longest_prompt=300) as rig, undisturbed(rig):
            refused = await rig.refused({"voice_prompt": "NATF0", "text_prompt": "a " * 350})
            assert refused.status == 400
            assert refused.told["parameter"] == "text_prompt"
            assert "350 tokens" in refused.told["reason"]
            assert "238 fit" in refused.told["reason"]
            await (await rig.call({"voice_prompt": "NATF0", "text_prompt": "a " * 238})).live()

    run(main())


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("seed", "-2"),
        ("seed", str(1 << 63)),
        ("seed", "1e3"),
        ("seed", "0x10"),
        ("seed", "NaN"),
        ("seed", ""),
        ("seed", "9" * 5000),
        ("seed", "１２"),
        ("text_temperature", "-0.1"),
        ("text_temperature", "inf"),
        ("text_temperature", "nan"),
        ("text_temperature", "1e999"),
        ("audio_temperature", "0x1p3"),
        ("audio_temperature", "1_0"),
        ("audio_temperature", "10.01"),
        ("text_topk", "0"),
        ("text_topk", "501"),
        ("audio_topk", "-1"),
        ("audio_topk", "2.5"),
        ("queue", "2"),
        ("text_prompt", "a\x00b"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(parameter: str, value: str) -> None:
    async def main() -> None:
        async with serving() as rig:
            refused = await rig.refused({**PERSONA, parameter: value})
            assert (refused.status, refused.told["parameter"]) == (400, parameter)
            assert len(refused.told["reason"]) < 200

    run(main())


@pytest.mark.parametrize(
    "query",
    [
        "voice_prompt=NATF0&text_prompt=%ff",
        "voice_prompt=NATF0&text_prompt=x&seed=1&seed=2",
        "&".join(["voice_prompt=NATF0", "text_prompt=x", *(f"p{n}=1" for n in range(100))]),
        "text_prompt=x",
        "voice_prompt=NATF0",
    ],
)
def test_odd_queries_are_refused_in_words(query: str) -> None:
    async def main() -> None:
        async with serving() as rig:
            refused = await rig.refused(query)
            assert refused.status == 400
            assert refused.told["reason"]

    run(main())


def packets_of_one_byte(count: int) -> bytes:
    """An Ogg stream in which each packet is a byte and stands for 120 ms."""
    writer = PageWriter(1)
    pages = writer.headers()
    sequence = 2
    while count > 0:
        packets = min(count, 255)
        body = b"\xd8" * packets  # six frames of 20 ms would need a second byte; CELT, one frame of 20 ms
        header = struct.pack("<4sBBqIIIB", b"OggS", 0, 0, 0, 1, sequence, 0, packets) + b"\x01" * packets
        page = bytearray(header + body)
        struct.pack_into("<I", page, 22, page_crc(bytes(page)))
        pages.append(bytes(page))
        sequence += 1
        count -= packets
    return b"".join(pages)


def test_a_flood_of_audio_ends_its_session_and_delays_nobody() -> None:
    async def main() -> None:
        async with serving(costs=Costs(tick_s=0.01)) as rig, undisturbed(rig):
            flood = await rig.call()
            await flood.live()
            with contextlib.suppress(ConnectionClosed):
                for _ in range(20):
                    await flood.say(voice(50), paced=False)
                    await asyncio.sleep(0.01)
            assert await flood.closed() == (1008, "more audio than time has passed")
            assert rig.places.free == 3

    run(main())


def test_a_message_that_stands_for_an_hour_is_not_decoded_to_its_end() -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig):
            client = await rig.call()
            await client.live()
            message = chat_wire.audio(packets_of_one_byte(31_000))
            assert len(message) < LIMITS.max_message_bytes
            began_s = time.process_time()
            with contextlib.suppress(ConnectionClosed):
                await client.socket.send(message)
            assert (await client.closed())[0] == 1008
            assert time.process_time() - began_s < 1.0

    run(main())


def test_silence_saves_up_no_right_to_a_flood() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            await asyncio.sleep(500.0)
            with contextlib.suppress(ConnectionClosed):
                await client.socket.send(chat_wire.audio(packets_of_one_byte(20_000)))  # 400 s
            assert (await client.closed())[0] == 1008

    run(main(), 1000.0)


def test_what_a_stalled_network_delivers_at_once_is_no_flood() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            for _ in range(3):
                await asyncio.sleep(30.0)
                await client.say(voice(round(30.0 / FRAME_S)), paced=False)
            await asyncio.sleep(1.0)
            await client.converse(3)

    run(main())


def test_a_message_of_a_megabyte_ends_its_session() -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig):
            client = await rig.call()
            await client.live()
            with contextlib.suppress(ConnectionClosed):
                await client.socket.send(b"\x01" + bytes(1 << 20))
            assert (await client.closed())[0] == 1009

    run(main())


def test_audio_that_is_none_is_silence_and_nothing_else() -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig):
            client = await rig.call()
            await client.live()
            for junk in (b"\x01" + b"OggS" * 5000, b"\x01" + bytes(range(256)) * 100, b"\x01OggS\x00\x02"):
                await client.socket.send(junk)
            await asyncio.sleep(1.0)
            assert client.heard_frames == 0
            await client.hang_up()

    run(main())


def test_a_client_that_does_not_read_loses_its_slot() -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig, 100) as other:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port, limit=1024)
            key = base64.b64encode(bytes(16)).decode()
            query = f"voice_prompt=NATF0&text_prompt={quote('x')}"
            writer.write(
                f"GET /api/chat?{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            assert rig.places.free == 2
            (session,) = rig.server.sessions - {session_of(rig, other)}
            # Nobody talks for it: what it is sent instead is what an hour of talk would be.
            for _ in range(40):
                session._socket.send(chat_wire.audio(bytes(50_000)))
                await asyncio.sleep(0.05)
            async with asyncio.timeout(LIMITS.send_timeout_s + 2.0):
                while rig.places.free != 3:  # noqa: ASYNC110 - in virtual time
                    await asyncio.sleep(0.1)
            writer.transport.abort()

    run(main())


def test_a_client_that_answers_no_ping_loses_its_slot() -> None:
    async def main() -> None:
        async with serving() as rig:
            client = await rig.call()
            await client.live()
            client.socket.transport.pause_reading()
            async with asyncio.timeout(60.0):
                while rig.places.free != 4:  # noqa: ASYNC110 - in virtual time
                    await asyncio.sleep(0.5)

    run(main())


def test_a_thousand_sockets_that_say_nothing_keep_nobody_out() -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig):
            at = ("127.0.0.1", rig.server.port)
            sockets = [await asyncio.open_connection(*at) for _ in range(1000)]
            newcomer = await rig.call()
            await newcomer.live()
            await newcomer.converse(5)
            assert (await rig.get("/livez"))[0] == 200
            for _, writer in sockets:
                writer.transport.abort()

    run(main())


def test_a_thousand_clients_at_once_get_four_slots_and_a_line_of_eight() -> None:
    async def main() -> None:
        async with serving(4, line=8) as rig, undisturbed(rig):
            statuses = []

            async def come(n: int) -> None:
                try:
                    client = await rig.open({**PERSONA, "queue": n % 2})
                    statuses.append(101)
                    await asyncio.sleep(3.0)
                    await client.close()
                except InvalidStatus as error:
                    statuses.append(error.response.status_code)
                    assert int(error.response.headers["Retry-After"]) > 0

            for wave in range(20):
                await asyncio.gather(*(come(50 * wave + n) for n in range(50)))
            assert set(statuses) == {101, 503}
            assert rig.places.waiting == 0
            assert rig.places.free == 3
            assert len(rig.server.sessions) == 1

    run(main(), 400.0)


# Who may come in.


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"bearer {TOKEN}x"},
        {"Authorization": TOKEN},
        {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"user:wrong").decode()},
        {"Authorization": "Basic " + base64.b64encode(TOKEN.encode()).decode()},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xfe").decode()},
    ],
)
def test_without_the_token_nothing_is_told_but_health(headers: dict[str, str]) -> None:
    async def main() -> None:
        async with serving(rules=Rules(token=TOKEN)) as rig:
            for path in ("/voices", "/metrics", "/api/chat?voice_prompt=NATF0&text_prompt=x", "/x", "/"):
                status, told, body = await rig.get(path, **headers)
                assert status == 401, path
                assert "WWW-Authenticate" in told
                assert b"NATF0" not in body
            assert (await rig.get("/livez"))[0] == 200
            assert (await rig.get("/readyz"))[0] == 200
            refused = await rig.refused(additional_headers=headers)
            assert (refused.status, refused.told["error"]) == (401, "token")

    run(main())


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", "Basic " + base64.b64encode(f"x:{TOKEN}".encode()).decode()],
)
def test_with_the_token_everything_works(authorization: str) -> None:
    async def main() -> None:
        async with serving(rules=Rules(token=TOKEN)) as rig:
            client = await rig.call(additional_headers={"Authorization": authorization})
            await client.live()
            await client.converse(3)
            assert (await rig.get("/voices", Authorization=authorization))[0] == 200

    run(main())


def test_a_bridge_may_have_the_token_in_its_engines_url() -> None:
    async def main() -> None:
        async with serving(rules=Rules(token="secret")) as rig:
            url = rig.url("").replace("ws://", "ws://bridge:secret@").rstrip("?")
            session = await open_session(EngineAddress(url), *PERSONA.values())
            session.close()
            await session.wait_closed()

    run(main())


def test_two_authorizations_are_none() -> None:
    async def main() -> None:
        async with serving(rules=Rules(token=TOKEN)) as rig:
            both = f"Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}"
            assert (await rig.get("/voices", Authorization=both))[0] == 401

    run(main())


def test_guessing_tokens_is_slowed_down() -> None:
    async def main() -> None:
        async with serving(rules=Rules(token=TOKEN)) as rig:
            loop = asyncio.get_running_loop()
            began_s = loop.time()

            async def guess(number: int) -> tuple[int, float]:
                status, _, _ = await rig.get("/voices", Authorization=f"Bearer {number}")
                return status, loop.time() - began_s

            told = await asyncio.gather(*map(guess, range(20)))
            assert sorted(status for status, _ in told) == [401] * 10 + [429] * 10
            assert all(at_s < DELAY_S for status, at_s in told if status == 401)
            assert all(at_s >= DELAY_S for status, at_s in told if status == 429)

    run(main())


def test_a_client_is_not_locked_out_by_wrong_tokens_from_its_address() -> None:
    async def main() -> None:
        async with serving(rules=Rules(token=TOKEN)) as rig:
            for guess in range(11):
                status, _, _ = await rig.get("/voices", Authorization=f"Bearer {guess}")
            assert status == 429
            for path in ("/voices", "/readyz", "/metrics"):
                assert (await rig.get(path, Authorization=f"Bearer {TOKEN}"))[0] == 200
            client = await rig.call(additional_headers={"Authorization": f"Bearer {TOKEN}"})
            await client.live()

    run(main())


def test_a_hundred_wrong_tokens_at_once_are_not_all_kept_waiting() -> None:
    async def main() -> None:
        async with serving(rules=Rules(token=TOKEN)) as rig:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            answered_s = []

            async def guess(number: int) -> None:
                await rig.get("/voices", Authorization=f"Bearer {number}")
                answered_s.append(loop.time() - began_s)

            await asyncio.gather(*map(guess, range(100)))
            assert sum(at_s >= DELAY_S for at_s in answered_s) == MAX_DELAYED

    run(main())


def test_without_a_token_a_page_of_another_server_may_not_talk() -> None:
    async def main() -> None:
        async with serving() as rig:
            for origin in ("https://evil.example", "http://localhost:1", "null", ""):
                refused = await rig.refused(additional_headers={"Origin": origin})
                assert (refused.status, refused.told["error"]) == (403, "origin"), origin
            client = await rig.call(additional_headers={"Origin": f"http://{rig.origin}"})
            await client.live()

    run(main())


@pytest.mark.parametrize("origins", [frozenset({"https://web.example"}), frozenset({"*"})])
def test_a_page_of_another_server_may_talk_if_it_is_said_to(origins: frozenset[str]) -> None:
    async def main() -> None:
        async with serving(rules=Rules(origins=origins)) as rig:
            client = await rig.call(additional_headers={"Origin": "https://web.example"})
            await client.live()

    run(main())


@pytest.mark.parametrize(
    ("names", "host", "status"),
    [
        (frozenset({"localhost", "::1"}), "evil.example:8998", 403),  # DNS rebinding
        (frozenset({"localhost", "::1"}), "localhost:8998", 101),
        (frozenset({"localhost", "::1"}), "[::1]:8998", 101),
        (None, "gpu1.example:8998", 101),
    ],
)
def test_a_page_that_came_by_a_strangers_name_is_not_this_servers(
    names: frozenset[str] | None, host: str, status: int
) -> None:
    async def main() -> None:
        async with serving(rules=Rules(names=names)) as rig:
            told = await upgrade(rig, Host=host, Origin=f"http://{host}")
            assert told == status

    run(main())


def test_a_login_that_a_browser_knows_opens_nothing_to_a_page_of_another_server() -> None:
    login = "Basic " + base64.b64encode(f"x:{TOKEN}".encode()).decode()

    async def main() -> None:
        async with serving(rules=Rules(token=TOKEN, origins=frozenset({"https://web.example"}))) as rig:
            own = f"http://{rig.origin}"
            for authorization, origin, status in (
                (login, "https://evil.example", 403),
                (login, "https://web.example", 101),
                (login, own, 101),
                (f"Bearer {TOKEN}", "https://evil.example", 101),
            ):
                told = await upgrade(rig, Origin=origin, Authorization=authorization)
                assert told == status, (authorization, origin)

    run(main())


async def upgrade(rig: Rig, **headers: str) -> int:
    """What is answered to the beginning of a conversation with these headers."""
    asked = {
        "Host": rig.origin,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    } | headers
    return await first_answer(rig.server.port, f"{chat_wire.CHAT_PATH}?{urlencode(PERSONA)}", asked)


async def first_answer(port: int, path: str, headers: dict[str, str]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    first = await reader.readline()
    writer.close()
    return int(first.split()[1])


# Control messages, and whatever else, in every state.


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\xff", bytes(60_000)]
)
@pytest.mark.parametrize("state", ["waiting", "prompting", "live", "paused"])
def test_a_control_message_in_any_state_breaks_nothing(payload: bytes, state: str) -> None:
    async def main() -> None:
        async with serving(2, costs=Costs(position_s=0.005)) as rig, undisturbed(rig, 60):
            holder = await rig.call({"voice_prompt": "NATM1", "text_prompt": "x"})
            client = holder
            if state == "waiting":
                client = await rig.call({**PERSONA, "queue": 1})
                await client.until(lambda: bool(client.messages))
            if state in ("live", "paused"):
                await client.live()
            if state == "paused":
                await client.socket.send(bytes([3, Control.PAUSE]))
            await client.socket.send(b"\x03" + payload)
            await asyncio.sleep(0.5)
            if state == "waiting":
                await holder.hang_up()
            await client.live()
            await client.socket.send(bytes([3, Control.START]))
            await asyncio.sleep(0.5)
            await client.converse(3)
            await client.hang_up()
            if state != "waiting":
                assert rig.places.free == 1

    run(main())


def test_a_storm_of_restarts_costs_a_prompt_a_second_at_most() -> None:
    async def main() -> None:
        async with serving() as rig, undisturbed(rig):
            client = await rig.call()
            await client.live()
            opened = len(rig.stepper.opened)
            for _ in range(300):
                await client.socket.send(bytes([3, Control.RESTART]))
                await asyncio.sleep(0.01)
            assert len(rig.stepper.opened) - opened <= 4
            await client.socket.send(bytes([3, Control.START]))
            await asyncio.sleep(1.0)
            await client.converse(3)

    run(main())


MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"\x03\x00", b"\x03\x01", b"\x03\x02", b"\x03\x03", b"\x06", b"\x00", "text"]),
    st.binary(max_size=400).map(lambda junk: b"\x01OggS" + junk),
    st.just("audio"),
    st.floats(0, 1.5),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(MESSAGES, max_size=40), st.booleans())
def test_whatever_a_client_sends_others_go_on_and_its_slot_comes_back(
    messages: list[Any], hangs_up: bool
) -> None:
    async def main() -> None:
        async with serving(2) as rig, undisturbed(rig, 20):
            client = await rig.call()
            with contextlib.suppress(ConnectionClosed):
                for message in messages:
                    if isinstance(message, float):
                        await asyncio.sleep(message)
                    elif message == "audio":
                        await client.say(voice(1))
                    else:
                        await client.socket.send(message)
            if hangs_up:
                await client.hang_up()
            else:
                client.socket.transport.abort()
            async with asyncio.timeout(10.0):
                while rig.places.free != 1 or len(rig.stepper._slots) != 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    run(main())


def test_a_request_that_never_ends_is_cut() -> None:
    async def main() -> None:
        async with serving() as rig:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
            writer.write(b"GET /api/chat HTTP/1.1\r\nHost: x\r\n")
            async with asyncio.timeout(15.0):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()

    run(main())


def test_bodies_and_odd_methods_are_refused() -> None:
    async def main() -> None:
        async with serving() as rig:
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "CONNECT"):
                status, _, _ = await http(rig.server.port, "/api/chat", method)
                assert status in (400, 405), method

    run(main())
