"""The rehearsal engine: a real `/api/chat` server without a model, for trying everything without a GPU.

It stands where NVIDIA's server stands and behaves as that does, kindness excluded: both prompts are
mandatory, one session has a slot and the next client waits without a word, what comes before the handshake
is thrown away, the caller's audio is the clock, and a stream it cannot read leaves it deaf. It says plainly
what it is, in its log and to the caller. It can also play the faults of `pxbridge.simulation.faults`.

The one idea: a session is a *machine* that turns the caller's pages into steps (how the sound is made)
under a *session* that keeps the order of events (who may speak when). It serves with `websockets`' own
asyncio server, so that it shares no code with the sockets it is used to test.

Alone: `python -m pxbridge.simulation.rehearsal --port 8998 --mode echo --prompt-s 5 --step-ms 30`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import enum
import functools
import http
import itertools
import logging
import random
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pxbridge import chat_wire
from pxbridge.audio import OpusDecoder, OpusEncoder
from pxbridge.errors import InputError
from pxbridge.simulation import strict_ogg
from pxbridge.simulation.faults import FAULTS, parse_fault
from pxbridge.simulation.parrot import BLOCK_MS, BLOCK_SAMPLES, Echo, Mind, Parrot, Pcm, greeting
from pxbridge.simulation.strict_ogg import ENGINE_RATE_HZ, PageReader, PageWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from types import TracebackType

    from websockets.http11 import Request, Response

    from pxbridge.simulation.faults import Fault

log = logging.getLogger(__name__)

VOICES: Final = tuple(
    f"{family}{number}.pt"
    for family, count in (("NATF", 4), ("NATM", 4), ("VARF", 5), ("VARM", 5))
    for number in range(count)
)
"""The voices that PersonaPlex is shipped with; any `.wav` is taken for one too."""

DEFAULT_PROMPT_S: Final = 0.6  # a real engine needs seconds; this is enough to see that there is a wait
DEFAULT_STEP_MS: Final = 30.0  # what a step of the 7B model takes on a large GPU


class Mode(enum.StrEnum):
    """What the rehearsal engine says."""

    PARROT = "parrot"
    """Greets, then repeats what the caller said."""
    ECHO = "echo"
    """Says in each step what it hears in it: for measuring delays."""
    CANNED = "canned"
    """Says the greeting over and over, without decoding or encoding: the cheapest."""
    RELAY = "relay"
    """Echoes packet for packet, without decoding or encoding: for the delays of many calls at once."""


class Step(NamedTuple):
    """What one step brings: Opus packets of 80 ms together, one but for a relay; and often no text."""

    packets: Sequence[bytes]
    text: str


# sphn 0.1 leaves libopus at its defaults: VOIP, complexity 9, and a bit rate chosen as 60 bits per frame
# and one per sample, which for 80 ms at 24 kHz is this. Variable: speech takes some 14 kbit/s of it.
_BITRATE_BPS: Final = 60 * 1000 // BLOCK_MS + ENGINE_RATE_HZ
_COMPLEXITY: Final = 9


def _engine_encoder() -> OpusEncoder:
    return OpusEncoder(
        ENGINE_RATE_HZ,
        application="voip",
        bitrate_bps=_BITRATE_BPS,
        complexity=_COMPLEXITY,
        frame_ms=BLOCK_MS,
    )


class Machine(Protocol):
    """Turns what the caller sends into steps."""

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        ...

    def is_ready(self) -> bool:
        """Whether the caller has sent enough for a step."""
        ...

    def step(self) -> Step:
        """Uses 80 ms of the caller's audio and returns 80 ms of the agent's."""
        ...


class CodecMachine:
    """Decodes the caller, asks a mind, encodes its answer as `sphn` 0.1 does."""

    def __init__(self, mind: Mind) -> None:
        self._mind = mind
        self._decoder = OpusDecoder(ENGINE_RATE_HZ)
        self._encoder = _engine_encoder()
        self._heard: list[Pcm] = []
        self._heard_samples = 0

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        pcm = self._decoder.decode(packet)
        self._heard.append(pcm)
        self._heard_samples += len(pcm)

    def is_ready(self) -> bool:
        """Whether there are 1920 samples of the caller."""
        return self._heard_samples >= BLOCK_SAMPLES

    def step(self) -> Step:
        """Uses a block and returns the mind's."""
        pcm = np.concatenate(self._heard)
        self._heard = [pcm[BLOCK_SAMPLES:]]
        self._heard_samples -= BLOCK_SAMPLES
        said = self._mind.step(pcm[:BLOCK_SAMPLES])
        return Step([self._encoder.encode(said.pcm)], said.text)


class CannedMachine:
    """Counts what the caller sends by its packets' headers and answers with packets made beforehand."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = itertools.cycle(steps)
        self._heard_samples = 0

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        self._heard_samples += strict_ogg.packet_samples(packet)

    def is_ready(self) -> bool:
        """Whether there are 1920 samples of the caller."""
        return self._heard_samples >= BLOCK_SAMPLES

    def step(self) -> Step:
        """Uses a block's worth and returns the next packet."""
        self._heard_samples -= BLOCK_SAMPLES
        return next(self._steps)


class RelayMachine:
    """Answers with the caller's own packets, those of each step in one packet if they can be joined."""

    def __init__(self) -> None:
        self._heard: deque[tuple[bytes, int]] = deque()
        self._heard_samples = 0

    def hear(self, packet: bytes) -> None:
        """Takes one Opus packet of the caller."""
        samples = strict_ogg.packet_samples(packet)
        self._heard.append((packet, samples))
        self._heard_samples += samples

    def is_ready(self) -> bool:
        """Whether there are 1920 samples of the caller."""
        return self._heard_samples >= BLOCK_SAMPLES

    def step(self) -> Step:
        """Uses a block's worth of packets and returns them."""
        taken: list[bytes] = []
        left = BLOCK_SAMPLES
        while left > 0:
            packet, samples = self._heard.popleft()
            taken.append(packet)
            left -= samples
            self._heard_samples -= samples
        joined = strict_ogg.join_packets(taken)
        return Step(taken if joined is None else [joined], "")


@functools.cache
def _canned_steps() -> tuple[Step, ...]:
    encoder = _engine_encoder()
    speech = greeting()
    blocks = speech.pcm.reshape(-1, BLOCK_SAMPLES)
    words = dict(speech.words)
    return tuple(Step([encoder.encode(block)], words.get(number, "")) for number, block in enumerate(blocks))


def _machine(mode: Mode) -> Machine:
    match mode:
        case Mode.PARROT:
            return CodecMachine(Parrot(greeting()))
        case Mode.ECHO:
            return CodecMachine(Echo())
        case Mode.CANNED:
            return CannedMachine(_canned_steps())
        case Mode.RELAY:
            return RelayMachine()


_AUDIO: Final = bytes([chat_wire.Kind.AUDIO])


class _Session:
    """One client, from its upgrade to its end."""

    def __init__(self, connection: ServerConnection, machine: Machine, faults: Sequence[Fault]) -> None:
        self._connection = connection
        self._machine = machine
        self._faults = faults
        self._heard_something = asyncio.Event()

    # What faults may do.

    def cut(self) -> None:
        """Ends the connection without a closing handshake."""
        self._connection.transport.abort()

    async def close(self, code: int, reason: str) -> None:
        """Ends the connection with a closing handshake."""
        await self._connection.close(code, reason)

    async def send(self, message: bytes) -> None:
        """Sends one message."""
        await self._connection.send(message)

    async def pause(self, delay_s: float) -> None:
        """Lets time pass."""
        await asyncio.sleep(delay_s)

    async def forever(self) -> None:
        """Waits until the session ends."""
        await asyncio.get_running_loop().create_future()

    # The session's life.

    async def throw_away(self) -> None:
        """Reads what the client sends and forgets it; returns when the client is gone."""
        async for _ in self._connection:
            pass

    async def prompt(self, prompt_s: float) -> None:
        """Takes the time that a real engine needs for its prompts."""
        for fault in self._faults:
            await fault.while_prompting(self)
        await self.pause(prompt_s)

    async def converse(self, step_s: float) -> None:
        """Says that it is ready, then hears and steps, until the client is gone.

        Nobody throws away any more what the client sends: it answers the handshake at once, with its headers.
        """
        await self.send(chat_wire.handshake())
        pages = PageWriter(random.getrandbits(32))
        for message in self._disturbed(-1, [chat_wire.audio(page) for page in pages.headers()]):
            await self.send(message)
        async with asyncio.TaskGroup() as session:
            stepping = session.create_task(self._step_for_ever(pages, step_s))
            await self._hear_until_gone()
            stepping.cancel()

    async def _hear_until_gone(self) -> None:
        caller = PageReader()
        with contextlib.suppress(ConnectionClosed):
            async for message in self._connection:
                if isinstance(message, bytes) and message[:1] == _AUDIO:
                    self._hear(caller, message[1:])

    def _hear(self, caller: PageReader, ogg: bytes) -> None:
        was_deaf = caller.deaf_because
        for packet in caller.read(ogg):
            self._machine.hear(packet)
        if caller.deaf_because != was_deaf:
            log.warning("the caller sent %s: a real engine goes deaf here, and so do I", caller.deaf_because)
        self._heard_something.set()

    async def _step_for_ever(self, pages: PageWriter, step_s: float) -> None:
        loop = asyncio.get_running_loop()
        free_at_s = loop.time()
        with contextlib.suppress(ConnectionClosed):
            for number in itertools.count():
                while not self._machine.is_ready():
                    self._heard_something.clear()
                    await self._heard_something.wait()
                for fault in self._faults:
                    await fault.before_step(self, number)
                # Steps follow each other on a busy GPU: one begins when the last has ended, and not before
                # its audio is there. Reckoned in due times, so that late wake-ups do not add up.
                free_at_s = max(free_at_s, loop.time()) + step_s
                await asyncio.sleep(free_at_s - loop.time())
                packets, text = self._machine.step()
                messages = [chat_wire.audio(pages.page(p, strict_ogg.packet_samples(p))) for p in packets]
                if text:
                    messages.append(chat_wire.text(text))
                for message in self._disturbed(number, messages):
                    await self.send(message)

    def _disturbed(self, step: int, messages: list[bytes]) -> list[bytes]:
        for fault in self._faults:
            messages = fault.sending(step, messages)
        return messages


class Rehearsal:
    """The rehearsal engine's server: `async with Rehearsal() as engine:` and connect to `engine.url`.

    Args:
        host: Where it listens. It asks nobody who they are: keep it on loopback.
        port: 0 for any free one.
        mode: What it says.
        prompt_s: How long it seems to read its prompts.
        step_ms: How long a step seems to take on its GPU.
        slots: Conversations at a time; NVIDIA's server has one.
        voices: Voice prompts it knows, besides any `.wav`.
        faults: What goes wrong in sessions that begin from now on.
        ssl: A server's context, for `wss`.

    Attributes:
        faults: As given; may be changed at any time and counts for clients that come afterwards.
        prompt_s: The same.
        clients: Connections that were accepted and are not gone: waiting, prompting or live.
        conversing: Those that are live.
        conversations: Handshakes sent since the start.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        mode: Mode = Mode.PARROT,
        prompt_s: float = DEFAULT_PROMPT_S,
        step_ms: float = DEFAULT_STEP_MS,
        slots: int = 1,
        voices: Sequence[str] = VOICES,
        faults: Sequence[Fault] = (),
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        self.faults = faults
        self.prompt_s = prompt_s
        self.clients = 0
        self.conversing = 0
        self.conversations = 0
        self._host = host
        self._port = port
        self._mode = mode
        self._step_ms = step_ms
        self._slots = asyncio.Semaphore(slots)
        self._slot_count = slots
        self._voices = frozenset(voices)
        self._ssl = ssl
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on, the chosen one where 0 was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """What a client connects to, less the prompts."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'wss' if self._ssl else 'ws'}://{host}:{self._port}{chat_wire.CHAT_PATH}"

    async def __aenter__(self) -> Self:
        _machine(self._mode)  # reads the greeting, which would make the first caller wait
        self._server = await serve(
            self._serve,
            self._host,
            self._port,
            process_request=self._answer,
            compression=None,
            ping_interval=None,
            close_timeout=1.0,
            max_size=1 << 20,
            ssl=self._ssl,
            logger=_quiet_wire_log(),
        )
        self._port = next(iter(self._server.sockets)).getsockname()[1]
        log.info(
            "rehearsal engine (no model: %s) at %s: %g s of prompts, %g ms a step, %d at a time",
            {
                Mode.PARROT: "it greets, then repeats what the caller says",
                Mode.ECHO: "it echoes the caller",
                Mode.CANNED: "it plays its greeting over and over",
                Mode.RELAY: "it sends the caller's packets back",
            }[self._mode],
            self.url,
            self.prompt_s,
            self._step_ms,
            self._slot_count,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def drop_clients(self) -> None:
        """Cuts every connection, as when the process is killed and started again at once."""
        if self._server is not None:
            for connection in self._server.connections:
                connection.transport.abort()

    async def stop(self) -> None:
        """Dies: every connection is cut, and new ones are refused until `start`."""
        if self._server is not None:
            self.drop_clients()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def start(self) -> None:
        """Lives again, at the same port."""
        await self.__aenter__()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if urlsplit(request.path).path != chat_wire.CHAT_PATH:
            return connection.respond(http.HTTPStatus.NOT_FOUND, f"only {chat_wire.CHAT_PATH} is here\n")
        for fault in self.faults:
            status = fault.refusal()
            if status is not None:
                return connection.respond(http.HTTPStatus(status), "refused, as the script says\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        self.clients += 1
        try:
            await self._attend(connection)
        finally:
            self.clients -= 1

    async def _attend(self, connection: ServerConnection) -> None:
        session = _Session(connection, _machine(self._mode), tuple(self.faults))
        problem = self._wrong_prompts(connection)
        if problem is not None:
            log.warning("%s: a real engine crashes here and cuts the connection, and so do I", problem)
            session.cut()
            return
        # While the client waits for the slot and for the prompts, its going away has to be seen: only a
        # reader sees it, and what it reads is thrown away, as NVIDIA's server does.
        gone = asyncio.ensure_future(session.throw_away())
        try:
            if not await _before(gone, self._slots.acquire()):
                return
            try:
                if not await _before(gone, session.prompt(self.prompt_s)):
                    return
                await _cancelled(gone)
                self.conversations += 1
                self.conversing += 1
                try:
                    await session.converse(self._step_ms / 1000)
                finally:
                    self.conversing -= 1
            finally:
                self._slots.release()
        except ConnectionClosed:
            pass
        finally:
            await _cancelled(gone)

    def _wrong_prompts(self, connection: ServerConnection) -> str | None:
        assert connection.request is not None  # noqa: S101  set before a handler runs
        query = parse_qs(urlsplit(connection.request.path).query, keep_blank_values=True)
        for name in ("voice_prompt", "text_prompt"):
            if name not in query:
                return f"the client sent no {name}"
        if "seed" in query:
            return "the client sent a seed"
        if not query["text_prompt"][-1]:
            return "the client sent an empty text_prompt"
        voice = query["voice_prompt"][-1]
        if voice not in self._voices and not voice.endswith(".wav"):
            return f"the client asked for the voice {voice!r}, which is unknown"
        return None


async def _before(gone: asyncio.Future[None], work: Awaitable[Any]) -> bool:
    """Whether `work` was done before the client was `gone`; if not, it is cancelled."""
    doing: asyncio.Future[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, doing}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            return False
        doing.result()
        return True
    finally:
        await _cancelled(doing)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Ends a task and waits until it has ended; how it ended is nobody's concern any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def _quiet_wire_log() -> logging.Logger:
    """The library tells of every connection, and at DEBUG of every message with its sound."""
    wire_log = logging.getLogger(f"{__name__}.wire")
    wire_log.setLevel(logging.WARNING)
    return wire_log


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m pxbridge.simulation.rehearsal",
        description="The rehearsal engine: PersonaPlex's /api/chat without a model.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8998, help="0 for any free one (%(default)s)")
    parser.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.PARROT, help="(%(default)s)")
    parser.add_argument(
        "--prompt-s", type=float, default=DEFAULT_PROMPT_S, help="time for the prompts (%(default)s)"
    )
    parser.add_argument(
        "--step-ms", type=float, default=DEFAULT_STEP_MS, help="time for a step (%(default)s)"
    )
    parser.add_argument("--slots", type=int, default=1, help="conversations at a time (%(default)s)")
    parser.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="NAME[:FIELD=VALUE,...]",
        help=f"what goes wrong in every session; may be given again; one of {', '.join(FAULTS)}",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve wss:// with this PEM certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, if it is not in the same file")
    chosen = vars(parser.parse_args(arguments))
    try:
        chosen["faults"] = [parse_fault(text) for text in chosen["faults"]]
    except InputError as error:
        parser.error(str(error))
    cert, key = chosen.pop("tls_cert"), chosen.pop("tls_key")
    if cert is not None:
        chosen["ssl"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        chosen["ssl"].load_cert_chain(cert, key)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    async def serve_for_ever() -> None:
        async with Rehearsal(**chosen):
            await asyncio.get_running_loop().create_future()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve_for_ever())


if __name__ == "__main__":
    main()
