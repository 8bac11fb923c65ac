"""What a page of another site, and a stranger without a login, can do with the console: nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest
from tests.call.rig import speech
from tests.console.rig import Served, served
from tests.console.talker import Talker
from tests.fault.processes import until
from tests.virtual_time import run
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pxbridge.console import auth
from pxbridge.console.auth import DELAY_S, SESSION_COOKIE, SESSION_IDLE_S, SESSION_LONGEST_S
from pxbridge.console.live import SLOW_S
from pxbridge.records.find_recording import find_recording
from pxbridge.simulation.mouth_to_ear import listen
from pxbridge.simulation.phone import Line, Script
from pxbridge.websocket.limits import FLOODED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

LOGIN = {"user": "asha", "password": "correct-horse-battery"}
LOGINS = ("asha:correct-horse-battery",)
EVIL = "http://evil.example"
END = {"call": "CA-victim"}


@asynccontextmanager
async def console(*logins: str, **more: Any) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    jar = aiohttp.CookieJar(unsafe=True)  # for cookies of an address without a name
    async with (
        served(console={"logins": logins, **more}) as s,
        aiohttp.ClientSession(s.url, cookie_jar=jar) as session,
    ):
        yield s, session


async def logged_in(session: aiohttp.ClientSession) -> None:
    async with session.post("/api/session", json=LOGIN) as answer:
        assert answer.status == 204


# -- another site's page ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "file://"},
        {"Origin": "http://[broken"},
    ],
    ids=str,
)
async def test_another_sites_page_changes_nothing(headers: Mapping[str, str]) -> None:
    async with console(*LOGINS) as (s, session):
        await logged_in(session)
        for method, path in (
            ("POST", "/api/calls/end"),
            ("POST", "/api/calls/hand-over"),
            ("POST", "/api/session"),
            ("DELETE", "/api/session"),
        ):
            async with session.request(method, path, json=END, headers=headers) as answer:
                assert answer.status == 403, path
                assert "error" in await answer.json()
        async with session.get("/api/calls") as answer:
            assert answer.status == 200, "nobody was logged out"
        assert s.console.refused


@pytest.mark.parametrize("path", ["/api/chat?text_prompt=x", "/api/live"])
@pytest.mark.parametrize("logins", [(), LOGINS], ids=["open", "with logins"])
async def test_another_sites_page_opens_no_socket(path: str, logins: tuple[str, ...]) -> None:
    async with console(*logins) as (s, session):
        if logins:
            await logged_in(session)
        for headers in ({"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(path, headers=headers)
            assert refused.value.status == 403
        assert s.bridge.registry.live == 0
        async with session.ws_connect(path, headers={"Origin": s.url, "Sec-Fetch-Site": "same-origin"}):
            pass


async def test_another_sites_page_reads_nothing_and_a_link_from_it_works() -> None:
    async with console() as (_, session):
        for mode in ("no-cors", "cors"):
            headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}
            async with session.get("/api/calls", headers=headers) as answer:
                assert answer.status == 403
                assert "Access-Control-Allow-Origin" not in answer.headers
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        async with session.get("/api/calls", headers=link) as answer:
            assert answer.status == 200
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


async def test_a_name_that_points_here_is_no_name_of_ours() -> None:
    async with console() as (_, session):
        for host in (
            "evil.example",
            "evil.example:5051",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
        ):
            for path in ("/api/calls", "/metrics", "/", "/talk", "/api/session"):
                async with session.get(path, headers={"Host": host, "Origin": f"http://{host}"}) as answer:
                    assert answer.status == 403, (host, path)
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect("/api/chat", headers={"Host": host, "Origin": f"http://{host}"})
            assert refused.value.status == 403


async def test_origins_that_the_settings_name_are_ours() -> None:
    async with console(origins=("https://console.example.com", "http://lan:8080")) as (_, session):
        for host, origin, status in (
            ("127.0.0.1:5051", "https://console.example.com", 404),  # the proxy changes the Host
            ("console.example.com", "https://console.example.com", 404),
            ("lan:8080", "http://lan:8080", 404),
            ("127.0.0.1:5051", "http://console.example.com:8080", 403),
            ("lan:8080", "http://lan:8081", 403),
            # Anybody on the way can write a page of the same name that comes without TLS.
            ("127.0.0.1:5051", "http://console.example.com", 403),
            ("console.example.com", "http://console.example.com", 403),
            ("127.0.0.1:5051", "https://console.example.com:443", 404),
            ("other.example", "https://console.example.com", 403),
        ):
            headers = {"Host": host, "Origin": origin}
            async with session.post("/api/calls/end", json=END, headers=headers) as answer:
                assert answer.status == status, (host, origin)
            if status == 404:
                async with session.ws_connect("/api/live", headers=headers) as live:
                    assert (await live.receive()).type is aiohttp.WSMsgType.TEXT
            else:
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await session.ws_connect("/api/live", headers=headers)


# -- who is who -------------------------------------------------------------------------------------------


async def test_a_session_is_a_cookie_that_scripts_cannot_read_and_a_logout_ends_it() -> None:
    async with console(*LOGINS) as (s, session):
        async with session.get("/api/session") as answer:
            assert (await answer.json())["user"] is None
        async with session.post("/api/session", json=LOGIN) as answer:
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
        assert "Secure" not in cookie
        async with session.get("/api/session") as answer:
            told = await answer.json()
        assert (told["login"], told["user"]) == (True, "asha")
        token = next(each.value for each in session.cookie_jar if each.key == SESSION_COOKIE)
        assert token not in repr(vars(s.console._access.sessions))
        live = await session.ws_connect("/api/live")
        assert (await live.receive_json())["type"] == "snapshot"
        async with session.delete("/api/session") as answer:
            assert answer.status == 204
        while (message := await live.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert (message.type, live.close_code) == (aiohttp.WSMsgType.CLOSE, 1008)
        stolen = {"Cookie": f"{SESSION_COOKIE}={token}"}
        async with session.get("/api/calls", headers=stolen) as answer:
            assert answer.status == 401


def test_a_session_ends_when_it_is_not_used_and_after_a_week() -> None:
    now_s = 0.0
    sessions = auth.Sessions(lambda: now_s)
    token = sessions.begin("asha", b"")
    for _ in range(13):
        now_s += SESSION_IDLE_S
        assert sessions.user(token) == "asha", "in use"
    now_s += SESSION_IDLE_S - 1
    assert sessions.lives(token) and sessions.user(token) == "asha"
    now_s = SESSION_LONGEST_S + 1
    assert not sessions.lives(token) and sessions.user(token) is None
    token = sessions.begin("asha", b"")
    now_s += SESSION_IDLE_S - 1
    assert sessions.lives(token), "asked, and not used"
    now_s += 2
    assert sessions.user(token) is None


def test_of_too_many_sessions_the_one_that_was_unused_for_longest_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "MAX_SESSIONS", 3)
    sessions = auth.Sessions(lambda: 0.0)
    tokens = [sessions.begin("asha", b"") for _ in range(3)]
    sessions.user(tokens[0])
    tokens.append(sessions.begin("asha", b""))
    assert [sessions.lives(token) for token in tokens] == [True, False, True, True]


async def test_a_login_that_is_taken_away_ends_its_sessions_and_live_pages() -> None:
    others = "ravi:another-long-password"
    async with console(*LOGINS, others) as (s, session), aiohttp.ClientSession(s.url) as other:
        await logged_in(session)
        user, _, password = others.partition(":")
        async with other.post("/api/session", json={"user": user, "password": password}) as answer:
            ravis = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
        program = {"Authorization": "Basic " + base64.b64encode(LOGINS[0].encode()).decode()}
        lives = [
            await session.ws_connect("/api/live"),
            await other.ws_connect("/api/live", headers=program),
            await other.ws_connect("/api/live", headers=ravis),
        ]
        s.console.use(["asha:a-password-that-is-new", others], [], [])
        for live in lives[:2]:
            while (await live.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert live.close_code == 1008
        for _ in range(2):
            assert (await lives[2].receive()).type is aiohttp.WSMsgType.TEXT, "nothing changed for ravi"
        for who, headers, status in ((session, {}, 401), (other, program, 401), (other, ravis, 200)):
            async with who.get("/api/calls", headers=headers) as answer:
                assert answer.status == status
        await lives[2].close()


async def test_behind_tls_the_cookie_never_leaves_it() -> None:
    async with (
        console(*LOGINS) as (_, session),
        session.post("/api/session", json=LOGIN, headers={"X-Forwarded-Proto": "https"}) as answer,
    ):
        assert "Secure" in answer.headers["Set-Cookie"]


async def test_a_token_is_a_programs_login_and_its_name_is_noted() -> None:
    token = "0123456789abcdef" * 4
    async with console(tokens=(f"prometheus:{token}",)) as (s, session):
        for given, status in (
            (f"Bearer {token}", 200),
            (f"bearer {token}", 200),
            (f"Bearer {token}x", 401),
            ("Bearer prometheus", 401),
            ("Bearer", 401),
        ):
            async with session.get("/metrics", headers={"Authorization": given}) as answer:
                assert answer.status == status, given
        phone = asyncio.create_task(
            s.bridge.call(Script(speech(), hang_up_at_s=30.0), Line(call_sid="CA-one"))
        )
        await until(lambda: any(call.record.live_s for call in s.bridge.registry), "the call is live")
        bearer = {"Authorization": f"Bearer {token}"}
        async with session.post(
            "/api/calls/end", json={"call": "CA-one", "by": "me"}, headers=bearer
        ) as answer:
            assert answer.status == 202
        await phone
        record = await s.bridge.record()
        assert record.ending is not None and record.ending.reason == "ended by the operator prometheus"


async def test_a_browser_opens_no_box_of_its_own_for_a_pages_script() -> None:
    async with console(*LOGINS) as (_, session):
        for headers, challenged in (
            ({}, True),
            ({"Sec-Fetch-Mode": "navigate"}, True),
            ({"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}, False),
            ({"X-Requested-With": "pxbridge"}, False),
        ):
            async with session.get("/api/calls", headers=headers) as answer:
                assert answer.status == 401
                assert ("WWW-Authenticate" in answer.headers) is challenged, headers


async def test_a_flood_of_logins_is_bounded_by_either_way_in() -> None:
    async with console(*LOGINS) as (s, session):

        async def try_login(n: int) -> int:
            wrong = {"user": "asha", "password": f"guess-{n}"}
            async with session.post("/api/session", json=wrong) as answer:
                if answer.status == 429:
                    assert int(answer.headers["Retry-After"]) > 0
                return answer.status

        statuses = await asyncio.gather(*(try_login(n) for n in range(60)))
        assert statuses.count(401) <= 12, "a guess costs time"
        assert len(s.console._access.sessions._sessions) == 0
        user, _, password = LOGINS[0].partition(":")
        async with session.post("/api/session", json={"user": user, "password": password}) as answer:
            assert answer.status == 204, "whatever others at the same address get wrong"


async def test_asking_who_one_is_tells_no_more_guesses_than_a_login() -> None:
    async with console(*LOGINS) as (_, session):
        loop = asyncio.get_running_loop()

        async def guess(n: int) -> tuple[int, float]:
            began_s = loop.time()
            wrong = base64.b64encode(f"asha:guess-{n}".encode()).decode()
            headers = {"Authorization": f"Basic {wrong}"}
            async with session.get("/api/session", headers=headers) as answer:
                return answer.status, loop.time() - began_s

        told = await asyncio.gather(*(guess(n) for n in range(25)))
        assert {status for status, _ in told} == {200, 429}
        assert sum(status == 200 for status, _ in told) <= 12
        assert all(took_s >= DELAY_S for status, took_s in told if status == 429)


# -- what strangers write ---------------------------------------------------------------------------------

SCRIPT = "<script>fetch('http://evil.example')</script>\"'`${7*7}\u2028\x00"


async def test_what_callers_write_reaches_pages_only_as_data() -> None:
    async with console() as (s, session):
        line = Line(call_sid=SCRIPT, from_number=SCRIPT, custom_parameters={"persona": SCRIPT, "x": SCRIPT})
        phone = asyncio.create_task(s.bridge.call(Script(speech(), hang_up_at_s=2.0), line))
        talker = Talker(np.zeros(24_000, np.int16), {"text_prompt": SCRIPT})
        await until(lambda: any(call.record.live_s for call in s.bridge.registry), "the call is live")
        async with session.ws_connect("/api/live") as live:
            message = await live.receive()
            (call,) = json.loads(message.data)["calls"]
            assert call["id"] == SCRIPT or "<script>" in call["id"], "as it is: React escapes what it shows"
        for path in ("/api/calls", "/metrics"):
            async with session.get(path) as answer:
                assert answer.content_type in ("application/json", "text/plain")
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                policy = answer.headers["Content-Security-Policy"]
                assert "script-src 'self';" in policy and "unsafe-inline" not in policy
        await phone
        await talker.talk(s.port)
        assert "<" not in s.bridge.prompted[-1].text_prompt


# -- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//....//etc/passwd",
        "/etc/passwd", "C:\\x", "x%00.wav", "calls.db", "numbers.key", "%", "a" * 5000, "' OR 1=1 --",
    ],
)  # fmt: skip
async def test_no_name_of_a_call_names_another_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "numbers.key").write_bytes(b"secret")
    async with console(find_recording=lambda call: find_recording(tmp_path, call)) as (s, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
        # As it is: a client would tidy the path up.
        target = f"/api/calls/{name}/recording".replace(" ", "%20")
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1")
        )
        answer = await reader.read()
        writer.close()
        assert answer.split(b" ", 2)[1] in (b"404", b"400", b"414"), answer[:200]
        assert b"root:" not in answer and b"secret" not in answer


# -- a console that does not read -------------------------------------------------------------------------


async def test_a_console_that_never_reads_is_sent_away_and_costs_calls_nothing() -> None:
    async with console() as (s, session):
        _, writer = await asyncio.open_connection("127.0.0.1", s.port)
        receiving = writer.get_extra_info("socket")
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        writer.write(
            b"GET /api/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key.encode() + b"\r\n\r\n"
        )
        good = await session.ws_connect("/api/live")
        await good.receive_json()
        assert s.live.subscribers == 2
        # What no kernel's buffers hold: snapshots of a size that real ones have with hundreds of calls.
        whole = s.live._snapshot

        def large() -> Any:
            snapshot = whole()
            return snapshot.model_copy(update={"reasons": ["x" * 1_000_000]})

        s.live._snapshot = large
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        taken = 0
        while s.live.subscribers == 2 and loop.time() - began_s < 3 * SLOW_S:
            assert (await good.receive()).type is aiohttp.WSMsgType.TEXT
            taken += 1
        assert s.live.subscribers == 1, "the one that reads nothing is gone"
        assert s.live.sent_away == 1
        assert s.live.skipped > 0
        assert taken > 5, "the other one missed little"
        await good.close()
        writer.transport.abort()


async def test_garbage_after_the_upgrade_ends_that_connection_alone() -> None:
    async with console() as (s, session):
        good = await session.ws_connect("/api/live")
        for junk in (os.urandom(3000), struct.pack("!BBQ", 0x82, 0xFF, 2**62), b"\x89\xfe" + b"x" * 400):
            async with session.ws_connect("/api/chat") as talk:
                transport = talk.get_extra_info("transport")
                if transport is None:
                    transport = talk._response.connection.transport  # type: ignore[union-attr]
                transport.write(junk)
                while (await talk.receive()).type not in (
                    aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR
                ):  # fmt: skip
                    pass
        assert (await good.receive()).type is aiohttp.WSMsgType.TEXT
        await good.close()
        await until(lambda: not s.bridge.registry.live, "the talks are over")


async def test_requests_that_nobody_can_read_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with console() as (s, _):
        for junk in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"x" * 200_000,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
            writer.write(junk + b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert (await reader.read()).startswith((b"HTTP/1.0 400", b"HTTP/1.1 400", b""))
            writer.close()
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_a_talker_that_floods_is_closed_and_others_hear_nothing_of_it() -> None:
    async def main() -> tuple[str, Talker]:
        async with served(slots=2) as s:
            good = Talker(np.concatenate([np.zeros(24_000, np.int16), speech(24_000), speech(24_000)]))
            talk = asyncio.create_task(good.talk(s.port))
            await good.ready.wait()
            async with connect(f"ws://127.0.0.1:{s.port}/api/chat", ping_interval=None) as flooder:
                with contextlib.suppress(ConnectionClosed):
                    while True:  # until it is closed
                        for _ in range(100):
                            await flooder.send(b"\x01OggS" + bytes(40))
                        await asyncio.sleep(0.1)
            reason = await s.bridge.record()
            await talk
            return str(reason.ending and reason.ending.reason), good

    reason, good = run(main())
    assert reason == f"the line broke off: {FLOODED}"
    assert good.listened_at_s is not None
    hearing = listen(good.said, good.player.heard[round(good.listened_at_s * 24_000) :], 24_000)
    assert hearing.correlation > 0.85
    assert hearing.dropouts == ()
