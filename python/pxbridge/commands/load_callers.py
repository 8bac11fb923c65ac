"""Many cheap simulated callers, with which `pxbridge bench` loads a bridge.

`pxbridge.simulation.phone` simulates one call with everything that Exotel does. This module simulates a
hundred calls with only what can be heard. Each caller speaks all the time, with a short loud tone every few
seconds. The engine echoes, and the echo of the tone gives the delay from mouth to ear. Audio is heard as
Exotel plays
it: a packet begins when it has arrived and the packet before it has ended. So the times are computed, and
nothing is played.

Callers run in processes of their own, a few dozen in each. `python -m pxbridge.commands.load_callers` reads a
`Part` from its standard input and writes the `Outcome` of each call to its standard output, both as JSON.
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
from pxbridge.wording import os_problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from websockets.asyncio.client import ClientConnection

RATE_HZ = 8_000
PACKET_BYTES = 320
PACKET_S = PACKET_BYTES / 2 / RATE_HZ

TONE_EVERY_S = 4.0
"""The longest delay that can be measured. A bridge that does not catch up after prompts and stalls has long
ones."""
TONE_S = 0.06
TONE_HZ = 1_000
TONE_LEVEL = 0.9
SPEECH_LEVEL = 0.3
"""The peak of the speech. The tone is louder, before and after a codec."""
THRESHOLD = int(0.6 * 32768)
HOLE_S = 0.002
"""A shorter hole is rounding of arrival times, and inaudible."""


@dataclass(frozen=True)
class Part:
    """The callers of one process. Times are on the machine's monotonic clock.

    Attributes:
        url: The bridge.
        calls: The number of callers.
        first: The number of the first caller among all processes; it seeds the caller's network.
        chunk_ms: The duration of the audio in one message.
        network: The network between the callers and the bridge; see `pxbridge.simulation.network`.
        starts_at_s: When the first caller calls.
        every_s: The time between two callers.
        measures_from_s: Audio that is heard before this time is not measured.
        ends_at_s: When all hang up.
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
    """The results of one call.

    Attributes:
        delays_s: The delay from mouth to ear of each tone that came back.
        holes_s: The duration of each silence between two pieces of audio.
        broken: Why the call broke off; None if it lasted.
    """

    delays_s: list[float] = field(default_factory=list)
    holes_s: list[float] = field(default_factory=list)
    broken: str | None = None


def spoken() -> NDArray[np.int16]:
    """One period of what a caller says, `TONE_EVERY_S` long: speech, with a tone at its end."""
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
    """Exotel's messages of `spoken`, repeated until messages and periods end together."""
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
    """The first sample of a tone; None without a tone."""
    loud = pcm > THRESHOLD
    first = int(loud.argmax())
    return first if loud.size and loud[first] else None


class Caller:
    """One call: sends in real time, and computes when received audio would be heard."""

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
        """Places the call and holds it to its end."""
        part, loop = self._part, asyncio.get_running_loop()
        await asyncio.sleep(part.starts_at_s + self._number * part.every_s - loop.time())
        try:
            async with connect(part.url, compression=None, max_size=None, ping_interval=None) as ws:
                await self._talk(ws)
        except OSError as error:
            self.outcome.broken = os_problem(error)
        except (ConnectionClosed, InvalidHandshake) as error:
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
        # Exotel plays an incomplete packet as a whole one, filled up with silence.
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
    """Runs the callers of one process; returns the outcome of each call."""
    messages = media_messages(part.chunk_ms)
    tone = _onset(spoken())
    callers = [Caller(part, number, messages, (tone or 0) / RATE_HZ) for number in range(part.calls)]
    await asyncio.gather(*(caller.call() for caller in callers))
    return [caller.outcome for caller in callers]


async def play_elsewhere(part: Part) -> list[Outcome]:
    """As `play`, in a process of its own, which ends with this task.

    Raises:
        RuntimeError: The process failed. The text contains its standard error.
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
        output, errors = await process.communicate(json.dumps(asdict(part)).encode())
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the simulated callers failed: {errors.decode(errors='replace').strip()}")
    return [Outcome(**outcome) for outcome in json.loads(output)]


def _main() -> None:
    part = Part(**json.load(sys.stdin))
    outcomes = asyncio.run(play(part))
    json.dump([asdict(outcome) for outcome in outcomes], sys.stdout)


if __name__ == "__main__":
    _main()
