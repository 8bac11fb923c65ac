"""The console of a process, built from its settings and the parts of the bridge that it shows.

It may not cost a call: if a default cannot work because the usual port is taken, that is logged, and the
bridge runs without a console. A setting that cannot work stops the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pxbridge.app.certificates import console_tls
from pxbridge.calls.operating import operate
from pxbridge.console.live import Live
from pxbridge.console.live_view import LiveView
from pxbridge.console.server import Console, serve
from pxbridge.console.static_files import read_files
from pxbridge.console.talk import Talks
from pxbridge.engines.voices import ask_voices
from pxbridge.errors import ConfigError
from pxbridge.records.find_recording import find_recording
from pxbridge.settings import is_loopback, url_host, variable
from pxbridge.websocket import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pxbridge.app.observability import Observability
    from pxbridge.calls.registry import CallRegistry
    from pxbridge.console.static_files import File
    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.pool import EnginePool
    from pxbridge.settings import Loaded, Settings
    from pxbridge.telephony.server import TelephonyServer

log = logging.getLogger("pxbridge")


@dataclass(frozen=True, slots=True)
class Served:
    """A console that is served.

    Attributes:
        url: Where it is.
        use: Puts the logins, tokens and origins of settings in force.
    """

    url: str
    use: Callable[[Settings], None]


@contextlib.asynccontextmanager
async def console(
    loaded: Loaded,
    observed: Observability,
    registry: CallRegistry,
    pool: EnginePool,
    server: TelephonyServer,
    not_ready: Callable[[], Sequence[str]],
    engines: Callable[[], list[EngineAddress]],
    client: Callable[[str, Sequence[str]], str],
) -> AsyncIterator[Served | None]:
    """Serves the console while the block runs, unless its port is 0.

    Args:
        loaded: The settings.
        observed: Metrics, records and recordings.
        registry: The calls.
        pool: The engines.
        server: Counts calls, whichever port they came in at.
        not_ready: Reasons why no call can be taken now.
        engines: The addresses of the engines that the settings in force name.
        client: The address of a client, from the connection's and the request's ``X-Forwarded-For`` headers.

    Raises:
        ConfigError: The address that a setting names cannot be listened on, or a certificate cannot be used.
    """
    settings, origins = loaded.settings, loaded.origins
    if settings.console_port == 0:
        yield None
        return
    tls = console_tls(loaded)
    rehearsal = not settings.engines
    clock = asyncio.get_running_loop().time
    view = LiveView(registry, pool, not_ready, observed.numbers, rehearsal=rehearsal, clock=clock)
    registry.subscribe(view)
    live = Live(view.snapshot)
    talks = Talks(
        server.take,
        lambda: registry.personas,
        lambda: ask_voices(engines()),
        lambda: pool.takes_sampling,
        rehearsal=rehearsal,
    )
    console = Console(
        observed.metrics.scrape,
        observed.recent_calls.calls,
        not_ready,
        partial(operate, registry),
        find_recording=partial(find_recording, observed.folder),
        live=live,
        talks=talks,
        files=await asyncio.to_thread(_client_files),
        client=client,
        live_call=observed.recent_calls.live_call,
    )

    def use(settings: Settings) -> None:
        console.use(
            [login.get_secret_value() for login in settings.console_credentials],
            [token.get_secret_value() for token in settings.console_tokens],
            settings.console_origins,
        )

    use(settings)
    observed.metrics.count_by(
        "reason",
        "pxbridge_console_refusals",
        "Refused requests to the console, by reason; connections: closed because there were too many.",
        lambda: {
            **{why.name.lower(): count for why, count in console.refused.items()},
            "connections": console.connections.cut,
        },
    )
    observed.metrics.count_by(
        "reason",
        "pxbridge_console_turned_away",
        "Connections and requests to the console that were turned away, by reason.",
        lambda: {why.name.lower(): console.turn_away.counts[why] for why in Reason},
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(
                serve(
                    console,
                    settings.console_host,
                    settings.console_port,
                    None if tls is None else tls.context,
                )
            )
        except OSError as error:
            name = "console_port" if "console_port" in origins else "console_host"
            problem = f"cannot listen on {settings.console_host} port {settings.console_port}: "
            problem += error.strerror or str(error)
            if name in origins:
                raise ConfigError(*origins[name], problem) from None
            log.warning(
                "no console in this process: %s; set %s to a free port", problem, variable("console_port")
            )
            yield None
            return
        if tls is not None:
            following = asyncio.create_task(tls.follow(), name="console's TLS certificate")
            stack.callback(following.cancel)
        scheme = "http" if tls is None else "https"
        yield Served(f"{scheme}://{url_host(settings.console_host)}:{port}", use)


def _client_files() -> dict[str, File]:
    """The files of the web client; none in a checkout in which it was not built, or if they cannot be
    read.
    """
    with resources.as_file(resources.files("pxbridge") / "console" / "static") as folder:
        try:
            return read_files(Path(folder))
        except OSError as error:
            log.warning("the web client cannot be served: %s", error)
            return {}


def check_console(loaded: Loaded) -> None:
    """Refuses a console that the network could reach without a login.

    Raises:
        ConfigError: The console listens on a public address and asks for no login.
    """
    settings = loaded.settings
    proves = settings.console_credentials or settings.console_tokens
    if settings.console_port and not proves and not is_loopback(settings.console_host):
        raise ConfigError(
            *loaded.origins["console_host"],
            f"{settings.console_host} is open to the network and the console asks for no login; "
            f"set {variable('console_credentials')}, or listen on 127.0.0.1",
        )
