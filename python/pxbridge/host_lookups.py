"""Looks up host names, so that a dead name server affects only the names that it does not answer.

`socket.getaddrinfo` blocks while the name server does not answer, for 5 to 30 s. asyncio calls it in a few
shared threads (`loop.run_in_executor`), and waits for these threads when the process ends. So a few names
without an answer would delay all other look-ups, and the end of the process.

Here each look-up has its own thread, and the process ends without waiting for it. There is one look-up at a
time for each name. Slow look-ups do not count against the limit for others, and only a few names that were
slow are looked up at the same time. If a name was found before, its last address is used while the name
server does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import ipaddress
import socket
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

FRESH_S: Final = 10.0
"""How long an answer is used without another look-up. An engine is probed every 5 s."""

LAST_ANSWER_AFTER_S: Final = 0.5
"""How long a look-up may take before the last address is used, if there is one."""

SLOW_S: Final = 1.0
"""A look-up that takes longer makes room for others. A name server that works answers within 0.1 s."""

AT_ONCE: Final = 16
"""Look-ups at the same time, slow ones not counted."""

SLOW_AT_ONCE: Final = 8
"""Look-ups at the same time of names whose last look-up was slow."""

MOST_THREADS: Final = 64

KEPT: Final = 1024
"""Names whose last address is kept."""

AddressInfo = tuple[Any, ...]
"""One result of `socket.getaddrinfo`."""


class Query(NamedTuple):
    """The arguments of `socket.getaddrinfo`."""

    host: Any
    port: Any
    family: int = 0
    type: int = 0
    proto: int = 0
    flags: int = 0


@dataclass(eq=False, slots=True)
class _Lookup:
    """A look-up under way.

    Attributes:
        query: What is looked up.
        done: Set when it has ended; `answer` or `error` says how.
        slow: Whether it counts as slow.
        timer: Calls it slow.
    """

    query: Query
    done: asyncio.Future[None]
    slow: bool = False
    timer: asyncio.TimerHandle | None = None
    answer: list[AddressInfo] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A good answer, and when it came."""

    answer: list[AddressInfo]
    at_s: float


class HostLookups:
    """Looks host names up for one event loop.

    Args:
        loop: The loop.
        look_up: `socket.getaddrinfo`, called in a thread.
        slow_s: See `SLOW_S`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        look_up: Callable[..., list[AddressInfo]] = socket.getaddrinfo,
        slow_s: float = SLOW_S,
    ) -> None:
        self._loop = loop
        self._look_up = look_up
        self._slow_s = slow_s
        self._found: OrderedDict[Query, _Found] = OrderedDict()
        self._under_way: dict[Query, _Lookup] = {}
        self._slow_hosts: set[Any] = set()
        self._waiting: deque[_Lookup] = deque()
        self._waiting_slow: deque[_Lookup] = deque()
        self._running = 0
        self._running_slow = 0

    async def find(self, query: Query) -> list[AddressInfo]:
        """Returns the addresses of a host.

        Raises:
            OSError: The name server does not know the name, or does not answer and never did, or there is no
                thread to ask it.
            UnicodeError: The name cannot be a host's.
        """
        if _is_address(query.host):
            return self._look_up(*query)  # the name server is not asked
        found = self._found.get(query)
        if found is not None and self._loop.time() - found.at_s < FRESH_S:
            return found.answer
        lookup = self._under_way.get(query) or self._begin(query)
        await asyncio.wait([lookup.done], timeout=None if found is None else LAST_ANSWER_AFTER_S)
        if found is not None and (not lookup.done.done() or _is_no_answer(lookup.error)):
            return found.answer
        if lookup.error is not None:
            raise copy.copy(lookup.error)  # it is shared by all who wait, and collects their tracebacks
        return lookup.answer

    def _begin(self, query: Query) -> _Lookup:
        lookup = _Lookup(query, self._loop.create_future(), slow=query.host in self._slow_hosts)
        self._under_way[query] = lookup
        (self._waiting_slow if lookup.slow else self._waiting).append(lookup)
        self._start_next()
        return lookup

    def _start_next(self) -> None:
        """Starts look-ups that wait, as many as there is room for."""
        while self._running + self._running_slow < MOST_THREADS:
            if self._waiting and self._running < AT_ONCE:
                lookup = self._waiting.popleft()
                self._running += 1
                lookup.timer = self._loop.call_later(self._slow_s, self._is_slow, lookup)
            elif self._waiting_slow and self._running_slow < SLOW_AT_ONCE:
                lookup = self._waiting_slow.popleft()
                self._running_slow += 1
            else:
                return
            name = f"look-up of {lookup.query.host}"
            try:
                threading.Thread(target=self._run, args=(lookup,), name=name, daemon=True).start()
            except RuntimeError as error:
                lookup.error = OSError(errno.EAGAIN, f"no thread for a look-up: {error}")
                self._loop.call_soon(self._ended, lookup)

    def _is_slow(self, lookup: _Lookup) -> None:
        lookup.slow = True
        self._slow_hosts.add(lookup.query.host)
        self._running -= 1
        self._running_slow += 1
        self._start_next()

    def _run(self, lookup: _Lookup) -> None:
        """Runs in a thread."""
        try:
            lookup.answer = self._look_up(*lookup.query)
        except Exception as error:
            lookup.error = error.with_traceback(None)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._ended, lookup)

    def _ended(self, lookup: _Lookup) -> None:
        if lookup.timer is not None:
            lookup.timer.cancel()
        if lookup.slow:
            self._running_slow -= 1
        else:
            self._running -= 1
        if not _is_no_answer(lookup.error):
            self._slow_hosts.discard(lookup.query.host)
        if lookup.error is None:
            self._found[lookup.query] = _Found(lookup.answer, self._loop.time())
            self._found.move_to_end(lookup.query)
            if len(self._found) > KEPT:
                self._found.popitem(last=False)
        del self._under_way[lookup.query]
        lookup.done.set_result(None)
        self._start_next()


def _is_address(host: Any) -> bool:
    """Whether a host is given as an address, or as all addresses of this machine."""
    if not host:
        return True
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return True


def _is_no_answer(error: Exception | None) -> bool:
    """Whether a look-up failed although the name may exist."""
    if isinstance(error, socket.gaierror):
        return error.errno not in (socket.EAI_NONAME, socket.EAI_NODATA)
    return isinstance(error, OSError)  # the machine has no thread or no descriptor for it
