"""Messages to systemd from a service of ``Type=notify``: ready, reloading, stopping, and the watchdog.

A message is a datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)). An
address that begins with ``@`` is in Linux's abstract namespace. Without that variable nothing is sent.

`in_journal` says whether the output goes to systemd's journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING

from pxbridge.periodic import stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

log = logging.getLogger(__name__)

STANDARD_STREAMS = (1, 2)
"""The descriptors of stdout and stderr."""

PINGS_PER_TIMEOUT = 3
"""sd_watchdog_enabled(3) advises two. With three, one late ping does not cause a restart."""


class Notifier:
    """Sends messages to the service manager.

    Args:
        environ: The process's environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environ) if address else None

    def ready(self, status: str) -> None:
        """The service is ready; also sent after `reloading`."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The service reads its settings again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str, limit_s: float) -> None:
        """The service stops, which may take `limit_s`."""
        self._send("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={round(limit_s * 1e6)}")

    @contextlib.asynccontextmanager
    async def watchdog(self) -> AsyncIterator[None]:
        """Pings systemd's watchdog from the event loop while the block runs, if the unit has a watchdog."""
        task = asyncio.create_task(self._ping(), name="watchdog")
        try:
            yield
        finally:
            await stop([task])

    async def _ping(self) -> None:
        if self._watchdog_s is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / PINGS_PER_TIMEOUT)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("systemd did not take %s: %s", lines[0], error)


def in_journal(environ: Mapping[str, str], descriptors: Iterable[int] = STANDARD_STREAMS) -> bool:
    """Whether stdout or stderr is written to systemd's journal.

    ``JOURNAL_STREAM`` names the device and the inode of the stream to the journal (systemd.exec(5),
    "Environment Variables Set on Exec"). A shell may have inherited it, so both are compared with those of
    our streams.
    """
    stream = environ.get("JOURNAL_STREAM", "")
    return stream != "" and stream in map(_device_and_inode, descriptors)


def _device_and_inode(descriptor: int) -> str:
    try:
        status = os.fstat(descriptor)
    except OSError:  # it is closed
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """The unit's WatchdogSec=; None if it has none for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isdigit() and int(usec) else None
