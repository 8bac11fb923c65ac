"""Many calls for minutes while their engines are killed at random: what callers lose, and what leaks.

    python benches/soak.py                                   50 calls, 10 minutes, 14 engines of 5 slots
    python benches/soak.py --minutes 1 --calls 10 --engines 4 --json soak.json
    python benches/soak.py --short                           8 calls for 40 s, for CI; goes first if it may

Two bridges that share a store, and the engines, are processes of their own, as in production; the callers
live here. Each caller calls, talks for a while, ends the call in one of the ways in which phones do, and
calls again. Every caller sends a tone all the time and the engines echo it: any other sound is not the agent.
So the cost of a failure is measured at the caller's ear, without asking the bridge, and the bridge's own
sounds count as lost.

In the second half, one phone floods, one holds for 5 s again and again, and the store is killed twice and
comes back with an older memory (`soak_troubles.py`). The other callers must not hear a difference.

Exit status 1: a promise was broken. 3: none was, but the machine was too busy to judge what callers hear. On
a machine that does other work, run it with `chrt -r 1`, which lets it go first: a caller that gets no
processor hears gaps too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import math
import os
import random
import re
import signal
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bridges import Lateness, go_first
from gate import EXIT_NOT_JUDGED, MOST_LATE_MS
from pxbridge.commands import terminal
from pxbridge.commands.processes import Meter, free_port, server
from pxbridge.commands.terminal import say
from pxbridge.wording import counted, lasted
from soak_troubles import HOLD_S, LEASE_TTL_S, Troubles, store_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from rich.console import Console
    from websockets.asyncio.client import ClientConnection

RATE_HZ = 8_000
CHUNK_MS = 100
PACKET_SAMPLES = 160
PACKET_S = PACKET_SAMPLES / RATE_HZ

TONE_HZ = 1_150
"""A whole number of periods in a chunk, and not a note of the bridge's own music."""
TONE_LEVEL = 0.3
TONE_SHARE = 0.5
"""A packet is the agent's if this share of its power is at the tone's frequency. Time scaling keeps that."""
TONE_LEAST = 0.01
"""A packet whose mean square is below this, at full scale 1, is silent."""
GAP_S = 0.1
"""Shorter gaps, of a lost packet or two, are not counted."""

LOST_S = 1.5
"""The most that a failure may cost when a slot was free."""
BELONGS_S = 4.0
"""A gap that begins within this time after a kill was caused by it."""

REDIAL_S = (0.5, 2.0)
DOWN_S = (2.0, 6.0)
SAMPLE_EVERY_S = 5.0
SCRAPE_TIMEOUT_S = 30.0
LAGS_S = (0.02, 0.1, 0.5)
"""Lateness of the bridge's event loop that a call can notice, that is heard, and that breaks calls."""
SETTLE_S = 5.0
"""After the last call, for probes, closing handshakes and sessions that are being prompted ahead to end."""

FLAT_MEMORY = 0.05
"""Growth that is no leak, but the allocator's.

From the median of the run's third minute to that of its last two. Only samples count at which nearly all
callers were in a call.
"""
WARM_UP_S = 120.0
"""Memory is not judged before this, as some growth happens once in a process's life.

The last caller joins; the heap and Python's arenas grow to the most that the calls ever need at once (when an
engine dies); the console is asked for the first time and keeps its hundred latest calls; SQLite's page cache
grows to its 2 MB.
"""
BASE_S = 60.0
LAST_S = 120.0
FULL_HOUSE = 0.9
"""A sample counts when this share of the callers were in a call."""
FLAT_DESCRIPTORS = 4
"""More descriptors than before are no leak up to this: probes and scrapes may be under way."""

HANG_UPS = ("stop", "close", "abort")

BRIDGES = 2
JOIN_EVERY_S = 0.2

WORSE = 2.0
"""How many times as much of the agent callers may miss beside the troubles as before them."""
SLACK = 0.005
"""And this share of the time more: five milliseconds of a second."""
STARVED_MS = 50.0
"""If this process was later than this once in a hundred wake-ups, nothing is judged: calls time out."""
HEARD = 0.85
"""The least share of what the phone that holds says that must come back. A bridge that takes the length of
each hold out of what is said afterwards sends back four fifths of it, in the short form less than half."""


@dataclass(frozen=True)
class Pace:
    """How often things happen, in seconds."""

    talk_s: tuple[float, float] = (30.0, 150.0)
    kill_every_s: tuple[float, float] = (6.0, 14.0)
    hold_every_s: float = 30.0


SHORT = Pace((6.0, 15.0), (4.0, 7.0), 10.0)
SHORT_MINUTES = 40 / 60
SHORT_RUN = {"minutes": SHORT_MINUTES, "calls": 8, "engines": 5, "slots": 4, "warm": 2}


@dataclass
class Gap:
    """A stretch in which a caller did not hear the agent; times on the machine's monotonic clock."""

    at_s: float
    duration_s: float


@dataclass
class CallOutcome:
    """One call, as its caller saw it.

    Attributes:
        ended: ``hung up``, ``closed CODE`` by the bridge, or why it could not be placed.
        first_s: From `start` to the agent's first sound; None if there was none.
        gaps: Stretches without the agent.
        deaf_s: How long before the end of the call the agent was last heard.
        began_s: When it began, on the machine's monotonic clock.
        ended_s: When it ended.
        said_s: How much its caller said from the agent's first sound on.
        heard_s: How much of the agent was heard.
    """

    ended: str = "?"
    began_s: float = 0.0
    ended_s: float = 0.0
    said_s: float = 0.0
    heard_s: float = 0.0
    first_s: float | None = None
    gaps: list[Gap] = field(default_factory=list)
    deaf_s: float = 0.0


@dataclass
class Kill:
    """An engine's death.

    Attributes:
        at_s: Its time.
        live: The engine's conversations.
        warm: Sessions prompted ahead on other engines.
        idle: The other engines' idle slots.
        lost_s: How much of the agent each caller lost, of those who lost some.
    """

    at_s: float
    live: int
    warm: int
    idle: int
    lost_s: list[float] = field(default_factory=list)

    @property
    def room(self) -> str:
        if self.warm >= self.live:
            return "prompted ahead"
        return "to be prompted" if self.warm + self.idle >= self.live else "none for all"


def tone_chunk() -> NDArray[np.int16]:
    samples = np.arange(RATE_HZ * CHUNK_MS // 1000)
    tone = TONE_LEVEL * 32767 * np.sin(2 * np.pi * TONE_HZ / RATE_HZ * samples)
    pcm: NDArray[np.int16] = np.rint(tone).astype(np.int16)
    return pcm


_PROBE = np.exp(-2j * np.pi * TONE_HZ / RATE_HZ * np.arange(PACKET_SAMPLES))


def agent_packets(pcm: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Whether each packet of 20 ms is the agent's."""
    padded = np.zeros(-(-len(pcm) // PACKET_SAMPLES) * PACKET_SAMPLES)
    padded[: len(pcm)] = pcm / 32768
    packets = padded.reshape(-1, PACKET_SAMPLES)
    power = np.mean(packets**2, axis=1)
    at_tone = 2 * np.abs(packets @ _PROBE) ** 2 / PACKET_SAMPLES**2
    loud: NDArray[np.bool_] = (power > TONE_LEAST) & (at_tone > TONE_SHARE * power)
    return loud


class Caller:
    """A person who calls again and again.

    Args:
        url: The bridge.
        random_: Chooses how long to talk and how to hang up.
        pace: How long calls last.
        result: Counts the live calls, and gets each call when it is over.
    """

    def __init__(self, url: str, random_: random.Random, pace: Pace, result: Soak) -> None:
        self._url = url
        self._random = random_
        self._pace = pace
        self._result = result

    async def call_until(self, until_s: float) -> None:
        while (now_s := time.monotonic()) < until_s:
            ends_s = min(now_s + self._random.uniform(*self._pace.talk_s), until_s)
            self._result.outcomes.append(await self._call(ends_s))
            await asyncio.sleep(self._random.uniform(*REDIAL_S))

    async def _call(self, ends_s: float) -> CallOutcome:
        self._result.live += 1
        try:
            return await place(self._url, ends_s, self._random.choice(HANG_UPS))
        finally:
            self._result.live -= 1


async def place(url: str, ends_s: float, hang_up: str, hold_every_s: float = math.inf) -> CallOutcome:
    """Places a call, and talks until `ends_s`, except for `HOLD_S` in every `hold_every_s`."""
    outcome = CallOutcome(began_s=time.monotonic())
    try:
        async with connect(url, compression=None, max_size=None, ping_interval=None) as ws:
            await _Call(ws, outcome, hold_every_s).talk(ends_s, hang_up)
    except (InvalidHandshake, OSError, TimeoutError) as error:
        outcome.ended = str(error) or type(error).__name__
    outcome.ended_s = time.monotonic()
    return outcome


class _Call:
    def __init__(self, ws: ClientConnection, outcome: CallOutcome, hold_every_s: float) -> None:
        self._ws = ws
        self._outcome = outcome
        self._hold_every_s = hold_every_s
        self._sid = uuid.uuid4().hex
        self._began_s = time.monotonic()
        self._plays_until_s = 0.0
        self._agent_until_s: float | None = None

    async def talk(self, ends_s: float, hang_up: str) -> None:
        ws, sid = self._ws, self._sid
        start = {
            "stream_sid": sid,
            "call_sid": sid,
            "account_sid": "soak",
            "from": "1",
            "to": "2",
            "media_format": {"encoding": "raw/slin", "sample_rate": str(RATE_HZ)},
        }
        payload = base64.b64encode(tone_chunk().tobytes()).decode()
        media = json.dumps({"event": "media", "stream_sid": sid, "media": {"payload": payload}})
        hearing = asyncio.create_task(self._hear())
        try:
            await ws.send('{"event":"connected"}')
            await ws.send(json.dumps({"event": "start", "stream_sid": sid, "start": start}))
            self._began_s = next_s = time.monotonic()
            while time.monotonic() < ends_s:
                next_s += CHUNK_MS / 1000
                await asyncio.sleep(next_s - time.monotonic())
                if self._holds(next_s):
                    continue
                await ws.send(media)
                if self._agent_until_s is not None:
                    self._outcome.said_s += CHUNK_MS / 1000
            self._outcome.ended = "hung up"
            match hang_up:
                case "stop":
                    await ws.send(json.dumps({"event": "stop", "stream_sid": sid, "stop": {}}))
                    await ws.close()
                case "close":
                    await ws.close()
                case "abort":
                    ws.transport.abort()
        except ConnectionClosed:
            self._outcome.ended = f"closed {ws.close_code}"
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            heard_s = self._began_s if self._agent_until_s is None else self._agent_until_s
            self._outcome.deaf_s = max(0.0, time.monotonic() - heard_s)

    def _holds(self, now_s: float) -> bool:
        """The phone holds at the end of each interval."""
        into_s = (now_s - self._began_s) % self._hold_every_s
        return into_s > self._hold_every_s - HOLD_S

    async def _hear(self) -> None:
        async for message in self._ws:
            now_s = time.monotonic()
            event = json.loads(message)
            match event["event"]:
                case "media":
                    self._play(np.frombuffer(base64.b64decode(event["media"]["payload"]), np.int16), now_s)
                case "mark":
                    after_s = max(0.0, self._plays_until_s - now_s)
                    asyncio.get_running_loop().call_later(after_s, self._echo, message)
                case "clear":
                    self._plays_until_s = min(self._plays_until_s, now_s + PACKET_S)

    def _echo(self, mark: str | bytes) -> None:
        task = asyncio.ensure_future(self._ws.send(mark))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _play(self, pcm: NDArray[np.int16], now_s: float) -> None:
        at_s = max(now_s, self._plays_until_s)
        for is_agent in agent_packets(pcm):
            if is_agent:
                self._agent(at_s)
            at_s += PACKET_S
        self._plays_until_s = at_s

    def _agent(self, at_s: float) -> None:
        if self._agent_until_s is None:
            self._outcome.first_s = at_s - self._began_s
        elif at_s - self._agent_until_s > GAP_S:
            self._outcome.gaps.append(Gap(self._agent_until_s, at_s - self._agent_until_s))
        self._agent_until_s = at_s + PACKET_S
        self._outcome.heard_s += PACKET_S


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


@dataclass
class Neighbours:
    """What callers heard who had no trouble of their own.

    Attributes:
        talked_s: The time in calls.
        gaps_s: Stretches without the agent.
        firsts_s: From the start of each call to the agent's first sound.
    """

    talked_s: float
    gaps_s: list[float]
    firsts_s: list[float]

    @property
    def share(self) -> float:
        """The share of the time in which the agent was missed."""
        return sum(self.gaps_s) / self.talked_s if self.talked_s else 0.0


@dataclass
class Soak:
    """The result of a run."""

    minutes: float
    calls: int
    short: bool
    troubles: Troubles | None = None
    with_store: bool = False
    late_ms: float = 0.0
    holder: CallOutcome | None = None
    floods_closed: int = 0
    live: int = 0
    outcomes: list[CallOutcome] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    idle: Sample | None = None
    after: Sample | None = None
    counted: dict[str, int] = field(default_factory=dict)
    slots_after: dict[str, int] = field(default_factory=dict)
    cpu_of_a_core: float = 0.0
    lag: dict[float, float] = field(default_factory=dict)
    slowest_answer_s: float = 0.0
    gaps_without_a_kill: list[Gap] = field(default_factory=list)

    def assign(self) -> None:
        """Finds which kill caused which gap."""
        for outcome in self.outcomes:
            for gap in outcome.gaps:
                begins_s = gap.at_s + GAP_S
                causes = [kill for kill in self.kills if 0 <= begins_s - kill.at_s < BELONGS_S]
                if causes:
                    causes[-1].lost_s.append(gap.duration_s)
                else:
                    self.gaps_without_a_kill.append(gap)

    def neighbours(self, *, troubled: bool) -> Neighbours:
        """What the callers heard before the troubles or beside them, kills of engines apart."""
        assert self.troubles is not None
        from_s = self.troubles.from_s if troubled else 0.0
        until_s = math.inf if troubled else self.troubles.from_s
        spans = (min(o.ended_s, until_s) - max(o.began_s, from_s) for o in self.outcomes)
        gaps = [gap.duration_s for gap in self.gaps_without_a_kill if from_s <= gap.at_s < until_s]
        firsts = [o.first_s for o in self.outcomes if o.first_s is not None and from_s <= o.began_s < until_s]
        return Neighbours(sum(span for span in spans if span > 0), gaps, firsts)

    @property
    def too_busy(self) -> bool:
        """Whether callers here got the processor too late to judge what they heard."""
        return self.late_ms > MOST_LATE_MS

    def broken_promises(self) -> list[str]:
        """Every promise that did not hold, of those that can be judged."""
        if self.late_ms > STARVED_MS:
            return []
        broken = [] if self.too_busy else self._broken_at_the_ear()
        broken += self._broken_by_troubles()
        odd = Counter(outcome.ended for outcome in self.outcomes if outcome.ended != "hung up")
        if odd:
            broken.append(f"calls that their callers did not end: {_listed(odd)}")
        placed = len(self.outcomes) + (self.troubles.floods + 1 if self.troubles else 0)
        if sum(self.counted.values()) != placed:
            told = _listed(self.counted)
            broken.append(f"calls placed: {placed}; the bridges tell of {told}")
        if (grew := self.memory()) is not None and grew[1] > grew[0] * (1 + FLAT_MEMORY):
            broken.append(f"memory grew from {grew[0] / 1e6:.1f} to {grew[1] / 1e6:.1f} MB")
        if (
            self.idle
            and self.after
            and self.after.descriptors > self.idle.descriptors + BRIDGES * FLAT_DESCRIPTORS
        ):
            broken.append(f"{self.after.descriptors} descriptors afterwards, {self.idle.descriptors} before")
        if busy := {s: n for s, n in self.slots_after.items() if n and s not in ("idle", "warm")}:
            broken.append(f"slots that are not free afterwards: {_listed(busy)}")
        return broken

    def _broken_at_the_ear(self) -> list[str]:
        broken = []
        worst_s = max((s for k in self.kills if k.room != "none for all" for s in k.lost_s), default=0.0)
        if worst_s > LOST_S and not self.short:
            broken.append(f"{worst_s:.2f} s of the agent lost in a failure although a slot was free")
        if self.troubles is not None:
            calm, troubled = (self.neighbours(troubled=each) for each in (False, True))
            if troubled.share > WORSE * calm.share + SLACK:
                broken.append(
                    f"neighbours missed {troubled.share:.2%} of the agent beside the troubles, "
                    f"{calm.share:.2%} before"
                )
        return broken

    def _broken_by_troubles(self) -> list[str]:
        if self.troubles is None:
            return []
        broken = []
        if self.floods_closed != self.troubles.floods:
            floods = counted(self.troubles.floods, "flood")
            broken.append(f"{floods}, of which {self.floods_closed} were closed as such")
        if self.holder is not None:
            if self.holder.ended != "hung up":
                broken.append(f"the call that was held ended: {self.holder.ended}")
            if self.holder.heard_s < HEARD * self.holder.said_s:
                broken.append(
                    f"of the {self.holder.said_s:.1f} s that a phone said which holds, "
                    f"{self.holder.heard_s:.1f} s came back"
                )
        return broken

    def memory(self) -> tuple[float, float] | None:
        """The bridge's after the warm-up and at the end, in bytes; None if the run is too short to tell."""
        end_s = self.minutes * 60
        if end_s < WARM_UP_S + BASE_S + LAST_S:
            return None

        def median(from_s: float, to_s: float) -> float:
            full = [s for s in self.samples if s.live >= FULL_HOUSE * self.calls and from_s <= s.at_s < to_s]
            return float(np.median([sample.memory_bytes for sample in full]))

        return median(WARM_UP_S, WARM_UP_S + BASE_S), median(end_s - LAST_S, end_s)


async def soak(args: argparse.Namespace, console: Console) -> Soak:
    result = Soak(args.minutes, args.calls, args.short)
    pace, chance, lateness = SHORT if args.short else Pace(), random.Random(args.seed), Lateness()
    engines = [Engine(args.slots, args.prompt_s) for _ in range(args.engines)]
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(lateness)
        for engine in engines:
            stack.push_async_callback(engine.stop)
            await engine.start()
        store = await stack.enter_async_context(store_process())
        result.with_store = store is not None
        if store is None:
            say(console, "no Redis or Valkey server is installed: one bridge, and no store that comes back")
        words = _settings(args, engines)
        if store is not None:
            words += ["--lease-store", store.url, "--lease-ttl-s", str(LEASE_TTL_S)]
        ports, bridges = [], []
        for _ in range(1 if store is None else BRIDGES):
            port, console_port = free_port(), free_port()
            state = stack.enter_context(tempfile.TemporaryDirectory())
            own = ["--port", str(port), "--console-port", str(console_port), "--state-dir", state]
            pid = await stack.enter_async_context(server(port, "-m", "pxbridge", *own, *words))
            ports.append(port)
            bridges.append(Bridge(pid, console_port))
        bridge = Bridges(bridges)
        await asyncio.sleep(SETTLE_S)
        result.idle = bridge.sample(0.0, 0)
        cpu_s, began_s = bridge.cpu_s(), time.monotonic()
        until_s = began_s + args.minutes * 60
        urls = [f"ws://127.0.0.1:{port}/exotel" for port in ports]
        result.troubles = troubles = Troubles((began_s + until_s) / 2, until_s)
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(_sample(bridge, result, began_s, console))
            killing = group.create_task(_kill(engines, bridge, result, pace, chance, until_s))
            group.create_task(troubles.flood(ports[0]))
            group.create_task(_hold(urls[0], result, pace))
            if store is not None:
                group.create_task(troubles.restart_store(store))
            callers = [
                group.create_task(
                    _join(
                        Caller(urls[number % len(urls)], random.Random(chance.random()), pace, result),
                        number * JOIN_EVERY_S,
                        until_s,
                    )
                )
                for number in range(args.calls)
            ]
            await asyncio.wait(callers)
            sampling.cancel()
            await asyncio.wait([killing])
        result.cpu_of_a_core = (bridge.cpu_s() - cpu_s) / (time.monotonic() - began_s)
        await asyncio.sleep(SETTLE_S)
        result.after = bridge.sample(time.monotonic() - began_s, result.live)
        result.counted, result.lag = await bridge.outcomes(), await bridge.lag()
        result.floods_closed = await bridge.floods_closed()
        result.slowest_answer_s = bridge.slowest_answer_s
        result.slots_after = dict(sum((await bridge.slots()).values(), Counter()))
    for kill in result.kills:
        kill.lost_s.sort()
    result.late_ms = lateness.late_ms
    result.assign()
    return result


def _settings(args: argparse.Namespace, engines: list[Engine]) -> list[str]:
    """The arguments of each bridge."""
    return [
        *("--engines", ",".join(engine.url for engine in engines)),
        *("--engine-capacity", str(args.slots), "--warm-sessions", str(args.warm)),
        *("--max-calls", str(2 * args.calls), "--shed-above-lag-ms", "0"),
        *("--allow-anonymous", "--handshakes-per-minute", "1000000", "--log-format", "json"),
    ]


async def _hold(url: str, result: Soak, pace: Pace) -> None:
    """The phone that holds."""
    assert result.troubles is not None
    await asyncio.sleep(result.troubles.from_s - time.monotonic())
    result.holder = await place(url, result.troubles.until_s, "stop", pace.hold_every_s)


async def _join(caller: Caller, after_s: float, until_s: float) -> None:
    await asyncio.sleep(after_s)
    await caller.call_until(until_s)


async def _sample(bridge: Bridges, result: Soak, began_s: float, console: Console) -> None:
    while True:
        await asyncio.sleep(SAMPLE_EVERY_S)
        sample = bridge.sample(time.monotonic() - began_s, result.live)
        result.samples.append(sample)
        if len(result.samples) % 12 == 0:
            console.print(
                f"{sample.at_s / 60:4.1f} min: {counted(len(result.outcomes), 'call')} over, "
                f"{counted(len(result.kills), 'engine')} killed, "
                f"{sample.memory_bytes / 1e6:.1f} MB, {sample.descriptors} descriptors"
            )


async def _kill(
    engines: list[Engine],
    bridge: Bridges,
    result: Soak,
    pace: Pace,
    chance: random.Random,
    until_s: float,
) -> None:
    """Kills engines, and starts each again a little later, until shortly before the end."""
    async with asyncio.TaskGroup() as coming_back:
        while True:
            await asyncio.sleep(chance.uniform(*pace.kill_every_s))
            if time.monotonic() > until_s - 2 * DOWN_S[1]:
                return
            if result.troubles is not None and not result.troubles.may_kill_engines(time.monotonic()):
                continue
            engine = chance.choice([engine for engine in engines if engine.runs])
            slots = await bridge.slots()
            own = next(states for name, states in slots.items() if f":{engine.port}" in name)
            others = sum((states for states in slots.values() if states is not own), Counter[str]())
            result.kills.append(Kill(time.monotonic(), own["live"], others["warm"], others["idle"]))
            engine.kill()
            coming_back.create_task(_come_back(engine, chance.uniform(*DOWN_S)))


async def _come_back(engine: Engine, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await engine.start()


def report(result: Soak, console: Console) -> None:
    callers, length = counted(result.calls, "caller"), lasted(60 * result.minutes)
    say(console, f"\n{callers} for {length}, {counted(len(result.kills), 'engine')} killed")
    ended = Counter(outcome.ended for outcome in result.outcomes)
    say(console, f"how calls ended: {_listed(ended)}; by the bridge's count: {_listed(result.counted)}")
    firsts = [outcome.first_s for outcome in result.outcomes if outcome.first_s is not None]
    never = counted(len(result.outcomes) - len(firsts), "call")
    say(console, f"agent first heard after: {_spread(firsts)}; never: {never}")
    table = Table(
        "the next engine was", "kills", "conversations", "gaps", "median s", "p95 s", "longest s",
        box=box.SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    for room in ("prompted ahead", "to be prompted", "none for all"):
        kills = [kill for kill in result.kills if kill.room == room]
        lost_s = [lost for kill in kills for lost in kill.lost_s]
        figures = [f"{q:.2f}" for q in np.quantile(lost_s, (0.5, 0.95, 1.0))] if lost_s else ["–"] * 3
        live = sum(kill.live for kill in kills)
        table.add_row(room, str(len(kills)), str(live), str(len(lost_s)), *figures)
    other_s = [gap.duration_s for gap in result.gaps_without_a_kill]
    figures = [f"{q:.2f}" for q in np.quantile(other_s, (0.5, 0.95, 1.0))] if other_s else ["–"] * 3
    table.add_row("(no engine died)", "–", "–", str(len(other_s)), *figures)
    console.print(table)
    if result.troubles is not None:
        _report_troubles(result, result.troubles, console)
    course = Table(
        "minute", "in a call", "memory MB", "descriptors", "threads", box=box.SIMPLE_HEAD, padding=0
    )
    every = max(1, math.ceil(len(result.samples) / 10))
    shown = [result.idle, *result.samples[every - 1 :: every], result.after]
    for sample in shown:
        if sample is not None:
            course.add_row(f"{sample.at_s / 60:.1f}", str(sample.live), f"{sample.memory_bytes / 1e6:.1f}",
                           str(sample.descriptors), str(sample.threads))  # fmt: skip
    console.print(course)
    if (grew := result.memory()) is not None:
        say(
            console,
            f"memory in minute 3: {grew[0] / 1e6:.1f} MB, in the last two: {grew[1] / 1e6:.1f} MB "
            f"({grew[1] / grew[0] - 1:+.1%})",
        )
    slots = _listed(result.slots_after)
    say(console, f"CPU: {result.cpu_of_a_core:.2f} of a core; slots afterwards: {slots}")
    late = ", ".join(f"{share:.2%} over {1000 * bound_s:g} ms" for bound_s, share in result.lag.items())
    slowest = lasted(result.slowest_answer_s)
    say(console, f"the bridge's event loop was late: {late}; slowest answer: {slowest}")
    for promise in result.broken_promises():
        say(console, promise, "BROKEN: ")


def _report_troubles(result: Soak, troubles: Troubles, console: Console) -> None:
    table = Table(
        "the other callers", "call\nminutes", "gaps", "agent\nmissed", "median s", "p95 s", "longest s",
        "first sound\np95 s", box=box.SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    for name, troubled in (("before the troubles", False), ("beside them", True)):
        heard = result.neighbours(troubled=troubled)
        gaps = (
            [f"{q:.2f}" for q in np.quantile(heard.gaps_s, (0.5, 0.95, 1.0))] if heard.gaps_s else ["–"] * 3
        )
        first = f"{np.quantile(heard.firsts_s, 0.95):.2f}" if heard.firsts_s else "–"
        table.add_row(
            name, f"{heard.talked_s / 60:.1f}", str(len(heard.gaps_s)), f"{heard.share:.3%}", *gaps, first
        )
    console.print(table)
    say(
        console,
        f"floods: {troubles.floods}, closed as such by the bridge: {result.floods_closed}; "
        f"times the store came back with an older memory: {len(troubles.restarts)}",
    )
    if (holder := result.holder) is not None:
        say(
            console,
            f"the phone that holds for {HOLD_S:g} s: "
            f"{holder.heard_s:.1f} s of its {holder.said_s:.1f} s came back",
        )
    busy = ": too busy to judge what callers heard" if result.too_busy else ""
    if result.late_ms > STARVED_MS:
        busy = ": too busy to judge anything"
    say(console, f"of a hundred wake-ups here one was {result.late_ms:.1f} ms late{busy}")


def _listed(counts: Mapping[str, float]) -> str:
    """Counts by name, the largest first: "33 hung up, 2 cut off"."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:.0f} {name.replace('_', ' ')}" for name, count in ranked) or "none"


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return "median {:.2f} s, p95 {:.2f} s, longest {:.2f} s".format(*np.quantile(values, (0.5, 0.95, 1.0)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=50, help="at a time (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="(%(default)s)")
    parser.add_argument("--engines", type=int, default=14, help="processes (%(default)s)")
    parser.add_argument("--slots", type=int, default=5, help="of each (%(default)s)")
    parser.add_argument("--warm", type=int, default=5, help="sessions prompted ahead (%(default)s)")
    parser.add_argument("--prompt-s", type=float, default=0.6, help="an engine's prompts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is random (%(default)s)")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--short", action="store_true", help="8 calls for 40 s; judges counts and ratios")
    args = parser.parse_args()
    if args.short:
        vars(args).update(SHORT_RUN)
        go_first()
    console = terminal.console()
    result = asyncio.run(soak(args, console))
    report(result, console)
    broken = result.broken_promises()
    if args.json:
        told: dict[str, Any] = {**asdict(result), "broken": broken}
        args.json.write_text(json.dumps(told, indent=1))
    if broken:
        return 1
    return EXIT_NOT_JUDGED if result.too_busy else 0


if __name__ == "__main__":
    sys.exit(main())
