"""The telephony server: the port that carriers dial.

It answers requests and owns the tasks of calls; it does not know what a call does. Every accepted WebSocket
is given to the owner, a coroutine function given at construction, which runs as one task per call. When the
task ends, its socket is closed, whatever the reason. When the server ends, all its tasks have ended.

======================  ================================================================================
``/PREFIX/...``         a carrier's calls and webhooks (`pxbridge.telephony.routes`)
``/PREFIX/t/TOKEN...``  the same, with a signed token in the path (`pxbridge.telephony.tokens`)
``/livez``              200 as long as the event loop runs
``/readyz``             200 if another call can be taken, else 503 with the reasons, one per line
anything else           404
======================  ================================================================================

The two health paths need no credentials. Access control decides about all other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import re
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from pxbridge import websocket
from pxbridge.periodic import stop
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.refusals import Refused
from pxbridge.telephony.routes import WebhookPath
from pxbridge.telephony.tokens import Signer, without_token
from pxbridge.websocket import Reason, TurnedAway, shown
from pxbridge.wording import all_are

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from pxbridge.telephony.access import Visitor
    from pxbridge.telephony.call_tokens import TokenUse
    from pxbridge.telephony.carrier import Carrier
    from pxbridge.telephony.routes import CallPath, CarrierRoutes, Route
    from pxbridge.websocket import Handler, Request, Response, WebSocket

    CallOwner = Callable[["Arrival"], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)

DEFAULT_MAX_CALLS: Final = 100
"""More calls than one process handles well. The limit makes overload refuse calls instead of degrading
them."""

OPEN_TIMEOUT_S: Final = 10.0
"""Timeout of the handshakes. Carriers give up on a handshake after about 10 s."""

PING_INTERVAL_S: Final = 20.0
"""How often the round trip to an idle phone is measured. Carriers do not promise pongs, so a missing pong
never ends a call: the call itself detects missing audio."""

CLOSING_S: Final = 5.0
"""How long calls may take to end when the port closes, and their connections to close after them. Then the
connections are cut."""

_UNLIMITED: Final = 10**9

HEALTH_PATHS: Final = ("/livez", "/readyz")
_HEALTH_METHODS: Final = "GET, HEAD, OPTIONS"

_TURNED_AWAY: Final = {400: Reason.INVALID_REQUEST, 404: Reason.NOT_FOUND, 405: Reason.METHOD}
"""Answers that nothing else counts, by status. Access control counts its own."""

_ADVICE: Final = {
    Reason.TLS: "dial ws:// (or http://), or set PXBRIDGE_TLS_CERT_FILE to make this port speak TLS",
    Reason.PLAIN_HTTP: "dial wss:// (or https://), or let a proxy with TLS pass on to a port without it",
    Reason.TLS_FAILED: "an ALERT means that the client refused the certificate or the version",
    Reason.PROXY_UNEXPECTED: "if it is your proxy, set PXBRIDGE_PROXY_PROTOCOL=true and name its address in "
    "PXBRIDGE_TRUSTED_PROXIES",
    Reason.PROXY_INVALID: "make the proxy send the header (in HAProxy: send-proxy-v2), or unset "
    "PXBRIDGE_PROXY_PROTOCOL",
    Reason.NOT_UPGRADED: "dial ws:// or wss://; a proxy in between must pass on the Upgrade and Connection "
    "headers",
}

_OTHER_PATHS: Final = {
    "/metrics": "metrics are on the console's port",
    "/health": "try /livez or /readyz",
    "/healthz": "try /livez or /readyz",
}

_ALIKE: Final = 0.75
"""How alike two names must be, from 0 to 1, for one to be a misspelling of the other: a letter of six."""

_MAX_MISSPELT_CHARS: Final = 32

_GOING_AWAY: Final = 1001
_INTERNAL_ERROR: Final = 1011


@dataclass(frozen=True, slots=True)
class Arrival:
    """An admitted phone call.

    Args:
        socket: The phone's WebSocket, just accepted.
        carrier: Reads this socket's messages, and states the carrier's behaviour.
        persona_name: The persona that the token or the URL's path names; ``None`` lets the bridge choose.
        peer: The client's address; behind a trusted proxy, the address that the proxy reports.
        token_use: The use of a token for one call; ``None`` if it came in without one.
    """

    socket: WebSocket
    carrier: Carrier
    persona_name: str | None = None
    peer: str = ""
    token_use: TokenUse | None = None


class TelephonyServer:
    """The telephony port; made by `listen`.

    Args:
        owner: Called with each admitted call.
        not_ready: Further reasons why no call can be taken now, beside the port's own. They are public.
        max_calls: Limit of simultaneous calls. One more is refused with 503 before its upgrade.
        access: Access control.
        carriers: The carriers whose calls and webhooks this port serves.
        overloaded: Reasons why the process is too busy for another call. They are public.
        unknown_persona: Why a call that names this persona is refused with 404; ``None`` if it is not.
    """

    def __init__(
        self,
        owner: CallOwner,
        not_ready: Callable[[], Sequence[str]],
        max_calls: int,
        access: AccessControl,
        carriers: Sequence[CarrierRoutes],
        overloaded: Callable[[], Sequence[str]],
        unknown_persona: Callable[[str], str | None],
    ) -> None:
        self.access = access
        self._carriers = tuple(carriers)
        self._owner = owner
        self._not_ready = not_ready
        self._max_calls = max_calls
        self._overloaded = overloaded
        self._unknown_persona = unknown_persona
        self._calls: dict[asyncio.Task[None], WebSocket] = {}
        self._draining = False
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self.server: websocket.Server | None = None
        self.refused = 0
        """Calls refused with 503, because of the limit or while draining."""
        self.shed = 0
        """Calls refused with 503, because the process is overloaded."""
        self.turn_away = TurnedAway("telephony port", _ADVICE)
        """Counts and logs what is no valid request, and requests answered with 400, 404 or 405."""
        self._known_paths = (*(path for each in carriers for path in each.known_paths), *HEALTH_PATHS)

    @property
    def refusals(self) -> dict[str, int]:
        """Number of refused calls and requests by reason."""
        own = {"full": self.refused, "overloaded": self.shed}
        return own | {why.name.lower(): self.access.refused[why] for why in Refused}

    @property
    def turned_away(self) -> dict[str, int]:
        """Number of connections and requests that were turned away, by reason."""
        counts = self.turn_away.counts
        crowded = 0 if self.server is None else self.server.crowded
        return {why.name.lower(): counts[why] for why in Reason} | {"crowded": crowded}

    @property
    def flooded(self) -> int:
        """Number of connections that were closed because the phone sent too much."""
        return 0 if self.server is None else self.server.flooded

    @property
    def room(self) -> int:
        """Number of further calls that the port accepts now."""
        return 0 if self._draining or self._overloaded() else self._max_calls - len(self._calls)

    @property
    def port(self) -> int:
        """The TCP port number."""
        if self.server is None:
            raise RuntimeError("the telephony port is not open yet")
        return self.server.port

    def not_ready(self) -> list[str]:
        """Reasons why no call can be taken now; empty if the bridge is ready."""
        return [*self.full(), *self._not_ready()]

    def abort(self) -> None:
        """Cut every connection, including those in their closing handshake."""
        if self.server is not None:
            for connection in {*self.server.connections, *self._calls.values()}:
                connection.abort("the bridge is stopping")

    async def drain(self) -> None:
        """Refuse new calls, and wait until the last call has ended.

        Requests are still answered: ``/readyz`` states that the bridge is draining.
        """
        self._draining = True
        await self._no_calls.wait()

    def accept(self, request: Request) -> Response | Awaitable[Response] | Handler:
        """Decide about one request, before any upgrade."""
        answer = self._decide(request)
        if isinstance(answer, websocket.Response):
            self._note(request, answer)
        elif isinstance(answer, Awaitable):
            return self._noted(request, answer)
        return answer

    def _note(self, request: Request, answer: Response) -> None:
        reason = _TURNED_AWAY.get(answer.status_code)
        if reason is None:
            return
        hint = self._hint(request.path) if reason is Reason.NOT_FOUND else ""
        self.turn_away(reason, self.access.client(request), shown(request.method, request.path), hint=hint)

    async def _noted(self, request: Request, answer: Awaitable[Response]) -> Response:
        response = await answer
        self._note(request, response)
        return response

    def _hint(self, target: str) -> str:
        """Which path was probably meant; empty if it is not evident. One of few texts."""
        path = without_token(target.partition("?")[0])
        if self._find(path) is not None:
            return ""
        written = re.sub("/+", "/", unquote(path)).rstrip("/").lower() or "/"
        if written in _OTHER_PATHS:
            return _OTHER_PATHS[written]
        for known in sorted(self._known_paths, key=len, reverse=True):
            if written == known or (f"{written}/".startswith(f"{known}/") and not path.startswith(known)):
                return f"did you mean {known}?"
        first = "/" + written.lstrip("/").split("/")[0][:_MAX_MISSPELT_CHARS]
        alike = difflib.get_close_matches(first, self._known_paths, 1, _ALIKE)
        return f"did you mean {alike[0]}?" if alike and alike[0] != first else ""

    def _decide(self, request: Request) -> Response | Awaitable[Response] | Handler:
        path, _, query = request.path.partition("?")
        if path in HEALTH_PATHS:
            return self._health(request.method, path)
        found = self._find(without_token(path))
        if found is None:
            hint = self._hint(request.path)
            return websocket.text_response(404, f"not found; {hint}\n" if hint else "not found\n")
        routes, route = found
        visitor = self.access.admit(request, webhook=isinstance(route, WebhookPath))
        if isinstance(visitor, websocket.Response):
            return visitor
        if isinstance(route, WebhookPath):
            return routes.answer(request, visitor, self.full())
        return self._accept_call(routes, route, query, visitor)

    def _find(self, path: str) -> tuple[CarrierRoutes, Route] | None:
        """The carrier that a path belongs to, and the path's route."""
        for routes in self._carriers:
            if (route := routes.find(path)) is not None:
                return routes, route
        return None

    def _health(self, method: str, path: str) -> Response:
        if method == "OPTIONS":
            return websocket.options_response(_HEALTH_METHODS)
        if method not in ("GET", "HEAD"):
            return websocket.text_response(405, "GET only\n", [("Allow", _HEALTH_METHODS)])
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
        persona_name = visitor.persona_name or route.persona_name
        if persona_name and (unknown := self._unknown_persona(persona_name)) is not None:
            return websocket.text_response(404, f"{unknown}\n")
        full = self.full()
        if full:
            self._count_refusal()
            return websocket.text_response(503, "".join(f"{reason}\n" for reason in full))
        if (too_many_calls := self.access.too_many_calls(visitor)) is not None:
            return too_many_calls
        return lambda socket: self._begin(
            Arrival(socket, carrier, persona_name, visitor.address, visitor.token_use)
        )

    def take(self, arrival: Arrival) -> list[str]:
        """Begins a call that was admitted at another port. From then on it is a call like any other.

        Returns:
            Reasons why no call is taken, and this one was not begun; empty if it was.
        """
        if full := self.full():
            self._count_refusal()
            return full
        self._begin(arrival)
        return []

    def full(self) -> list[str]:
        """Reasons why the port itself accepts no more calls; empty if it accepts calls."""
        if self._draining:
            return ["draining: no new calls"]
        if len(self._calls) >= self._max_calls:
            return [f"{all_are(self._max_calls, 'call')} in use"]
        return [*self._overloaded()]

    def _count_refusal(self) -> None:
        if self._draining or len(self._calls) >= self._max_calls:
            self.refused += 1
        else:
            self.shed += 1

    def _begin(self, arrival: Arrival) -> None:
        task = asyncio.create_task(self._call(arrival), name=f"call from {arrival.socket.peer}")
        self._calls[task] = arrival.socket
        self._no_calls.clear()
        self.access.begin_call(arrival.peer)
        task.add_done_callback(lambda task: self._ended(task, arrival.peer))

    def _ended(self, task: asyncio.Task[None], peer: str) -> None:
        del self._calls[task]
        self.access.end_call(peer)
        if not self._calls:
            self._no_calls.set()

    async def _call(self, arrival: Arrival) -> None:
        socket = arrival.socket
        code = _GOING_AWAY  # if this task is cancelled, as it is when the server ends
        try:
            await self._owner(arrival)
            code = 1000
        except Exception:
            code = _INTERNAL_ERROR
            log.exception("%s: the call failed with an unexpected error", socket.peer)
        finally:
            socket.close(code)  # no effect if the owner has already closed it

    async def _end(self) -> None:
        if self.server is not None:
            self.server.close()
        await stop(self._calls, CLOSING_S)
        if self.server is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await self.server.wait_closed()
            self.abort()


@contextlib.asynccontextmanager
async def listen(
    owner: CallOwner,
    host: str | None,
    port: int,
    *,
    carriers: Sequence[CarrierRoutes],
    not_ready: Callable[[], Sequence[str]] = tuple,
    overloaded: Callable[[], Sequence[str]] = tuple,
    unknown_persona: Callable[[str], str | None] = lambda _name: None,
    max_calls: int = DEFAULT_MAX_CALLS,
    access: AccessControl | None = None,
    ssl: tls.SSLContext | None = None,
    open_timeout_s: float = OPEN_TIMEOUT_S,
    limits: websocket.Limits | None = None,
    proxy_protocol: bool = False,
) -> AsyncIterator[TelephonyServer]:
    """Listen for calls while the block runs. At its end, calls that are still live are cancelled (see
    `TelephonyServer.drain`).

    Args:
        owner: Called with each admitted call. It sets the socket's ``on_message``. The socket is closed when
            the owner returns (1000), raises (1011, logged) or is cancelled (1001), unless the owner has
            already closed it.
        host: Address to listen on; ``None`` for all.
        port: Port; 0 for any free one.
        carriers: The carriers whose calls and webhooks this port serves.
        not_ready: Further reasons why no call can be taken now, for ``/readyz``, which is public.
        overloaded: Reasons why the process is too busy for another call: new calls get 503 before their
            upgrade. They are public too.
        unknown_persona: Why a call whose URL or token names this persona is refused with 404, before its
            upgrade; ``None`` if it is not.
        max_calls: Limit of simultaneous calls.
        access: Access control; by default every request is admitted, without a rate limit.
        ssl: The context to serve TLS with; ``None`` serves plain TCP.
        open_timeout_s: Timeout of the handshakes.
        limits: Limits of an open WebSocket; by default they allow the carriers' longest message.
        proxy_protocol: Whether the trusted proxies of `access` send the PROXY protocol's header. Then nothing
            else is accepted from them.

    Raises:
        OSError: The address or port cannot be bound.
    """
    if access is None:
        signer = Signer([secrets.token_bytes(32)], time.time)
        access = AccessControl(signer, asyncio.get_running_loop().time, requests_per_minute=_UNLIMITED)
    limits = limits or websocket.Limits(
        max_message_bytes=max(routes.max_message_bytes for routes in carriers),
        ping_interval_s=PING_INTERVAL_S,
        pong_timeout_s=None,
    )
    listener = TelephonyServer(owner, not_ready, max_calls, access, carriers, overloaded, unknown_persona)
    listener.server = await websocket.serve(
        listener.accept,
        host,
        port,
        ssl=ssl,
        open_timeout_s=open_timeout_s,
        limits=limits,
        sends_header=access.trusts if proxy_protocol else websocket.sends_no_header,
        report=listener.turn_away,
    )
    try:
        yield listener
    finally:
        await listener._end()
