"""A name server that does not answer costs only the names that it does not answer."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest
from tests.virtual_time import run as in_virtual_time

from pxbridge.host_lookups import AT_ONCE, FRESH_S, SLOW_AT_ONCE, AddressInfo, HostLookups, Query

SOON_S = 20.0
"""Far more than anything here takes, and a busy machine is no failure."""
QUICK_S = 0.01
"""After which a look-up counts as slow in these tests."""


class NameServer:
    """Answers names, except those that begin with `dead`, which it leaves without an answer until `end`."""

    def __init__(self) -> None:
        self.dead = True
        self.asked: Counter[str] = Counter()
        self.asked_at_once = 0
        self.most_at_once = 0
        self._end = threading.Event()
        self._lock = threading.Lock()

    def look_up(self, host: str, port: int, *_how: Any) -> list[AddressInfo]:
        with self._lock:
            self.asked[host] += 1
            self.asked_at_once += 1
            self.most_at_once = max(self.most_at_once, self.asked_at_once)
        try:
            if host.startswith("dead") and self.dead:
                self._end.wait(60.0)
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            if host.startswith("unknown"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]
        finally:
            with self._lock:
                self.asked_at_once -= 1

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def server() -> Any:
    server = NameServer()
    yield server
    server.end()


def query(host: str) -> Query:
    return Query(host, 8998)


async def test_names_without_an_answer_do_not_keep_a_good_name_waiting(server: NameServer) -> None:
    lookups = HostLookups(asyncio.get_running_loop(), server.look_up, QUICK_S)
    dead = [asyncio.create_task(lookups.find(query(f"dead{n}.example"))) for n in range(2 * AT_ONCE)]
    async with asyncio.timeout(SOON_S):
        await asyncio.sleep(0)
        (answer,) = await lookups.find(query("good.example"))
        assert answer[4] == ("192.0.2.1", 8998)
        assert not any(task.done() for task in dead)
    for task in dead:
        task.cancel()


async def test_a_name_is_looked_up_once_at_a_time_and_again_when_its_answer_is_old(
    server: NameServer,
) -> None:
    lookups = HostLookups(asyncio.get_running_loop(), server.look_up)
    async with asyncio.timeout(SOON_S):
        await asyncio.gather(*(lookups.find(query("good.example")) for _ in range(20)))
        await lookups.find(query("good.example"))
    assert server.asked == {"good.example": 1}


async def test_slow_names_are_asked_few_at_a_time(server: NameServer) -> None:
    lookups = HostLookups(asyncio.get_running_loop(), server.look_up, QUICK_S)
    names = [query(f"dead{n}.example") for n in range(2 * SLOW_AT_ONCE)]
    first = [asyncio.create_task(lookups.find(name)) for name in names]
    async with asyncio.timeout(SOON_S):
        while len(lookups._slow_hosts) < len(names):  # noqa: ASYNC110  they are called slow by a timer
            await asyncio.sleep(QUICK_S)
        server.end()
        assert all(isinstance(e, OSError) for e in await asyncio.gather(*first, return_exceptions=True))
        server._end.clear()
        server.most_at_once = 0
        again = [asyncio.create_task(lookups.find(name)) for name in names]
        await lookups.find(query("good.example"))
        assert server.most_at_once <= SLOW_AT_ONCE + 1
        server.end()
        await asyncio.gather(*again, return_exceptions=True)


async def test_a_name_that_does_not_exist_has_no_address_and_no_bad_name_harms_a_good_one(
    server: NameServer,
) -> None:
    lookups = HostLookups(asyncio.get_running_loop(), server.look_up)
    async with asyncio.timeout(SOON_S):
        for _ in range(2):
            with pytest.raises(socket.gaierror, match="not known"):
                await lookups.find(query("unknown.example"))
        assert await lookups.find(query("good.example"))


async def test_who_gives_up_waiting_does_not_end_the_look_up_of_others(server: NameServer) -> None:
    lookups = HostLookups(asyncio.get_running_loop(), server.look_up)
    gives_up, waits = (asyncio.create_task(lookups.find(query("dead.example"))) for _ in range(2))
    async with asyncio.timeout(SOON_S):
        await asyncio.sleep(0)
        gives_up.cancel()
        await asyncio.wait([gives_up])
        server.end()
        with pytest.raises(socket.gaierror, match="Temporary failure"):
            await waits


class Threads:
    """The threads of a machine that may have no room for another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = False
        self._start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self._start_if_room(thread))

    def _start_if_room(self, thread: threading.Thread) -> None:
        if not self.room:
            raise RuntimeError("can't start new thread")
        self._start(thread)


async def test_a_name_that_got_no_thread_is_told_and_looked_up_again(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(monkeypatch)
    lookups = HostLookups(asyncio.get_running_loop(), server.look_up)
    names = [query(f"good{n}.example") for n in range(2 * AT_ONCE)]
    async with asyncio.timeout(SOON_S):
        failed = await asyncio.gather(*(lookups.find(name) for name in names), return_exceptions=True)
        assert [error.errno for error in failed if isinstance(error, OSError)] == [errno.EAGAIN] * len(names)
        assert "no thread" in str(failed[0])
        threads.room = True
        assert all(await asyncio.gather(*(lookups.find(name) for name in names)))


def test_the_last_address_is_used_while_there_is_no_thread(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        threads = Threads(monkeypatch)
        threads.room = True
        lookups = HostLookups(asyncio.get_running_loop(), server.look_up)
        looking = asyncio.create_task(lookups.find(query("good.example")))
        while not looking.done():  # the thread has no part in virtual time  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        answer = await looking
        await asyncio.sleep(FRESH_S + 1.0)
        threads.room = False
        assert await lookups.find(query("good.example")) == answer
        assert server.asked == {"good.example": 1}

    in_virtual_time(main(), limit_s=1e6)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo", "", None])
async def test_an_address_needs_no_name_server(host: str | None) -> None:
    asked: list[Any] = []

    def look_up(*query: Any) -> list[AddressInfo]:
        asked.append(threading.current_thread())
        return []

    lookups = HostLookups(asyncio.get_running_loop(), look_up)
    await lookups.find(Query(host, 80))
    assert asked == [threading.current_thread()]


def test_the_last_address_is_used_while_the_name_server_does_not_answer(server: NameServer) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        lookups = HostLookups(loop, server.look_up)
        server.dead = False
        looking = asyncio.create_task(lookups.find(query("dead.example")))
        while not looking.done():  # the thread has no part in virtual time  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        answer = await looking
        server.dead = True
        await asyncio.sleep(FRESH_S + 1.0)
        began_s = loop.time()
        for _ in range(3):
            assert await lookups.find(query("dead.example")) == answer
        assert loop.time() - began_s < 2.0
        server.end()

    in_virtual_time(main(), limit_s=1e6)


def test_a_look_up_without_an_answer_does_not_keep_a_process_from_ending() -> None:
    program = """
import asyncio, socket, time
from pxbridge.event_loop import EventLoop

def never(*_):
    time.sleep(600)

socket.getaddrinfo = never
import pxbridge.host_lookups as module

async def main():
    loop = asyncio.get_running_loop()
    loop._lookups = module.HostLookups(loop, never)
    try:
        async with asyncio.timeout(0.2):
            await asyncio.open_connection("dead.example", 80)
    except TimeoutError:
        print("given up")

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=SOON_S, check=True, capture_output=True, text=True
    )
    assert done.stdout == "given up\n"
