"""Builds a bridge from its settings. This is the only place that knows all of its parts.

`assembled` makes the parts in the order in which they depend on each other and closes them in the opposite
order. `pxbridge.app.lifecycle` runs what it makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pxbridge.app.certificates import telephony_tls
from pxbridge.app.console import console
from pxbridge.app.observability import observability
from pxbridge.app.voice_watch import VoiceWatch
from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.file_handover import FileHandOverStore
from pxbridge.calls.handover import HandOvers
from pxbridge.calls.playout_options import PlayoutOptions
from pxbridge.calls.redis_handover import RedisHandOverStore
from pxbridge.calls.registry import CallRegistry
from pxbridge.calls.unknown_names import NameCheck
from pxbridge.engines.address import CaFile, EngineAddress, Pinned, SystemTrust, Unverified
from pxbridge.engines.client import open_session
from pxbridge.engines.leases import MemoryLeases
from pxbridge.engines.pool import EnginePool, PoolLimits, Prompts
from pxbridge.engines.redis_leases import RedisLeases
from pxbridge.engines.voices import EngineVoices
from pxbridge.errors import ConfigError
from pxbridge.ops.health import engines_not_ready, no_engine
from pxbridge.redis_store import RedisStore
from pxbridge.settings import state_folder, url_host
from pxbridge.simulation.rehearsal import Rehearsal
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.call_tokens import CallTokens, RedisTokens
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.exotel.webhooks import Webhooks, nowhere
from pxbridge.telephony.peers import PeerBridges
from pxbridge.telephony.server import listen
from pxbridge.telephony.tokens import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from pxbridge.app.console import Served
    from pxbridge.calls.handover import HandOverStore
    from pxbridge.calls.persona import Personas
    from pxbridge.engines.address import Trust
    from pxbridge.engines.leases import LeaseStore
    from pxbridge.engines.session import Session
    from pxbridge.engines.slot_transitions import Opener
    from pxbridge.ops.logs import Writer
    from pxbridge.ops.loop_lag import Shedding
    from pxbridge.settings import Loaded, Settings
    from pxbridge.telephony.call_tokens import SharedTokens
    from pxbridge.telephony.server import TelephonyServer

OWN_KEY_BYTES = 32
"""HMAC-SHA-256 wants a key as long as its result (RFC 2104 §3)."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """The parts of a running bridge that its life and a reload need.

    Attributes:
        url: What a carrier dials.
        console: The console; None if there is none.
        opener: Opens sessions with engines.
        pool: The engines.
        access: Who may come in at the telephony port.
        registry: The calls.
        handovers: The calls that go on to a person.
        server: The telephony port.
        peers: The other bridges that share the store; None without them.
        shedding: Whether new calls are refused because the process is overloaded.
        names: Decides about calls that name a persona or a voice that does not exist.
        voice_watch: Asks the engines for their voices.
    """

    url: str
    console: Served | None
    opener: EngineOpener
    pool: EnginePool
    access: Access
    registry: CallRegistry
    handovers: HandOvers
    server: TelephonyServer
    peers: PeerBridges | None
    shedding: Shedding
    names: NameCheck
    voice_watch: VoiceWatch

    @contextlib.asynccontextmanager
    async def announced(self) -> AsyncIterator[None]:
        """Tells the other bridges how many calls this one can take, while the block runs."""
        if self.peers is None:
            yield
            return
        async with self.peers.announced(lambda: min(self.pool.free, self.server.room)):
            yield


@contextlib.asynccontextmanager
async def assembled(
    loaded: Loaded, personas: Personas, log_writer: Writer, environ: Mapping[str, str]
) -> AsyncIterator[Bridge]:
    """A bridge that takes calls while the block runs.

    Args:
        loaded: The settings.
        personas: The agents that callers can speak with.
        log_writer: Writes the log; its lost lines are counted.
        environ: The environment's variables: where the state folder is.

    Raises:
        ConfigError: An address cannot be listened on, or a file that a setting names cannot be used.
    """
    settings = loaded.settings
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(shared_store(settings))
        opener = EngineOpener(settings)
        pool = await stack.enter_async_context(_pool(settings, store, opener, personas))
        observed = await stack.enter_async_context(observability(loaded, environ, pool, log_writer))
        handovers = await stack.enter_async_context(_handovers(settings, store, environ))
        voices = EngineVoices()
        names = NameCheck(settings.unknown_names, voices)
        registry = CallRegistry(
            pool,
            personas,
            observed.subscribers,
            observed.call_subscribers,
            handovers,
            _call_limits(settings),
            playout_options(settings),
            names,
        )
        access = Access(settings, None if store is None else RedisTokens(store))
        peers = _peers(settings, store, access.signer, registry)
        server = await stack.enter_async_context(
            _listen(loaded, registry, names, pool, handovers, access, peers, observed.shedding)
        )
        voice_watch = VoiceWatch(
            voices, lambda: pool.addresses, lambda: pool.telling, lambda: registry.personas
        )
        await stack.enter_async_context(voice_watch.running())
        observed.metrics.count_by(
            "where",
            "pxbridge_unknown_names",
            "Calls that named a persona or a voice that does not exist, by where.",
            lambda: {where.value: count for where, count in names.counts.items()},
        )
        observed.metrics.count_by(
            "reason",
            "pxbridge_door_refusals",
            "Refused requests to the telephony port, by reason.",
            lambda: server.refusals,
        )
        observed.metrics.count_by(
            "reason",
            "pxbridge_turned_away",
            "Connections and requests to the telephony port that were turned away as no call, by reason.",
            lambda: server.turned_away,
        )
        observed.metrics.count_by(
            "winner",
            "pxbridge_engine_hedges",
            "Calls that asked a second engine because the first kept them waiting, by the engine they got.",
            lambda: pool.hedges,
        )
        observed.metrics.count_by(
            "peer",
            "pxbridge_floods",
            "Connections closed because the other side sent too much, by side.",
            lambda: {"phone": server.flooded, "engine": opener.flooded},
        )
        served = await stack.enter_async_context(
            console(
                loaded,
                observed,
                registry,
                pool,
                server,
                lambda: [*server.full(), *engines_not_ready(pool.snapshot(), pool.store_gone_s)],
                lambda: engine_addresses(opener.settings),
                access.control.client_behind,
            )
        )
        scheme = "ws" if settings.tls_cert_file is None else "wss"
        url = f"{scheme}://{url_host(settings.host)}:{server.port}/exotel"
        yield Bridge(
            url,
            served,
            opener,
            pool,
            access,
            registry,
            handovers,
            server,
            peers,
            observed.shedding,
            names,
            voice_watch,
        )


# Engines


@contextlib.asynccontextmanager
async def _pool(
    settings: Settings, store: RedisStore | None, opener: Opener, personas: Personas
) -> AsyncIterator[EnginePool]:
    """The engines that the settings name, or else a rehearsal engine that lives as long as the block."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.engines:
            engines, capacity = engine_addresses(settings), settings.engine_capacity
        else:
            rehearsal = await stack.enter_async_context(Rehearsal(slots=settings.max_calls))
            engines, capacity = [EngineAddress(rehearsal.url)], settings.max_calls
        yield await stack.enter_async_context(
            EnginePool(
                engines,
                capacity,
                open_session=opener,
                store=lease_store(settings, store),
                warm=warm_sessions(personas),
                limits=PoolLimits(
                    settings.warm_max_age_s, settings.max_waiting, settings.engine_hedge_after_s
                ),
            )
        )


def engine_addresses(settings: Settings) -> list[EngineAddress]:
    """The engines that the settings name, each with how its certificate is trusted, and the token."""
    token = None if settings.engine_token is None else settings.engine_token.get_secret_value()
    return [
        EngineAddress(url, trust, token)
        for url, trust in zip(settings.engines, _trusts(settings), strict=True)
    ]


def _trusts(settings: Settings) -> list[Trust]:
    """How each engine's certificate is trusted. Engines that are trusted alike share one object."""
    count = len(settings.engines)
    if settings.engine_insecure:
        return [Unverified()] * count
    if len(settings.engine_fingerprint) == count:
        return [Pinned(each) for each in settings.engine_fingerprint]
    if settings.engine_fingerprint:
        return [Pinned(settings.engine_fingerprint[0])] * count
    if settings.engine_ca_file is not None:
        return [CaFile(settings.engine_ca_file, contents(settings.engine_ca_file))] * count
    return [SystemTrust()] * count


def contents(file: Path | None) -> str:
    """The SHA-256 of a file's contents; empty if there is none to read."""
    try:
        return "" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def warm_sessions(personas: Personas) -> dict[Prompts, int]:
    """How many sessions to keep prompted ahead of calls, for each pair of prompts."""
    warm: dict[Prompts, int] = {}
    for persona in personas.values():
        if persona.warm and persona.fixed:
            prompts = Prompts(persona.voice_prompt, persona.text_prompt)
            warm[prompts] = max(persona.warm, warm.get(prompts, 0))
    return warm


class EngineOpener:
    """Opens sessions with engines, with the timeouts of the settings in force.

    Args:
        settings: A reload replaces them.

    Attributes:
        flooded: How many sessions were closed because the engine sent too much.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.flooded = 0

    async def __call__(
        self,
        engine: EngineAddress,
        prompts: Prompts,
        connected: Callable[[Session], None],
        /,
        *,
        moved: Callable[[int], None] | None = None,
    ) -> Session:
        """Opens a session; raises as `open_session` does."""
        return await open_session(
            engine,
            *prompts,
            connect_timeout_s=self.settings.engine_connect_timeout_s,
            handshake_timeout_s=self.settings.engine_handshake_timeout_s,
            connected=connected,
            flooded=self._count_flood,
            moved=moved,
        )

    def _count_flood(self) -> None:
        self.flooded += 1


# The store that bridges share


@contextlib.asynccontextmanager
async def shared_store(settings: Settings) -> AsyncIterator[RedisStore | None]:
    """The process's one client of the shared store, open while the block runs; None if there is no store."""
    if settings.lease_store == "memory":
        yield None
        return
    async with RedisStore(settings.lease_store) as store:
        yield store


def lease_store(settings: Settings, store: RedisStore | None) -> LeaseStore:
    """Where leases on engines are kept: in the shared store, else in this process."""
    return MemoryLeases() if store is None else RedisLeases(store, ttl_s=settings.lease_ttl_s)


@contextlib.asynccontextmanager
async def _handovers(
    settings: Settings, store: RedisStore | None, environ: Mapping[str, str]
) -> AsyncIterator[HandOvers]:
    """The calls that go on to a person, kept where every process that a flow may ask can read them."""
    if store is not None:
        kept: HandOverStore = RedisHandOverStore(store)
    else:
        kept = FileHandOverStore(state_folder(settings, environ))
    handovers = HandOvers(asyncio.get_running_loop().time, kept)
    try:
        yield handovers
    finally:
        await handovers.close()


def _peers(
    settings: Settings, store: RedisStore | None, signer: Signer, registry: CallRegistry
) -> PeerBridges | None:
    """The other bridges; None if this one shares no store, or does not know its own public URL."""
    if store is None or settings.public_url is None:
        return None
    return PeerBridges(store, settings.public_url, signer, personas=lambda: registry.personas)


# Calls


def _call_limits(settings: Settings) -> CallLimits:
    return CallLimits(
        settings.max_wait_s,
        settings.failover_timeout_s,
        settings.engine_silent_timeout_s,
        settings.phone_silent_timeout_s,
    )


def playout_options(settings: Settings) -> PlayoutOptions:
    """How the sound of a call is kept in time."""
    return PlayoutOptions(settings.playout_profile, settings.max_backlog_ms, settings.gate_ms)


# The telephony port


class Access:
    """Who may come in at the telephony port, by the settings in force.

    If the settings have no key, the process makes one for `/exotel/url`, which ends with the process.

    Args:
        settings: A reload replaces them (`use`).
        shared_tokens: The tokens for one call that were used at any bridge; None for a bridge alone.

    Attributes:
        signer: Signs and checks tokens.
        control: Decides about each request.
    """

    def __init__(self, settings: Settings, shared_tokens: SharedTokens | None = None) -> None:
        self._own_key = secrets.token_bytes(OWN_KEY_BYTES)
        self.signer = Signer([self._own_key], time.time)
        self.control = AccessControl(
            self.signer,
            asyncio.get_running_loop().time,
            call_tokens=CallTokens(time.time, shared_tokens),
        )
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Puts settings in force. Calls that are already in stay in."""
        keys = [key.get_secret_value().encode() for key in settings.token_keys]
        self.signer.use(keys or [self._own_key])
        self.control.use(
            credentials=[one.get_secret_value() for one in settings.credentials],
            tokens_prove=bool(keys),
            networks=settings.allowed_networks,
            proxies=settings.trusted_proxies,
            requests_per_minute=settings.handshakes_per_minute,
            calls_per_address=settings.max_calls_per_address,
        )


@contextlib.asynccontextmanager
async def _listen(
    loaded: Loaded,
    registry: CallRegistry,
    names: NameCheck,
    pool: EnginePool,
    handovers: HandOvers,
    access: Access,
    peers: PeerBridges | None,
    shedding: Shedding,
) -> AsyncIterator[TelephonyServer]:
    settings = loaded.settings
    tls = telephony_tls(loaded)
    webhooks = Webhooks(
        access.signer,
        access.control,
        token_ttl_s=settings.token_ttl_s,
        public_url=settings.public_url,
        serves_tls=tls is not None,
        choose=lambda asked, called: names.name_for(asked, called, registry.personas),
        busy=partial(_busy, pool),
        promise=pool.promises.make,
        handed_over=handovers.look_up,
        elsewhere=nowhere if peers is None else peers.elsewhere,
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(
                listen(
                    registry.handle,
                    settings.host,
                    settings.port,
                    carriers=[ExotelRoutes(webhooks)],
                    not_ready=lambda: no_engine(pool.snapshot(), pool.store_gone_s),
                    overloaded=shedding.reasons,
                    unknown_persona=lambda name: names.refusal(name, registry.personas),
                    max_calls=settings.max_calls,
                    access=access.control,
                    proxy_protocol=settings.proxy_protocol,
                    ssl=None if tls is None else tls.context,
                )
            )
        except OSError as error:
            raise _cannot_listen(error, loaded) from None
        if tls is not None:
            following = asyncio.create_task(tls.follow(), name="TLS certificate")
            stack.callback(following.cancel)
        yield server


def _busy(pool: EnginePool, call: str | None) -> tuple[str, ...]:
    """Why no engine can take this call now; empty if one can."""
    if pool.free_for(call):
        return ()
    match pool.promises.besides(call):
        case 0:
            return ("every engine is taken",)
        case 1:
            return ("every engine is taken, or reserved by 1 URL not used yet",)
        case others:
            return (f"every engine is taken, or reserved by {others} URLs not used yet",)


def _cannot_listen(error: OSError, loaded: Loaded) -> ConfigError:
    host, port = loaded.settings.host, loaded.settings.port
    match error.errno:
        case errno.EADDRINUSE:
            name, problem = (
                "port",
                f"{port} on {host} is taken; stop the other program, or choose another port",
            )
        case errno.EACCES:
            name, problem = "port", f"{port} is for root only; choose a port from 1024 to 65535"
        case _:
            name, problem = "host", f"cannot listen on {host!r}: {error.strerror or error}"
    written, source = loaded.origins.get(name, (name, "default"))
    return ConfigError(written, source, problem)
