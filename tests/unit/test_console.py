"""The console: who may ask, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.virtual_time import run

from pxbridge.calls.persona import Persona, Personas
from pxbridge.calls.phrases import Action, End
from pxbridge.console.auth import DELAY_S
from pxbridge.console.server import Console, Refused, serve
from pxbridge.console.talk import Talks
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.tokens import Signer
from pxbridge.websocket import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALLS: dict[str, list[dict[str, Any]]] = {"live": [{"call": "c1"}], "recent": []}


done_there: list[tuple[str, Action, str]] = []


def operate(name: str, action: Action, by: str) -> str:
    done_there.append((name, action, by))
    return name


@asynccontextmanager
async def console(*logins: str, reasons: tuple[str, ...] = ()) -> AsyncIterator[aiohttp.ClientSession]:
    console = Console(lambda: b"pxbridge_live_calls 1.0\n", lambda: CALLS, lambda: reasons, operate, logins)
    async with (
        serve(console, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def test_metrics_and_calls_are_told() -> None:
    async with console() as session:
        async with session.get("/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert await answer.text() == "pxbridge_live_calls 1.0\n"
        async with session.get("/api/calls") as answer:
            assert await answer.json() == CALLS
        async with session.get("/exotel") as answer:
            assert answer.status == 404
        async with session.post("/api/calls") as answer:
            assert answer.status == 405


async def test_readiness_comes_with_its_reasons() -> None:
    async with console(reasons=("no engine works", "draining")) as session:
        async with session.get("/livez") as answer:
            assert answer.status == 200
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "no engine works\ndraining\n")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Basic " + base64.b64encode(b"ann:wrong").decode(), 401),
        ("Basic not base64", 401),
        ("Bearer x", 401),
        ("Basic " + base64.b64encode(b"ann:right").decode(), 200),
        ("basic " + base64.b64encode("böb:räd".encode()).decode(), 200),
    ],
)
async def test_with_logins_everything_but_health_asks_for_one(given: str | None, status: int) -> None:
    headers = {"Authorization": given} if given else {}
    async with console("ann:right", "böb:räd") as session:
        for path in ("/metrics", "/api/calls", "/nothing"):
            async with session.get(path, headers=headers) as answer:
                assert answer.status == (404 if path == "/nothing" and status == 200 else status)
        async with session.get("/livez") as answer:
            assert answer.status == 200


async def test_who_did_it_is_the_logins_user_and_without_logins_who_says_so() -> None:
    ann = {"Authorization": "Basic " + base64.b64encode(b"ann:right").decode()}
    asked = {"call": "CA1", "by": "bob\n" + "x" * 100}
    done_there.clear()
    async with (
        console("ann:right") as session,
        session.post("/api/calls/end", json=asked, headers=ann) as answer,
    ):
        assert (answer.status, await answer.json()) == (202, {"call": "CA1"})
    async with console() as session:
        async with session.post("/api/calls/end", json=asked) as answer:
            assert answer.status == 202
        async with session.post("/api/calls/end", json=asked, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403
    assert done_there == [("CA1", End(), "ann"), ("CA1", End(), "bob" + "x" * 61)]


def test_wrong_logins_are_delayed_counted_and_logged_without_what_was_tried(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pxbridge.console.auth.MAX_DELAYED", 8)

    def basic(login: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        console = Console(lambda: b"", lambda: CALLS, tuple, operate, ["ann:right"], clock)
        async with (
            serve(console, "127.0.0.1", 0) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        ):

            async def asked(headers: dict[str, str]) -> tuple[int, bool]:
                """The status, and whether it took as long as a delayed answer."""
                began_s = clock()
                async with session.get("/api/calls", headers=headers) as answer:
                    return answer.status, clock() - began_s >= DELAY_S

            at_once = [await asked(basic(f"ann:guess-{n}")) for n in range(10)]
            assert at_once == [(401, False)] * 10
            assert await asked(basic("ann:wrong")) == (429, True)
            assert await asked(basic("ann:right")) == (200, False), "whatever others at its address try"
            assert await asked({}) == (401, False)
            guessing = [asyncio.create_task(asked(basic(f"ann:guess-{n}"))) for n in range(20)]
            assert await asked(basic("ann:right")) == (200, False)
            answers = await asyncio.gather(*guessing)
            assert {status for status, _ in answers} == {429}
            assert sum(delayed for _, delayed in answers) >= 8
            await asyncio.sleep(20.0)
            assert await asked(basic("ann:wrong")) == (401, False)
        expected = {Refused.WRONG_LOGIN: 11, Refused.TOO_MANY: 21}
        assert console.refused == dict.fromkeys(Refused, 0) | expected
        assert not any("guess" in message for message in caplog.messages)
        assert caplog.messages[0] == (
            "console refused requests (wrong login: 1), the last one from 127.0.0.1"
        )

    run(main())


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pxbridge.console.auth.DELAY_S", 0.0)


@pytest.mark.usefixtures("no_delay")
async def test_clients_of_a_trusted_proxy_are_told_apart_and_of_another_are_not() -> None:
    """Each guesses twelve times, and then others at the same proxy mistype once."""
    wrong = "Basic " + base64.b64encode(b"ann:wrong").decode()
    signer = Signer([b"k" * 32], time.time)
    for proxies, status in (["127.0.0.1"], 401), ([], 429):
        access = AccessControl(signer, time.monotonic, proxies=[ipaddress.ip_network(p) for p in proxies])
        console = Console(
            lambda: b"", lambda: CALLS, tuple, operate, ["ann:right"], client=access.client_behind
        )
        async with (
            serve(console, "127.0.0.1", 0) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        ):

            async def asked(client: str, session: aiohttp.ClientSession = session) -> int:
                headers = {"Authorization": wrong, "X-Forwarded-For": client}
                async with session.get("/api/calls", headers=headers) as answer:
                    return answer.status

            # What a client writes itself stands to the left of what the proxy appends.
            guessed = [await asked(f"192.0.2.{n}, 198.51.100.1") for n in range(12)]
            assert guessed[-1] == 429
            assert await asked("198.51.100.2") == status


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:5051", 200), ("[::1]:5051", 200), ("evil.example", 403), ("", 403)]
)
async def test_without_logins_no_web_page_reaches_it_by_a_name_of_its_own(host: str, status: int) -> None:
    async with console() as session, session.get("/api/calls", headers={"Host": host}) as answer:
        assert answer.status == status


# What is turned away

HELLO_TLS = bytes.fromhex("16030100c8010000c40303") + bytes(192)
PROXY_LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 5051\r\n"


def request(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("said", "reason", "told"),
    [
        (request("/metric?token=hunter2"), Reason.NOT_FOUND, "127.0.0.1 (GET /metric): not found"),
        (request("/metrics", "POST"), Reason.METHOD, "(POST /metrics): the method is not allowed"),
        (request("/api/chat"), Reason.NOT_UPGRADED, "must pass on the Upgrade and Connection headers"),
        (b"GET / HTTP/1.1\r\n: \r\n\r\n", Reason.INVALID_REQUEST, "127.0.0.1: the request is not valid"),
        (b"\x01\x02\x03\r\n\r\n", Reason.INVALID_REQUEST, "127.0.0.1: the request is not valid"),
        (
            HELLO_TLS,
            Reason.TLS,
            "127.0.0.1: this looks like TLS, and this port speaks plain HTTP: open http://",
        ),
        (
            PROXY_LINE + request("/livez"),
            Reason.PROXY_UNEXPECTED,
            "the console reads X-Forwarded-For instead",
        ),
    ],
)
async def test_what_is_turned_away_is_counted_and_logged(
    said: bytes, reason: Reason, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    personas = Personas(Persona("NATF0.pt", "You are kind."))
    talks = Talks(lambda _arrival: [], lambda: personas, _no_voices, rehearsal=True)
    it = Console(lambda: b"", lambda: CALLS, tuple, operate, talks=talks)
    async with serve(it, "127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        assert (await reader.read()).startswith((b"HTTP/1.1 4", b"HTTP/1.0 400"))
        writer.close()
        await writer.wait_closed()
    assert it.turn_away.counts == {reason: 1}
    (line,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.INFO)
    assert line.startswith("console: turned away 127.0.0.1")
    assert told in line and "hunter2" not in line


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_tells_its_methods(path: str) -> None:
    async with console("ann:right") as session, session.options(path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")


async def _no_voices() -> list[str] | None:
    return None
