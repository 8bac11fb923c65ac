"""Many simulated callers at once, made to be cheap: what `pxbridge bench` loads a bridge with.

`exotel/phone` simulates one call with everything Exotel does; this simulates a hundred with only what can
be heard. Each caller speaks all the time, with a loud short tone every few seconds. The engine echoes, and
the tone's way back tells the delay from mouth to ear. What comes is played as Exotel plays: a packet is
heard when it has arrived and the one before it is over; so nothing has to be played to know what is heard.

Callers live in processes of their own, a few dozen in each: `python -m pxbridge.commands.load_callers` reads
what to do from its standard input and writes what became of it to its standard output, both as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from pxbridge.audio import OggOpusReader
from pxbridge.simulation.network import Direction, parse_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from websockets.asyncio.client import ClientConnection

RATE_HZ = 8_000
PACKET_BYTES = 320
PACKET_S = PACKET_BYTES / 2 / RATE_HZ

TONE_EVERY_S = 4.0
"""Delays up to this are told apart. A bridge that keeps the time of prompts and stalls has long ones."""
TONE_S = 0.06
TONE_HZ = 1_000
TONE_LEVEL = 0.9
SPEECH_LEVEL = 0.3
"""Speech is scaled to this, and the tone stands above it, before and after a codec."""
THRESHOLD = int(0.6 * 32768)
HOLE_S = 0.002
"""A shorter hole is the arithmetic of arrival times, and no ear would notice."""


@dataclass(frozen=True)
class Part:
    """What the callers of one process do. Times are on the machine's monotonic clock.

    Attributes:
        url: Where they call.
        calls: How many.
        first: The number of the first one in the whole crowd; it seeds its network.
        chunk_ms: How much audio one of their messages carries.
        network: What is wrong between them and the bridge; see `exotel/network.py`.
        starts_at_s: When the first one calls.
        every_s: How much later each next one does.
        measures_from_s: What is heard before this does not count.
        ends_at_s: When they hang up.
    """

    url: str
    calls: int
    first: int
    chunk_ms: float
    network: str
    starts_at_s: float
    every_s: float
    measures_from_s: float
    ends_at_s: float


@dataclass
class Outcome:
    """What became of one call.

    Attributes:
        delays_s: From mouth to ear, of each tone that came back.
        holes_s: How long each silence between two pieces of audio was.
        broken: Why the call did not last, or None.
    """

    delays_s: list[float] = field(default_factory=list)
    holes_s: list[float] = field(default_factory=list)
    broken: str | None = None


def spoken() -> NDArray[np.int16]:
    """What a caller says over and over, `TONE_EVERY_S` of it: speech, and a tone at its end."""
    sentence = OggOpusReader(RATE_HZ).read(
        resources.files("pxbridge").joinpath("assets/caller.ogg").read_bytes()
    )
    said = np.resize(sentence, round(TONE_EVERY_S * RATE_HZ)).astype(float)
    said *= SPEECH_LEVEL * 32767 / np.abs(said).max()
    length = round(TONE_S * RATE_HZ)
    envelope = np.sin(np.pi * np.arange(length) / length)
    said[-length:] = TONE_LEVEL * 32767 * envelope * np.sin(2 * np.pi * TONE_HZ / RATE_HZ * np.arange(length))
    return said.astype(np.int16)


def media_messages(chunk_ms: float) -> list[str]:
    """`spoken`, over and over, as Exotel's messages: as many as make whole periods."""
    said = spoken()
    chunk = round(RATE_HZ * chunk_ms / 1000)
    whole = np.resize(said, np.lcm(len(said), chunk))
    messages = []
    for start in range(0, len(whole), chunk):
        payload = base64.b64encode(whole[start : start + chunk].tobytes()).decode()
        media = {"chunk": "1", "timestamp": "1", "payload": payload}
        messages.append(json.dumps({"event": "media", "stream_sid": "bench", "media": media}))
    return messages


def _onset(pcm: NDArray[np.int16]) -> int | None:
    """The first sample of a tone in `pcm`."""
    loud = pcm > THRESHOLD
    first = int(loud.argmax())
    return first if loud.size and loud[first] else None


class Caller:
    """One call: sends at real time, and reckons what would be heard of what comes."""

    def __init__(self, part: Part, number: int, messages: Sequence[str], tone_at_s: float) -> None:
        self.outcome = Outcome()
        self._part = part
        self._number = number
        self._messages = messages
        self._tone_at_s = tone_at_s
        self._network = parse_network(part.network)
        seed = part.first + number
        self._up = self._network.link(Direction.UP, seed)
        self._down = self._network.link(Direction.DOWN, seed)
        self._began_s = 0.0
        self._queue_ends_s: float | None = None
        self._last_tone_s = -TONE_EVERY_S

    async def call(self) -> None:
        """Places the call and plays it to its end."""
        part, loop = self._part, asyncio.get_running_loop()
        await asyncio.sleep(part.starts_at_s + self._number * part.every_s - loop.time())
        try:
            async with connect(part.url, compression=None, max_size=None, ping_interval=None) as ws:
                await self._talk(ws)
        except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError) as error:
            self.outcome.broken = str(error) or type(error).__name__

    async def _talk(self, ws: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        sid = f"bench-{self._part.first + self._number}"
        start = {
            "stream_sid": sid,
            "call_sid": sid,
            "account_sid": "bench",
            "from": "1",
            "to": "2",
            "media_format": {"encoding": "raw/slin", "sample_rate": str(RATE_HZ)},
        }
        await ws.send('{"event":"connected"}')
        await ws.send(json.dumps({"event": "start", "stream_sid": sid, "start": start}))
        self._began_s = loop.time()
        hearing = asyncio.create_task(self._hear(ws))
        try:
            chunk_s = self._part.chunk_ms / 1000 / (1 + self._network.drift_ppm * 1e-6)
            cut_at_s = self._network.cut_at_s
            number = 0
            while loop.time() < self._part.ends_at_s:
                number += 1
                sent_s = self._up.deliver_at(number * chunk_s)
                if cut_at_s is not None and sent_s >= cut_at_s:
                    ws.transport.abort()
                    return
                await asyncio.sleep(self._began_s + sent_s - loop.time())
                await ws.send(self._messages[(number - 1) % len(self._messages)])
            stop = {"event": "stop", "stream_sid": sid, "stop": {"reason": "callended"}}
            await ws.send(json.dumps(stop))
        finally:
            hearing.cancel()

    async def _hear(self, ws: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        async for message in ws:
            heard_s = self._began_s + self._down.deliver_at(loop.time() - self._began_s)
            event = json.loads(message)
            match event["event"]:
                case "media":
                    self._play(np.frombuffer(base64.b64decode(event["media"]["payload"]), np.int16), heard_s)
                case "mark":
                    loop.call_at(max(heard_s, self._queue_ends_s or 0.0), self._echo, ws, message)
                case "clear":
                    self._queue_ends_s = min(heard_s + PACKET_S, self._queue_ends_s or heard_s)

    @staticmethod
    def _echo(ws: ClientConnection, message: str | bytes) -> None:
        task = asyncio.ensure_future(ws.send(message))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _play(self, pcm: NDArray[np.int16], now_s: float) -> None:
        queue_ends_s = now_s if self._queue_ends_s is None else self._queue_ends_s
        plays_at_s = max(now_s, queue_ends_s)
        measured = now_s >= self._part.measures_from_s
        if measured and plays_at_s - queue_ends_s > HOLE_S:
            self.outcome.holes_s.append(plays_at_s - queue_ends_s)
        # A tail that fills no packet is played as one: the rest of it is silence.
        packets = -(-len(pcm) * 2 // PACKET_BYTES)
        self._queue_ends_s = plays_at_s + packets * PACKET_S
        first = _onset(pcm)
        if first is None:
            return
        heard_at_s = plays_at_s + first / RATE_HZ
        if measured and heard_at_s - self._last_tone_s > TONE_EVERY_S / 4:
            self.outcome.delays_s.append((heard_at_s - self._began_s - self._tone_at_s) % TONE_EVERY_S)
        self._last_tone_s = heard_at_s


async def play(part: Part) -> list[Outcome]:
    """Plays the callers of one process."""
    messages = media_messages(part.chunk_ms)
    tone = _onset(spoken())
    callers = [Caller(part, number, messages, (tone or 0) / RATE_HZ) for number in range(part.calls)]
    await asyncio.gather(*(caller.call() for caller in callers))
    return [caller.outcome for caller in callers]


async def play_elsewhere(part: Part) -> list[Outcome]:
    """The same in a process of its own, which ends with this task.

    Raises:
        RuntimeError: It failed; what it wrote to standard error says why.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pxbridge.commands.load_callers",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complained = await process.communicate(json.dumps(asdict(part)).encode())
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the simulated callers failed: {complained.decode(errors='replace').strip()}")
    return [Outcome(**outcome) for outcome in json.loads(said)]


def _main() -> None:
    part = Part(**json.load(sys.stdin))
    outcomes = asyncio.run(play(part))
    json.dump([asdict(outcome) for outcome in outcomes], sys.stdout)


if __name__ == "__main__":
    _main()
