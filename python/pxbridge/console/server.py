"""The console's HTTP server: for operators and their tools, on a port that callers never see.

========================  ================================================================================
``/metrics``              for Prometheus, in its text format
``/livez``                200 as long as the event loop runs
``/readyz``               200 if another call can be taken, else 503 with the reasons, one in each line
``/api/calls``            live and recent calls as JSON: ``{"live": [...], "recent": [...]}``
``/api/calls/hand-over``  POST ``{"call": "CALL_ID", "numbers": ["+91..."], "by": "asha"}``: hands the call
over
                          to a person, once the agent has finished its sentence
``/api/calls/end``        POST ``{"call": "CALL_ID", "by": "asha"}``: ends it, once the agent has finished its
                          sentence
========================  ================================================================================

If logins are set, all paths but the health checks need one (Basic, RFC 7617), and records name its user.
Without logins, the console answers only requests to a loopback name, so that no web page can reach it under a
name of its own that points here (DNS rebinding).

A page of another origin can post forms and text to any address, with the login that the browser remembers. So
a request that changes something must be JSON. A browser asks before it sends JSON to another origin (CORS
preflight), and the console never allows it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import logging
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pxbridge.calls.numbers import MAX_NUMBERS, dialable
from pxbridge.calls.phrases import Action, End, HandOver
from pxbridge.console.connections import BACKLOG, HEAD_TIMEOUT_S, Connections
from pxbridge.errors import CallConflict, NoSuchCall
from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.rate_limit import RateLimiter, counted_as

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Operate = Callable[[str, Action, str], str]
    """Applies an operator's action to a call: its id, the action and the operator's name; returns the full
    id."""

log = logging.getLogger("pxbridge.console")

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEALTH = frozenset({"/livez", "/readyz"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BODY_BYTES = 64 * 1024
"""Valid requests are a few hundred bytes long."""

BODY_TIMEOUT_S = 10.0
"""How long the body of a request may take."""

WRONG_LOGINS_PER_S = 0.1
WRONG_LOGINS_AT_ONCE = 10.0
"""An address may try ten wrong logins, and then one every ten seconds."""

MAX_NAME_CHARS = 64
"""The longest name of an operator in logs and records."""

SHUTDOWN_S = 1.0
"""How long a request in progress may take at the end."""


class Refused(StrEnum):
    """Why a request was refused, as the log says it."""

    WRONG_LOGIN = "wrong login"
    TOO_MANY = "too many wrong logins"
    NAME = "the Host is not localhost"


class Console:
    """Answers requests.

    Args:
        scrape: Returns the metrics as text.
        calls: Returns live and recent calls.
        not_ready: Returns the reasons why no call can be taken now; none means ready.
        operate: Applies an operator's action to a call.
        logins: The accepted ``USER:PASSWORD`` pairs; without any, everybody on this machine may ask.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        scrape: Callable[[], bytes],
        calls: Callable[[], dict[str, list[dict[str, Any]]]],
        not_ready: Callable[[], Sequence[str]],
        operate: Operate,
        logins: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scrape = scrape
        self._calls = calls
        self._not_ready = not_ready
        self._operate = operate
        self._logins = tuple(login.encode() for login in logins)
        self._wrong = RateLimiter(WRONG_LOGINS_PER_S, WRONG_LOGINS_AT_ONCE, clock)
        self._log_throttle = LogThrottle(_log)
        self.connections = Connections()
        self.refused = dict.fromkeys(Refused, 0)
        """How many requests were refused, by reason."""

    def application(self) -> web.Application:
        """The application that aiohttp serves."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard()])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/calls", self._api_calls)
        app.router.add_post("/api/calls/hand-over", self._hand_over)
        app.router.add_post("/api/calls/end", self._end)
        return app

    def _guard(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = None if request.path in HEALTH else self._refusal(request)
            if refusal is not None:
                response: web.StreamResponse = refusal
            else:
                with self.connections.admitted(request):
                    response = await handler(request)
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return guard

    def _refusal(self, request: web.Request) -> web.Response | None:
        address = request.remote or ""
        if not self._logins:
            if _name(request.host) in LOOPBACK_NAMES:
                return None
            return self._refuse(
                Refused.NAME,
                address,
                403,
                "forbidden: without a login the console answers only requests to localhost\n",
            )
        challenge = {"WWW-Authenticate": 'Basic realm="pxbridge", charset="UTF-8"'}
        if "Authorization" not in request.headers:  # browsers ask without a login first
            return web.Response(status=401, text="authentication required\n", headers=challenge)
        if not self._wrong.has(counted_as(address)):
            again = {"Retry-After": f"{1 / WRONG_LOGINS_PER_S:.0f}"}
            return self._refuse(Refused.TOO_MANY, address, 429, "too many wrong logins\n", again)
        if self._user(request) is not None:
            return None
        self._wrong.take(counted_as(address))
        return self._refuse(Refused.WRONG_LOGIN, address, 401, "authentication required\n", challenge)

    def _refuse(
        self, why: Refused, address: str, status: int, text: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """A refusal; counted, and logged at a limited rate."""
        self.refused[why] += 1
        self._log_throttle.add(why.value, address)
        return web.Response(status=status, text=text, headers=headers)

    def _user(self, request: web.Request) -> str | None:
        """The user of the request's login; None without a valid login."""
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return None
        # All logins are compared, so that the time does not show which one was nearly right.
        known = sum(hmac.compare_digest(given, login) for login in self._logins) > 0
        return given.partition(b":")[0].decode(errors="replace") if known else None

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._scrape(), headers={"Content-Type": METRICS_TYPE})

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._not_ready()
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="ready\n")

    async def _api_calls(self, _request: web.Request) -> web.Response:
        return web.json_response(self._calls())

    async def _hand_over(self, request: web.Request) -> web.Response:
        def action(asked: dict[str, Any]) -> Action:
            numbers = asked.get("numbers", [])
            if not isinstance(numbers, list) or len(numbers) > MAX_NUMBERS:
                raise ValueError(f"numbers is not a list of at most {MAX_NUMBERS} phone numbers")
            return HandOver(tuple(map(dialable, numbers)))

        return await self._do(request, action)

    async def _end(self, request: web.Request) -> web.Response:
        return await self._do(request, lambda _: End())

    async def _do(self, request: web.Request, action: Callable[[dict[str, Any]], Action]) -> web.Response:
        """Applies a requested action to a call."""
        if request.content_type != "application/json":
            return _json(415, error="send the request as application/json")
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
        except TimeoutError:
            return _json(408, error=f"the body did not arrive within {BODY_TIMEOUT_S:g} s")
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict) or not isinstance(asked.get("call"), str):
                raise ValueError('the body is not a JSON object with "call", the id of a live call')
            call = self._operate(asked["call"], action(asked), self._user(request) or _by(asked))
        except (ValueError, RecursionError) as wrong:
            return _json(400, error=str(wrong))
        except NoSuchCall as error:
            return _json(404, error=str(error))
        except CallConflict as error:
            return _json(409, error=str(error))
        return _json(202, call=call)


def _log(refused: Counter[str], last: str) -> None:
    log.warning("console refused requests (%s), the last one from %s", in_words(refused), last)


def _json(status: int, **answer: str) -> web.Response:
    return web.json_response(answer, status=status)


def _by(asked: dict[str, Any]) -> str:
    """The name that a client without a login gives itself. It is noted and proves nothing."""
    by = asked.get("by", "")
    if not isinstance(by, str):
        return ""
    return "".join(each for each in by if each.isprintable())[:MAX_NAME_CHARS].strip()


def _name(host: str) -> str:
    """The host of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


@contextlib.asynccontextmanager
async def serve(console: Console, host: str, port: int) -> AsyncIterator[int]:
    """Serves the console while the block runs; gives its port.

    Raises:
        OSError: The address cannot be listened on.
    """
    runner = web.AppRunner(
        console.application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=HEAD_TIMEOUT_S,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101  `setup` made it
    try:
        listening = await asyncio.get_running_loop().create_server(
            console.connections.serve(runner.server), host, port, backlog=BACKLOG
        )
        try:
            yield listening.sockets[0].getsockname()[1]
        finally:
            listening.close()
    finally:
        await runner.cleanup()
