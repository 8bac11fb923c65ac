"""A Redis or Valkey server as a process of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fault.processes import LIMIT_S, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
"""Debian has both; which one does not matter."""


@dataclass
class Store:
    """A server that forgets everything when it stops."""

    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        assert PROGRAM is not None
        self.process = await asyncio.create_subprocess_exec(
            PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(LIMIT_S):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None


@contextlib.asynccontextmanager
async def store() -> AsyncIterator[Store]:
    """A running server."""
    running = Store(free_port())
    await running.start()
    try:
        yield running
    finally:
        await running.stop()
