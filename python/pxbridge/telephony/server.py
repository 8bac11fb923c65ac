"""The telephony server: the port that carriers dial.

It answers requests and owns calls' tasks; it does not know what a call is. Every accepted WebSocket goes to
the call's owner, a coroutine function given at construction, which runs as one task. When that task ends, for
whatever reason, its socket is closed. When the server ends, none of its tasks is left.

======================  ================================================================================
``/PREFIX/...``         a carrier's calls and webhooks (`pxbridge.telephony.routes`)
``/PREFIX/t/TOKEN...``  the same, with a proof in the path (`pxbridge.telephony.access`)
``/livez``              200 as long as the event loop runs
``/readyz``             200 if another call can be taken, else 503 with the reasons, one a line
anything else           404
======================  ================================================================================

Everybody may ask for health; access control decides about all other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pxbridge import websocket
from pxbridge.telephony.access import AccessControl, Refused, Signer, without_token
from pxbridge.telephony.routes import WebhookPath

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from pxbridge.telephony.access import Visitor
    from pxbridge.telephony.carrier import Carrier
    from pxbridge.telephony.routes import CallPath, CarrierRoutes, Route
    from pxbridge.websocket import Handler, Request, Response, WebSocket

    CallOwner = Callable[["Arrival"], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)

DEFAULT_MAX_CALLS: Final = 100
"""More than one process carries well; a limit is there so that overload refuses calls instead of spoiling
them."""

OPEN_TIMEOUT_S: Final = 10.0
"""For the handshakes. Carriers give a handshake about 10 s, so an older attempt is not worth keeping."""

PING_INTERVAL_S: Final = 20.0
"""How often the round trip to an idle phone is measured. Carriers do not promise pongs, so a missing pong
never ends a call: the call itself notices when no sound comes."""

_UNLIMITED: Final = 10**9

_GOING_AWAY: Final = 1001
_INTERNAL_ERROR: Final = 1011


@dataclass(frozen=True, slots=True)
class Arrival:
    """A phone call at the door, let in.

    Args:
        socket: The phone's, just accepted.
        carrier: Reads this socket's messages, and says how the carrier behaves.
        persona_name: Whom the URL's path asks for; ``None`` if it leaves that to the bridge.
        peer: The address the call came from, of the proxy's client if a trusted proxy says so.
    """

    socket: WebSocket
    carrier: Carrier
    persona_name: str | None = None
    peer: str = ""


class TelephonyServer:
    """The open door; made by `listen`.

    Args:
        owner: Given each call that is let in.
        not_ready: Reasons, beside the door's own, why no call can be taken now. Strangers read them.
        max_calls: Calls at the same time; one more is refused with 503 before its upgrade.
        access: Who may come in.
        carriers: Whose calls and webhooks come in here.
    """

    def __init__(
        self,
        owner: CallOwner,
        not_ready: Callable[[], Sequence[str]],
        max_calls: int,
        access: AccessControl,
        carriers: Sequence[CarrierRoutes],
    ) -> None:
        self.access = access
        self._carriers = tuple(carriers)
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
        return {"full": self.refused} | {why.name.lower(): self.access.refused[why] for why in Refused}

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
        found = self._find(without_token(path))
        if found is None:
            return websocket.text_response(404, "not found\n")
        routes, route = found
        visitor = self.access.admit(request, webhook=isinstance(route, WebhookPath))
        if isinstance(visitor, websocket.Response):
            return visitor
        if isinstance(route, WebhookPath):
            return routes.answer(request, visitor, self.full())
        return self._accept_call(routes, route, query, visitor)

    def _find(self, path: str) -> tuple[CarrierRoutes, Route] | None:
        """Which carrier a path belongs to, and what it leads to."""
        for routes in self._carriers:
            if (route := routes.find(path)) is not None:
                return routes, route
        return None

    def _health(self, method: str, path: str) -> Response:
        if method not in ("GET", "HEAD"):
            return websocket.text_response(405, "GET only\n", [("Allow", "GET, HEAD")])
        if path == "/livez":
            return websocket.text_response(200, "alive\n")
        reasons = self.not_ready()
        if reasons:
            return websocket.text_response(503, "".join(f"{reason}\n" for reason in reasons))
        return websocket.text_response(200, "ready\n")

    def _accept_call(
        self, routes: CarrierRoutes, route: CallPath, query: str, visitor: Visitor
    ) -> Response | Handler:
        if visitor.persona_name and route.persona_name and visitor.persona_name != route.persona_name:
            return self.access.refuse(Refused.BAD_TOKEN, visitor.address)
        try:
            carrier = routes.carrier(query)
        except ValueError as exc:
            return websocket.text_response(400, f"{exc}\n")
        full = self.full()
        if full:
            self.refused += 1
            return websocket.text_response(503, "".join(f"{reason}\n" for reason in full))
        if (too_many_calls := self.access.too_many_calls(visitor)) is not None:
            return too_many_calls
        persona_name = visitor.persona_name or route.persona_name
        return lambda socket: self._begin(Arrival(socket, carrier, persona_name, visitor.address))

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
        self.access.begin_call(arrival.peer)
        task.add_done_callback(lambda task: self._ended(task, arrival.peer))

    def _ended(self, task: asyncio.Task[None], peer: str) -> None:
        self._calls.discard(task)
        self.access.end_call(peer)
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
    carriers: Sequence[CarrierRoutes],
    not_ready: Callable[[], Sequence[str]] = tuple,
    max_calls: int = DEFAULT_MAX_CALLS,
    access: AccessControl | None = None,
    ssl: tls.SSLContext | None = None,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    limits: websocket.Limits | None = None,
) -> AsyncIterator[TelephonyServer]:
    """Listen for calls while the block runs; at its end, calls that still live are cancelled (see
    `TelephonyServer.drain`).

    Args:
        owner: Called with each call that is let in. It sets the socket's ``on_message``; the socket is closed
            when it returns (1000), raises (1011, logged) or is cancelled (1001), unless it did so itself.
        host: Address to listen on; ``None`` for all.
        port: Port; 0 for any free one.
        carriers: Whose calls and webhooks come in here.
        not_ready: For ``/readyz``, which anyone may ask: reasons why no call can be taken now.
        max_calls: Calls at the same time.
        access: Who may come in; by default everybody, as often as they like.
        ssl: Serve TLS with it.
        open_timeout_s: For the handshakes.
        limits: What an open WebSocket is held to; by default, room for the carriers' longest message.

    Raises:
        OSError: The address cannot be listened on.
    """
    if access is None:
        signer = Signer([secrets.token_bytes(32)], time.time)
        access = AccessControl(signer, asyncio.get_running_loop().time, requests_per_minute=_UNLIMITED)
    limits = limits or websocket.Limits(
        max_message_bytes=max(routes.max_message_bytes for routes in carriers),
        ping_interval_s=PING_INTERVAL_S,
        pong_timeout_s=None,
    )
    listener = TelephonyServer(owner, not_ready, max_calls, access, carriers)
    listener.server = await websocket.serve(
        listener.accept, host, port, ssl=ssl, open_timeout_s=open_timeout_s, limits=limits
    )
    try:
        yield listener
    finally:
        await listener._end()
