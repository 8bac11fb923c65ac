"""Asks the port behind a tunnel, and dials its public URL as a client does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from pxbridge import websocket
from pxbridge.errors import HandshakeRefused

if TYPE_CHECKING:
    from pxbridge.tunnel.target import Target

LIVENESS_PATH: Final = "/livez"
TIMEOUT_S: Final = 10.0

_OK: Final = 200
_CLOSED: Final = frozenset({401, 403, 429})
"""What a port answers that lets in nobody without a secret."""


class Checks(Protocol):
    """What can be found out about a target and its tunnel."""

    async def is_guarded(self) -> bool | None:
        """Whether the port refuses a client without a secret; None if nothing answers there."""
        ...

    async def is_alive(self) -> bool:
        """Whether the port itself answers."""
        ...

    async def is_reached(self, address: str) -> bool:
        """Whether the port answers at its public address."""
        ...

    async def dial(self, address: str) -> None:
        """Dials the public URL with its secret, by a whole WebSocket handshake.

        Raises:
            OSError: There is no connection, its name is not known yet, or TLS fails.
            TimeoutError: It took too long.
            HandshakeFailed: Something answered that is not our port.
            HandshakeRefused: The port did not let us in.
        """
        ...


class RealChecks:
    """The checks, by the network.

    Args:
        target: The port behind the tunnel.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._local = f"http://{target.host}:{target.port}"

    async def is_guarded(self) -> bool | None:
        """Whether the port refuses a client without a secret."""
        status = await _status(self._local + self._target.guarded_path)
        return None if status is None else status in _CLOSED

    async def is_alive(self) -> bool:
        """Whether the port itself answers."""
        return await _status(self._local + LIVENESS_PATH) is not None

    async def is_reached(self, address: str) -> bool:
        """Whether the port answers at its public address."""
        return await _status(f"http{address.removeprefix('ws')}{LIVENESS_PATH}") == _OK

    async def dial(self, address: str) -> None:
        """Dials the public URL with its secret."""
        try:
            socket = await websocket.connect(self._target.url(address), open_timeout_s=TIMEOUT_S)
        except HandshakeRefused as refused:
            if refused.status not in self._target.admitted:
                raise
            return
        socket.close(1000)
        await socket.wait_closed()


async def port_is_engines(host: str, port: int, engine_path: str) -> bool:
    """Whether the port is an engine's: a bridge's has no such path."""
    return await _status(f"http://{host}:{port}{engine_path}") not in (None, 404)


async def _status(url: str) -> int | None:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
