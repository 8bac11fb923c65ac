"""The event loop of a bridge: asyncio's own, with what a process of many calls needs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pxbridge.host_lookups import HostLookups, Query


class EventLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop, with two differences.

    `HostLookups` finds hosts by their names. And its clock is `time.monotonic` itself, without the method
    around it that took a fortieth of a busy bridge's CPU time (benches/cpu_profile.py).
    """

    def __init__(self) -> None:
        super().__init__()
        self.time = time.monotonic  # type: ignore[method-assign]
        self._lookups = HostLookups(self)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  asyncio's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As `socket.getaddrinfo`."""
        return await self._lookups.find(Query(host, port, family, type, proto, flags))
