"""CPU time of receiving one message and sending one: our WebSocket beside `websockets`' own server.

    python benches/websocket_cpu.py                   20 calls; 20 ms and 100 ms frames
    python benches/websocket_cpu.py --calls 50 --seconds 10

The servers run in turn in one process, and only its CPU time counts. The phones are a process of their own:
each sends a frame of Exotel's size at the line's pace and gets one of the same size back. So nearly every
message wakes the event loop, as in calls and unlike in a flood. The library's server answers in the shortest
way of its API (``async for message: await send``), without compression.

An echo over bare TCP shows the share of the event loop and the kernel. uvloop is measured if it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import multiprocessing
import select
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

import websockets.asyncio.server
from rich.table import Table
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.uri import parse_uri

from pxbridge import websocket
from pxbridge.commands import terminal
from pxbridge.telephony.exotel.spelling import Exotel

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from websockets.asyncio.server import ServerConnection

LINE_RATE_HZ = 8_000
FRAMES_MS = (20, 100)
WARM_UP_S = 0.5
ROUNDS = 3  # of each; the table shows the median

Serving = Callable[[list[int]], AbstractAsyncContextManager[int]]
"""Serves echoes on a port; counts the messages it took into the list's only element."""


@asynccontextmanager
async def ours(count: list[int]) -> AsyncIterator[int]:
    def echo(end: websocket.WebSocket) -> None:
        def answer(payload: bytes, is_text: bool) -> None:
            count[0] += 1
            end.send(payload, text=is_text)

        end.on_message = answer

    server = await websocket.serve(lambda _request: echo, "127.0.0.1", 0)
    yield server.port
    server.close()
    for connection in server.connections:
        connection.abort("the round is over")
    await server.wait_closed()


@asynccontextmanager
async def library(count: list[int]) -> AsyncIterator[int]:
    async def echo(end: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for message in end:
                count[0] += 1
                await end.send(message)

    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, compression=None) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def bare_tcp(count: list[int]) -> AsyncIterator[int]:
    """No WebSocket at all: what the loop and the kernel cost."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            count[0] += 1
            self.transport.write(data)

    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def frame(length_ms: int) -> bytes:
    """A media message of Exotel's as it stands on the wire, masked."""
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=State.OPEN)
    payload = bytes(length_ms * LINE_RATE_HZ * 2 // 1000)
    client.send_text(Exotel("5a3f" * 8).media(payload, 40).encode())
    return b"".join(client.data_to_send())


def phones(port: int, calls: int, length_ms: int, started: Event, over: Event) -> None:
    """Sends one frame per call and period, evenly spread, and throws away what comes back."""
    upgrade = ClientProtocol(parse_uri("ws://127.0.0.1/"))
    upgrade.send_request(upgrade.connect())
    hello = b"".join(upgrade.data_to_send())
    lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(calls)]
    for line in lines:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(hello)
        line.recv(4096)
        line.setblocking(False)
    started.set()
    wire = frame(length_ms)
    gap_s = length_ms / 1000 / calls
    due = time.monotonic()
    turn = 0
    while not over.is_set():
        readable, _, _ = select.select(lines, [], [], max(0.0, due - time.monotonic()))
        for line in readable:
            line.recv(65536)
        while time.monotonic() >= due:
            lines[turn % calls].send(wire)
            turn += 1
            due += gap_s
    for line in lines:
        line.close()


async def pair_us(serving: Serving, calls: int, length_ms: int, seconds: float) -> float:
    """CPU time of one message in and one out, µs."""
    count = [0]
    spawn = multiprocessing.get_context("spawn")
    started, over = spawn.Event(), spawn.Event()
    async with serving(count) as port:
        callers = spawn.Process(target=phones, args=(port, calls, length_ms, started, over), daemon=True)
        callers.start()
        await asyncio.to_thread(started.wait)
        await asyncio.sleep(WARM_UP_S)
        count_before, cpu_before = count[0], time.process_time()
        await asyncio.sleep(seconds)
        cpu_s, pairs = time.process_time() - cpu_before, count[0] - count_before
        over.set()
        await asyncio.to_thread(callers.join)
    return cpu_s / pairs * 1e6


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loops there are here."""
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    with suppress(ImportError):
        found["uvloop"] = importlib.import_module("uvloop").new_event_loop
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--calls", type=int, default=20)
    options.add_argument("--seconds", type=float, default=2.0, help="of each round")
    chosen = options.parse_args()
    servers: dict[str, Serving] = {"websockets": library, "ours": ours, "bare TCP": bare_tcp}
    figures: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(ROUNDS):  # in turn, so that another load on the machine meets all of them
        for loop_name, new_loop in loops().items():
            for server_name, serving in servers.items():
                for length_ms in FRAMES_MS:
                    with asyncio.Runner(loop_factory=new_loop) as runner:
                        cost_us = runner.run(pair_us(serving, chosen.calls, length_ms, chosen.seconds))
                    figures.setdefault((loop_name, server_name, length_ms), []).append(cost_us)
    table = Table(title=f"CPU per receive + send, {chosen.calls} calls at 8 kHz")
    table.add_column("loop")
    table.add_column("server")
    for length_ms in FRAMES_MS:
        table.add_column(f"{length_ms} ms frames, µs", justify="right")
        table.add_column("ratio", justify="right")
    for loop_name in loops():
        for server_name in servers:
            row = [loop_name, server_name]
            for length_ms in FRAMES_MS:
                cost_us = statistics.median(figures[loop_name, server_name, length_ms])
                base_us = statistics.median(figures["asyncio", "websockets", length_ms])
                row += [f"{cost_us:.0f}", f"{cost_us / base_us:.2f}"]
            table.add_row(*row)
    terminal.console().print(table)


if __name__ == "__main__":
    main()
