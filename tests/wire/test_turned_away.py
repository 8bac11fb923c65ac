"""What the telephony port turns away leaves a line in the log that says what to do, and a count."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from tests.exotel_server import listen
from tests.fault.flooder import upgrade
from tests.virtual_time import run

from pxbridge.log_throttle import REPORT_EVERY_S
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.exotel.webhooks import Webhooks
from pxbridge.telephony.server import OPEN_TIMEOUT_S
from pxbridge.telephony.tokens import Signer
from pxbridge.websocket.turned_away import Reason, TurnedAway, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.telephony.server import Arrival, TelephonyServer

HELLO_TLS = bytes.fromhex("16030100c8010000c40303") + bytes(192)
PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)
SECRET = "c.6a1b2c3d.nurse.AbCdEfGhIjKlMnOp." + "s" * 43


async def own(arrival: Arrival) -> None:
    arrival.socket.on_message = lambda _payload, _text: None
    await arrival.socket.wait_closed()


async def ask(server: TelephonyServer, said: bytes) -> str:
    """What is answered, until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(said)
    try:
        return (await reader.read()).decode()
    finally:
        writer.transport.abort()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.INFO and "turned away" in record.getMessage()
    ]


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize(
    ("said", "reason", "told", "body"),
    [
        (get("/wp-login.php"), "not_found", "(GET /wp-login.php): not found", "not found\n"),
        (get("/livez", "DELETE"), "method", "(DELETE /livez): the method is not allowed", "GET only"),
        (b"GET /\n\r\n\r\n", "invalid_request", ": the request is not valid", "a line ends without CR LF"),
        (b"GET /\n\r\n\r\n", "invalid_request", "is not valid: a line ends without CR LF", ""),
        (
            b"EHLO x\r\n\r\n",
            "invalid_request",
            ": the request is not valid: it is not HTTP/1.1",
            "not valid HTTP",
        ),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "invalid_request",
            "this is HTTP/2, and this port speaks HTTP/1.1: set the proxy to HTTP/1.1",
            "505 HTTP Version Not Supported",
        ),
        (get("/exotel?sample-rate=44100"), "invalid_request", "(GET /exotel): the request", "sample-rate="),
        (get("/exotel"), "not_upgraded", "(GET /exotel, header Connection): the request is not a", "Upgrade"),
        (
            upgrade().replace(b"Version: 13", b"Version: 8"),
            "not_upgraded",
            "header Sec-WebSocket-Version): the request is not a valid WebSocket handshake: dial ws://",
            "invalid Sec-WebSocket-Version header",
        ),
        (HELLO_TLS, "tls", "looks like TLS, and this port speaks plain HTTP: dial ws://", "looks like TLS"),
        (HELLO_TLS, "tls", "or set PXBRIDGE_TLS_CERT_FILE", ""),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 5050\r\n" + get("/livez"),
            "proxy_unexpected",
            "this is a PROXY protocol header, and this port expects none from this address: if it is your "
            "proxy, set PXBRIDGE_PROXY_PROTOCOL=true and name its address in PXBRIDGE_TRUSTED_PROXIES",
            "PROXY protocol header",
        ),
        (PROXY_V2 + get("/livez"), "proxy_unexpected", "PROXY protocol header", "PROXY protocol header"),
    ],
)
async def test_each_way_to_be_turned_away_is_counted_and_logged_with_what_to_do(
    said: bytes, reason: str, told: str, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listen(own, "127.0.0.1", 0) as server:
        assert body in await ask(server, said)
        assert {why: count for why, count in server.turned_away.items() if count} == {reason: 1}
    (line,) = lines(caplog)
    assert line.startswith("telephony port: turned away 127.0.0.1")
    assert told in line


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("//exotel", "/exotel"),
        ("/Exotel", "/exotel"),
        ("/exotel//", "/exotel"),
        ("//exotel/nurse?x=1", "/exotel"),
        ("/exotell", "/exotel"),
        ("/extel", "/exotel"),
        ("//exotel/url", "/exotel/url"),
        ("/%65xotel/passthru/", "/exotel/passthru"),
        ("/Readyz", "/readyz"),
        ("/live", "/livez"),
    ],
)
async def test_a_path_that_is_nearly_right_is_told_the_right_one(
    path: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    webhooks = Webhooks(Signer([b"k" * 32], lambda: 0.0), None)  # type: ignore[arg-type]  # not asked
    async with listen(own, "127.0.0.1", 0, carriers=[ExotelRoutes(webhooks)]) as server:
        answer = await ask(server, get(path))
    assert answer.startswith("HTTP/1.1 404 ")
    assert answer.endswith(f"not found; did you mean {meant}?\n")
    assert lines(caplog)[0].endswith(f": not found: did you mean {meant}?")


@pytest.mark.parametrize("path", ["/wp-login.php", "/exotel/a.b", "/exotel/a/b", "/x", "*", "/" + "e" * 5000])
async def test_a_path_that_is_far_from_right_is_only_not_found(path: str) -> None:
    async with listen(own, "127.0.0.1", 0) as server:
        assert (await ask(server, get(path))).endswith("\r\n\r\nnot found\n")


@pytest.mark.parametrize(
    "target",
    [
        f"/nowhere?token={SECRET}",
        f"//exotel/t/{SECRET}",
        f"/Exotel/t/{SECRET}/url",
        f"/exotell/{SECRET}",
        f"/nowhere%3Ftoken={SECRET}",
        f"http://asha:{SECRET}@host/nowhere",
        f"/nowhere#{SECRET}",
        "/t/hunter2hunter2",
        "/nowhere/asha:hunter2hunter2",
    ],
)
async def test_no_secret_of_a_request_that_is_turned_away_is_logged(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listen(own, "127.0.0.1", 0) as server:
        assert (await ask(server, get(target))).startswith("HTTP/1.1 4")
    (line,) = lines(caplog)
    assert SECRET[:20] not in line and "hunter2" not in line


@given(st.text(max_size=40), st.text(max_size=3000))
def test_whatever_is_asked_is_shown_as_a_short_printable_line(method: str, target: str) -> None:
    line = shown(method, target)
    assert len(line) < 200
    assert line.isascii() and line.isprintable()


def test_a_scanner_gets_one_line_in_ten_seconds_and_hides_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listen(own, "127.0.0.1", 0) as server:
            for n in range(300):
                await ask(server, get(f"/admin{n}.php"))
            await ask(server, get("//exotel"))
            await ask(server, HELLO_TLS)
            await ask(server, get("/last"))
            await asyncio.sleep(REPORT_EVERY_S)
            assert server.turned_away["not_found"] == 302
            assert server.turned_away["tls"] == 1

    run(main())
    first, then = lines(caplog)
    assert first == "telephony port: turned away 127.0.0.1 (GET /admin0.php): not found"
    assert then.startswith(
        "telephony port: turned away 302 in 10 s, the last 127.0.0.1 (GET /last): 300 x not"
    )
    assert "1 x not found: did you mean /exotel?" in then
    assert "1 x this looks like TLS" in then


@pytest.mark.parametrize("said", [b"", b"GET /exotel HTTP/1.1\r\n"])
def test_a_request_that_does_not_come_in_time_is_counted(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with listen(own, "127.0.0.1", 0) as server:
            await ask(server, said)
            assert server.turned_away["too_slow"] == 1
            assert asyncio.get_running_loop().time() < OPEN_TIMEOUT_S + 1.0

    run(main())
    assert lines(caplog) == ["telephony port: turned away 127.0.0.1: no whole request came in time"]


async def test_a_connection_that_only_comes_and_goes_is_a_health_check_and_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listen(own, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        await writer.wait_closed()
        assert "alive" in await ask(server, get("/livez"))
        assert not any(server.turned_away.values())
    assert lines(caplog) == []


# A port with TLS


@pytest.fixture
def certificate() -> tuple[trustme.CA, ssl.SSLContext]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return authority, context


@pytest.mark.parametrize(
    ("said", "reason", "told"),
    [
        (get("/livez"), "plain_http", "this is plain HTTP, and this port speaks TLS: dial wss://"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 4 5\r\n", "proxy_unexpected", "PXBRIDGE_PROXY_PROTOCOL=true"),
        (PROXY_V2 + HELLO_TLS, "proxy_unexpected", "PXBRIDGE_PROXY_PROTOCOL=true"),
        (b"\x00garbage\r\n\r\n", "tls_failed", "the TLS handshake failed"),
    ],
)
async def test_what_is_no_tls_on_a_port_with_tls_is_told_apart(
    said: bytes,
    reason: str,
    told: str,
    certificate: tuple[trustme.CA, ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listen(own, "127.0.0.1", 0, ssl=certificate[1]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = await reader.read()
        writer.transport.abort()
        assert {why: count for why, count in server.turned_away.items() if count} == {reason: 1}
    assert told in lines(caplog)[0]
    if reason == "plain_http":
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"this is plain HTTP, and this port speaks TLS\n")


def handshake(port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port)) as connected,
        ssl.create_default_context().wrap_socket(connected, server_hostname="127.0.0.1"),
    ):
        pass


async def test_a_client_that_does_not_trust_the_certificate_is_told_to_the_operator(
    certificate: tuple[trustme.CA, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    async with listen(own, "127.0.0.1", 0, ssl=certificate[1]) as server, asyncio.timeout(10):
        with pytest.raises(ssl.SSLError):
            # In a thread: asyncio's own client drops the connection before it has sent its alert.
            await asyncio.to_thread(handshake, server.port)
        while not server.turned_away["tls_failed"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert "TLSV1_ALERT_UNKNOWN_CA): the TLS handshake failed: an ALERT means" in lines(caplog)[0]


# Health


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_tells_which_methods_it_has(path: str) -> None:
    async with listen(own, "127.0.0.1", 0) as server:
        answer = await ask(server, get(path, "OPTIONS"))
        assert answer.startswith("HTTP/1.1 204 ")
        assert "\r\nAllow: GET, HEAD, OPTIONS\r\n" in answer
        assert "content-length" not in answer.lower() and answer.endswith("\r\n\r\n")
        head = await ask(server, get(path, "HEAD"))
        assert head.startswith("HTTP/1.1 200 ") and head.endswith("\r\n\r\n")
        assert not any(server.turned_away.values())


def test_the_reasons_of_one_report_are_told_with_their_numbers(caplog: pytest.LogCaptureFixture) -> None:
    due: list[Callable[[], None]] = []
    turn_away = TurnedAway("a port", {Reason.TLS: "do this"}, lambda _s, call: due.append(call))
    turn_away(Reason.TLS, "192.0.2.1")
    for _ in range(2):
        turn_away(Reason.NOT_FOUND, "192.0.2.2", "GET /x")
    due.pop()()
    assert lines(caplog) == [
        "a port: turned away 192.0.2.1: this looks like TLS, and this port speaks plain HTTP: do this",
        "a port: turned away 2 in 10 s, the last 192.0.2.2 (GET /x): 2 x not found",
    ]
    assert turn_away.counts == {Reason.TLS: 1, Reason.NOT_FOUND: 2}
