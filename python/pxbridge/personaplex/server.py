"""The engine's port: PersonaPlex's `/api/chat` for many clients, and pages for operators.

==============  =========================================================================================
``/api/chat``   a conversation; `pxbridge.personaplex.query` has the parameters
``/livez``      200 while the event loop runs and the model's thread does not hang
``/readyz``     200 if a conversation can begin now, else 503; JSON with the reasons and figures
``/voices``     the names of the voices, JSON
``/metrics``    for Prometheus
anything else   a file of the web client if one is served, else 404
==============  =========================================================================================

Every request is decided before the upgrade, so a refused client gets an HTTP status and a JSON body with the
reason: 400 for a wrong parameter, 401 for a missing or wrong token, 503 with Retry-After if no slot is free.

`/livez` and `/readyz` are open to everybody. Everything else needs the token, if one is set. A browser may
connect only from this server's own pages, unless it sends a bearer token, which a page has to know. Otherwise
any page on the internet could connect to a port of its visitor's machine, and browsers add a login that they
know. A page that was opened by another server's name, which leads to this machine (DNS rebinding), is not one
of this server's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pxbridge
from pxbridge import chat_wire, websocket
from pxbridge.errors import BadQuery
from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.personaplex.query import Defaults, read_query
from pxbridge.personaplex.session import (
    GOING_AWAY,
    INTERNAL_ERROR,
    LIMITS,
    Live,
    Paused,
    Prompting,
    Session,
    Why,
)
from pxbridge.personaplex.telemetry import CONTENT_TYPE
from pxbridge.rate_limit import RateLimiter, counted_as
from pxbridge.websocket import Headers, Response
from pxbridge.wording import all_are

if TYPE_CHECKING:
    import ssl as tls
    from collections import Counter
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from pxbridge.personaplex.engine import Engine
    from pxbridge.personaplex.input_recorder import InputRecorder
    from pxbridge.personaplex.places import Places
    from pxbridge.personaplex.query import Personas
    from pxbridge.personaplex.session import TextReader
    from pxbridge.personaplex.static_files import StaticFiles
    from pxbridge.personaplex.telemetry import Telemetry
    from pxbridge.websocket import Handler, Request, WebSocket

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 10.0
RETRY_AFTER_S: Final = 5
"""Retry-After if no slot is free. Calls last minutes, so one of many slots is free soon."""
WRONG_PER_S: Final = 0.1
WRONG_AT_ONCE: Final = 10.0
"""Wrong tokens that one address may try: ten, and then one in ten seconds. The answers to more are delayed.

The right token is never refused for wrong ones: behind a NAT or a proxy many clients have one address. What
makes guessing hopeless is the token's least length (`pxbridge.commands.engine_serve`)."""
DELAY_S: Final = 2.0
"""By how much the answer to a wrong token too many is delayed."""
MAX_DELAYED: Final = 32
"""Answers that are delayed at the same time. More are sent at once, so that they do not fill the memory."""
STUCK_S: Final = 30.0
"""A piece of the model's work takes a second at most. After this long the device hangs."""
LOOK_EVERY_S: Final = 1.0

_CHALLENGES: Final = (
    ("WWW-Authenticate", 'Bearer realm="pxbridge engine"'),
    # Browsers cannot send a bearer token with a WebSocket. They can ask for a password, and send that.
    ("WWW-Authenticate", 'Basic realm="pxbridge engine", charset="UTF-8"'),
)


@dataclass(frozen=True)
class Rules:
    """How the server deals with its clients.

    Attributes:
        token: The secret that a client must send; None: none is needed.
        defaults: Prompts for clients that send none.
        model: The checkpoint's name, for `/readyz`.
        origins: Other origins whose pages may talk; ``*`` for all.
        names: The names of this server's own pages if no token is set; None: any.
    """

    token: str | None = None
    defaults: Defaults = field(default_factory=Defaults)
    model: str = ""
    origins: frozenset[str] = frozenset()
    names: frozenset[str] | None = None


class EngineServer:
    """See the module. Made by `listen`.

    Args:
        engine: The model and its thread.
        places: Its slots, and the line of clients that wait for one.
        personas: The voices.
        text: Makes a reader of tokens for one conversation.
        telemetry: The engine's metrics.
        rules: The rules for clients.
        recorder: Records the models' input; None: nothing is recorded.
        files: A web client; None: none is served.
    """

    def __init__(
        self,
        engine: Engine,
        places: Places,
        personas: Personas,
        text: Callable[[], TextReader],
        telemetry: Telemetry,
        rules: Rules,
        recorder: InputRecorder | None = None,
        files: StaticFiles | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.sessions: set[Session] = set()
        self.warm_up_s: float | None = None
        """How long the warm-up took; None until it is over."""
        self._engine = engine
        self._places = places
        self._personas = personas
        self._text = text
        self._telemetry = telemetry
        self._rules = rules
        self._token = None if rules.token is None else _digest(rules.token)
        self._recorder = recorder
        self._files = files
        self._loop = loop
        self._delayed = 0
        self._wrong = RateLimiter(WRONG_PER_S, WRONG_AT_ONCE, loop.time)
        self._log_throttle = LogThrottle(_log_refused)
        self._draining = False
        self._nobody = asyncio.Event()
        self._nobody.set()
        self.server: websocket.Server | None = None
        telemetry.slots = self._slots
        telemetry.line = lambda: places.waiting
        telemetry.backlog = lambda: engine.scheduler.backlog
        telemetry.dropped = lambda: engine.scheduler.dropped

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self.server is None:
            raise RuntimeError("the server is not listening yet")
        return self.server.port

    def accept(self, request: Request) -> Response | Awaitable[Response] | Handler:
        """Answers a request, or returns the handler of a conversation."""
        path, _, query = request.path.partition("?")
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": "method", "reason": "GET only"}, [("Allow", "GET, HEAD")])
        match path:
            case "/livez":
                return self._livez()
            case "/readyz":
                return self._readyz(request)
        if (refusal := self._stranger(request)) is not None:
            return refusal
        match path:
            case chat_wire.CHAT_PATH:
                return self._chat(query)
            case "/voices":
                voices = self._personas.voices()
                return _json(200, {"voices": voices, "default": self._rules.defaults.voice})
            case "/metrics":
                return _response(200, CONTENT_TYPE, self._telemetry.scrape())
        file = self._files.find(path) if self._files is not None else None
        if file is None:
            return _json(404, {"error": "not_found", "reason": f"a conversation is at {chat_wire.CHAT_PATH}"})
        return _response(200, file.content_type, file.body, [("X-Content-Type-Options", "nosniff")])

    async def drain(self, limit_s: float) -> None:
        """Refuses new clients, and ends the sessions that are left after `limit_s`."""
        self._draining = True
        for session in [each for each in self.sessions if each.slot is None]:
            session.end(GOING_AWAY, "the engine ends", Why.DRAINED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._nobody.wait()
        self.send_away(GOING_AWAY, "the engine ends", Why.DRAINED)

    def send_away(self, code: int, reason: str, why: Why) -> None:
        """Ends every session."""
        self._draining = True
        for session in list(self.sessions):
            session.end(code, reason, why)

    async def watch(self) -> BaseException:
        """Waits until the device fails: the model raised an exception, or it hangs. Returns the exception."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    return await asyncio.shield(self._engine.fault)
            if self._hangs_s() > STUCK_S:
                return TimeoutError(f"the device has not answered for {STUCK_S:.0f} s")

    # Pages for operators.

    def _livez(self) -> Response:
        stuck_s = self._hangs_s()
        if stuck_s > STUCK_S:
            return websocket.text_response(503, f"the device has not answered for {stuck_s:.0f} s\n")
        return websocket.text_response(200, "alive\n")

    def _readyz(self, request: Request) -> Response | Awaitable[Response]:
        # Open to everybody. A client that sends a token learns whether it is the right one.
        if "Authorization" in request.headers and (refusal := self._stranger(request)) is not None:
            return refusal
        reasons = self._not_ready()
        full = not reasons and not self._places.free
        if full:
            reasons = [f"{all_are(self._places.slots, 'slot')} taken"]
        told = {
            "ready": not reasons,
            "full": full,
            "reasons": reasons,
            "token_needed": self._token is not None,
            "slots": self._places.slots,
            "free": self._places.free if not self._draining else 0,
            "waiting": self._places.waiting,
            "line": self._places.longest_line,
            "model": self._rules.model,
            "warm_up": {"done": self._engine.ready.is_set(), "took_s": self.warm_up_s},
            "draining": self._draining,
            "tick_ms": round(1000 * self._engine.scheduler.tick_s, 1),
            "version": pxbridge.__version__,
        }
        return _json(200 if not reasons else 503, told)

    def _not_ready(self) -> list[str]:
        """The reasons, other than a lack of slots, for which no conversation can begin."""
        if self._engine.fault.done():
            return ["the device failed"]
        if self._draining:
            return ["draining: no new conversations"]
        if not self._engine.ready.is_set():
            return ["warming up"]
        return []

    def _hangs_s(self) -> float:
        """How long the model's thread has been busy with one piece of work; 0 during the warm-up."""
        since_s = self._engine.busy_since_s
        if since_s is None or not self._engine.ready.is_set():
            return 0.0
        return self._engine.clock() - since_s

    def _slots(self) -> dict[str, int]:
        states = [type(session.state) for session in self.sessions]
        return {
            "free": self._places.free,
            "prompting": states.count(Prompting),
            "live": states.count(Live),
            "paused": states.count(Paused),
        }

    # Admission.

    def _stranger(self, request: Request) -> Response | Awaitable[Response] | None:
        """The refusal of a client that may not ask; None if it may."""
        if self._token is None:
            return self._another_page(request, self._rules.names)
        shown = request.headers.get_all("Authorization")
        if not shown:
            return self._refuse("token", 401, "a token is needed", request.address, _CHALLENGES)
        if len(shown) == 1 and hmac.compare_digest(_digest(_secret_in(shown[0])), self._token):
            # A browser adds a login that it knows to whatever page's WebSocket; a page needs to know a token.
            is_login = shown[0].strip().partition(" ")[0].lower() == "basic"
            return self._another_page(request, None) if is_login else None
        if self._wrong.take(counted_as(request.address)):
            return self._refuse("token", 401, "the token is wrong", request.address, _CHALLENGES)
        again = [("Retry-After", f"{1 / WRONG_PER_S:.0f}")]
        return self._later(self._refuse("token", 429, "too many wrong tokens", request.address, again))

    def _another_page(self, request: Request, names: frozenset[str] | None) -> Response | None:
        """The answer to a browser that shows a page of another server; None for anybody else."""
        if not _is_of_another_page(request.headers, self._rules.origins, names):
            return None
        reason = "a page of another server may not; --allow-origin lets it"
        return self._refuse("origin", 403, reason, request.address)

    async def _later(self, refusal: Response) -> Response:
        """A refusal, delayed unless too many are."""
        if self._delayed < MAX_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(DELAY_S)
            finally:
                self._delayed -= 1
        return refusal

    def _chat(self, query: str) -> Response | Handler:
        if problems := self._not_ready():
            return self._no_room("not_ready", problems[0])
        try:
            asked = read_query(query, self._personas, self._rules.defaults)
        except BadQuery as error:
            self._telemetry.refused("bad_request")
            told = {"error": "bad_request", "parameter": error.parameter, "reason": error.problem}
            return _json(400, told)
        if not self._places.free:
            if not asked.waits:
                hint = "; add queue=1 to wait in line" if self._places.longest_line else ""
                return self._no_room("full", f"{all_are(self._places.slots, 'slot')} taken{hint}")
            if self._places.line_is_full:
                return self._no_room("full", f"the line is full: {self._places.waiting} wait")

        def begin(socket: WebSocket) -> None:
            recorder = self._recorder
            record = None if recorder is None else lambda: recorder.begin(asked)
            session = Session(socket, asked, self._engine, self._places, self._text, record, self._over)
            self.sessions.add(session)
            self._nobody.clear()
            log.info("session begins: %s, voice %s, seed %d", socket.peer, asked.voice, asked.sampling.seed)
            session.begin()

        return begin

    def _over(self, session: Session, why: Why) -> None:
        self._telemetry.ended(why.value)
        self.sessions.discard(session)
        if not self.sessions:
            self._nobody.set()

    def _no_room(self, why: str, reason: str) -> Response:
        self._telemetry.refused(why)
        told = {"error": why, "reason": reason, "slots": self._places.slots, "waiting": self._places.waiting}
        return _json(503, told, [("Retry-After", str(RETRY_AFTER_S))])

    def _refuse(
        self, why: str, status: int, reason: str, address: str, headers: Iterable[tuple[str, str]] = ()
    ) -> Response:
        self._telemetry.refused(why)
        self._log_throttle.add(reason, address)
        return _json(status, {"error": why, "reason": reason}, headers)


@contextlib.asynccontextmanager
async def listen(
    server: EngineServer,
    host: str | None,
    port: int,
    *,
    ssl: tls.SSLContext | None = None,
    limits: websocket.Limits = LIMITS,
) -> AsyncIterator[EngineServer]:
    """Listens while the block runs. At the end, remaining sessions are closed with 1001.

    Raises:
        OSError: The address cannot be listened on.
    """
    server.server = await websocket.serve(
        server.accept, host, port, ssl=ssl, open_timeout_s=OPEN_TIMEOUT_S, limits=limits
    )
    try:
        yield server
    finally:
        server.send_away(GOING_AWAY, "the engine ends", Why.DRAINED)
        server.server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.close_timeout_s + 1.0):
                await server.server.wait_closed()
        for connection in server.server.connections:
            connection.abort("the engine has no more time")
        await server.server.wait_closed()


def end_after_fault(server: EngineServer) -> None:
    """Closes every session because the device failed."""
    server.send_away(INTERNAL_ERROR, "the engine's device failed", Why.FAULT)


def _is_of_another_page(headers: Headers, allowed: frozenset[str], names: frozenset[str] | None) -> bool:
    """Whether a browser sent this request for a page of another origin that may not talk."""
    origins, hosts = headers.get_all("Origin"), headers.get_all("Host")
    if not origins or "*" in allowed:
        return False
    if len(origins) != 1 or len(hosts) != 1:
        return True
    if origins[0].lower() in allowed:
        return False
    try:
        page = urlsplit(origins[0])
        return page.netloc.lower() != hosts[0].strip().lower() or (
            names is not None and page.hostname not in names
        )
    except ValueError:
        return True


def _secret_in(authorization: str) -> str:
    """The token in a header: a bearer token, or the password of a Basic login with any user."""
    scheme, _, value = authorization.strip().partition(" ")
    value = value.strip()
    match scheme.lower():
        case "bearer":
            return value
        case "basic":
            with contextlib.suppress(binascii.Error, ValueError):
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
    return ""


def _digest(secret: str) -> bytes:
    """A digest, compared instead of the secret so that timing does not even show the secret's length."""
    return hashlib.sha256(secret.encode()).digest()


def _json(status: int, told: Any, headers: Iterable[tuple[str, str]] = ()) -> Response:
    body = json.dumps(told, ensure_ascii=False).encode() + b"\n"
    return _response(status, "application/json", body, headers)


def _response(
    status: int, content_type: str, body: bytes, headers: Iterable[tuple[str, str]] = ()
) -> Response:
    """An HTTP answer, after which the connection is closed."""
    fields = Headers(
        [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            *headers,
        ]
    )
    return Response(status, HTTPStatus(status).phrase, fields, body)


def _log_refused(counts: Counter[str], last: str) -> None:
    log.warning("refused (%s), the last from %s", in_words(counts), last)
