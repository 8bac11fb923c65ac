"""A soak's processes, seen from outside: engines that are killed, and bridges with their metrics."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pxbridge.commands.processes import Meter, free_port, server

if TYPE_CHECKING:
    from collections.abc import Iterator


SCRAPE_TIMEOUT_S = 30.0
LAGS_S = (0.02, 0.1, 0.5)
"""Lateness of the bridge's event loop that a call can notice, that is heard, and that breaks calls."""


class Engine:
    """A rehearsal engine's process, to be killed and started again at the same address."""

    def __init__(self, slots: int, prompt_s: float) -> None:
        self.port = free_port()
        self.slots = slots
        self.url = f"ws://127.0.0.1:{self.port}/api/chat"
        self.runs = False
        self._prompt_s = prompt_s
        self._stack = contextlib.AsyncExitStack()
        self._pid = 0

    async def start(self) -> None:
        words = ["-m", "pxbridge.simulation.rehearsal", "--port", str(self.port), "--mode", "relay"]
        words += ["--slots", str(self.slots), "--prompt-s", str(self._prompt_s)]
        self._pid = await self._stack.enter_async_context(server(self.port, *words))
        self.runs = True

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self.runs = False

    async def stop(self) -> None:
        await self._stack.aclose()


@dataclass
class Sample:
    """The bridge's process at one time, and how many callers were in a call."""

    at_s: float
    live: int
    memory_bytes: int
    descriptors: int
    threads: int


class Bridge:
    """The bridge's process, seen from outside and through its console.

    Args:
        pid: Its process id.
        console: Its console's port.
    """

    def __init__(self, pid: int, console: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self.meter = Meter(pid)
        self.slowest_answer_s = 0.0
        self._metrics_url = f"http://127.0.0.1:{console}/metrics"

    def sample(self, at_s: float, live: int) -> Sample:
        descriptors = len(list((self._folder / "fd").iterdir()))
        threads = len(list((self._folder / "task").iterdir()))
        return Sample(at_s, live, self.meter.private_bytes(), descriptors, threads)

    async def slots(self) -> dict[str, Counter[str]]:
        """For each engine's name, how many slots are in which state."""
        slots: dict[str, Counter[str]] = {}
        for labels, value in _series(await self._scrape(), "pxbridge_engine_slots"):
            slots.setdefault(labels["engine"], Counter())[labels["state"]] = int(value)
        return slots

    async def outcomes(self) -> Counter[str]:
        """How many calls had each outcome, by the bridge's own count."""
        series = _series(await self._scrape(), "pxbridge_calls_total")
        return Counter({labels["outcome"]: int(value) for labels, value in series if value})

    async def floods_closed(self) -> int:
        """How many phones it has closed because they flooded."""
        series = _series(await self._scrape(), "pxbridge_floods_total")
        return sum(int(value) for labels, value in series if labels["peer"] == "phone")

    async def on_time(self) -> Counter[float]:
        """By bound in seconds: how many checks found the event loop no later than that."""
        name = "pxbridge_event_loop_lag_seconds_bucket"
        return Counter(
            {float(labels["le"]): int(count) for labels, count in _series(await self._scrape(), name)}
        )

    async def _scrape(self) -> str:
        def fetch() -> str:
            with urllib.request.urlopen(self._metrics_url, timeout=SCRAPE_TIMEOUT_S) as answer:
                text: str = answer.read().decode()
            return text

        began_s = time.monotonic()
        answer = await asyncio.to_thread(fetch)
        self.slowest_answer_s = max(self.slowest_answer_s, time.monotonic() - began_s)
        return answer


class Bridges:
    """All bridges, as one.

    Args:
        bridges: The bridges. They share their engines.
    """

    def __init__(self, bridges: list[Bridge]) -> None:
        self._bridges = bridges

    def sample(self, at_s: float, live: int) -> Sample:
        samples = [bridge.sample(at_s, live) for bridge in self._bridges]
        memory_bytes = sum(sample.memory_bytes for sample in samples)
        descriptors = sum(sample.descriptors for sample in samples)
        return Sample(at_s, live, memory_bytes, descriptors, sum(sample.threads for sample in samples))

    def cpu_s(self) -> float:
        return sum(bridge.meter.cpu_s() for bridge in self._bridges)

    async def slots(self) -> dict[str, Counter[str]]:
        """For each engine's name, how many slots are in which state.

        A slot is idle if all bridges take it for idle, and what one uses is elsewhere for the others.
        """
        of_each = [await bridge.slots() for bridge in self._bridges]
        found: dict[str, Counter[str]] = {}
        for name in of_each[0]:
            found[name] = sum((slots[name] for slots in of_each), Counter())
            found[name]["idle"] = min(slots[name]["idle"] for slots in of_each)
            del found[name]["elsewhere"]
        return found

    async def outcomes(self) -> dict[str, int]:
        return dict(sum([await bridge.outcomes() for bridge in self._bridges], Counter[str]()))

    async def floods_closed(self) -> int:
        return sum([await bridge.floods_closed() for bridge in self._bridges])

    async def lag(self) -> dict[float, float]:
        """By bound in seconds: the share of checks at which an event loop was later than that."""
        within = sum([await bridge.on_time() for bridge in self._bridges], Counter[float]())
        return {bound_s: 1 - within[bound_s] / within[math.inf] for bound_s in LAGS_S}

    @property
    def slowest_answer_s(self) -> float:
        return max(bridge.slowest_answer_s for bridge in self._bridges)


def _series(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    for labels, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.M):
        yield dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)
