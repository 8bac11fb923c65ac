"""What our WebSocket server answers before the upgrade: handshakes, plain HTTP, and what is neither."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
import websockets.asyncio.client
from tests.virtual_time import run
from tests.websocket_ends import GARBAGE, SOON_S, Ends, raw, serving, upgrade_request, url

from pxbridge.websocket import (
    HandshakeRefused,
    Limits,
    Request,
    Response,
    connect,
    serve,
    text_response,
)


async def test_a_handshake_that_takes_too_long_is_cut(ends: Ends) -> None:
    async with serving(ends.accept, open_timeout_s=SOON_S) as server, raw(server.port) as peer:
        peer.writer.write(upgrade_request()[:-2])
        with contextlib.suppress(ConnectionResetError):
            assert await peer.reader.read() == b""
        await server.wait_closed()
        assert ends.requests == []


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (GARBAGE, b"HTTP/1.1 400 "),
        (b"\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /take HTTP/9.9\r\n\r\n", b""),
        (b"GET /take HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414 "),
        (b"GET /take HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"HTTP/1.1 431 "),
        (b"GET /take HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", b"HTTP/1.1 431 "),
        (b"GET /take HTTP/1.1\r\n" + (b"X: " + b"y" * 4000 + b"\r\n") * 5 + b"\r\n", b"HTTP/1.1 431 "),
        (b"GET /take HTTP/1.1\r\n" + (b"X: " + b"y" * 4000 + b"\r\n") * 5, b"HTTP/1.1 431 "),
        (b"PUT /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /take HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 "),
        (
            b"POST /take HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 405 ",
        ),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /nowhere HTTP/1.0\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /take HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"HTTP/1.1 505 "),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
    ],
    ids=lambda value: repr(value[:24]),
)
async def test_what_is_no_upgrade_is_answered_if_it_can_be_and_hurts_nobody(
    ends: Ends, request_bytes: bytes, answer: bytes
) -> None:
    async with (
        serving(ends.accept) as server,
        websockets.asyncio.client.connect(url(server, "/echo")) as bystander,
    ):
        async with raw(server.port) as peer:
            peer.writer.write(request_bytes)
            with contextlib.suppress(ConnectionResetError):
                got = await peer.reader.read()
                assert got.startswith(answer)
                assert got or not answer
        await bystander.send("unharmed")
        assert await bystander.recv() == "unharmed"


@pytest.mark.parametrize("cuts", [(), (1,), (3, 40), (5, 90, 120), tuple(range(1, 130))])
async def test_a_posts_body_is_read_however_it_is_cut(cuts: tuple[int, ...]) -> None:
    asked: list[Request] = []

    def accept(request: Request) -> Response:
        asked.append(request)
        return text_response(200, "thanks\n")

    body = b"CallSid=CA1&From=%2B91\r\n\r\n1"
    whole = b"POST /form?x=1 HTTP/1.1\r\nHost: x\r\ncontent-length: 27\r\nX-Y: z\r\n\r\n" + body
    async with serving(accept) as server, raw(server.port) as peer:
        for begin, end in itertools.pairwise((0, *cuts, len(whole))):
            peer.writer.write(whole[begin:end])
            await asyncio.sleep(0)
        assert (await peer.reader.read()).startswith(b"HTTP/1.1 200 ")
    (request,) = asked
    assert (request.method, request.path, request.address) == ("POST", "/form?x=1", "127.0.0.1")
    assert request.body == body
    assert request.headers["X-Y"] == "z"


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"Content-Length: 16385\r\n", b"HTTP/1.1 413 "),
        (b"Content-Length: 99999999999999999999\r\n", b"HTTP/1.1 413 "),
        (b"Content-Length: 999999999999999999999\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length: -1\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length : 1\r\n", b"HTTP/1.1 400 "),
        (b"transfer-encoding: gzip\r\n", b"HTTP/1.1 501 "),
        (b"transfer-encoding:gzip, chunked\r\n", b"HTTP/1.1 501 "),
        (b"X: y\r\n" * 3000, b"HTTP/1.1 431 "),
    ],
)
async def test_a_body_that_cannot_be_bounded_is_refused(ends: Ends, head: bytes, answer: bytes) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        peer.writer.write(b"POST /take HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        got = await peer.reader.read()
        assert got.startswith(answer) and bool(got) == bool(answer)
        assert ends.requests == []


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"HTTP/1.1 400 "),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"HTTP/1.1 404 "),
        (b"Content-Length: 3\r\n", b"HTTP/1.1 400 "),
        (b"Content-Length: 0\r\n", b"HTTP/1.1 404 "),
    ],
)
async def test_what_is_no_post_has_no_body_and_is_answered(ends: Ends, head: bytes, answer: bytes) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        assert (await peer.reader.read()).startswith(answer)


async def test_of_too_many_handshakes_under_way_the_oldest_are_cut(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pxbridge.websocket.serving.MAX_OPENING", 3)
    async with serving(ends.accept) as server, contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(raw(server.port))
        last = [await stack.enter_async_context(raw(server.port)) for _ in range(3)]
        with contextlib.suppress(ConnectionResetError):
            assert await first.reader.read() == b""
        for peer in last:
            await peer.upgraded("/take")


async def test_head_gets_the_head_alone(ends: Ends) -> None:
    async with serving(ends.accept) as server, raw(server.port) as peer:
        peer.writer.write(b"HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = (await peer.reader.read()).partition(b"\r\n\r\n")
        assert b"Content-Length: 9" in head
        assert body == b""


async def test_an_answer_may_come_later_and_nothing_said_meanwhile_is_read() -> None:
    asked, known = asyncio.Event(), asyncio.Event()

    async def find_out() -> Response:
        asked.set()
        await known.wait()
        return text_response(200, "found\n")

    async with serving(lambda _request: find_out()) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n")
        await asked.wait()
        for _ in range(20):
            peer.writer.write(GARBAGE * 100)
            await peer.writer.drain()
        known.set()
        answer = await peer.reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nfound\n")


async def test_whoever_hangs_up_before_the_answer_is_there_leaves_nothing_behind() -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def find_out() -> Response:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(lambda _request: find_out()) as server:
        async with raw(server.port) as peer:
            peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked.wait()
        await cancelled.wait()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_answer_that_never_comes_costs_no_more_than_a_handshake_may() -> None:
    async def find_out() -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(lambda _request: find_out(), open_timeout_s=0.05) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await peer.reader.read() == b""


async def test_a_fault_while_finding_an_answer_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def find_out() -> Response:
        raise LookupError("a fault of ours")

    async with serving(lambda _request: find_out()) as server, raw(server.port) as peer:
        peer.writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await peer.reader.read()).startswith(b"HTTP/1.1 500 ")
    assert "a request could not be answered" in caplog.text


async def test_a_fault_while_accepting_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    def accept(_request: Request) -> Response:
        raise LookupError("a fault of ours")

    async with serving(accept) as server:
        with pytest.raises(HandshakeRefused) as refused:
            await connect(url(server, "/"))
        assert refused.value.status == 500
    assert "a fault of ours" in caplog.text


async def test_an_answer_may_be_larger_than_what_messages_may_queue() -> None:
    body = "0123456789abcdef" * 65_536

    def accept(_: Request) -> Response:
        return text_response(200, body)

    async with serving(accept, limits=Limits(max_queued_bytes=64 * 1024)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /file HTTP/1.1\r\nHost: bridge\r\n\r\n")
        await asyncio.sleep(SOON_S)  # so that more is queued than the kernel takes
        answer = await reader.read()
        writer.close()
    assert answer.endswith(body.encode())


def test_a_long_answer_is_read_to_its_end_on_a_slow_line_and_not_by_a_client_that_stops() -> None:
    body = b"." * (12 << 20)  # more than the kernel takes

    async def read(port: int, pause_s: float) -> int:
        """How much a client gets that reads a piece after each pause."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(1 << 16):
                got += len(data)
                await asyncio.sleep(pause_s)
        writer.close()
        return got

    async def main() -> tuple[int, int]:
        server = await serve(lambda _: text_response(200, body.decode()), "127.0.0.1", 0)
        try:
            return await read(server.port, 0.1), await read(server.port, 60.0)
        finally:
            server.close()

    slow, stopped = run(main(), limit_s=100_000.0)
    assert slow > len(body)
    assert stopped < len(body)
