"""The engine's server over real sockets, with a model that only costs time: in virtual time, or in a thread.

`serving` is for tests in `tests.virtual_time`: the engine is turned by a task, and its work takes virtual
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import numpy as np
from tests.personaplex.fake_model import Costs, FakeStepper
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pxbridge import chat_wire, websocket
from pxbridge.audio import OggOpusReader, OggOpusWriter
from pxbridge.errors import InputError
from pxbridge.personaplex.config import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ
from pxbridge.personaplex.engine import Engine
from pxbridge.personaplex.personas import FilePersonas
from pxbridge.personaplex.places import Places
from pxbridge.personaplex.prompt import VoiceCodes
from pxbridge.personaplex.server import EngineServer, Rules, listen
from pxbridge.personaplex.session import LIMITS
from pxbridge.personaplex.telemetry import Telemetry

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Generator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pxbridge.personaplex.prompt import Voice
    from pxbridge.personaplex.scheduler import Work

    Pcm = NDArray[np.float32]

VOICES = ("NATF0.pt", "NATM1.pt", "anna.wav")
PERSONA = {"voice_prompt": "NATF0.pt", "text_prompt": "You are kind."}


class FakeVoices:
    """A folder of voices; those in `damaged` cannot be read."""

    def __init__(self) -> None:
        self.there = list(VOICES)
        self.damaged: set[str] = set()
        self.found_damaged: set[str] = set()

    def names(self) -> list[str]:
        return list(self.there)

    def problem(self, file: str) -> str | None:
        return f"voice {file}: it is damaged" if file in self.found_damaged & self.damaged else None

    def read(self, name: str) -> Generator[None, None, Voice]:
        yield from ()
        assert name in self.there, "a name is looked up before anything is read"
        if name in self.damaged:
            self.found_damaged.add(name)
            raise InputError(f"voice {name}: it is damaged")
        return VoiceCodes(name, np.zeros((50, 8), np.int64))


class FakeTokenizer:
    """A token a word."""

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        return tuple(1000 + len(word) for word in text.split())


class FakeText:
    """Letters, some of them not ASCII."""

    def feed(self, token: int) -> str:
        return "" if token < 100 else " né"


@dataclass
class Rig:
    """What `serving` gives."""

    server: EngineServer
    engine: Engine
    stepper: FakeStepper
    places: Places
    voices: FakeVoices
    telemetry: Telemetry
    scheme: str = "ws"
    turning: asyncio.Task[None] | None = None
    clients: list[ClientConnection] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def url(self, query: Mapping[str, Any] | str | None = None) -> str:
        asked = PERSONA if query is None else query
        written = asked if isinstance(asked, str) else urlencode(asked, quote_via=quote)
        return f"{self.scheme}://{self.origin}{chat_wire.CHAT_PATH}?{written}"

    async def open(self, query: Mapping[str, Any] | str | None = None, **how: Any) -> ClientConnection:
        client = await connect(self.url(query), compression=None, ping_interval=None, **how)
        self.clients.append(client)
        return client

    async def call(self, query: Mapping[str, Any] | str | None = None, **how: Any) -> Client:
        return Client(await self.open(query, **how))

    async def refused(self, query: Mapping[str, Any] | str | None = None, **how: Any) -> Refusal:
        """What a client that is not let in is told."""
        try:
            client = await self.open(query, **how)
        except InvalidStatus as error:
            response = error.response
            return Refusal(
                response.status_code,
                {name.lower(): value for name, value in response.headers.raw_items()},
                json.loads(response.body or b"{}"),
            )
        await client.close()
        raise AssertionError("it was let in")

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return await http(self.server.port, path, **headers)


@dataclass(frozen=True)
class Refusal:
    status: int
    headers: dict[str, str]
    told: dict[str, Any]


async def http(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """A request of HTTP/1.1; names of headers with underscores for hyphens."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    return (
        int(first.split()[1]),
        dict(line.split(": ", 1) for line in fields),
        body,
    )


def voice(frames: int, level: float = 0.2) -> Pcm:
    """A steady vowel."""
    at_s = np.arange(frames * FRAME_SAMPLES) / SAMPLE_RATE_HZ
    return (level * np.sin(2 * np.pi * 180 * at_s)).astype(np.float32)


class Client:
    """Somebody who speaks the wire, and keeps what it hears."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.writer = OggOpusWriter(SAMPLE_RATE_HZ)
        self.reader = OggOpusReader(SAMPLE_RATE_HZ)
        self.heard: list[Pcm] = []
        self.text = ""
        self.messages: list[bytes] = []
        self.handshakes = 0
        self._reading = asyncio.create_task(self._read())
        self._something = asyncio.Event()
        self._begun = False

    @property
    def heard_samples(self) -> int:
        return sum(map(len, self.heard))

    @property
    def heard_frames(self) -> int:
        return self.heard_samples // FRAME_SAMPLES

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self.socket:
                assert isinstance(message, bytes)
                self.messages.append(message)
                match message[0]:
                    case 0:
                        self.handshakes += 1
                    case 1:
                        self.heard.append(self.reader.read(message[1:]))
                    case 2:
                        self.text += message[1:].decode()
                self._something.set()
        self._something.set()

    async def until(self, what: Callable[[], bool], within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while not what():
                assert not self._reading.done(), f"closed with {self.socket.close_code}"
                self._something.clear()
                await self._something.wait()

    async def live(self, times: int = 1) -> None:
        await self.until(lambda: self.handshakes >= times)

    async def say(self, pcm: Pcm, *, paced: bool = True) -> None:
        """Sends this, in messages of 80 ms, in real time."""
        for start in range(0, len(pcm), FRAME_SAMPLES):
            ogg = self.writer.write(pcm[start : start + FRAME_SAMPLES])
            if not self._begun:
                self._begun = True
                ogg = self.writer.headers() + ogg
            await self.socket.send(chat_wire.audio(ogg))
            if paced:
                await asyncio.sleep(FRAME_S)

    async def converse(self, frames: int) -> None:
        """Says this much, and hears all of the answer."""
        before = self.heard_frames
        await self.say(voice(frames))
        await self.until(lambda: self.heard_frames >= before + frames)

    async def closed(self, within_s: float = 30.0) -> tuple[int | None, str | None]:
        async with asyncio.timeout(within_s):
            await self._reading
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason

    async def hang_up(self) -> None:
        await self.socket.close()
        await self._reading


def costs_of(stepper: FakeStepper) -> Callable[[Work], float]:
    """What a fake model's work costs, as it tells itself."""
    spent: list[float] = []
    stepper.spend = spent.append

    def cost_s(_work: Work) -> float:
        total = sum(spent)
        spent.clear()
        return total

    return cost_s


async def turn(engine: Engine, cost_s: Callable[[Work], float], *, warm_up_s: float = 0.0) -> None:
    """What the engine's thread does, in virtual time: each piece of work takes as long as it costs."""
    told = asyncio.Event()
    tell = engine._tell

    def tell_and_wake(what: Callable[[], None]) -> None:
        tell(what)
        told.set()

    engine._tell = tell_and_wake  # type: ignore[method-assign]
    try:
        await asyncio.sleep(warm_up_s)
        engine.warm_up()
        engine.ready.set()
        while True:
            work = engine.begin()
            if isinstance(work, float):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if work == math.inf else work):
                        await told.wait()
                told.clear()
                continue
            result = engine.perform(work)
            await asyncio.sleep(cost_s(work))
            engine.finish(work, result)()
    except Exception as error:
        engine.say_fault(error)


@contextlib.asynccontextmanager
async def serving(
    slots: int = 4,
    *,
    costs: Costs | None = None,
    line: int = 8,
    rules: Rules | None = None,
    warm_up_s: float = 0.0,
    wait_ready: bool = True,
    tls: ssl.SSLContext | None = None,
    limits: websocket.Limits = LIMITS,
    record: Path | None = None,
    static: Path | None = None,
    longest_prompt: int = 2900,
) -> AsyncIterator[Rig]:
    """See the module."""
    from pxbridge.personaplex.input_recorder import InputRecorder
    from pxbridge.personaplex.static_files import StaticFiles

    stepper = FakeStepper(slots, costs or Costs(), longest_prompt=longest_prompt)
    voices, telemetry = FakeVoices(), Telemetry()
    personas = FilePersonas(voices, FakeTokenizer(), stepper.longest_prompt)
    loop = asyncio.get_running_loop()
    engine = Engine(stepper, telemetry, clock=loop.time, prepare=personas.read_all)
    places = Places(slots, line)
    recorder = None if record is None else InputRecorder(record)
    server = EngineServer(
        engine,
        places,
        personas,
        FakeText,
        telemetry,
        rules or Rules(model="fake"),
        recorder,
        None if static is None else StaticFiles(static),
    )
    async with listen(server, "127.0.0.1", 0, ssl=tls, limits=limits):
        # Only now: a name is looked up in another thread, which has no part in virtual time.
        turning = asyncio.create_task(turn(engine, costs_of(stepper), warm_up_s=warm_up_s))
        rig = Rig(server, engine, stepper, places, voices, telemetry, "wss" if tls else "ws", turning)
        try:
            if wait_ready:
                await engine.ready.wait()
            yield rig
        finally:
            for client in rig.clients:
                client.transport.abort()
    turning.cancel()
    await asyncio.wait([turning])
    if recorder is not None:
        recorder.close()
