"""The console's door: what operators and their tools ask, on a port that callers never see.

=================  ========================================================================================
``/metrics``       for Prometheus, in its text format
``/livez``         200 as long as the event loop turns
``/readyz``        200 if another call can be taken, else 503 with the reasons, one a line
``/api/calls``     live and recent calls as JSON: ``{"live": [...], "recent": [...]}``
=================  ========================================================================================

It reads and changes nothing. With logins set, everything but the health checks asks for one (Basic, RFC
7617); without, it serves only who calls it by a loopback name, so that no web page can reach it by a name of
its own that points here (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEALTH = frozenset({"/livez", "/readyz"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BODY_BYTES = 64 * 1024
"""Nothing here takes a body; a request that has one is small."""

SHUTDOWN_S = 1.0
"""So long a scrape that is under way may take at the end."""


class Console:
    """Answers requests.

    Args:
        scrape: The metrics, as text.
        calls: Live and recent calls.
        not_ready: Reasons why no call can be taken now; none means ready.
        logins: ``USER:PASSWORD`` of those who may ask; none for everybody on this machine.
    """

    def __init__(
        self,
        scrape: Callable[[], bytes],
        calls: Callable[[], dict[str, list[dict[str, Any]]]],
        not_ready: Callable[[], Sequence[str]],
        logins: Collection[str] = (),
    ) -> None:
        self._scrape = scrape
        self._calls = calls
        self._not_ready = not_ready
        self._logins = tuple(login.encode() for login in logins)

    def application(self) -> web.Application:
        """As aiohttp serves it."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard()])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/calls", self._api_calls)
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
        if self._logins:
            if self._knows(request.headers.get("Authorization", "")):
                return None
            challenge = {"WWW-Authenticate": 'Basic realm="pxbridge", charset="UTF-8"'}
            return web.Response(status=401, text="a login is needed\n", headers=challenge)
        if _name(request.host) not in LOOPBACK_NAMES:
            return web.Response(status=403, text="call it localhost\n")
        return None

    def _knows(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        # Every login is compared, so that the time tells nothing of which was nearly right.
        return sum(hmac.compare_digest(given, login) for login in self._logins) > 0

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
