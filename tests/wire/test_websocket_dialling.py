"""Our WebSocket client: refusals, servers of another kind, credentials, and TLS at both ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
import websockets.asyncio.client
import websockets.asyncio.server

from pxbridge.websocket import (
    PEER_STOPPED_READING,
    Closed,
    HandshakeFailed,
    HandshakeRefused,
    Limits,
    connect,
    serve,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection
from tests.websocket_ends import SOON_S, Ends, raw, serving, url


@contextlib.asynccontextmanager
async def answering(reply: bytes | None, *, hang_up: bool = False) -> AsyncIterator[int]:
    """A server that answers every request with `reply`; ``None``: never answers."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply or b"")
        if not hang_up:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", 403),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n", 302),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200),
        (b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 503),
    ],
)
async def test_a_refusal_tells_its_status(reply: bytes, status: int) -> None:
    async with answering(reply) as port:
        with pytest.raises(HandshakeRefused, match=str(status)) as refused:
            await connect(f"ws://127.0.0.1:{port}/")
        assert refused.value.status == status


@pytest.mark.parametrize(
    ("reply", "hang_up"),
    [
        (b"", True),
        (b"HTTP/1.1 101 Switch", True),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
            False,
        ),
    ],
)
async def test_a_server_of_another_kind_is_named_as_such(reply: bytes, hang_up: bool) -> None:
    async with answering(reply, hang_up=hang_up) as port:
        with pytest.raises(HandshakeFailed) as failed:
            await connect(f"ws://127.0.0.1:{port}/")
        assert not isinstance(failed.value, HandshakeRefused)


async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    async with answering(None) as port:
        with pytest.raises(TimeoutError):
            await connect(f"ws://127.0.0.1:{port}/", open_timeout_s=SOON_S)


async def test_a_connect_that_is_cancelled_hangs_up() -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    dialling = asyncio.create_task(connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
    await asked.wait()
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await hung_up.wait()
    server.close()
    await server.wait_closed()


async def test_nobody_listening_is_an_os_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            await connect(f"ws://127.0.0.1:{unused.getsockname()[1]}/")


@pytest.mark.parametrize(
    "bad", ["http://host/", "ws://", "host", "ws://user@host/", "ws://h/#x", "ws://h:port/"]
)
async def test_a_url_that_is_none_is_a_value_error(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        await connect(bad)


async def test_a_password_in_a_bad_url_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="not a WebSocket URL") as bad:
        await connect("http://user:secret@host/")
    assert "secret" not in str(bad.value)


async def test_credentials_and_headers_are_sent(ends: Ends) -> None:
    async with serving(ends.accept) as server:
        address = f"ws://user:p%40ss@127.0.0.1:{server.port}/take"
        end = await connect(address, headers=[("X-Call", "7"), ("User-Agent", "pxbridge")])
        sent = ends.requests[0].headers
        assert sent["Authorization"] == "Basic dXNlcjpwQHNz"
        assert (sent["X-Call"], sent["User-Agent"]) == ("7", "pxbridge")
        assert sent["Host"] == f"127.0.0.1:{server.port}"
        assert "Sec-WebSocket-Extensions" not in sent
        end.close()
        await end.wait_closed()


async def test_ipv6_is_spoken(ends: Ends) -> None:
    try:
        server = await serve(ends.accept, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    end = await connect(f"ws://[::1]:{server.port}/take")
    assert ends.requests[0].headers["Host"] == f"[::1]:{server.port}"
    assert end.peer == f"[::1]:{server.port}"
    end.close()
    await end.wait_closed()
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_with_an_independent_client(
    ends: Ends, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving(ends.accept, ssl=server_tls) as server:
        address = url(server, "/echo", "wss")
        async with websockets.asyncio.client.connect(address, ssl=client_tls) as peer:
            await peer.send(bytes(200_000))
            assert await peer.recv() == bytes(200_000)
        assert await ends.closed.get() == Closed(1000, "", None, by_peer=True)


async def test_tls_with_an_independent_server(
    ends: Ends, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def echo(peer: ServerConnection) -> None:
        async for message in peer:
            await peer.send(message)

    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, ssl=server_tls) as server:
        port = server.sockets[0].getsockname()[1]
        end = await connect(f"wss://127.0.0.1:{port}/", ssl=client_tls)
        ends.take(end)
        end.send(bytes(200_000))
        assert await ends.messages.get() == (bytes(200_000), False)
        end.close()
        assert await end.wait_closed() == Closed(1000, "", None, by_peer=False)


async def test_a_certificate_nobody_vouches_for_is_refused(ends: Ends, server_tls: ssl.SSLContext) -> None:
    async with serving(ends.accept, ssl=server_tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(url(server, "/take", "wss"))
        assert ends.requests == []


async def test_a_pinned_certificate_is_checked_before_the_request_is_sent(
    ends: Ends, server_tls: ssl.SSLContext
) -> None:
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    seen: list[bytes] = []

    def refuse(certificate: bytes) -> None:
        seen.append(certificate)
        raise PermissionError("not the certificate that was pinned")

    async with serving(ends.accept, ssl=server_tls) as server:
        address = url(server, "/take", "wss")
        with pytest.raises(PermissionError, match="pinned"):
            await connect(address, ssl=unverified, check_certificate=refuse)
        assert ends.requests == []
        assert ssl.DER_cert_to_PEM_cert(seen[0])
        end = await connect(address, ssl=unverified, check_certificate=seen.append)
        assert seen[0] == seen[1]
        end.close()
        await end.wait_closed()


async def test_tls_is_not_left_out_silently() -> None:
    with pytest.raises(ValueError, match="wss://"):
        await connect("ws://127.0.0.1:1/", ssl=ssl.create_default_context())


async def test_a_tls_peer_that_does_not_read_is_cut(
    ends: Ends, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    limits = Limits(max_queued_bytes=10**9, send_timeout_s=SOON_S)
    async with (
        serving(ends.accept, ssl=server_tls, limits=limits) as server,
        raw(server.port, ssl=client_tls) as peer,
    ):
        await peer.upgraded("/take")
        peer.stop_reading()
        end = await ends.opened.get()
        for _ in range(80):
            end.send(bytes(100_000))  # far more than both kernels and the peer's TLS will take
        assert (await ends.closed.get()).error == PEER_STOPPED_READING
