"""The console: who may ask, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.virtual_time import run

from pxbridge.calls.phrases import Action, End
from pxbridge.console.auth import DELAY_S
from pxbridge.console.server import Console, Refused, serve
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.tokens import Signer

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
