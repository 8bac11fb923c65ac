"""The server of the rehearsal engine: who gets a slot, and when."""

from __future__ import annotations

import asyncio
import http
import logging
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pxbridge import chat_wire
from pxbridge.simulation.rehearsal.machines import Mode, make_machine
from pxbridge.simulation.rehearsal.session import Session

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Sequence
    from types import TracebackType

    from websockets.http11 import Request, Response

    from pxbridge.simulation.faults import Fault

log = logging.getLogger("pxbridge.simulation.rehearsal")

VOICES: Final = tuple(
    f"{family}{number}.pt"
    for family, count in (("NATF", 4), ("NATM", 4), ("VARF", 5), ("VARM", 5))
    for number in range(count)
)
"""The voices that PersonaPlex is shipped with; any `.wav` is taken for one too."""

DEFAULT_PROMPT_S: Final = 0.6  # a real engine needs seconds; this is enough to see that there is a wait
DEFAULT_STEP_MS: Final = 30.0  # what a step of the 7B model takes on a large GPU


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
        make_machine(self._mode)  # reads the greeting, which would make the first caller wait
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
        session = Session(connection, make_machine(self._mode), tuple(self.faults))
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
    wire_log = logging.getLogger(f"{log.name}.wire")
    wire_log.setLevel(logging.WARNING)
    return wire_log
