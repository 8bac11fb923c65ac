"""A whole call in made-up time, and what both of its ends heard.

Phone, bridge and engine as in a real call, but without sockets: the bridge's own Line between the phone's
player and an engine that is given its next 80 ms of speech for every 80 ms that it hears. Four
networks lie between them, in the language of `pxbridge.simulation.network`. The same call is the same to the
last sample on every machine.
"""

from __future__ import annotations

import base64
import heapq
import itertools
import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pxbridge.audio import Line, OggOpusReader, OpusEncoder
from pxbridge.simulation.network import Direction, parse_network
from pxbridge.simulation.player import Player
from pxbridge.simulation.strict_ogg import PageWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pxbridge.audio import LineOutput

ENGINE_HZ = 24_000
FRAME = 1920
"""Samples of one step of the model."""
STEP_S = 0.03
MILLION = 1e6


def engine_encoder() -> OpusEncoder:
    """As `sphn` encodes."""
    return OpusEncoder(ENGINE_HZ, application="voip", bitrate_bps=24_750, complexity=9, frame_ms=80)


@dataclass
class TwoWay:
    """One call; `run` plays it.

    Args:
        said: What the caller says, at the line's rate; the call ends with it.
        agent: What the agent says, at 24 kHz: silence after its end.
        rate_hz: Of the line.
        chunk_ms: The phone's chunks.
        phone: The network between phone and bridge.
        engine: The network between bridge and engine.
        gate_ms: How much of the opening is replaced by silence.
        open_at_s: When the engine is ready.
        acts: What else happens, and when.
        seed: Another network of the same kind.
    """

    said: NDArray[np.int16]
    agent: NDArray[np.float32]
    rate_hz: int = 8000
    chunk_ms: float = 100.0
    phone: str = ""
    engine: str = ""
    gate_ms: int = 0
    open_at_s: float = 0.0
    acts: Sequence[tuple[float, Callable[[TwoWay, float], None]]] = ()
    seed: int = 1

    engine_heard: list[NDArray[np.float32]] = field(init=False, default_factory=list)
    flushes: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        phone, engine = parse_network(self.phone), parse_network(self.engine)
        self._phone_up, self._phone_down = (phone.link(way, self.seed) for way in Direction)
        self._engine_up, self._engine_down = (engine.link(way, self.seed) for way in Direction)
        self._pace = 1.0 / (1.0 + phone.drift_ppm / MILLION)
        self.line = Line(self.rate_hz, stream_id="S", gate_ms=self.gate_ms, serial=1)
        self.player = Player(self.rate_hz)
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = itertools.count()
        self._restart()

    def _restart(self) -> None:
        self._reader, self._encoder, self._pages = OggOpusReader(ENGINE_HZ), engine_encoder(), PageWriter(1)
        self._heard = 0
        self._steps = 0
        self._free_s = 0.0

    def run(self) -> TwoWay:
        """Plays the call to its end."""
        chunk = round(self.rate_hz * self.chunk_ms / 1000)
        for n in range(len(self.said) // chunk):
            pcm = self.said[n * chunk : (n + 1) * chunk]
            sent_s = (n + 1) * chunk / self.rate_hz * self._pace
            self._at(sent_s, partial(self._phone_says, pcm))
        self._at(self.open_at_s, self.join)
        for at_s, act in self.acts:
            self._at(at_s, partial(act, self))
        end_s = len(self.said) / self.rate_hz
        while True:
            mark_s = self.player.next_mark_s
            wakes = (self.line.wake_s, float("inf") if mark_s is None else mark_s)
            now_s = min(self._queue[0][0] if self._queue else float("inf"), *wakes)
            if now_s > end_s:
                break
            if self._queue and self._queue[0][0] <= now_s:
                heapq.heappop(self._queue)[2](now_s)
            if self.line.wake_s <= now_s:
                self.send(self.line.poll(now_s), now_s)
            for mark in self.player.advance(now_s):
                back_s = self._phone_up.deliver_at(now_s)
                self._at(back_s, partial(self._mark_played, mark.name))
        self.player.advance(end_s)
        return self

    def join(self, now_s: float) -> None:
        """An engine is ready."""
        self.send(self.line.open_engine(now_s), now_s)
        for header in self._pages.headers():
            self._from_engine(header, now_s)

    def part(self, now_s: float) -> None:
        """The engine is gone."""
        self._restart()
        self.send(self.line.close_engine(now_s), now_s)

    @property
    def model_heard(self) -> NDArray[np.float32]:
        """What the model heard, at 24 kHz, on its own clock."""
        return np.concatenate(self.engine_heard)

    @property
    def caller_heard(self) -> NDArray[np.float32]:
        """What the caller heard, at the line's rate."""
        return self.player.heard.astype(np.float32) / 32768.0

    def _at(self, at_s: float, do: Callable[[float], None]) -> None:
        heapq.heappush(self._queue, (at_s, next(self._count), do))

    def _phone_says(self, pcm: NDArray[np.int16], now_s: float) -> None:
        payload = base64.b64encode(pcm.astype("<i2").tobytes()).decode()
        message = json.dumps({"event": "media", "media": {"payload": payload}}).encode()

        def receive(then_s: float) -> None:
            output = self.line.phone_message(message, then_s)
            if output is not None:
                self.send(output, then_s)

        self._at(self._phone_up.deliver_at(now_s), receive)

    def _mark_played(self, name: str, now_s: float) -> None:
        self.send(self.line.mark_played(name, now_s), now_s)

    def _engine_hears(self, ogg: bytes, reader: OggOpusReader, now_s: float) -> None:
        if reader is not self._reader:
            return
        heard = reader.read(ogg)
        self.engine_heard.append(heard)
        self._heard += len(heard)
        while self._heard >= (self._steps + 1) * FRAME:
            frame = np.zeros(FRAME, np.float32)
            spoken = self.agent[:FRAME]
            frame[: len(spoken)] = spoken
            self.agent = self.agent[FRAME:]
            self._steps += 1
            self._free_s = max(self._free_s, now_s) + STEP_S
            page = self._pages.page(self._encoder.encode(frame), FRAME)
            self._at(self._free_s, partial(self._from_engine, page))

    def _from_engine(self, page: bytes, now_s: float) -> None:
        pages = self._pages

        def receive(then_s: float) -> None:
            if pages is self._pages:
                self.send(self.line.engine_audio(page, then_s), then_s)

        self._at(self._engine_down.deliver_at(now_s), receive)

    def send(self, output: LineOutput, now_s: float) -> None:
        """Sends what the line wants sent."""
        if output.to_engine:
            heard = partial(self._engine_hears, output.to_engine, self._reader)
            self._at(self._engine_up.deliver_at(now_s), heard)
        for message, _ in output.to_phone:
            self._at(self._phone_down.deliver_at(now_s), partial(self._phone_gets, message))
        if output.ping:
            there_s = self._phone_down.deliver_at(now_s)
            back_s = self._phone_up.deliver_at(there_s)
            self._at(back_s, lambda then_s: self.send(self.line.pong(then_s - now_s, then_s), then_s))

    def _phone_gets(self, message: bytes, now_s: float) -> None:
        event = json.loads(message)
        if event["event"] == "media":
            self.player.push(np.frombuffer(base64.b64decode(event["media"]["payload"]), "<i2"), now_s)
        elif event["event"] == "mark":
            self.player.mark(event["mark"]["name"], now_s)
        elif event["event"] == "clear":
            self.flushes.append(now_s)
            self.player.clear(now_s)
