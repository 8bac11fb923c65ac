"""Runs a command line with a terminal of its own, as a person does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

LIMIT_S = 60.0
"""Far more than anything here takes: a busy machine is no failure."""


class Terminal:
    """A running command on a terminal.

    Attributes:
        printed: What it has printed on the terminal.
        logged: What it has written to stderr, which is no terminal.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.printed = ""
        self.logged = ""
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ends(self) -> int:
        """Its exit status."""
        async with asyncio.timeout(LIMIT_S):
            return await self._process.wait()


@contextlib.asynccontextmanager
async def on_a_terminal(
    line: str, *, environ: Mapping[str, str], folder: Path, keys: str = ""
) -> AsyncIterator[Terminal]:
    """Runs a shell's command line; killed at the end of the block.

    Args:
        line: The command line.
        environ: Its environment.
        folder: Where it runs.
        keys: What is typed.
    """
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    os.write(ours, keys.encode())
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"exec {line}"),
        cwd=folder,
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    terminal = Terminal(process)
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def read() -> None:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            loop.remove_reader(ours)
            closed.set()
        terminal.printed += data.decode(errors="replace")

    async def read_log() -> None:
        assert process.stderr is not None
        while data := await process.stderr.read(65536):
            terminal.logged += data.decode(errors="replace")

    loop.add_reader(ours, read)
    logs = asyncio.create_task(read_log())
    try:
        yield terminal
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await logs
        async with asyncio.timeout(LIMIT_S):
            await closed.wait()
        os.close(ours)
