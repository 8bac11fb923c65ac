"""Networks that go away: neither end is told, no FIN and no RST, and both keep their sockets.

Two ways, since they look different from the bridge. A *relay* that swallows what it gets, as a stuck proxy
does: its kernel acknowledges all that is sent, and nothing comes. A *cable* that is unplugged: nothing is
acknowledged either, and the kernel sends it again and again. The cable is a pair of virtual interfaces, one
of them in a network namespace of its own, which takes root; the relay needs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count(os.getpid())


class _Way(asyncio.Protocol):
    """One socket of a relay; `far` is the other."""

    def __init__(self, relay: Relay, far: _Way | None) -> None:
        self._relay = relay
        self.far = far
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self.is_near = far is None
        self.arrived_s: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._relay.ways.append(self)
        if self.far is None:
            self._relay.join(self)
        else:
            self.far.joined(self)

    def joined(self, far: _Way) -> None:
        self.far = far
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        self.arrived_s.append(time.time())
        if self._relay.dark:
            return
        if self.far is None:
            self._early.append(data)
        elif self.far.transport is not None:
            self.far.transport.write(data)

    def eof_received(self) -> bool:
        if not self._relay.dark and self.far is not None and self.far.transport is not None:
            self.far.transport.close()
        return self._relay.dark

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self._relay.dark and self.far is not None and self.far.transport is not None:
            self.far.transport.close()


class Relay:
    """Between whoever connects to `port` and where `dial` leads; made by `relay`."""

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self.port = 0
        self.dark = False
        self.ways: list[_Way] = []
        self._dial = dial
        self._joining: set[asyncio.Task[Any]] = set()

    def swallow(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self.dark = True

    def arrivals(self, from_s: float, to_s: float) -> int:
        """How often something came from those who connected, between two times of the wall clock."""
        near = [way for way in self.ways if way.is_near]
        return sum(from_s <= at_s < to_s for way in near for at_s in way.arrived_s)

    def join(self, near: _Way) -> None:
        """Connects the other end for one that has just come."""
        loop = asyncio.get_running_loop()
        sock = self._dial()
        task = asyncio.ensure_future(loop.create_connection(lambda: _Way(self, near), sock=sock))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    def end(self) -> None:
        """Everything is let go of."""
        for way in self.ways:
            if way.transport is not None:
                way.transport.abort()


@contextlib.asynccontextmanager
async def relay(
    to_port: int, *, dial: Callable[[], socket.socket] | None = None, listener: socket.socket | None = None
) -> AsyncIterator[Relay]:
    """A relay on loopback.

    Args:
        to_port: Where it leads, on loopback.
        dial: What leads elsewhere.
        listener: What it listens on instead.
    """
    between = Relay(dial or (lambda: socket.create_connection(("127.0.0.1", to_port))))
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(lambda: _Way(between, None), sock=listener)
    between.port = listener.getsockname()[1]
    try:
        yield between
    finally:
        server.close()
        between.end()
        await asyncio.sleep(0)


class Cable:
    """A cable from this machine to a place that is reached over nothing else; made by `cable`.

    Attributes:
        here: This machine's address on it.
        there: The place's.
    """

    def __init__(self) -> None:
        number = next(_numbers) % 16_000
        self.name = f"pxtest{number}"
        self._near, self._far = f"pxn{number}", f"pxf{number}"
        block = f"10.{200 + number // 4_096}.{number // 16 % 256}"
        self.here = f"{block}.{number % 16 * 4 + 1}"
        self.there = f"{block}.{number % 16 * 4 + 2}"

    def plug_in(self) -> None:
        """Raises `subprocess.CalledProcessError` where that is not allowed."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.name)
        _ip("address", "add", f"{self.here}/30", "dev", self._near)
        _ip("link", "set", self._near, "up")
        _ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", self._far)
        _ip("-n", self.name, "link", "set", self._far, "up")

    def unplug(self) -> None:
        """From now on packets are lost, both ways."""
        _ip("-n", self.name, "link", "set", self._far, "down")

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "delete", self.name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "delete", self._near)

    def dial(self, port: int) -> socket.socket:
        """A socket from there to a port of this machine."""
        return self._there(lambda: socket.create_connection((self.here, port), timeout=5))

    def listen(self) -> socket.socket:
        """A socket that listens there."""
        return self._there(lambda: socket.create_server((self.there, 0)))

    def _there(self, make: Callable[[], socket.socket]) -> socket.socket:
        """A socket stays where the thread was that made it."""
        made: list[socket.socket | BaseException] = []

        def work() -> None:
            try:
                with Path(f"/run/netns/{self.name}").open("rb") as namespace:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(make())
            except BaseException as error:
                made.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        (result,) = made
        if isinstance(result, BaseException):
            raise result
        result.setblocking(False)
        return result


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    """A cable that is plugged in; skips the test where none can be made."""
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip (iproute2)")
    laid = Cable()
    try:
        try:
            laid.plug_in()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs the right to make network namespaces: {error.stderr.decode().strip()}")
        yield laid
    finally:
        laid.remove()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
