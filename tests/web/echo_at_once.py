"""An engine that sends back each packet at once: what is left of a delay is the browser's and the bridge's.

Alone: `python -m tests.web.echo_at_once PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from websockets.asyncio.server import serve

from pxbridge import chat_wire
from pxbridge.chat_wire import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import Server, ServerConnection


async def _echo(connection: ServerConnection) -> None:
    await connection.send(chat_wire.handshake())
    async for message in connection:
        if isinstance(message, bytes) and message[:1] == bytes([Kind.AUDIO]):
            await connection.send(message)


@asynccontextmanager
async def echo_at_once(port: int = 0) -> AsyncIterator[Server]:
    """Listens on loopback while the block runs."""
    async with serve(_echo, "127.0.0.1", port, compression=None, ping_interval=None) as server:
        yield server


async def _main(port: int) -> None:
    async with echo_at_once(port):
        print("listening", flush=True)  # noqa: T201  what its starter waits for
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
