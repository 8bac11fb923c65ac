"""The console's HTTP server, on a port that callers never see: for operators, tools and people who talk.

========================  ================================================================================
``/``, ``/talk`` ...      the web client's pages (`pxbridge.console.static_files`)
``/api/...``              see `pxbridge.console.api`; JSON
``/api/chat``             a talk, as PersonaPlex's protocol has it (`pxbridge.console.talk`)
``/api/live``             live data over a WebSocket (`pxbridge.console.live`)
``/metrics``              for Prometheus, in its text format
``/livez``                200 as long as the event loop runs
``/readyz``               200 if another call can be taken, else 503 with the reasons, one in each line
========================  ================================================================================

`pxbridge.console.auth` decides who may ask. The health checks, the pages and their files need no login; a
page without one shows the form for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

import pxbridge
from pxbridge.chat_wire import CHAT_PATH
from pxbridge.console.api import ENDPOINTS, OPERATOR, Api, refused
from pxbridge.console.auth import Access, Refusal, Refused, as_connected
from pxbridge.console.connections import BACKLOG, HEAD_TIMEOUT_S, Connections
from pxbridge.console.live import LIMITS
from pxbridge.console.sockets import serve_socket
from pxbridge.console.static_files import ASSETS, INDEX, PAGES, SECURITY_HEADERS, policy
from pxbridge.websocket import Reason, TurnedAway, shown

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from pxbridge.console.api import FindRecording, LiveCall, Operate
    from pxbridge.console.live import Live
    from pxbridge.console.static_files import File
    from pxbridge.console.talk import Talks
    from pxbridge.websocket import Report

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["Console", "Refused", "serve"]

log = logging.getLogger("pxbridge.console")

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
HEALTH: Final = frozenset({"/livez", "/readyz"})
LIVE_PATH: Final = "/api/live"
MAX_BODY_BYTES: Final = 64 * 1024
"""Valid requests are a few hundred bytes long."""

MAX_LINE_BYTES: Final = 64 * 1024
"""The longest request line. A prompt of 2,000 characters takes nine bytes a character in most scripts."""

SHUTDOWN_S: Final = 1.0
"""How long a request in progress may take at the end."""

NOT_BUILT: Final = (
    "the web client is not in this installation: build it with `make client`.\n"
    "/metrics, /readyz and /api/calls are here.\n"
)

_TURNED_AWAY: Final = {404: Reason.NOT_FOUND, 405: Reason.METHOD}
"""Errors of requests, by status; the others make a request invalid."""

_ADVICE: Final = {
    Reason.TLS: "open http://, or set PXBRIDGE_CONSOLE_TLS_CERT_FILE",
    Reason.PROXY_UNEXPECTED: "the console reads X-Forwarded-For instead, from PXBRIDGE_TRUSTED_PROXIES",
    Reason.NOT_UPGRADED: "a proxy in between must pass on the Upgrade and Connection headers",
}

_PUBLIC: Final = frozenset((each.method, each.path) for each in ENDPOINTS if each.public)


class Console:
    """Answers requests.

    Args:
        scrape: Returns the metrics as text.
        calls: Returns live and recent calls.
        not_ready: Returns the reasons why no call can be taken now; none means ready.
        operate: Applies an operator's action to a call.
        logins: The accepted ``USER:PASSWORD`` pairs; without any, everybody on this machine may ask.
        clock: A monotonic clock, in seconds.
        tokens: The accepted ``NAME:TOKEN`` pairs, for programs.
        origins: Other origins by which this console is reached.
        find_recording: Finds the file of a call's recording.
        live: Sends live data; None: there is none.
        talks: Begins talks; None: nobody can be talked with.
        files: The files of the web client, by path.
        client: The address of a client, from the connection's and the request's ``X-Forwarded-For`` headers.
        live_call: Returns a live call's figures and counters, by its id.
    """

    def __init__(
        self,
        scrape: Callable[[], bytes],
        calls: Callable[[], dict[str, list[dict[str, Any]]]],
        not_ready: Callable[[], Sequence[str]],
        operate: Operate,
        logins: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
        *,
        tokens: Collection[str] = (),
        origins: Collection[str] = (),
        find_recording: FindRecording | None = None,
        live: Live | None = None,
        talks: Talks | None = None,
        files: Mapping[str, File] | None = None,
        client: Callable[[str, Sequence[str]], str] = as_connected,
        live_call: LiveCall = lambda _: None,
    ) -> None:
        self._scrape = scrape
        self._not_ready = not_ready
        self.turn_away = TurnedAway("console", _ADVICE)
        """Counts and logs what no page, API or health check is there for."""
        self.connections = Connections(self.turn_away)
        self._access = Access(logins, tokens, origins, clock=clock, log=log, client=client)
        self._live = live
        self._talks = talks
        self._files = files or {}
        self._api = Api(
            self._access,
            calls,
            live_call,
            operate,
            find_recording,
            None if talks is None else talks.offer,
            pxbridge.__version__,
        )

    @property
    def refused(self) -> dict[Refused, int]:
        """How many requests were refused, by reason."""
        return self._access.refused

    def use(self, logins: Collection[str], tokens: Collection[str], origins: Collection[str]) -> None:
        """Puts other logins, tokens and origins in force. Talks go on; a live page without a login ends."""
        self._access.use(logins, tokens, origins)

    def application(self) -> web.Application:
        """The application that aiohttp serves."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard()])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        for path in HEALTH:
            app.router.add_options(path, self._health_options)
        for endpoint in ENDPOINTS:
            answer = getattr(self._api, endpoint.name)
            if endpoint.method == "GET":
                app.router.add_get(endpoint.path, answer)  # and HEAD
            else:
                app.router.add_route(endpoint.method, endpoint.path, answer)
        if self._live is not None:
            app.router.add_get(LIVE_PATH, self._serve_live)
            app.on_shutdown.append(self._close_live)
        if self._talks is not None:
            app.router.add_get(CHAT_PATH, self._talk)
        for path in PAGES:
            app.router.add_get(path, self._page)
        for path in self._files:
            if path not in PAGES:
                app.router.add_get(path, self._file)
        return app

    # -- who is let in --------------------------------------------------------------------------------

    def _guard(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await self._answer(request, handler)
            if not response.prepared:
                response.headers.setdefault("Cache-Control", "no-store")
                response.headers.setdefault("Content-Security-Policy", policy(request.path, request.query))
                response.headers.update(SECURITY_HEADERS)
            return response

        return guard

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = None if request.path in HEALTH else self._refusal(request)
        if refusal is not None:
            await self._access.delay(refusal)
            return _as_response(request, refusal)
        is_admitted = OPERATOR in request  # and not one of those that anybody may ask
        try:
            with self.connections.admitted(request) if is_admitted else contextlib.nullcontext():
                response = await handler(request)
            if request.path in _SOCKETS and response.status in _NO_HANDSHAKE:
                self._turn_away(request, Reason.NOT_UPGRADED)
            return response
        except web.HTTPException as error:
            if 400 <= error.status < 500:
                self._turn_away(request, _TURNED_AWAY.get(error.status, Reason.INVALID_REQUEST))
            if error.status == 404 and self._shows_page(request):
                return self._sent(request, self._files[f"/{INDEX}"], status=404)
            headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return _as_response(request, Refusal(error.status, f"{error.reason.lower()}\n", headers))

    def _turn_away(self, request: web.Request, reason: Reason) -> None:
        self.turn_away(reason, self._access.address(request), shown(request.method, request.raw_path))

    def _refusal(self, request: web.Request) -> Refusal | None:
        """Why a request is not answered; None if it is. Notes who asks."""
        if (refusal := self._access.stranger(request)) is not None:
            return refusal
        if self._is_public(request):
            return None
        operator = self._access.operator(request)
        if isinstance(operator, Refusal):
            return operator
        request[OPERATOR] = operator
        return None

    def _is_public(self, request: web.Request) -> bool:
        path = request.path
        return (
            ("GET" if request.method == "HEAD" else request.method, path) in _PUBLIC
            or path in PAGES
            or path in self._files
            or self._shows_page(request)
        )

    def _shows_page(self, request: web.Request) -> bool:
        """Whether a person's browser asks for a page. The client says which address is unknown."""
        path = request.path
        return (
            f"/{INDEX}" in self._files
            and request.method in ("GET", "HEAD")
            and "text/html" in request.headers.get("Accept", "")
            and not path.startswith(("/api/", ASSETS))
            and path not in ("/metrics", *HEALTH)
        )

    # -- what is answered -----------------------------------------------------------------------------

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._scrape(), headers={"Content-Type": METRICS_TYPE})

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _health_options(self, _request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Allow": "GET, HEAD, OPTIONS"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._not_ready()
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="ready\n")

    async def _page(self, request: web.Request) -> web.Response:
        page = self._files.get(f"/{INDEX}")
        if page is None:
            return web.Response(status=503, text=NOT_BUILT)
        return self._sent(request, page)

    async def _file(self, request: web.Request) -> web.Response:
        return self._sent(request, self._files[request.path])

    def _sent(self, request: web.Request, file: File, status: int = 200) -> web.Response:
        headers = {
            "Content-Type": file.content_type,
            "ETag": file.tag,
            "Cache-Control": "public, max-age=31536000, immutable" if file.never_changes else "no-cache",
        }
        if status == 200 and file.tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        body = file.body
        if file.compressed is not None:
            headers["Vary"] = "Accept-Encoding"
            if "gzip" in request.headers.get("Accept-Encoding", ""):
                headers["Content-Encoding"] = "gzip"
                body = file.compressed
        return web.Response(status=status, body=body, headers=headers)

    async def _talk(self, request: web.Request) -> web.StreamResponse:
        assert self._talks is not None  # noqa: S101  without talks this has no route
        return await self._talks.chat(request, self._access.address(request))

    async def _serve_live(self, request: web.Request) -> web.StreamResponse:
        live, session, changes = self._live, request[OPERATOR].session, self._access.changes
        assert live is not None  # noqa: S101  without live data this has no route

        def is_allowed() -> bool:
            if session is None:  # a program, or nobody was asked for a login: the next try tells
                return self._access.changes == changes
            return self._access.sessions.lives(session)

        return await serve_socket(request, LIMITS, lambda socket: live.subscribe(socket, is_allowed))

    async def _close_live(self, _app: web.Application) -> None:
        if self._live is not None:
            self._live.close()


_SOCKETS: Final = frozenset({LIVE_PATH, CHAT_PATH})
_NO_HANDSHAKE: Final = frozenset({400, 426})


def _as_response(request: web.Request, refusal: Refusal) -> web.Response:
    """A refusal, as JSON where an API answers."""
    if request.path.startswith("/api/"):
        return refused(refusal.status, refusal.text.strip(), refusal.headers)
    return web.Response(status=refusal.status, text=refusal.text, headers=refusal.headers)


class _LibraryLog(logging.Logger):
    """Where the HTTP library reports errors.

    Requests that it cannot read are reported like all that is turned away: anybody could fill the log.
    """

    def __init__(self, report: Report) -> None:
        # The library tells some of those requests at level debug.
        super().__init__("pxbridge.console.http", logging.DEBUG)
        self.parent = log
        self._report = report

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is about a fault of this process, and to be logged."""
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            address = record.args[0] if isinstance(record.args, tuple) and record.args else ""
            self._report(Reason.INVALID_REQUEST, str(address or ""))
            return False
        return record.levelno >= log.getEffectiveLevel()


@contextlib.asynccontextmanager
async def serve(
    console: Console, host: str, port: int, ssl: tls.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serves the console while the block runs; gives its port.

    Args:
        console: What answers.
        host: The address to listen on.
        port: The port; 0 for any free one.
        ssl: The context to serve TLS with; None serves plain TCP.

    Raises:
        OSError: The address cannot be listened on.
    """
    runner = web.AppRunner(
        console.application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=HEAD_TIMEOUT_S,
        max_line_size=MAX_LINE_BYTES,
        logger=_LibraryLog(console.turn_away),
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101  `setup` made it
    try:
        listening = await asyncio.get_running_loop().create_server(
            console.connections.serve(runner.server, ssl), host, port, backlog=BACKLOG
        )
        try:
            yield listening.sockets[0].getsockname()[1]
        finally:
            listening.close()
            console.connections.close()
    finally:
        await runner.cleanup()
