"""The PROXY protocol: its header is read exactly, and the address in it is the caller's from then on."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import time
from typing import TYPE_CHECKING

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from tests.exotel_server import listen
from tests.fault.flooder import upgrade
from websockets.asyncio.client import connect

from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.exotel.webhooks import Webhooks
from pxbridge.telephony.tokens import Signer
from pxbridge.websocket.proxy_protocol import (
    MAX_BYTES,
    MAX_V1_BYTES,
    SIGNATURE_V2,
    Client,
    Header,
    begins_header,
    parse_header,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pxbridge.telephony.server import Arrival, TelephonyServer

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LOOPBACK = ipaddress.ip_network("127.0.0.1/32")
LOCAL, PROXY = 0x20, 0x21
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def line(source: Address, destination: Address, port: int = 40000, destination_port: int = 5050) -> bytes:
    """A header of version 1."""
    return f"PROXY TCP{source.version} {source} {destination} {port} {destination_port}\r\n".encode()


def block(command: int, family: int, addresses: bytes, tlvs: bytes = b"") -> bytes:
    """A header of version 2."""
    body = addresses + tlvs
    return SIGNATURE_V2 + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def binary(source: Address, destination: Address, port: int = 40000, *, tlvs: bytes = b"") -> bytes:
    """A header of version 2 for a TCP connection."""
    ports = port.to_bytes(2, "big") + (5050).to_bytes(2, "big")
    family = 0x11 if source.version == 4 else 0x21
    return block(PROXY, family, source.packed + destination.packed + ports, tlvs)


ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
PORTS = st.integers(0, 65535)
WITHOUT_CLIENT = st.one_of(
    st.just(b"PROXY UNKNOWN\r\n"),
    st.just(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"),
    st.builds(block, st.just(LOCAL), st.integers(0, 255), st.binary(max_size=300)),
    st.builds(block, st.just(PROXY), st.sampled_from([0x00, 0x10, 0x20]), st.binary(max_size=300)),
    st.builds(block, st.just(PROXY), st.sampled_from([0x31, 0x32]), st.binary(min_size=216, max_size=300)),
)


@given(ADDRESSES, PORTS, PORTS, st.binary(max_size=600), st.binary(max_size=200))
def test_a_header_names_the_client_and_ends_where_the_connections_own_bytes_begin(
    addresses: tuple[Address, Address], port: int, to: int, tlvs: bytes, rest: bytes
) -> None:
    client = Client(str(addresses[0]), port)
    for header in (line(*addresses, port, to), binary(*addresses, port, tlvs=tlvs)):
        assert parse_header(header + rest) == Header(len(header), client)
        assert all(parse_header(header[:end]) is None for end in range(len(header)))
        assert begins_header(header)


@given(WITHOUT_CLIENT, st.binary(max_size=100))
def test_a_header_without_a_client_is_read_and_names_nobody(header: bytes, rest: bytes) -> None:
    assert parse_header(header + rest) == Header(len(header), None)
    assert all(parse_header(header[:end]) is None for end in range(len(header)))


@given(
    st.one_of(
        st.binary(max_size=5000),
        st.binary(max_size=300).map(lambda rest: b"PROXY " + rest),
        st.binary(max_size=5000).map(lambda rest: SIGNATURE_V2 + rest),
        st.binary(max_size=5000).map(lambda rest: SIGNATURE_V2 + b"\x21" + rest),
    )
)
def test_any_bytes_are_a_header_no_header_or_a_short_beginning_of_one(data: bytes) -> None:
    try:
        header = parse_header(data)
    except ValueError:
        return
    if header is None:
        assert len(data) < MAX_BYTES
    else:
        assert 0 < header.length <= min(len(data), MAX_BYTES)
        assert parse_header(data[: header.length]) == header
        if header.client is not None:
            assert str(ipaddress.ip_address(header.client.address)) == header.client.address
            assert 0 <= header.client.port <= 65535


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        b"PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY UNKNOWN" + b"x" * 5 + b"\r\n",
        b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 15) + b"\r\n",
        SIGNATURE_V2 + b"\x11\x11\x00\x0c" + bytes(12),  # version 1 in binary
        SIGNATURE_V2 + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE_V2 + b"\x22\x11\x00\x0c" + bytes(12),  # an unknown command
        SIGNATURE_V2 + b"\x21\x41\x00\x0c" + bytes(12),  # an unknown family
        SIGNATURE_V2 + b"\x21\x13\x00\x0c" + bytes(12),  # an unknown transport
        SIGNATURE_V2 + b"\x21\x11\x00\x0b" + bytes(11),  # too short for its addresses
        SIGNATURE_V2 + b"\x21\x21\x00\x23" + bytes(35),
        SIGNATURE_V2 + b"\x21\x31\x00\xd7" + bytes(215),
        SIGNATURE_V2 + b"\x20\x00" + (MAX_BYTES - 15).to_bytes(2, "big"),  # too long, before it has come
        SIGNATURE_V2 + b"\x21\x11\xff\xff",
    ],
)
def test_what_the_protocol_does_not_allow_is_no_header(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^its? "):
        parse_header(data)


def test_the_longest_headers_are_read() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 16) + b"\r\n"
    assert parse_header(longest) == Header(MAX_V1_BYTES, None)
    addresses = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")
    header = binary(*addresses, tlvs=bytes(MAX_BYTES - 16 - 12))
    assert parse_header(header) == Header(MAX_BYTES, Client("192.0.2.1", 40000))


# Behind a proxy


class Calls:
    def __init__(self) -> None:
        self.arrivals: asyncio.Queue[Arrival] = asyncio.Queue()

    async def own(self, arrival: Arrival) -> None:
        self.arrivals.put_nowait(arrival)
        arrival.socket.on_message = lambda payload, is_text: arrival.socket.send(payload, text=is_text)
        await arrival.socket.wait_closed()


@contextlib.asynccontextmanager
async def behind_a_proxy(
    calls: Calls,
    *,
    networks: Sequence[str] = (),
    context: ssl.SSLContext | None = None,
    requests_per_minute: int = 600,
) -> AsyncIterator[TelephonyServer]:
    signer = Signer([b"k" * 32], time.time)
    access = AccessControl(
        signer,
        time.monotonic,
        proxies=[LOOPBACK],
        networks=[ipaddress.ip_network(each) for each in networks],
        requests_per_minute=requests_per_minute,
    )
    webhooks = Webhooks(signer, access)
    async with listen(
        calls.own,
        "127.0.0.1",
        0,
        carriers=[ExotelRoutes(webhooks)],
        access=access,
        ssl=context,
        proxy_protocol=True,
    ) as server:
        yield server


async def ask(server: TelephonyServer, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """What is answered to bytes that come in pieces."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)
        return await reader.read(65536)
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


CALLER, OTHER = ipaddress.ip_address("203.0.113.7"), ipaddress.ip_address("198.51.100.9")
CALLER_6 = ipaddress.ip_address("2001:db8::7")
BRIDGE, BRIDGE_6 = ipaddress.ip_address("10.0.0.5"), ipaddress.ip_address("fd00::5")


@pytest.mark.parametrize(
    ("header", "peer", "seen"),
    [
        (line(CALLER, BRIDGE), "203.0.113.7", "203.0.113.7:40000"),
        (binary(CALLER, BRIDGE, tlvs=b"\x04\x00\x02ab"), "203.0.113.7", "203.0.113.7:40000"),
        (line(CALLER_6, BRIDGE_6), "2001:db8::7", "[2001:db8::7]:40000"),
        (binary(CALLER_6, BRIDGE_6), "2001:db8::7", "[2001:db8::7]:40000"),
    ],
)
async def test_a_call_has_the_address_that_the_header_names(header: bytes, peer: str, seen: str) -> None:
    calls = Calls()
    async with behind_a_proxy(calls) as server:
        forged = upgrade().replace(b"Host: x", b"Host: x\r\nX-Forwarded-For: 192.0.2.66")
        assert (await ask(server, header + forged)).startswith(b"HTTP/1.1 101 ")
        arrival = await calls.arrivals.get()
        assert (arrival.peer, arrival.socket.peer) == (peer, seen)


async def test_access_control_decides_by_the_address_that_the_header_names() -> None:
    async with behind_a_proxy(Calls(), networks=["203.0.113.0/24"], requests_per_minute=6) as server:
        assert (await ask(server, line(CALLER, BRIDGE) + upgrade())).startswith(b"HTTP/1.1 101 ")
        assert (await ask(server, binary(OTHER, BRIDGE) + upgrade())).startswith(b"HTTP/1.1 403 ")
        assert (await ask(server, binary(CALLER, BRIDGE) + upgrade())).startswith(b"HTTP/1.1 429 ")


async def test_a_header_and_a_request_may_arrive_in_any_pieces() -> None:
    calls = Calls()
    async with behind_a_proxy(calls) as server:
        for header in (line(CALLER, BRIDGE), binary(CALLER_6, BRIDGE_6, tlvs=bytes(9))):
            sent = header + upgrade()
            for cuts in ([1], [12], [15, 16, 17], [len(header) - 1], [len(header), len(header) + 1]):
                ends = [*cuts, len(sent)]
                pieces = [sent[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]
                assert (await ask(server, *pieces, pause_s=0.002)).startswith(b"HTTP/1.1 101 ")
                assert (await calls.arrivals.get()).peer in ("203.0.113.7", "2001:db8::7")


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 203.0.113.7 10.0.0.5 1 2\r\n",
        block(LOCAL, 0x00, b""),
        block(LOCAL, 0x11, CALLER.packed + BRIDGE.packed + bytes(4)),
        block(PROXY, 0x00, b""),
        block(PROXY, 0x31, bytes(216)),
    ],
)
async def test_a_connection_of_nobodys_has_the_proxys_address_and_nothing_vouches_for_its_headers(
    header: bytes,
) -> None:
    calls = Calls()
    async with behind_a_proxy(calls) as server:
        assert (await ask(server, header + LIVEZ)).endswith(b"alive\n"), "a proxy's health check"
        told = b"Host: x\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Host: evil.example"
        assert (await ask(server, header + upgrade().replace(b"Host: x", told))).startswith(b"HTTP/1.1 101 ")
        assert (await calls.arrivals.get()).peer == "127.0.0.1"
        webhook = b"GET /exotel/url HTTP/1.1\r\n" + told + b"\r\n\r\n"
        assert b"evil.example" not in await ask(server, header + webhook)


async def test_the_header_comes_before_tls() -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("voice.example.com").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    calls = Calls()
    async with behind_a_proxy(calls, context=context) as server:

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", server.port)
            onward.write(binary(CALLER, BRIDGE))
            await asyncio.gather(pass_on(reader, onward), pass_on(onward_reader, writer))

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            async with connect(
                f"wss://127.0.0.1:{port}/exotel", ssl=trusting, server_hostname="voice.example.com"
            ) as phone:
                await phone.send("hello")
                assert await phone.recv() == "hello"
                assert (await calls.arrivals.get()).peer == "203.0.113.7"
        assert not any(server.turned_away.values())


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


async def test_a_health_check_that_only_connects_is_no_trouble() -> None:
    async with behind_a_proxy(Calls()) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        await writer.wait_closed()
        assert (await ask(server, line(CALLER, BRIDGE) + LIVEZ)).endswith(b"alive\n")
        assert not any(server.turned_away.values())
