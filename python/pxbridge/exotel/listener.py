"""The telephony door: the port that Exotel dials.

It answers requests and owns calls' tasks; what a call is, it does not know. Every accepted WebSocket goes to
the call's owner, a coroutine function given at construction, which runs as one task. When that task ends, in
whatever way, its socket is closed; when the listener ends, no task of it is left.

====================  ==================================================================================
``/``, ``/exotel``    Exotel's WebSocket; ``?sample-rate=`` 8000, 16000 or 24000 tells the line's rate
``/livez``            200 as long as the event loop turns
``/readyz``           200 if another call can be taken, else 503 with the reasons, one a line
anything else         404
====================  ==================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from pxbridge import websocket
from pxbridge.exotel.messages import LINE_RATES_HZ, MAX_MESSAGE_BYTES, parse_rate

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from pxbridge.websocket import Handler, Request, Response, WebSocket

    CallOwner = Callable[[WebSocket, int | None], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)

CALL_PATHS: Final = frozenset({"/", "/exotel", "/exotel/"})
DEFAULT_MAX_CALLS: Final = 100
"""More than one process carries well; a limit is there so that overload refuses calls instead of spoiling
them."""

# Exotel gives a handshake 10 s and tries once more: an attempt it has given up is not worth keeping.
OPEN_TIMEOUT_S: Final = 10.0

# Exotel's pings are undocumented and its pongs not promised: pings only measure the round trip, and silence
# of the media is for the call to judge.
LIMITS: Final = websocket.Limits(
    max_message_bytes=MAX_MESSAGE_BYTES, ping_interval_s=20.0, pong_timeout_s=None
)

_GOING_AWAY: Final = 1001
_INTERNAL_ERROR: Final = 1011


class Listener:
    """The open door; made by `listen`.

    Args:
        owner: Given each accepted WebSocket and the line rate in Hz that its URL named, or ``None``.
        not_ready: Reasons why no call can be taken now; none means ready.
        max_calls: Calls at the same time; one more is refused with 503 before its upgrade.
    """

    def __init__(
        self,
        owner: CallOwner,
        not_ready: Callable[[], Sequence[str]],
        max_calls: int,
    ) -> None:
        self._owner = owner
        self._not_ready = not_ready
        self._max_calls = max_calls
        self._calls: set[asyncio.Task[None]] = set()
        self._draining = False
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self.server: websocket.Server | None = None
        self.refused = 0
        """Calls refused with 503, because of the limit or while draining."""

    @property
    def live_calls(self) -> int:
        """Calls whose owner's task has not ended."""
        return len(self._calls)

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self.server is None:
            raise RuntimeError("the listener is not listening yet")
        return self.server.port

    async def drain(self) -> None:
        """Take no new call, and wait until the last one has ended.

        Requests are answered on: ``/readyz`` now says why no call comes through.
        """
        self._draining = True
        await self._no_calls.wait()

    def accept(self, request: Request) -> Response | Handler:
        """Decide about one request, before any upgrade."""
        url = urlsplit(request.path)
        if url.path in CALL_PATHS:
            return self._accept_call(url.query)
        if url.path not in ("/livez", "/readyz"):
            return websocket.text_response(404, "not found\n")
        if request.method not in ("GET", "HEAD"):
            return websocket.text_response(405, "GET only\n", [("Allow", "GET, HEAD")])
        if url.path == "/livez":
            return websocket.text_response(200, "alive\n")
        reasons = [*self._full(), *self._not_ready()]
        if reasons:
            return websocket.text_response(503, "".join(f"{reason}\n" for reason in reasons))
        return websocket.text_response(200, "ready\n")

    def _accept_call(self, query: str) -> Response | Handler:
        try:
            rate_hz = _rate_of(query)
        except ValueError as exc:
            return websocket.text_response(400, f"{exc}\n")
        full = self._full()
        if full:
            self.refused += 1
            return websocket.text_response(503, "".join(f"{reason}\n" for reason in full))
        return lambda socket: self._begin(socket, rate_hz)

    def _full(self) -> list[str]:
        if self._draining:
            return ["draining: no new calls"]
        if len(self._calls) >= self._max_calls:
            return [f"all {self._max_calls} calls are taken"]
        return []

    def _begin(self, socket: WebSocket, rate_hz: int | None) -> None:
        task = asyncio.create_task(self._call(socket, rate_hz), name=f"call from {socket.peer}")
        self._calls.add(task)
        self._no_calls.clear()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not self._calls:
            self._no_calls.set()

    async def _call(self, socket: WebSocket, rate_hz: int | None) -> None:
        code = _GOING_AWAY  # if this task is cancelled, which is what the end of the listener does
        try:
            await self._owner(socket, rate_hz)
            code = 1000
        except Exception:
            code = _INTERNAL_ERROR
            log.exception("%s: a call failed", socket.peer)
        finally:
            socket.close(code)  # unless its owner has already closed it

    async def _end(self) -> None:
        if self.server is not None:
            self.server.close()
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)
        if self.server is not None:
            await self.server.wait_closed()


@contextlib.asynccontextmanager
async def listen(
    owner: CallOwner,
    host: str | None,
    port: int,
    *,
    not_ready: Callable[[], Sequence[str]] = tuple,
    max_calls: int = DEFAULT_MAX_CALLS,
    ssl: tls.SSLContext | None = None,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    limits: websocket.Limits = LIMITS,
) -> AsyncIterator[Listener]:
    """Listen for calls while the block runs; at its end, calls that still live are cancelled (see
    `Listener.drain`).

    Args:
        owner: Called with each accepted WebSocket and the line rate in Hz that its URL named, or ``None``. It
            sets the socket's ``on_message``; its socket is closed when it returns (1000), raises (1011,
            logged) or is cancelled (1001), unless it did so itself.
        host: Address to listen on; ``None`` for all.
        port: Port; 0 for any free one.
        not_ready: For ``/readyz``: reasons why no call can be taken now.
        max_calls: Calls at the same time.
        ssl: Serve TLS with it.
        open_timeout_s: For the handshakes.
        limits: What an open WebSocket is held to.

    Raises:
        OSError: The address cannot be listened on.
    """
    listener = Listener(owner, not_ready, max_calls)
    listener.server = await websocket.serve(
        listener.accept, host, port, ssl=ssl, open_timeout_s=open_timeout_s, limits=limits
    )
    try:
        yield listener
    finally:
        await listener._end()


def _rate_of(query: str) -> int | None:
    """The line rate in Hz that a URL's query names, or ``None``.

    Raises:
        ValueError: It names one that does not exist; the text tells the mend.
    """
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower().replace("_", "").replace("-", "") == "samplerate":
            rate_hz = parse_rate(value)
            if rate_hz not in LINE_RATES_HZ:
                raise ValueError(
                    f"sample-rate={value[:20]} is not a rate of Exotel's streams: "
                    "write sample-rate=8000, 16000 or 24000 into the applet's URL, or leave it out"
                )
            return rate_hz
    return None
