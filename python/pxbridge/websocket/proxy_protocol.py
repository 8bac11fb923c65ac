"""The PROXY protocol, versions 1 and 2: how a proxy that passes on bytes tells whose connection it is.

The proxy sends one header before the first byte of the connection, and before TLS. Version 1 is a line of
text, version 2 is binary. The rules are those of HAProxy's ``proxy-protocol.txt``, sections 2.1 and 2.2. The
header is believed: read it only from an address that is trusted, and always from such an address, because
without one the bytes of a client would be taken for the proxy's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Final

SIGNATURE_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
SIGNATURE_V1: Final = b"PROXY "

MAX_V1_BYTES: Final = 107
"""The longest line that version 1 allows, with its CR LF."""

MAX_BYTES: Final = 4096
"""The longest header that is read. Version 2 allows 64 KiB, for a client's certificate and the like; proxies
send some hundred bytes."""

_FIXED_V2_BYTES: Final = 16
_V2: Final = 2
_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = 0, 1, 2, 3
_UNSPEC_TRANSPORT, _LAST_TRANSPORT = 0, 2  # a stream is 1, datagrams are 2
_ADDRESS_BYTES: Final = {_UNSPEC: 0, _INET: 12, _INET6: 36, _UNIX: 216}
"""Bytes of the two addresses and their ports, by family. Further bytes are TLVs."""

_LINE_V1: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: .*)?|TCP(?P<family>[46])"
    rb" (?P<source>[0-9A-Fa-f:.]+) (?P<destination>[0-9A-Fa-f:.]+)"
    rb" (?P<port>0|[1-9][0-9]{0,4}) (?P<destination_port>0|[1-9][0-9]{0,4}))"
)
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Client:
    """The far end of a relayed connection."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Header:
    """One whole header.

    Attributes:
        length: Its length in bytes.
        client: Whose connection it is. None: the proxy's own, such as a health check, or not told.
    """

    length: int
    client: Client | None


def sends_no_header(_address: str) -> bool:
    """The usual answer to whether a connection from an address begins with a header: none does."""
    return False


def begins_header(data: bytes | bytearray) -> bool:
    """Whether bytes are a header's beginning, without doubt."""
    return data.startswith((SIGNATURE_V1, SIGNATURE_V2))


def parse_header(data: bytes) -> Header | None:
    """Reads the header at the beginning of a connection.

    Args:
        data: All bytes so far; there may be others behind the header.

    Returns:
        None if the header is not complete. Then all of `data` belongs to it.

    Raises:
        ValueError: It is no header, or one that the protocol does not allow. The text is one of few.
    """
    if SIGNATURE_V2.startswith(data[: len(SIGNATURE_V2)]):
        return _read_v2(data) if len(data) >= _FIXED_V2_BYTES else None
    if SIGNATURE_V1.startswith(data[: len(SIGNATURE_V1)]):
        return _read_v1(data)
    raise ValueError("it began with something else")


def _read_v1(data: bytes) -> Header | None:
    line, ending, _ = data[:MAX_V1_BYTES].partition(b"\r\n")
    if not ending:
        if len(line) == MAX_V1_BYTES:
            raise ValueError("its line is too long")
        if b"\n" in line or b"\r" in line[:-1]:
            raise ValueError("its line is not valid")
        return None
    found = _LINE_V1.fullmatch(line)
    if found is None:
        raise ValueError("its line is not valid")
    length = len(line) + len(ending)
    if found["family"] is None:
        return Header(length, None)
    kind = ipaddress.IPv4Address if found["family"] == b"4" else ipaddress.IPv6Address
    try:
        source = kind(found["source"].decode())
        kind(found["destination"].decode())
    except ValueError:
        raise ValueError("its line has an invalid address") from None
    port = int(found["port"])
    if max(port, int(found["destination_port"])) > _MAX_PORT:
        raise ValueError("its line has an invalid port")
    return Header(length, Client(str(source), port))


def _read_v2(data: bytes) -> Header | None:
    version, command = divmod(data[12], 16)
    family, transport = divmod(data[13], 16)
    length = _FIXED_V2_BYTES + int.from_bytes(data[14:16], "big")
    if version != _V2 or command not in (_LOCAL, _PROXY):
        raise ValueError("its version or its command is unknown")
    if length > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    if command == _PROXY:
        if family not in _ADDRESS_BYTES or transport > _LAST_TRANSPORT:
            raise ValueError("its address family or its transport is unknown")
        if transport != _UNSPEC_TRANSPORT and length < _FIXED_V2_BYTES + _ADDRESS_BYTES[family]:
            raise ValueError("it is too short for its addresses")
    if len(data) < length:
        return None
    # Of its own connections the proxy tells no address that counts, whatever the header has.
    if command == _LOCAL or transport == _UNSPEC_TRANSPORT or family not in (_INET, _INET6):
        return Header(length, None)
    size = 4 if family == _INET else 16
    addresses = data[_FIXED_V2_BYTES:length]
    source = ipaddress.ip_address(addresses[:size])
    return Header(length, Client(str(source), int.from_bytes(addresses[2 * size : 2 * size + 2], "big")))


async def read_header(sock: socket.socket) -> Header | None:
    """Reads the header from a connection that has no transport yet, and not a byte more.

    Args:
        sock: The connection's socket, which does not block.

    Returns:
        None if the connection ended before it sent anything.

    Raises:
        ValueError: No valid header came. The text is one of few.
        OSError: The connection failed.
    """
    head = b""
    while True:
        arrived = await peek(sock, MAX_BYTES)
        if not arrived:
            if not head:
                return None
            raise ValueError("the connection ended within it")
        header = parse_header(head + arrived)
        # What follows the header stays in the socket, for TLS or HTTP.
        head += sock.recv(len(arrived) if header is None else header.length - len(head))
        if header is not None:
            return header


async def peek(sock: socket.socket, most: int) -> bytes:
    """Waits for bytes on a socket and leaves them there. Returns none if the connection has ended.

    Raises:
        OSError: The connection failed.
    """
    while True:
        try:
            return sock.recv(most, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
