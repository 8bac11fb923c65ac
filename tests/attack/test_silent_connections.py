"""Connections that say nothing, or half of something, to the console and to the telephony port.

Each uses a file descriptor that a call needs. They are few, they end by themselves, and they do not keep out
who has something to say.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import resource
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import pytest
from tests.attack.test_floods import Stranger, descriptors
from tests.exotel_server import listen
from tests.fault.flooder import frame, upgrade
from tests.virtual_time import run

from pxbridge import websocket
from pxbridge.console.api import BODY_TIMEOUT_S
from pxbridge.console.connections import BACKLOG, HEAD_TIMEOUT_S, MAX_CONNECTIONS
from pxbridge.console.server import Console, serve
from pxbridge.ops.descriptors import allowed, raise_limit
from pxbridge.websocket.openings import Openings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pxbridge.telephony.server import Arrival

ANN = {"Authorization": "Basic " + base64.b64encode(b"ann:right").decode()}

WAYS_TO_SAY_NOTHING = {
    "nothing": b"",
    "half a request": b"GET /livez HTTP/1.1\r\nHost: x\r\n",
    "half a request line": b"GET /liv",
}


@contextlib.asynccontextmanager
async def console(*logins: str) -> AsyncIterator[tuple[Console, int]]:
    it = Console(
        lambda: b"", lambda: {"live": [], "recent": []}, tuple, lambda name, _action, _by: name, logins
    )
    async with serve(it, "127.0.0.1", 0) as port:
        yield it, port


async def silent(port: int, said: bytes = b"", address: str = "127.0.0.1") -> Stranger:
    stranger = Stranger(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)))
    stranger.writer.write(said)
    return stranger


@pytest.mark.parametrize("way", WAYS_TO_SAY_NOTHING)
def test_silent_connections_to_the_console_are_few_and_end(way: str) -> None:
    async def main() -> None:
        async with console("ann:right") as (it, port):
            before = descriptors()
            strangers = [await silent(port, WAYS_TO_SAY_NOTHING[way]) for _ in range(600)]
            await asyncio.sleep(1.0)
            held = descriptors() - before - len(strangers)
            assert held <= MAX_CONNECTIONS + BACKLOG
            assert it.connections.cut >= 600 - MAX_CONNECTIONS - BACKLOG
            async with (
                aiohttp.ClientSession(headers=ANN) as session,
                session.get(f"http://127.0.0.1:{port}/api/calls") as answer,
            ):
                assert answer.status == 200
            async with asyncio.timeout(HEAD_TIMEOUT_S + 1.0):
                assert all(await asyncio.gather(*(stranger.is_cut() for stranger in strangers)))
            for stranger in strangers:
                stranger.close()

    run(main())


def test_a_kept_connection_that_says_nothing_more_ends() -> None:
    async def main() -> float:
        async with console() as (_, port):
            stranger = await silent(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /li")
            assert (await stranger.reader.readuntil(b"alive\n")).startswith(b"HTTP/1.1 200 ")
            began_s = asyncio.get_running_loop().time()
            assert await stranger.is_cut()
            stranger.close()
            return asyncio.get_running_loop().time() - began_s

    assert run(main()) < HEAD_TIMEOUT_S + 1.0


def test_a_request_in_progress_is_not_cut_for_silent_connections_and_its_body_has_a_time_limit() -> None:
    async def main() -> bytes:
        async with console() as (_, port):
            request = b"POST /api/calls/end HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            slow = await silent(port, request + b"Content-Length: 100\r\n\r\n{")
            await asyncio.sleep(0.1)
            strangers = [await silent(port) for _ in range(600)]
            answer = await asyncio.wait_for(slow.reader.readuntil(b"\r\n\r\n"), BODY_TIMEOUT_S + 1.0)
            for stranger in (slow, *strangers):
                stranger.close()
            return answer

    assert run(main()).startswith(b"HTTP/1.1 408 ")


def test_silent_connections_of_one_address_cut_only_each_other_on_the_telephony_port() -> None:
    async def own(arrival: Arrival) -> None:
        arrival.socket.on_message = lambda payload, is_text: arrival.socket.send(payload, text=is_text)
        await arrival.socket.wait_closed()

    async def main() -> None:
        async with listen(own, "127.0.0.1", 0) as server:
            phone = await silent(server.port, upgrade()[:-2])  # a slow handshake, begun before the flood
            strangers = [
                await silent(server.port, address="127.0.0.2") for _ in range(websocket.MAX_OPENING + 300)
            ]
            late = await silent(server.port, upgrade()[:-2], address="127.0.0.3")
            await asyncio.sleep(0.1)
            for one in (phone, late):
                one.writer.write(b"\r\n" + frame(1, b"hello"))
                assert (await one.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                assert await one.reader.readexactly(7) == b"\x81\x05hello"
            for stranger in (phone, late, *strangers):
                stranger.close()

    run(main())


def test_the_address_with_the_most_handshakes_loses_its_oldest() -> None:
    cut: list[str] = []
    openings = Openings(most=4)
    arrivals = [
        ("a1", "10.0.0.1"),
        ("b1", "10.0.0.2"),
        ("b2", "10.0.0.2"),
        ("c1", "10.0.0.3"),
        ("b3", "10.0.0.2"),
        ("d1", "10.0.0.4"),
    ]
    for name, address in arrivals:
        openings.add(name, address, partial(cut.append, name))
        while openings.are_too_many:
            openings.cut_one()
    assert cut == ["b1", "b2"]
    openings.remove("b1")  # it is gone already
    openings.remove("a1")
    openings.cut_all()
    assert sorted(cut[2:]) == ["b3", "c1", "d1"] and len(openings) == 0


def test_an_ipv6_customer_counts_as_one_address() -> None:
    cut: list[int] = []
    openings = Openings(most=3)
    openings.add("phone", "2001:db8:1::1", lambda: cut.append(-1))
    for number in range(10):
        openings.add(number, f"2001:db8:2::{number}", partial(cut.append, number))
        while openings.are_too_many:
            openings.cut_one()
    assert cut == list(range(8))


def test_the_process_may_use_the_descriptors_that_the_machine_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (1024, 20_000)

    def setrlimit(_what: int, new: tuple[int, int]) -> None:
        nonlocal limits
        limits = new

    monkeypatch.setattr(resource, "getrlimit", lambda _what: limits)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert allowed() == 20_000
    raise_limit()
    assert limits == (20_000, 20_000)
    limits = (1024, resource.RLIM_INFINITY)
    raise_limit()
    assert limits[0] == allowed() == 65_536
    limits = (300_000, 300_000)
    raise_limit()
    assert limits == (300_000, 300_000) and allowed() == 300_000
