"""The console's door: what operators and their tools ask, on a port that callers never see.

========================  ================================================================================
``/metrics``              for Prometheus, in its text format
``/livez``                200 as long as the event loop turns
``/readyz``               200 if another call can be taken, else 503 with the reasons, one a line
``/api/calls``            live and recent calls as JSON: ``{"live": [...], "recent": [...]}``
``/api/calls/hand-over``  POST ``{"call": "CALLSID", "numbers": ["+91..."], "by": "asha"}``: the call goes to
                          a person, when the agent has ended its sentence
``/api/calls/end``        POST ``{"call": "CALLSID", "by": "asha"}``: it ends, likewise
========================  ================================================================================

With logins set, everything but the health checks asks for one (Basic, RFC 7617), and its user is who did it;
without, it serves only who calls it by a loopback name, so that no web page can reach it by a name of its own
that points here (DNS rebinding). A page of another origin can post forms and text everywhere, with the login
that the browser remembers; so what changes something has to come as JSON, which a browser sends nowhere else
without asking first, and nobody here says yes.
"""

from __future__ import annotations

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
from pxbridge.calls.operating import NoSuchCall, NotNow
from pxbridge.calls.phrases import Action, End, HandOver
from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.rate_limit import RateLimiter, counted_as

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Operate = Callable[[str, Action, str], str]
    """Does something to the call of a name, for an operator; see `pxbridge.calls.operating.operate`."""

log = logging.getLogger("pxbridge.console")

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEALTH = frozenset({"/livez", "/readyz"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BODY_BYTES = 64 * 1024
"""What is posted here is a line."""

WRONG_PER_S = 0.1
WRONG_AT_ONCE = 10.0
"""Wrong logins that one address may try: ten, and then one in ten seconds."""

MOST_NAME_CHARS = 64
"""Of an operator's name: it stands in logs and records."""


SHUTDOWN_S = 1.0
"""So long a scrape that is under way may take at the end."""


class Refused(StrEnum):
    """Why somebody may not ask, as the log says it."""

    WRONG_LOGIN = "wrong login"
    TOO_MANY = "too many wrong logins"
    NAME = "called by another name than localhost"


class Console:
    """Answers requests.

    Args:
        scrape: The metrics, as text.
        calls: Live and recent calls.
        not_ready: Reasons why no call can be taken now; none means ready.
        operate: Does what an operator asks.
        logins: ``USER:PASSWORD`` of those who may ask; none for everybody on this machine.
        clock: Seconds, monotonic.
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
        self._wrong = RateLimiter(WRONG_PER_S, WRONG_AT_ONCE, clock)
        self._tally = LogThrottle(_log)
        self.refused = dict.fromkeys(Refused, 0)
        """How often each reason was given."""

    def application(self) -> web.Application:
        """As aiohttp serves it."""
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
            response = refusal or await handler(request)
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return guard

    def _refusal(self, request: web.Request) -> web.Response | None:
        whose = request.remote or ""
        if not self._logins:
            if _name(request.host) in LOOPBACK_NAMES:
                return None
            return self._refuse(Refused.NAME, whose, 403, "call it localhost\n")
        challenge = {"WWW-Authenticate": 'Basic realm="pxbridge", charset="UTF-8"'}
        if "Authorization" not in request.headers:  # as browsers ask first
            return web.Response(status=401, text="a login is needed\n", headers=challenge)
        if not self._wrong.has(counted_as(whose)):
            again = {"Retry-After": f"{1 / WRONG_PER_S:.0f}"}
            return self._refuse(Refused.TOO_MANY, whose, 429, "too many wrong logins\n", again)
        if self._user(request) is not None:
            return None
        self._wrong.take(counted_as(whose))
        return self._refuse(Refused.WRONG_LOGIN, whose, 401, "a login is needed\n", challenge)

    def _refuse(
        self, why: Refused, whose: str, status: int, text: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """The answer to somebody who may not ask; counted, and logged now and then."""
        self.refused[why] += 1
        self._tally.add(why.value, whose)
        return web.Response(status=status, text=text, headers=headers)

    def _user(self, request: web.Request) -> str | None:
        """Whose login a request has; None if it is nobody's."""
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return None
        # Every login is compared, so that the time tells nothing of which was nearly right.
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
                raise ValueError(f"numbers is not a list of up to {MAX_NUMBERS} phone numbers")
            return HandOver(tuple(map(dialable, numbers)))

        return await self._do(request, action)

    async def _end(self, request: web.Request) -> web.Response:
        return await self._do(request, lambda _: End())

    async def _do(self, request: web.Request, action: Callable[[dict[str, Any]], Action]) -> web.Response:
        """What changes a call: done, and told with who did it."""
        if request.content_type != "application/json":
            return _told(415, error="send it as application/json")
        try:
            asked = json.loads(await request.read())
            if not isinstance(asked, dict) or not isinstance(asked.get("call"), str):
                raise ValueError('the body is not an object with "call", the id of a live call')
            call = self._operate(asked["call"], action(asked), self._user(request) or _by(asked))
        except (ValueError, RecursionError) as wrong:
            return _told(400, error=str(wrong))
        except NoSuchCall as error:
            return _told(404, error=str(error))
        except NotNow as error:
            return _told(409, error=str(error))
        return _told(202, call=call)


def _log(refused: Counter[str], last: str) -> None:
    log.warning("refused at the console (%s), the last from %s", in_words(refused), last)


def _told(status: int, **answer: str) -> web.Response:
    return web.json_response(answer, status=status)


def _by(asked: dict[str, Any]) -> str:
    """Who says to be asking, where there are no logins: a word for the record, no proof."""
    by = asked.get("by", "")
    if not isinstance(by, str):
        return ""
    return "".join(each for each in by if each.isprintable())[:MOST_NAME_CHARS].strip()


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


@contextlib.asynccontextmanager
async def serve(console: Console, host: str, port: int) -> AsyncIterator[int]:
    """Serves while the block runs; gives the port.

    Raises:
        OSError: The address cannot be listened on.
    """
    runner = web.AppRunner(
        console.application(), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
