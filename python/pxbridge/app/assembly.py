"""The bridge as a process: engines, the door that Exotel dials, and the signals that change and end it.

Its life, which `run` reads like::

    start    engines, exchange, the listening port; systemd is told READY
    serve    until SIGTERM or SIGINT; SIGHUP reads the settings again (`_Reloader`)
    drain    not ready, no new call (503); live calls go on for up to `drain_s`
    end      each call's agent ends its sentence, which is heard, and the socket closes with 1012

A second SIGTERM or SIGINT ends it at once, wherever it is after `serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import secrets
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pxbridge
from pxbridge.app.observability import check_console, watching
from pxbridge.calls import announcements
from pxbridge.calls.call import LAST_WORDS_S
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.file_handover import FileHandOverStore
from pxbridge.calls.handover import FLOW_ASKS_S, HandOvers
from pxbridge.calls.playout_options import PlayoutOptions
from pxbridge.calls.redis_handover import RedisHandOverStore
from pxbridge.calls.registry import LONGEST_SENTENCE_S, CallRegistry
from pxbridge.engines.client import (
    CaFile,
    EngineAddress,
    Pinned,
    SystemTrust,
    Unverified,
    open_session,
)
from pxbridge.engines.leases import MemoryLeases
from pxbridge.engines.pool import EnginePool, PoolLimits, Prompts
from pxbridge.engines.redis_leases import RedisLeases
from pxbridge.errors import ConfigError
from pxbridge.ops.health import engines_not_ready, no_engine
from pxbridge.ops.logs import logging_to
from pxbridge.ops.systemd import Notifier
from pxbridge.redis_store import RedisStore
from pxbridge.settings import Settings, check_door, state_folder, url_host
from pxbridge.settings.persona_file import read_personas
from pxbridge.simulation.rehearsal import Rehearsal
from pxbridge.telephony.access import AccessControl, Signer
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.exotel.webhooks import Webhooks, nowhere
from pxbridge.telephony.peers import PeerBridges
from pxbridge.telephony.server import listen
from pxbridge.telephony.tls import ServingTls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import Any

    from rich.console import Console

    from pxbridge.calls.handover import HandOverStore
    from pxbridge.calls.persona import Personas
    from pxbridge.engines.client import Session, Trust
    from pxbridge.engines.leases import LeaseStore
    from pxbridge.engines.slot_transitions import Opener
    from pxbridge.settings import Loaded
    from pxbridge.telephony.server import TelephonyServer

log = logging.getLogger("pxbridge")

RELOADED = {
    "allow_anonymous",
    "allowed_networks",
    "credentials",
    "engines",
    "engine_ca_file",
    "engine_connect_timeout_s",
    "engine_fingerprint",
    "engine_handshake_timeout_s",
    "engine_insecure",
    "failover_prefers",
    "gate_ms",
    "handshakes_per_minute",
    "max_backlog_ms",
    "max_calls_per_address",
    "playout_profile",
    "text_prompt",
    "token_keys",
    "trusted_proxies",
    "voice_prompt",
    "warm_sessions",
}
"""Settings that SIGHUP puts in force for the calls to come."""

HASTE_S = 0.5
"""What closing handshakes are given when all calls are to end at once: peers that live answer in less."""

LONGEST_ENDING_S = LONGEST_SENTENCE_S + LAST_WORDS_S + FLOW_ASKS_S + 5.0
"""What the end of the last call takes, with some air for closing handshakes."""

TELEPHONE_HZ = 8000
"""The rate of most lines; what others hear is decoded when the first of them needs it."""

EXAMPLE_WAV = Path("tests/vectors/speech_8k.wav")
"""What to say in a first call, where there is a checkout; elsewhere people have recordings of their own."""


async def run(
    loaded: Loaded,
    console: Console,
    ready: Callable[[str], None] | None = None,
    read_again: Callable[[], Loaded] | None = None,
) -> int:
    """Serve calls until a signal ends it.

    Args:
        loaded: The settings.
        console: Where to say what was started and what to try next.
        ready: Called with the URL that Exotel dials, once it can.
        read_again: Reads the settings anew, for SIGHUP.

    Returns:
        The exit status.

    Raises:
        ConfigError: A persona is wrong, the address cannot be listened on, or everyone could come in and
            nobody wants that.
    """
    settings = loaded.settings
    personas = read_personas(loaded)
    check_console(loaded)
    notes = [*loaded.notes, *check_door(loaded)]
    systemd = Notifier(os.environ)
    async with contextlib.AsyncExitStack() as stack:
        writer = stack.enter_context(logging_to(None, settings.log_level, settings.log_format))
        for note in notes:
            log.warning("%s", note)
        signals = stack.enter_context(_signals())
        store = await stack.enter_async_context(shared_store(settings))
        opener = EngineOpener(settings)
        engines = await stack.enter_async_context(_engines(settings, store, opener, personas))
        watch = await stack.enter_async_context(watching(loaded, os.environ, engines, writer))
        handovers = await stack.enter_async_context(_handovers(settings, store))
        exchange = CallRegistry(
            engines,
            personas,
            watch.watchers,
            watch.attendants,
            handovers,
            _call_limits(settings),
            _timing(settings),
        )
        door = _Door(settings)
        reloader = _Reloader(loaded, read_again or (lambda: loaded), opener, engines, exchange, door)
        nodes = _nodes(settings, store, door.signer, exchange)
        listener = await stack.enter_async_context(_listen(loaded, exchange, engines, handovers, door, nodes))
        watch.metrics.count_by(
            "reason", "pxbridge_door_refusals", "Requests that were not let in.", lambda: listener.refusals
        )
        console_url = await stack.enter_async_context(
            watch.console(
                lambda: [*listener.full(), *engines_not_ready(engines.snapshot(), engines.store_gone_s)],
                exchange,
            )
        )
        await stack.enter_async_context(systemd.watchdog())
        await asyncio.to_thread(announcements.load, TELEPHONE_HZ)
        stack.enter_context(_what_is_here_stays())

        scheme = "ws" if settings.tls_cert_file is None else "wss"
        url = f"{scheme}://{url_host(settings.host)}:{listener.port}/exotel"
        if nodes is not None:
            await stack.enter_async_context(nodes.announced(lambda: min(engines.free, listener.room)))
        systemd.ready(f"takes calls at {url}")
        _say_what_next(console, settings, url, console_url)
        if ready is not None:
            ready(url)
        while await signals.get() is signal.SIGHUP:
            systemd.reloading()
            await reloader.reload()
            systemd.ready(f"takes calls at {url}")

        log.info(
            "stopping: %d calls, which go on for up to %g s; a second signal ends them at once",
            exchange.live,
            settings.drain_s,
        )
        systemd.stopping("ends its calls", settings.drain_s + LONGEST_ENDING_S)
        engines.keep_warm({})  # another bridge's callers can have those
        if nodes is not None:
            nodes.leave()
        await _first_of(_drain(listener, exchange, handovers, settings.drain_s), _second(signals))
        for side in (listener, engines):
            asyncio.get_running_loop().call_later(HASTE_S, side.abort)
    return 0


@contextlib.contextmanager
def _what_is_here_stays() -> Iterator[None]:
    """Spares the collector of cycles what a running bridge consists of: some 70,000 objects, mostly code.

    To look through them takes it 40 ms, in which no call is heard; and because they are so many, it would do
    so only after tens of thousands more. Without them it comes soon, and has done in a millisecond.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _drain(
    listener: TelephonyServer, exchange: CallRegistry, handovers: HandOvers, limit_s: float
) -> None:
    """Takes no new call, and waits for the live ones; after `limit_s`, ends them.

    Flows are answered for a while longer if the last calls went on to a person.
    """
    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(listener.drain())
        await asyncio.wait([drained], timeout=limit_s)
        if not drained.done():
            log.info("ending %d calls, which have gone on for %g s", exchange.live, limit_s)
            await exchange.close()
    if handovers.awaits_question:
        log.info("calls are over; their flows may ask for %g s where they go on", FLOW_ASKS_S)
        await asyncio.sleep(FLOW_ASKS_S)


async def _second(signals: asyncio.Queue[signal.Signals]) -> None:
    """Waits for whoever has no patience; a reload is no matter any more."""
    while await signals.get() is signal.SIGHUP:
        pass
    log.warning("told to stop a second time: ending at once")


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """The signals that mean something to us, as they come, instead of what they do otherwise."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in caught:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        yield signals
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


class _Reloader:
    """Puts changed settings in force for the calls to come: personas, engines and how these are opened.

    Live calls keep what they began with. What else has changed needs a restart, and is named in the log.

    Args:
        loaded: The settings in force.
        read: Reads them again.
        opener: Opens engines.
        engines: Leases them.
        exchange: Takes the calls.
        door: Decides who comes in.
    """

    def __init__(
        self,
        loaded: Loaded,
        read: Callable[[], Loaded],
        opener: EngineOpener,
        engines: EnginePool,
        exchange: CallRegistry,
        door: _Door,
    ) -> None:
        self._door = door
        self._loaded = loaded
        self._read = read
        self._opener = opener
        self._engines = engines
        self._exchange = exchange

    async def reload(self) -> None:
        """Reads the settings and changes what can be changed; wrong ones change nothing and are told."""
        old = self._loaded.settings
        try:
            # Files are read beside the event loop: calls are live.
            loaded, personas = await asyncio.to_thread(self._read_all)
            new = loaded.settings
            changed = {name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)}
            keep = changed - RELOADED
            if bool(old.engines) != bool(new.engines):
                keep.add("engines")  # the rehearsal engine comes and goes with the process
            new = new.model_copy(update={name: getattr(old, name) for name in keep})
            check_door(loaded._replace(settings=new))  # as it will be, where it listens now
        except ConfigError as error:
            log.error("reload: %s; the settings stay as they were", error)
            return
        self._loaded = loaded._replace(settings=new)
        self._exchange.personas = personas
        self._exchange.playout = _timing(new)
        self._engines.keep_warm(_warm(personas))
        self._opener.settings = new
        self._door.use(new)
        if new.engines:
            self._engines.replace_engines(addresses(new))
        for note in loaded.notes:
            log.warning("%s", note)
        log.info("reloaded: %d personas; changed settings: %s", len(personas), _list(changed - keep))
        if keep:
            log.warning("reload: a change of %s needs a restart", _list(keep))

    def _read_all(self) -> tuple[Loaded, Personas]:
        loaded = self._read()
        return loaded, read_personas(loaded)


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "no setting"


@contextlib.asynccontextmanager
async def _engines(
    settings: Settings, store: RedisStore | None, opener: Opener, personas: Personas
) -> AsyncIterator[EnginePool]:
    """The engines that were named, or the rehearsal engine, which lives as long as the block."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.engines:
            urls, capacity = addresses(settings), settings.engine_capacity
        else:
            rehearsal = await stack.enter_async_context(Rehearsal(slots=settings.max_calls))
            urls, capacity = [EngineAddress(rehearsal.url)], settings.max_calls
        yield await stack.enter_async_context(
            EnginePool(
                urls,
                capacity,
                open_session=opener,
                store=lease_store(settings, store),
                warm=_warm(personas),
                limits=PoolLimits(settings.warm_max_age_s, settings.max_waiting),
            )
        )


def _warm(personas: Personas) -> dict[Prompts, int]:
    """The sessions to keep prompted ahead."""
    warm: dict[Prompts, int] = {}
    for persona in personas.values():
        if persona.warm and persona.fixed:
            prompts = Prompts(persona.voice_prompt, persona.text_prompt)
            warm[prompts] = max(persona.warm, warm.get(prompts, 0))
    return warm


@contextlib.asynccontextmanager
async def shared_store(settings: Settings) -> AsyncIterator[RedisStore | None]:
    """The process's one client of the shared store, open in the block; None if there is no store."""
    if settings.lease_store == "memory":
        yield None
        return
    async with RedisStore(settings.lease_store) as store:
        yield store


def lease_store(settings: Settings, store: RedisStore | None) -> LeaseStore:
    """Where leases on engines are kept: in the shared store, else in this process."""
    return MemoryLeases() if store is None else RedisLeases(store, ttl_s=settings.lease_ttl_s)


@contextlib.asynccontextmanager
async def _handovers(settings: Settings, store: RedisStore | None) -> AsyncIterator[HandOvers]:
    """Where calls note that they go on to a person, for whichever process the flow asks."""
    shelf: HandOverStore
    if store is None:
        shelf = FileHandOverStore(state_folder(settings, os.environ))
    else:
        shelf = RedisHandOverStore(store)
    handovers = HandOvers(asyncio.get_running_loop().time, shelf)
    try:
        yield handovers
    finally:
        await handovers.close()


def _nodes(
    settings: Settings, store: RedisStore | None, signer: Signer, exchange: CallRegistry
) -> PeerBridges | None:
    """This bridge among those that share its store; None if it shares none, or was not told its name."""
    if store is None or settings.public_url is None:
        return None
    return PeerBridges(store, settings.public_url, signer, personas=lambda: exchange.personas)


def _call_limits(settings: Settings) -> CallLimits:
    return CallLimits(
        settings.max_wait_s,
        settings.failover_timeout_s,
        settings.engine_silent_timeout_s,
        settings.phone_silent_timeout_s,
    )


def _timing(settings: Settings) -> PlayoutOptions:
    return PlayoutOptions(settings.playout_profile, settings.max_backlog_ms, settings.gate_ms)


def addresses(settings: Settings) -> list[EngineAddress]:
    """The engines, each with how its certificate is trusted."""
    trust = _trust(settings)
    return [EngineAddress(url, trust) for url in settings.engines]


def _trust(settings: Settings) -> Trust:
    if settings.engine_insecure:
        return Unverified()
    if settings.engine_fingerprint is not None:
        return Pinned(settings.engine_fingerprint)
    if settings.engine_ca_file is not None:
        return CaFile(settings.engine_ca_file)
    return SystemTrust()


class EngineOpener:
    """How an engine is opened, by the settings as they are when it is.

    Args:
        settings: May be exchanged.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def __call__(
        self, engine: EngineAddress, prompts: Prompts, connected: Callable[[], None]
    ) -> Session:
        """Opens a session; raises as `open_session` does."""
        return await open_session(
            engine,
            *prompts,
            connect_timeout_s=self.settings.engine_connect_timeout_s,
            handshake_timeout_s=self.settings.engine_handshake_timeout_s,
            connected=connected,
        )


@contextlib.asynccontextmanager
async def _listen(
    loaded: Loaded,
    exchange: CallRegistry,
    engines: EnginePool,
    handovers: HandOvers,
    door: _Door,
    nodes: PeerBridges | None,
) -> AsyncIterator[TelephonyServer]:
    settings = loaded.settings
    tls = serving_tls(loaded)
    webhooks = Webhooks(
        door.signer,
        door.gate,
        token_ttl_s=settings.token_ttl_s,
        public_url=settings.public_url,
        serves_tls=tls is not None,
        choose=lambda asked, called: exchange.personas.name_for(asked, called),
        busy=lambda: () if engines.free else ("every engine is taken",),
        promise=engines.promise,
        handed_over=handovers.look_up,
        elsewhere=nowhere if nodes is None else nodes.elsewhere,
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            listener = await stack.enter_async_context(
                listen(
                    exchange.handle,
                    settings.host,
                    settings.port,
                    carriers=[ExotelRoutes(webhooks)],
                    not_ready=lambda: no_engine(engines.snapshot(), engines.store_gone_s),
                    max_calls=settings.max_calls,
                    access=door.gate,
                    ssl=None if tls is None else tls.context,
                )
            )
        except OSError as error:
            raise _cannot_listen(error, loaded) from None
        if tls is not None:
            following = asyncio.create_task(tls.follow(), name="TLS certificate")
            stack.callback(following.cancel)
        yield listener


class _Door:
    """Who may come in, by the settings as they are when somebody does.

    Args:
        settings: May be exchanged (`use`).
    """

    def __init__(self, settings: Settings) -> None:
        self._own_key = secrets.token_bytes(32)  # for `/exotel/url`, where none is set
        self.signer = Signer([self._own_key], time.time)
        self.gate = AccessControl(self.signer, asyncio.get_running_loop().time)
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Go by these settings from now on; calls that are in stay in."""
        keys = [key.get_secret_value().encode() for key in settings.token_keys]
        self.signer.use(keys or [self._own_key])
        self.gate.use(
            credentials=[one.get_secret_value() for one in settings.credentials],
            tokens_prove=bool(keys),
            networks=settings.allowed_networks,
            proxies=settings.trusted_proxies,
            requests_per_minute=settings.handshakes_per_minute,
            calls_per_address=settings.max_calls_per_address,
        )


def serving_tls(loaded: Loaded) -> ServingTls | None:
    """What the telephony port serves TLS with, if it does.

    Raises:
        ConfigError: The files cannot be read, or do not belong together.
    """
    cert_file, key_file = loaded.settings.tls_cert_file, loaded.settings.tls_key_file
    if cert_file is None:
        return None
    try:
        return ServingTls(cert_file, key_file)
    except ssl.SSLError:
        problem = "holds no PEM certificate with the key that belongs to it; set PXBRIDGE_TLS_KEY_FILE too"
        if key_file is not None:
            problem = f"and {str(key_file)!r} hold no PEM certificate and key that belong together"
        raise ConfigError(*loaded.origins["tls_cert_file"], f"{str(cert_file)!r} {problem}") from None
    except OSError as error:
        wrong = "tls_cert_file" if error.filename == str(cert_file) else "tls_key_file"
        problem = f"cannot read {error.filename!r}: {error.strerror}"
        raise ConfigError(*loaded.origins[wrong], problem) from None


def _cannot_listen(error: OSError, loaded: Loaded) -> ConfigError:
    host, port = loaded.settings.host, loaded.settings.port
    match error.errno:
        case errno.EADDRINUSE:
            name, problem = (
                "port",
                f"{port} on {host} is taken; stop the other program, or choose another port",
            )
        case errno.EACCES:
            name, problem = "port", f"{port} is only for root; choose one from 1024 to 65535"
        case _:
            name, problem = "host", f"cannot listen on {host!r}: {error.strerror or error}"
    written, source = loaded.origins.get(name, (name, "default"))
    return ConfigError(written, source, problem)


async def _first_of(*ways: Coroutine[Any, Any, object]) -> None:
    """Wait until one of `ways` is through, and cancel the others."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _say_what_next(console: Console, settings: Settings, url: str, console_url: str | None) -> None:
    command = _own_command()
    wav = EXAMPLE_WAV if EXAMPLE_WAV.exists() else "YOUR.wav"
    # `pxbridge call` calls the default address unless it is told another.
    at_home = (settings.host, settings.port) == (Settings().host, Settings().port)
    url_to_try = url
    if settings.credentials:
        at_home, url_to_try = False, url.replace("://", "://USER:PASSWORD@")
    elif settings.token_keys:
        at_home, url_to_try = False, url + "/t/TOKEN"
    where = "" if at_home else f" --url {url_to_try}"
    call = f"{command} call{where} --wav {wav} --out heard.wav"
    lines = ["", f"pxbridge {pxbridge.__version__} takes calls at {url}", ""]
    if settings.engines:
        lines += [f"  engine       {EngineAddress(engine)}" for engine in settings.engines]
        lines += [f"  try it       {call}"]
    else:
        lines += [
            "  engine       the rehearsal engine: no model; it greets, then repeats what it heard",
            f"  try it       {call}",
            f"  PersonaPlex  PXBRIDGE_ENGINES=wss://HOST:8998/api/chat {command}",
        ]
    if console_url is not None:
        lines += [f"  watch it     {console_url}/metrics and /api/calls"]
    lines += ["  stop         Ctrl-C", ""]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _own_command() -> str:
    """How to call this program again, from here and in a shell that knows of no virtual environment."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        return f"{python.relative_to(Path.cwd())} -m pxbridge"
    return "pxbridge"
