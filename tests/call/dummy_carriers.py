"""Two carriers that do not exist, each with another kind of wire, and phones that speak it.

They prove that a call needs nothing of Exotel's: `Parcel` is text and JSON, with marks; `Stream` is binary
Ogg Opus, which makes its adapter keep a codec, and has no marks.

In the product Rust reads and writes a carrier's sound. Here Python stands between the dummy's wire and a
`Line` that speaks Exotel's, so these lines are slow, and exact.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from websockets.asyncio.client import connect

from pxbridge.audio import Line, OggOpusReader, OggOpusWriter
from pxbridge.simulation.player import Player
from pxbridge.telephony import carrier
from pxbridge.telephony.routes import CallPath
from pxbridge.websocket import text_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pxbridge.telephony.access import Visitor
    from pxbridge.telephony.carrier import Event, PlayoutProfile
    from pxbridge.telephony.phone_line import Audio, LineEvent, LineOutput
    from pxbridge.telephony.routes import Route
    from pxbridge.websocket import Request, Response

Message = tuple[bytes, bool]
"""A message's payload, and whether it is text."""

CHUNK_S = 0.02


class Wire(Protocol):
    """How one end of a dummy's connection reads and writes it."""

    def sound(self, pcm: bytes) -> Message | None:
        """A message with this sound (PCM16); None if the codec waits for more."""
        ...

    def heard(self, message: bytes, *, is_text: bool) -> bytes | None:
        """A message's sound (PCM16); None if it is none."""
        ...


class JsonWire:
    """Everything is JSON."""

    def sound(self, pcm: bytes) -> Message:
        return control(type="sound", data=pcm.hex())

    def heard(self, message: bytes, *, is_text: bool) -> bytes | None:
        fields = json.loads(message)
        return bytes.fromhex(fields["data"]) if fields["type"] == "sound" else None


class OpusWire:
    """Sound is binary Ogg Opus, everything else is JSON."""

    def __init__(self, rate_hz: int) -> None:
        self._reader = OggOpusReader(rate_hz)
        self._writer = OggOpusWriter(rate_hz)
        self._headers = self._writer.headers()

    def sound(self, pcm: bytes) -> Message | None:
        ogg = self._headers + self._writer.write(np.frombuffer(pcm, "<i2").astype(np.int16))
        self._headers = b""
        return (ogg, False) if ogg else None

    def heard(self, message: bytes, *, is_text: bool) -> bytes | None:
        if is_text:
            return None
        pcm = np.clip(np.rint(self._reader.read(message) * 32768), -32768, 32767)
        return pcm.astype("<i2").tobytes()


def control(**fields: Any) -> Message:
    """A message that is no sound."""
    return json.dumps(fields).encode(), True


# -- the bridge's side ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """A `LineOutput` whose messages were translated."""

    to_phone: Sequence[Message]
    to_engine: bytes
    ping: bool
    wake_s: float
    events: Sequence[LineEvent]


class DummyLine:
    """A `PhoneLine`: a `Line` behind another wire."""

    def __init__(self, line: Line, wire: Wire, *, has_marks: bool) -> None:
        self._line = line
        self._wire = wire
        self._has_marks = has_marks

    def _translated(self, output: LineOutput) -> Output:
        messages = [self._message(json.loads(message)) for message, _ in output.to_phone]
        sent = [message for message in messages if message is not None]
        return Output(sent, output.to_engine, output.ping, output.wake_s, output.events)

    def _message(self, event: Mapping[str, Any]) -> Message | None:
        match event["event"]:
            case "media":
                return self._wire.sound(base64.b64decode(event["media"]["payload"]))
            case "mark":
                return control(type="mark", name=event["mark"]["name"]) if self._has_marks else None
            case _:
                return control(type="drop")

    def phone_message(self, message: bytes, now_s: float, is_text: bool) -> Output | None:
        pcm = self._wire.heard(message, is_text=is_text)
        if pcm is None:
            return None
        media = {"payload": base64.b64encode(pcm).decode()}
        output = self._line.phone_message(json.dumps({"event": "media", "media": media}).encode(), now_s)
        assert output is not None
        return self._translated(output)

    def engine_audio(self, ogg: bytes, now_s: float) -> Output:
        return self._translated(self._line.engine_audio(ogg, now_s))

    def mark_played(self, name: str, now_s: float) -> Output:
        return self._translated(self._line.mark_played(name, now_s))

    def pong(self, rtt_s: float, now_s: float) -> Output:
        return self._translated(self._line.pong(rtt_s, now_s))

    def poll(self, now_s: float) -> Output:
        return self._translated(self._line.poll(now_s))

    def open_engine(self, now_s: float) -> Output:
        return self._translated(self._line.open_engine(now_s))

    def close_engine(self, now_s: float) -> Output:
        return self._translated(self._line.close_engine(now_s))

    def play(self, pcm: NDArray[np.float32], now_s: float) -> Output:
        return self._translated(self._line.play(pcm, now_s))

    def fade_out(self, now_s: float) -> Output:
        return self._translated(self._line.fade_out(now_s))

    def flush(self, now_s: float) -> Output:
        return self._translated(self._line.flush(now_s))

    def finish(self, now_s: float) -> Output:
        return self._translated(self._line.finish(now_s))

    def playing_s(self, now_s: float) -> float:
        return self._line.playing_s(now_s)

    @property
    def paused_s(self) -> float | None:
        return self._line.paused_s

    @property
    def exchanged_s(self) -> tuple[float, float]:
        return self._line.exchanged_s

    @property
    def spoken_s(self) -> tuple[float, float]:
        return self._line.spoken_s

    def keep_audio(self) -> None:
        self._line.keep_audio()

    def take_said(self, now_s: float) -> Audio:
        return self._line.take_said(now_s)

    def take_heard(self, now_s: float) -> Audio:
        return self._line.take_heard(now_s)

    def stats(self) -> dict[str, dict[str, float]]:
        return self._line.stats()


class DummyCarrier:
    """What both have in common: the events, which are JSON."""

    name: str
    behaviour: carrier.Behaviour
    make_wire: Callable[[int], Wire]
    start = None

    def __init__(self) -> None:
        self._events: dict[str, Callable[[Mapping[str, Any]], Event]] = {
            "hello": lambda _: carrier.Connected(),
            "begin": self._begin,
            "key": lambda fields: carrier.Key(fields["key"]),
            "played": lambda fields: carrier.Mark(fields["name"]),
            "bye": lambda fields: carrier.Stop(fields["why"]),
        }

    def _begin(self, fields: Mapping[str, Any]) -> carrier.Start:
        return carrier.Start(
            call_id=fields["call"],
            stream_id=fields["call"],
            caller=fields["from"],
            called=fields["to"],
            media=carrier.MediaFormat(fields["rate"]),
            parameters={"order": "17"},
        )

    def notice(self, notice: carrier.Notice) -> tuple[()]:
        return ()

    def parse(self, message: bytes, *, is_text: bool) -> Event:
        if not is_text:
            return carrier.Media()
        try:
            fields = json.loads(message)
            kind = fields["type"]
        except (ValueError, KeyError, TypeError):
            return carrier.Malformed("not JSON with a type")
        read = self._events.get(kind)
        return carrier.Unknown(str(kind)) if read is None else read(fields)

    def fix_rate(self, rate_hz: int) -> str:
        return f"begin with a rate of {rate_hz}"

    def open_line(
        self, start: carrier.Start, *, profile: PlayoutProfile, gate_ms: int, max_backlog_ms: int
    ) -> DummyLine:
        rate_hz = start.media.rate_hz
        line = Line(rate_hz, profile=profile, gate_ms=gate_ms, max_backlog_ms=max_backlog_ms)
        return DummyLine(line, self.make_wire(rate_hz), has_marks=self.behaviour.returns_marks)


class Parcel(DummyCarrier):
    """Text and JSON, with marks; its flow goes on after us."""

    name = "Parcel"
    behaviour = carrier.Behaviour(
        returns_marks=True,
        marks_after_clear=True,
        can_clear=True,
        paced_by=carrier.PacedBy.BRIDGE,
        payload=carrier.PayloadRule(packet_ms=20, max_bytes=64_000),
        after_close=carrier.AfterClose.FLOW_GOES_ON,
    )

    @staticmethod
    def make_wire(rate_hz: int) -> Wire:
        return JsonWire()


class Stream(DummyCarrier):
    """Binary Ogg Opus without marks; the call is over when we close."""

    name = "Stream"
    behaviour = carrier.Behaviour(
        returns_marks=False,
        marks_after_clear=None,
        can_clear=True,
        paced_by=carrier.PacedBy.BRIDGE,
        payload=carrier.PayloadRule(packet_ms=20, max_bytes=64_000),
        after_close=carrier.AfterClose.HANGS_UP,
    )

    @staticmethod
    def make_wire(rate_hz: int) -> Wire:
        return OpusWire(rate_hz)


class DummyRoutes:
    """``/parcel`` or ``/stream``, with a persona after it if one is wanted."""

    max_message_bytes = 1 << 18

    def __init__(self, kind: type[DummyCarrier]) -> None:
        self._kind = kind
        self.known_paths = (f"/{kind.name.lower()}",)
        self._path = re.compile(rf"/{kind.name.lower()}(?:/(?P<persona>\w+))?")

    def find(self, path: str) -> Route | None:
        found = self._path.fullmatch(path)
        return None if found is None else CallPath(found["persona"])

    def carrier(self, query: str) -> DummyCarrier:
        if query:
            raise ValueError("no query here")
        return self._kind()

    def answer(
        self, request: Request, visitor: Visitor, full: Sequence[str]
    ) -> Response | Awaitable[Response]:
        return text_response(404, "not found\n")


# -- the phone's side -------------------------------------------------------------------------------------


class DummyPhone:
    """A phone at one of these carriers: says something, plays what comes, and returns marks."""

    def __init__(self, kind: type[DummyCarrier], rate_hz: int, said: NDArray[np.int16]) -> None:
        self._kind = kind
        self._wire = kind.make_wire(rate_hz)
        self._rate_hz = rate_hz
        self._began_s = 0.0
        self.said = said
        self.player = Player(rate_hz)
        self.marks = 0
        self.text_messages = 0
        self.binary_messages = 0
        self.close_code: int | None = None

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    async def call(self, port: int, *, keys: Mapping[float, str] | None = None, bye: bool = True) -> None:
        """Places a call and plays it to its end."""
        self._began_s = asyncio.get_running_loop().time()
        url = f"ws://127.0.0.1:{port}/{self._kind.name.lower()}"
        async with connect(url, compression=None, ping_interval=None) as socket:

            async def send(message: Message | None) -> None:
                if message is not None:
                    await socket.send(message[0].decode() if message[1] else message[0])

            async def talk() -> None:
                await send(control(type="hello"))
                begin = {"call": "C1", "from": "+911", "to": "+912", "rate": self._rate_hz}
                await send(control(type="begin", **begin))
                chunk = round(CHUNK_S * self._rate_hz)
                due = dict(keys or {})
                for n in range(len(self.said) // chunk):
                    await asyncio.sleep(max(0.0, (n + 1) * CHUNK_S - self._now_s()))
                    for at_s in [at_s for at_s in due if at_s <= self._now_s()]:
                        await send(control(type="key", key=due.pop(at_s)))
                    await send(self._wire.sound(self.said[n * chunk : (n + 1) * chunk].tobytes()))
                    for mark in self.player.advance(self._now_s()):
                        await send(control(type="played", name=mark.name))
                if bye:
                    await send(control(type="bye", why="hung up"))

            talking = asyncio.create_task(talk())
            try:
                async for message in socket:
                    self._take(message)
            finally:
                talking.cancel()
                await asyncio.gather(talking, return_exceptions=True)
                self.close_code = socket.close_code
        self.player.advance(self._now_s())

    def _take(self, message: str | bytes) -> None:
        is_text = isinstance(message, str)
        raw = message.encode() if isinstance(message, str) else message
        self.text_messages += is_text
        self.binary_messages += not is_text
        if (pcm := self._wire.heard(raw, is_text=is_text)) is not None:
            self.player.push(np.frombuffer(pcm, "<i2").astype(np.int16), self._now_s())
            return
        fields = json.loads(raw)
        match fields["type"]:
            case "mark":
                self.marks += 1
                self.player.mark(fields["name"], self._now_s())
            case "drop":
                self.player.clear(self._now_s())
