"""A Redis or Valkey server as a process of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fault.processes import LIMIT_S

from pxbridge.commands.processes import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Literal

    Keeps = Literal["nothing", "snapshot", "log"]

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
"""Debian has both; which one does not matter."""


KINDS: tuple[Keeps, ...] = ("nothing", "snapshot", "log")

OPTIONS: dict[Keeps, tuple[str, ...]] = {
    "nothing": ("--save", "", "--appendonly", "no"),
    "snapshot": ("--save", "", "--appendonly", "no"),
    "log": ("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
}


@dataclass
class Store:
    """A server. After its stop, which is a kill, it knows what it has kept.

    Attributes:
        keeps: ``nothing``; a ``snapshot`` as of the last call of `save`; or a ``log`` of each change.
    """

    port: int
    folder: str
    keeps: Keeps = "nothing"
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        assert PROGRAM is not None
        self.process = await asyncio.create_subprocess_exec(
            PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder,
            *OPTIONS[self.keeps], stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(LIMIT_S):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                    return
                await asyncio.sleep(0.02)

    async def save(self) -> None:
        """Takes the snapshot, if this server keeps one."""
        if self.keeps == "snapshot":
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"SAVE\r\n")
            assert await reader.readline() == b"+OK\r\n"
            writer.close()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It answers nobody while the block runs, and forgets nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None


@contextlib.asynccontextmanager
async def store(keeps: Keeps = "nothing") -> AsyncIterator[Store]:
    """A running server."""
    with tempfile.TemporaryDirectory() as folder:
        running = Store(free_port(), folder, keeps)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()
