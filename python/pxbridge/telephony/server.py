"""The telephony door: the port that Exotel dials.

It answers requests and owns calls' tasks; what a call is, it does not know. Every accepted WebSocket goes to
the call's owner, a coroutine function given at construction, which runs as one task. When that task ends, in
whatever way, its socket is closed; when the listener ends, no task of it is left.

====================  ==================================================================================
``/``, ``/exotel``    Exotel's WebSocket; ``?sample-rate=`` 8000, 16000 or 24000 tells the line's rate
``/exotel/PERSONA``   the same, for callers who shall speak with that persona
``/exotel/t/TOKEN``   the same and the next, with a proof in the path (`pxbridge.telephony.access`)
``/exotel/url`` ...   what flows ask (`pxbridge.telephony.exotel.webhooks`)
``/livez``            200 as long as the event loop turns
``/readyz``           200 if another call can be taken, else 503 with the reasons, one a line
anything else         404
====================  ==================================================================================

Health is told to everybody; for all else the gate decides who comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from pxbridge import websocket
from pxbridge.telephony.access import AccessControl, Refused, Signer, without_token
from pxbridge.telephony.exotel.messages import LINE_RATES_HZ, MAX_MESSAGE_BYTES, parse_rate
from pxbridge.telephony.exotel.webhooks import WEBHOOK_PATH, Webhooks

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from pxbridge.telephony.access import Visitor
    from pxbridge.websocket import Handler, Request, Response, WebSocket

    CallOwner = Callable[["Arrival"], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)

PERSONA_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A persona's name is a word that can stand in a file, a log and a URL as it is."""

_CALL_PATH: Final = re.compile(rf"/|/exotel/?|/exotel/(?P<persona>{PERSONA_NAME.pattern})/?")

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

_UNLIMITED: Final = 10**9

_GOING_AWAY: Final = 1001
_INTERNAL_ERROR: Final = 1011


@dataclass(frozen=True, slots=True)
class Arrival:
    """A phone call at the door, let in.

    Args:
        socket: The phone's, just accepted.
        rate_hz: The line's rate if the URL named one.
        persona_name: Whom the URL's path asks for; ``None`` if it leaves that to the bridge.
        peer: The address the call came from, of the proxy's client if a trusted proxy says so.
    """

    socket: WebSocket
    rate_hz: int | None = None
    persona_name: str | None = None
    peer: str = ""


class TelephonyServer:
    """The open door; made by `listen`.

    Args:
        owner: Given each call that is let in.
        not_ready: Reasons, beside the door's own, why no call can be taken now. Strangers read them.
        max_calls: Calls at the same time; one more is refused with 503 before its upgrade.
        gate: Who may come in.
        webhooks: What flows ask.
    """

    def __init__(
        self,
        owner: CallOwner,
        not_ready: Callable[[], Sequence[str]],
        max_calls: int,
        gate: AccessControl,
        webhooks: Webhooks,
    ) -> None:
        self.gate = gate
        self._webhooks = webhooks
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
    def refusals(self) -> dict[str, int]:
        """How many were not let in, by why."""
        return {"full": self.refused} | {why.name.lower(): self.gate.refused[why] for why in Refused}

    @property
    def live_calls(self) -> int:
        """Calls whose owner's task has not ended."""
        return len(self._calls)

    @property
    def room(self) -> int:
        """For how many more calls the door is open."""
        return 0 if self._draining else self._max_calls - len(self._calls)

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self.server is None:
            raise RuntimeError("the listener is not listening yet")
        return self.server.port

    def not_ready(self) -> list[str]:
        """Reasons why no call can be taken now; none means ready."""
        return [*self.full(), *self._not_ready()]

    def abort(self) -> None:
        """Cut every connection, closing handshakes under way too."""
        if self.server is not None:
            for connection in self.server.connections:
                connection.abort("the bridge has no more time")

    async def drain(self) -> None:
        """Take no new call, and wait until the last one has ended.

        Requests are answered on: ``/readyz`` now says why no call comes through.
        """
        self._draining = True
        await self._no_calls.wait()

    def accept(self, request: Request) -> Response | Awaitable[Response] | Handler:
        """Decide about one request, before any upgrade."""
        path, _, query = request.path.partition("?")
        if path in ("/livez", "/readyz"):
            return self._health(request.method, path)
        path = without_token(path)
        webhook = WEBHOOK_PATH.fullmatch(path) is not None
        call = _CALL_PATH.fullmatch(path)
        if call is None and not webhook:
            return websocket.text_response(404, "not found\n")
        visitor = self.gate.enter(request, webhook=webhook)
        if isinstance(visitor, websocket.Response):
            return visitor
        if webhook or call is None:
            return self._webhooks.answer(request, visitor, self.full())
        return self._accept_call(query, call["persona"], visitor)

    def _health(self, method: str, path: str) -> Response:
        if method not in ("GET", "HEAD"):
            return websocket.text_response(405, "GET only\n", [("Allow", "GET, HEAD")])
        if path == "/livez":
            return websocket.text_response(200, "alive\n")
        reasons = self.not_ready()
        if reasons:
            return websocket.text_response(503, "".join(f"{reason}\n" for reason in reasons))
        return websocket.text_response(200, "ready\n")

    def _accept_call(self, query: str, persona_name: str | None, visitor: Visitor) -> Response | Handler:
        if visitor.persona_name and persona_name and visitor.persona_name != persona_name:
            return self.gate.refuse(Refused.BAD_TOKEN, visitor.address)
        try:
            rate_hz = _rate_of(query)
        except ValueError as exc:
            return websocket.text_response(400, f"{exc}\n")
        full = self.full()
        if full:
            self.refused += 1
            return websocket.text_response(503, "".join(f"{reason}\n" for reason in full))
        if (crowded := self.gate.crowded(visitor)) is not None:
            return crowded
        persona_name = visitor.persona_name or persona_name
        return lambda socket: self._begin(Arrival(socket, rate_hz, persona_name, visitor.address))

    def full(self) -> list[str]:
        """Why the door itself takes no more calls; nothing while it does."""
        if self._draining:
            return ["draining: no new calls"]
        if self.room <= 0:
            return [f"all {self._max_calls} calls are taken"]
        return []

    def _begin(self, arrival: Arrival) -> None:
        task = asyncio.create_task(self._call(arrival), name=f"call from {arrival.socket.peer}")
        self._calls.add(task)
        self._no_calls.clear()
        self.gate.begin_call(arrival.peer)
        task.add_done_callback(lambda task: self._ended(task, arrival.peer))

    def _ended(self, task: asyncio.Task[None], peer: str) -> None:
        self._calls.discard(task)
        self.gate.end_call(peer)
        if not self._calls:
            self._no_calls.set()

    async def _call(self, arrival: Arrival) -> None:
        socket = arrival.socket
        code = _GOING_AWAY  # if this task is cancelled, which is what the end of the listener does
        try:
            await self._owner(arrival)
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
    gate: AccessControl | None = None,
    webhooks: Webhooks | None = None,
    ssl: tls.SSLContext | None = None,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    limits: websocket.Limits = LIMITS,
) -> AsyncIterator[TelephonyServer]:
    """Listen for calls while the block runs; at its end, calls that still live are cancelled (see
    `TelephonyServer.drain`).

    Args:
        owner: Called with each call that is let in. It sets the socket's ``on_message``; the socket is closed
            when it returns (1000), raises (1011, logged) or is cancelled (1001), unless it did so itself.
        host: Address to listen on; ``None`` for all.
        port: Port; 0 for any free one.
        not_ready: For ``/readyz``, which anyone may ask: reasons why no call can be taken now.
        max_calls: Calls at the same time.
        gate: Who may come in; by default everybody, as often as they like.
        webhooks: What flows ask; by default they hear of no hand-over, and get no URL.
        ssl: Serve TLS with it.
        open_timeout_s: For the handshakes.
        limits: What an open WebSocket is held to.

    Raises:
        OSError: The address cannot be listened on.
    """
    signer = Signer([secrets.token_bytes(32)], time.time)
    gate = gate or AccessControl(signer, asyncio.get_running_loop().time, requests_per_minute=_UNLIMITED)
    webhooks = webhooks or Webhooks(signer, gate)
    listener = TelephonyServer(owner, not_ready, max_calls, gate, webhooks)
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
