"""Strangers at a port that reads PROXY protocol headers: forged, endless, senseless and unfinished ones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import logging
import time
from typing import TYPE_CHECKING

import pytest
from tests.attack.test_floods import Stranger, descriptors
from tests.attack.test_silent_connections import silent
from tests.attack.test_who_comes_in import PASSWORD, deployed, fetch
from tests.exotel_server import listen
from tests.fault.flooder import upgrade
from tests.virtual_time import run

from pxbridge import websocket
from pxbridge.commands.processes import free_port
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.server import OPEN_TIMEOUT_S
from pxbridge.telephony.tokens import Signer
from pxbridge.websocket.proxy_protocol import MAX_BYTES, SIGNATURE_V2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pxbridge.telephony.server import Arrival, TelephonyServer

PROXY, STRANGER = "127.0.0.1", "127.0.0.2"
FORGED = b"PROXY TCP4 203.0.113.7 10.0.0.5 40000 5050\r\n"
FORGED_BINARY = SIGNATURE_V2 + b"\x21\x11\x00\x0c" + bytes([203, 0, 113, 7, 10, 0, 0, 5, 1, 1, 2, 2])
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


async def own(arrival: Arrival) -> None:
    arrival.socket.on_message = lambda _payload, _text: None
    await arrival.socket.wait_closed()


@contextlib.asynccontextmanager
async def port(*, allowed: str = "203.0.113.0/24") -> AsyncIterator[TelephonyServer]:
    """A port that only one network may call, behind a proxy."""
    access = AccessControl(
        Signer([b"k" * 32], time.time),
        asyncio.get_running_loop().time,
        networks=[ipaddress.ip_network(allowed)],
        proxies=[ipaddress.ip_network(PROXY)],
    )
    async with listen(own, "127.0.0.1", 0, access=access, proxy_protocol=True) as server:
        yield server


async def answer(stranger: Stranger) -> bytes:
    try:
        return await stranger.reader.read()
    except ConnectionError:
        return b""
    finally:
        stranger.close()


def counts(server: TelephonyServer) -> dict[str, int]:
    return {why: count for why, count in server.turned_away.items() if count}


@pytest.mark.parametrize("header", [FORGED, FORGED_BINARY])
async def test_a_header_from_an_address_that_is_not_trusted_opens_nothing(
    header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with port() as server:
        assert b" 101 " not in await answer(await silent(server.port, header + upgrade(), STRANGER))
        assert counts(server) == {"proxy_unexpected": 1}
        without = await answer(await silent(server.port, upgrade(), STRANGER))
        assert without.startswith(b"HTTP/1.1 403 "), "it is who it is"
        assert (await answer(await silent(server.port, LIVEZ, STRANGER))).endswith(b"alive\n")
    assert "turned away 127.0.0.2: this is a PROXY protocol header" in caplog.text


@pytest.mark.parametrize("header", [FORGED, FORGED_BINARY])
async def test_a_callers_own_header_behind_the_proxys_is_not_believed(header: bytes) -> None:
    behind = b"PROXY TCP4 198.51.100.9 10.0.0.5 40000 5050\r\n"
    async with port() as server:
        assert b" 101 " not in await answer(await silent(server.port, behind + header + upgrade()))
        assert counts(server) == {"proxy_unexpected": 1}


@pytest.mark.parametrize(
    "said",
    [
        upgrade(),
        LIVEZ,
        b"\x16\x03\x01" + bytes(200),
        b"\x00" * 16,
        b"PROXY " + b"x" * 5000,
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n" + LIVEZ,
        SIGNATURE_V2 + b"\x21\x11\xff\xff" + bytes(70_000),
        SIGNATURE_V2 + b"\xff\xff\x00\x00",
    ],
)
async def test_a_trusted_proxy_sends_a_valid_header_or_nothing_is_answered(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with port() as server:
        assert await answer(await silent(server.port, said)) == b""
        assert counts(server) == {"proxy_invalid": 1}
        assert (await answer(await silent(server.port, FORGED + LIVEZ))).endswith(b"alive\n")
    assert "no valid PROXY protocol header came" in caplog.text
    assert "make the proxy send the header" in caplog.text


@pytest.mark.parametrize(
    "begun",
    [FORGED[:-1], FORGED_BINARY[:-1], SIGNATURE_V2[:3], SIGNATURE_V2 + b"\x21\x11\x0f\xf0" + bytes(3000)],
)
def test_a_header_that_never_ends_is_cut_in_time(begun: bytes) -> None:
    async def main() -> float:
        async with port() as server:
            before = descriptors()
            assert await answer(await silent(server.port, begun)) == b""
            took_s = asyncio.get_running_loop().time()
            assert counts(server) == {"proxy_invalid": 1}
            await asyncio.sleep(0.1)
            assert descriptors() <= before
            return took_s

    assert run(main()) < OPEN_TIMEOUT_S + 1.0


@pytest.mark.parametrize(
    "begun", [b"PROXY UNKNOWN ", SIGNATURE_V2 + b"\x20\x00" + (MAX_BYTES - 16).to_bytes(2, "big")]
)
def test_a_header_a_byte_at_a_time_ends_in_time_too(begun: bytes) -> None:
    async def main() -> float:
        async with port() as server:
            stranger = await silent(server.port, begun)
            cut = asyncio.ensure_future(stranger.is_cut())
            while not cut.done():
                stranger.writer.write(b"x")
                await asyncio.sleep(0.15)
            stranger.close()
            assert counts(server) == {"proxy_invalid": 1}
            return asyncio.get_running_loop().time()

    assert run(main()) < OPEN_TIMEOUT_S + 1.0


def test_silent_connections_through_the_proxy_keep_no_other_caller_out() -> None:
    """Each header's address is counted for itself, so that a flood cuts its own handshakes."""

    async def main() -> None:
        async with port() as server:
            slow = await silent(server.port, FORGED + upgrade()[:-2])
            await asyncio.sleep(0.1)
            flood = b"PROXY TCP4 198.51.100.9 10.0.0.5 40000 5050\r\n"
            strangers = [await silent(server.port, flood) for _ in range(websocket.MAX_OPENING + 200)]
            unfinished = [await silent(server.port, FORGED[:9]) for _ in range(100)]
            await asyncio.sleep(0.1)
            slow.writer.write(b"\r\n")
            assert (await slow.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert server.turned_away["crowded"] >= 200
            for stranger in (slow, *strangers, *unfinished):
                stranger.close()

    run(main())


async def test_a_bridge_reads_headers_by_its_setting_and_counts_what_it_turns_away() -> None:
    console = free_port()
    async with deployed(
        PXBRIDGE_PROXY_PROTOCOL="true",
        PXBRIDGE_ALLOWED_NETWORKS="203.0.113.0/24",
        PXBRIDGE_CONSOLE_PORT=str(console),
    ) as where:
        at = int(where.rpartition(":")[2])
        authorization = base64.b64encode(f"asha:{PASSWORD}".encode())
        dialled = upgrade().replace(b"Host: x", b"Host: x\r\nAuthorization: Basic " + authorization)
        phone = await silent(at, FORGED + dialled)  # by the trusted proxy, it is not forged
        assert (await phone.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        phone.close()
        assert await answer(await silent(at, dialled)) == b""
        assert b" 404 " in await answer(
            await silent(at, b"GET //exotel HTTP/1.1\r\nHost: x\r\n\r\n", STRANGER)
        )
        _, metrics = await fetch(f"127.0.0.1:{console}", "/metrics")
        assert 'pxbridge_turned_away_total{reason="proxy_invalid"} 1.0' in metrics
        assert 'pxbridge_turned_away_total{reason="not_found"} 1.0' in metrics
        assert 'pxbridge_turned_away_total{reason="tls"} 0.0' in metrics, (
            "each reason is there from the start"
        )
