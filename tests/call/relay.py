"""A bad network below the sockets: a TCP relay that lets bytes through late, in order, as a `Network` says.

What the phone's own `network` does happens above its socket, where pings and engines are not. This one is on
the wire. It takes everything at once, so what a stall holds back is bounded by what the sender sends.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from pxbridge.simulation.network import Direction, Link, Network

if TYPE_CHECKING:
    from types import TracebackType

READ_BYTES = 1 << 16


class Relay:
    """`async with Relay(port, network) as relay:` and connect to `relay.port` instead.

    Args:
        port: Where the connections lead to, on loopback.
        network: What happens on the way; its times count from each connection's beginning, `up` is away from
            whoever connects.
        seed: Of its jitter.
    """

    def __init__(self, port: int, network: Network, seed: int = 0) -> None:
        self.port = 0
        self._to_port = port
        self._network = network
        self._seed = seed
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        begin_s = asyncio.get_running_loop().time()
        up, down = (self._network.link(direction, self._seed) for direction in Direction)
        async with asyncio.TaskGroup() as ways:
            ways.create_task(_carry(reader, far_writer, up, begin_s))
            ways.create_task(_carry(far_reader, writer, down, begin_s))


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, begin_s: float
) -> None:
    """One direction, until its end or the other's."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            at_s, data = await under_way.get()
            await asyncio.sleep(begin_s + at_s - loop.time())
            if not data:
                break
            writer.write(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(deliver())
        data = b"?"
        while data:
            try:
                data = await reader.read(READ_BYTES)
            except OSError:
                data = b""
            under_way.put_nowait((link.deliver_at(loop.time() - begin_s), data))
