"""An event loop whose clock jumps: real sockets on loopback, and nobody waits.

When nothing is ready and the next timer is due in a second, the clock is put forward by a second. What runs
on it does all that it would do in real time, in the same order, as fast as the machine can: an hour of a call
takes seconds, a slow machine sees the same call as a fast one, and nothing sleeps.

Only for tests whose every peer lives in this loop: a thread or another process has no part in its time.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from typing import Any

T = TypeVar("T")

SETTLE_S = 0.0002
"""Real time given to the kernel before the clock jumps. What is written to a loopback socket is readable at
once, except when the kernel puts its delivery off to another thread of its own."""


TURN_S = 1e-9
"""A turn of the loop takes time in reality: so much here, or code whose deadline a rounding error keeps in
the future would wait for it for ever."""


class _JumpingSelector(selectors.BaseSelector):
    """A selector that puts the clock forward instead of waiting for a timer."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += TURN_S
        if timeout is None:
            return self._real.select(None)
        if ready := self._real.select(0):
            return ready
        if timeout > 0:
            if ready := self._real.select(SETTLE_S):
                return ready
            self.now_s += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> list[Any]:
        """At once: the thread that looks names up otherwise has no part in this time, which would jump
        meanwhile.
        """
        return socket.getaddrinfo(host, port, **how)


def run(main: Coroutine[Any, Any, T], limit_s: float = 120.0) -> T:
    """`asyncio.run` on such a loop; fails if `main` takes longer than `limit_s` of the loop's time."""

    async def limited() -> T:
        async with asyncio.timeout(limit_s):
            return await main

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(limited())
