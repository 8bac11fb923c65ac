"""The console's limit of connections holds for peers that never read, and before the TLS handshake."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from tests.attack.test_floods import Stranger, descriptors
from tests.fault.processes import until
from tests.virtual_time import run

from pxbridge.console.connections import HEAD_TIMEOUT_S
from pxbridge.console.server import Console, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST = 8
STRANGERS = 40
NAME = "console.example.com"
LARGE = bytes(16 * 1024 * 1024)
"""More than the kernel takes for a peer that does not read."""

TASKS = 2
"""That the library has for a connection with a request in progress."""

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST_METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pxbridge.console.connections.most_connections", lambda: MOST)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def of_server(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(context)
    return context


def of_client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextlib.asynccontextmanager
async def console(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Console, int]]:
    it = Console(lambda: LARGE, lambda: {"live": [], "recent": []}, tuple, lambda name, _action, _by: name)
    async with serve(it, "127.0.0.1", 0, context) as port:
        yield it, port


async def is_alive(port: int, authority: trustme.CA) -> bool:
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"https://127.0.0.1:{port}/livez", ssl=of_client(authority), server_hostname=NAME
        ) as answer,
    ):
        return await answer.text() == "alive\n"


@pytest.mark.parametrize("requests", [METRICS * 4, LAST_METRICS], ids=["many", "the last one"])
@pytest.mark.parametrize("secure", [False, True])
async def test_peers_that_never_read_are_no_more_than_the_limit(
    secure: bool, requests: bytes, authority: trustme.CA
) -> None:
    async with console(of_server(authority) if secure else None) as (_, port):
        client = {"ssl": of_client(authority), "server_hostname": NAME} if secure else {}
        before, tasks_before = descriptors(), len(asyncio.all_tasks())
        strangers = []
        for _ in range(STRANGERS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1, **client)  # type: ignore[arg-type]
            strangers.append(Stranger(reader, writer))
            writer.write(requests)
            assert await reader.readexactly(1) == b"H"
        await until(lambda: descriptors() - before - STRANGERS <= MOST, "descriptors are closed", 10.0)
        await until(lambda: len(asyncio.all_tasks()) - tasks_before <= TASKS * MOST, "tasks end", 10.0)
        for stranger in strangers:
            stranger.close()
        await until(lambda: descriptors() <= before, "all is closed", 10.0)


async def test_silent_connections_count_before_their_tls_handshake(authority: trustme.CA) -> None:
    async with console(of_server(authority)) as (it, port):
        before = descriptors()
        strangers = [Stranger(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(STRANGERS)]
        await until(lambda: it.connections.cut == STRANGERS - MOST, "some are cut", 10.0)
        await until(lambda: descriptors() - before - STRANGERS <= MOST, "descriptors are closed", 10.0)
        assert await asyncio.gather(*(each.is_cut() for each in strangers[:-MOST])) == [True] * (
            STRANGERS - MOST
        )
        assert await is_alive(port, authority)
        for stranger in strangers:
            stranger.close()
        await until(lambda: descriptors() <= before, "all is closed", 10.0)


def test_a_tls_handshake_has_a_time_limit(authority: trustme.CA) -> None:
    async def main() -> float:
        async with console(of_server(authority)) as (_, port):
            began_s = asyncio.get_running_loop().time()
            stranger = Stranger(*await asyncio.open_connection("127.0.0.1", port))
            assert await stranger.is_cut()
            stranger.close()
            return asyncio.get_running_loop().time() - began_s

    assert HEAD_TIMEOUT_S - 1.0 < run(main()) < HEAD_TIMEOUT_S + 1.0


async def test_connections_whose_tls_handshake_fails_count_no_more(authority: trustme.CA) -> None:
    async with console(of_server(authority)) as (it, port):
        for said in (LIVEZ, b"\x16\x03\x01\xff\xff" + bytes(100), b"") * MOST:
            stranger = Stranger(*await asyncio.open_connection("127.0.0.1", port))
            stranger.writer.write(said)
            stranger.writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await stranger.reader.read()
            stranger.close()
        assert await is_alive(port, authority)
        assert it.connections.cut == 0


async def test_a_request_that_comes_with_the_end_of_the_tls_handshake_is_answered(
    authority: trustme.CA,
) -> None:
    async with console(of_server(authority)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = of_client(authority).wrap_bio(received, to_send, server_hostname=NAME)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(to_send.read())
                received.write(await reader.read(65_536))
        client.write(LIVEZ)
        writer.write(to_send.read())
        answer = b""
        while not answer.endswith(b"alive\n"):
            try:
                piece = client.read()
                assert piece, "closed without an answer"
                answer += piece
            except ssl.SSLWantReadError:
                data = await reader.read(65_536)
                assert data, "closed without an answer"
                received.write(data)
        assert answer.startswith(b"HTTP/1.1 200 ")
        writer.transport.abort()


async def test_a_console_that_ends_cuts_tls_handshakes(authority: trustme.CA) -> None:
    before = descriptors()
    async with console(of_server(authority)) as (it, port):
        stranger = Stranger(*await asyncio.open_connection("127.0.0.1", port))
        await until(lambda: len(it.connections._open) == 1, "it is accepted", 10.0)
    assert await stranger.is_cut()
    stranger.close()
    await until(lambda: descriptors() <= before, "all is closed", 10.0)
