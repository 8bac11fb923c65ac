"""Sockets as the kernel has them: where to listen, what it may keep for us, and who is at the other end."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final

BACKLOG: Final = 1024
"""Connections that the kernel queues for us. Each turn of the event loop accepts one."""

_UNUSABLE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of binding to an address family that this machine does not have; often IPv6."""

# Size of the kernel's send buffer. By default it grows to megabytes for a peer that does not read: minutes of
# a call. 64 KiB holds one second of the line with the highest rate (24 kHz in base64). With a round trip of
# 300 ms it still allows three times that rate.
_KERNEL_SEND_BUFFER_BYTES: Final = 64 * 1024


def peer_name(name: object) -> str:
    """A socket's address as text: ``192.0.2.1:40000``, ``[2001:db8::1]:40000``."""
    if isinstance(name, tuple) and len(name) >= 2:
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(name or "unknown")


def address_of(name: object) -> str:
    """A socket's address without its port."""
    return str(name[0]) if isinstance(name, tuple) and name else ""


def bound_kernel(sock: socket.socket | None, send_timeout_s: float) -> None:
    """Sets socket options: send at once, a small send buffer, and a timeout for data that is not taken."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere only send_timeout_s detects this
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout_s * 1000))


async def bind(host: str | None, port: int) -> tuple[socket.socket, ...]:
    """Sockets that listen on every address of `host`, with separate sockets for IPv6 and IPv4.

    Raises:
        OSError: There is no usable address, or one of them cannot be bound.
    """
    bound: list[socket.socket] = []
    unusable: OSError | None = None
    infos = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            try:
                listening = socket.socket(family, kind, protocol)
            except OSError as error:
                unusable = error
                continue
            bound.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listening.bind(address)
            except OSError as error:
                if error.errno not in _UNUSABLE:
                    raise
                unusable = error
                bound.pop().close()
                continue
            listening.listen(BACKLOG)
        if not bound and unusable is not None:
            raise unusable
    except OSError:
        for listening in bound:
            listening.close()
        raise
    return tuple(bound)
