"""The console: who may ask, and what it answers."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from pxbridge.calls.phrases import Action, End
from pxbridge.console.server import Console, Refused, serve

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


async def test_wrong_logins_are_bounded_counted_and_logged_without_what_was_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = [1000.0]
    console = Console(lambda: b"", lambda: CALLS, tuple, operate, ["ann:right"], lambda: now_s[0])

    def basic(login: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}

    async with (
        serve(console, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def status(headers: dict[str, str]) -> int:
            async with session.get("/api/calls", headers=headers) as answer:
                return answer.status

        tried = [await status(basic(f"ann:guess-{n}")) for n in range(60)]
        assert tried == [401] * 10 + [429] * 50
        assert await status(basic("ann:right")) == 429, "or a guess that is right would show"
        assert await status({}) == 401
        now_s[0] += 10.0
        assert await status(basic("ann:right")) == 200
        assert await status(basic("ann:right")) == 200, "who is right uses nothing up"
        assert await status(basic("ann:wrong")) == 401
        assert await status(basic("ann:wrong")) == 429
    assert console.refused == dict.fromkeys(Refused, 0) | {Refused.WRONG_LOGIN: 11, Refused.TOO_MANY: 52}
    (line,) = caplog.messages
    assert line == "console refused requests (wrong login: 1), the last one from 127.0.0.1"


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:5051", 200), ("[::1]:5051", 200), ("evil.example", 403), ("", 403)]
)
async def test_without_logins_no_web_page_reaches_it_by_a_name_of_its_own(host: str, status: int) -> None:
    async with console() as session, session.get("/api/calls", headers={"Host": host}) as answer:
        assert answer.status == status
