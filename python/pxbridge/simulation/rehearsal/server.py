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
from pxbridge.wording import counted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Sequence
    from types import TracebackType

    from websockets.http11 import Request, Response

    from pxbridge.simulation.faults import Fault

log = logging.getLogger("pxbridge.simulation.rehearsal")

DEFAULT_PROMPT_S: Final = 0.6  # a real engine needs seconds; this is enough to notice the wait
DEFAULT_STEP_MS: Final = 30.0  # the time of a step of the 7B model on a large GPU


class Rehearsal:
    """The rehearsal engine's server: `async with Rehearsal() as engine:` and connect to `engine.url`.

    Args:
        host: The address to listen on. There is no authentication: use loopback.
        port: 0 for any free one.
        mode: What it says.
        prompt_s: How long it takes for the prompts.
        step_ms: How long it takes for a step.
        slots: Conversations at the same time; NVIDIA's server has one slot.
        voices: The voices that it knows. Any name that ends in `.wav` is accepted too.
        faults: The faults of new sessions.
        ssl: The server's TLS context, for `wss`.

    Attributes:
        faults: As given. May be changed at any time, for new clients.
        prompt_s: The same.
        clients: Open connections: waiting, prompting or live.
        conversing: Live sessions.
        conversations: Handshakes since the start.
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
        voices: Sequence[str] = chat_wire.NVIDIAS_VOICES,
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
        """The port that it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The URL for clients, without the prompts."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'wss' if self._ssl else 'ws'}://{host}:{self._port}{chat_wire.CHAT_PATH}"

    async def __aenter__(self) -> Self:
        make_machine(self._mode)  # decodes the greeting now, not in the first call
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
            "rehearsal engine (no model: %s) at %s: prompts %g s, steps %g ms, %s",
            {
                Mode.PARROT: "it greets, then repeats what the caller says",
                Mode.ECHO: "it echoes the caller",
                Mode.CANNED: "it repeats its greeting",
                Mode.RELAY: "it sends the caller's packets back",
            }[self._mode],
            self.url,
            self.prompt_s,
            self._step_ms,
            counted(self._slot_count, "conversation"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def drop_clients(self) -> None:
        """Cuts every connection, as if the process were killed and restarted at once."""
        if self._server is not None:
            for connection in self._server.connections:
                connection.transport.abort()

    async def stop(self) -> None:
        """Cuts every connection and refuses new ones until `start`, as if the process were killed."""
        if self._server is not None:
            self.drop_clients()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def start(self) -> None:
        """Starts again at the same port."""
        await self.__aenter__()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if urlsplit(request.path).path != chat_wire.CHAT_PATH:
            return connection.respond(
                http.HTTPStatus.NOT_FOUND, f"not found; the path is {chat_wire.CHAT_PATH}\n"
            )
        for fault in self.faults:
            status = fault.refusal()
            if status is not None:
                return connection.respond(http.HTTPStatus(status), "refused by a simulated fault\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        self.clients += 1
        try:
            await self._hold_session(connection)
        finally:
            self.clients -= 1

    async def _hold_session(self, connection: ServerConnection) -> None:
        session = Session(connection, make_machine(self._mode), tuple(self.faults))
        problem = self._wrong_prompts(connection)
        if problem is not None:
            log.warning(
                "%s; a real engine crashes on this and cuts the connection, so this one cuts it too", problem
            )
            session.cut()
            return
        # Only a reader notices that the client goes away while it waits. Its input is discarded, as by
        # NVIDIA's server.
        gone = asyncio.ensure_future(session.discard_input())
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
    """Whether `work` was done before the client was `gone`. Otherwise it is cancelled."""
    working: asyncio.Future[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        await _cancelled(working)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancels a task and waits for its end. Its result and its error are ignored."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def _quiet_wire_log() -> logging.Logger:
    """A logger for the library, which would log every connection, and at level debug every message."""
    wire_log = logging.getLogger(f"{log.name}.wire")
    wire_log.setLevel(logging.WARNING)
    return wire_log
