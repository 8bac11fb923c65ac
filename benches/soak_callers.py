"""A soak's callers: who calls, talks, hangs up and calls again, and what each of them heard.

Every caller sends a tone all the time and the engines echo it. A packet without the tone is a gap.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from soak_troubles import HOLD_S

if TYPE_CHECKING:
    import random

    from numpy.typing import NDArray
    from websockets.asyncio.client import ClientConnection

    from soak_verdict import Soak

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
REDIAL_S = (0.5, 2.0)
HANG_UPS = ("stop", "close", "abort")


@dataclass(frozen=True)
class Pace:
    """How often things happen, in seconds."""

    talk_s: tuple[float, float] = (30.0, 150.0)
    kill_every_s: tuple[float, float] = (6.0, 14.0)
    hold_every_s: float = 30.0


SHORT = Pace((6.0, 15.0), (4.0, 7.0), 10.0)


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
