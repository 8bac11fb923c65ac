"""Processes that a bench starts and measures: a bridge, an engine, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pxbridge.errors import BenchFailed, InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOOT_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
OPEN = ("--allow-anonymous", "--handshakes-per-minute", "1000000", "--shed-above-lag-ms", "0")
"""Arguments of a bridge on loopback to which many calls come from one address."""


@contextlib.asynccontextmanager
async def server(port: int, *words: str) -> AsyncIterator[int]:
    """Runs `python WORDS` from when its port answers until the block ends; gives its process id.

    Raises:
        BenchFailed: The port does not answer. The text contains the output of the process.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PXBRIDGE_")}
    with tempfile.TemporaryFile() as output:
        started = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=output, stderr=output, env=environ
        )
        try:
            give_up_at_s = time.monotonic() + BOOT_TIMEOUT_S
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                if started.returncode is not None or time.monotonic() > give_up_at_s:
                    output.seek(0)
                    printed = output.read().decode(errors="replace").strip()
                    raise BenchFailed(f"did not start: {' '.join(words)}\n{printed}")
                await asyncio.sleep(0.05)
            yield started.pid
        finally:
            if started.returncode is None:
                started.terminate()
                try:
                    await asyncio.wait_for(started.wait(), STOP_TIMEOUT_S)
                except TimeoutError:
                    started.kill()
                    await started.wait()


# Below Linux's ephemeral ports, which begin at 32768. An outgoing connection, or a server that asks for any
# port, may take one of those before the server starts for which it was found. And a client that tries such a
# port until its server answers may connect to itself.
_PORTS: Final = itertools.cycle(random.sample(range(20_000, 32_768), 12_768))


def free_port() -> int:
    """A port of the loopback address that nobody listens at. This process gets each port once."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError  # the ports come again and again


class Meter:
    """CPU time and memory of a process, from Linux's proc(5).

    Raises:
        InputError: There is no such process, or this is not Linux.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        try:
            self.cpu_s()
            self.private_bytes()
        except OSError as error:
            raise InputError(f"process {pid} cannot be measured: {error.strerror}") from error

    def cpu_s(self) -> float:
        """CPU time so far, in user and in kernel mode."""
        # Field 2, the name, may contain spaces. It ends with the last parenthesis.
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * self._tick_s

    def private_bytes(self) -> int:
        """Memory that no other process shares: it would be freed if the process ended."""
        lines = (self._folder / "smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
