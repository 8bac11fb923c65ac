"""The bridge as a process: engines, the door that Exotel dials, and the signals that end it.

The first SIGINT or SIGTERM stops it in order: no new call is taken, every live call says its last words and
is closed. A second one ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pxbridge
from pxbridge.calls.exchange import Exchange
from pxbridge.calls.handover import HandOvers
from pxbridge.calls.log import log_call
from pxbridge.calls.persona_file import read_personas
from pxbridge.errors import ConfigError
from pxbridge.exotel.gate import Gate, Signer
from pxbridge.exotel.listener import listen
from pxbridge.exotel.serving_tls import ServingTls
from pxbridge.exotel.webhooks import Webhooks
from pxbridge.personaplex.client import (
    CaFile,
    EngineAddress,
    Pinned,
    SystemTrust,
    Unverified,
    open_session,
)
from pxbridge.personaplex.pool import EnginePool
from pxbridge.personaplex.rehearsal import Rehearsal
from pxbridge.settings import Settings, check_door

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import Any

    from rich.console import Console

    from pxbridge.calls.call import OpenEngine
    from pxbridge.calls.persona import Persona
    from pxbridge.exotel.listener import CallOwner, Listener
    from pxbridge.personaplex.client import Session, Trust
    from pxbridge.settings import Loaded

log = logging.getLogger("pxbridge")

EXAMPLE_WAV = Path("tests/vectors/speech_8k.wav")
"""What to say in a first call, where there is a checkout; elsewhere people have recordings of their own."""


async def run(loaded: Loaded, console: Console, ready: Callable[[str], None] | None = None) -> int:
    """Serve calls until a signal ends it.

    Args:
        loaded: The settings.
        console: Where to say what was started and what to try next.
        ready: Called with the URL that Exotel dials, once it can.

    Returns:
        The exit status.

    Raises:
        ConfigError: The address cannot be listened on, or everyone could come in and nobody wants that.
    """
    settings = loaded.settings
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    personas = read_personas(loaded)
    for note in [*loaded.notes, *check_door(loaded)]:
        log.warning("%s", note)
    with _stop_signals() as signals:
        async with _engines(settings) as engines:
            exchange = Exchange(engines, _opener(settings), personas, [log_call])
            handovers = HandOvers(asyncio.get_running_loop().time)
            async with _listen(loaded, exchange.handle, engines, handovers) as listener:
                scheme = "ws" if settings.tls_cert_file is None else "wss"
                url = f"{scheme}://{_url_host(settings.host)}:{listener.port}/exotel"
                _say_what_next(console, settings, url)
                if ready is not None:
                    ready(url)
                await signals.get()
                log.info("stopping: %d calls", exchange.live)
                await _first_of(_end_calls(listener, exchange), signals.get())
    return 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """SIGINT and SIGTERM as they come, instead of what they do otherwise."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    caught = (signal.SIGINT, signal.SIGTERM)
    for number in caught:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        yield signals
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _engines(settings: Settings) -> AsyncIterator[EnginePool]:
    """The engines that were named, or the rehearsal engine, which lives as long as the block."""
    if settings.engines:
        trust = _trust(settings)
        addresses = [EngineAddress(url, trust) for url in settings.engines]
        yield EnginePool(addresses, settings.engine_capacity)
        return
    async with Rehearsal(slots=settings.max_calls) as rehearsal:
        yield EnginePool([EngineAddress(rehearsal.url)], settings.max_calls)


def _trust(settings: Settings) -> Trust:
    if settings.engine_insecure:
        return Unverified()
    if settings.engine_fingerprint is not None:
        return Pinned(settings.engine_fingerprint)
    if settings.engine_ca_file is not None:
        return CaFile(settings.engine_ca_file)
    return SystemTrust()


def _opener(settings: Settings) -> OpenEngine:
    async def open_engine(engine: EngineAddress, persona: Persona) -> Session:
        return await open_session(
            engine,
            persona.voice_prompt,
            persona.text_prompt,
            connect_timeout_s=settings.engine_connect_timeout_s,
            handshake_timeout_s=settings.engine_handshake_timeout_s,
        )

    return open_engine


@contextlib.asynccontextmanager
async def _listen(
    loaded: Loaded, answer: CallOwner, engines: EnginePool, handovers: HandOvers
) -> AsyncIterator[Listener]:
    settings = loaded.settings
    tls = _serving_tls(loaded)
    signer = _signer(settings)
    gate = _gate(settings, signer)
    webhooks = Webhooks(
        signer,
        gate,
        token_ttl_s=settings.token_ttl_s,
        public_url=settings.public_url,
        serves_tls=tls is not None,
        busy=lambda: () if engines.free else ("every engine is taken",),
        handed_over=handovers.find,
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            listener = await stack.enter_async_context(
                listen(
                    answer,
                    settings.host,
                    settings.port,
                    max_calls=settings.max_calls,
                    gate=gate,
                    webhooks=webhooks,
                    ssl=None if tls is None else tls.context,
                )
            )
        except OSError as error:
            raise _cannot_listen(error, loaded) from None
        if tls is not None:
            following = asyncio.create_task(tls.follow(), name="TLS certificate")
            stack.callback(following.cancel)
        yield listener


def _signer(settings: Settings) -> Signer:
    keys = [key.get_secret_value().encode() for key in settings.token_keys]
    return Signer(keys or [secrets.token_bytes(32)], time.time)


def _gate(settings: Settings, signer: Signer) -> Gate:
    return Gate(
        signer,
        asyncio.get_running_loop().time,
        credentials=[one.get_secret_value() for one in settings.credentials],
        tokens_prove=bool(settings.token_keys),
        networks=settings.allowed_networks,
        proxies=settings.trusted_proxies,
        requests_per_minute=settings.handshakes_per_minute,
        calls_per_address=settings.max_calls_per_address,
    )


def _serving_tls(loaded: Loaded) -> ServingTls | None:
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


async def _end_calls(listener: Listener, exchange: Exchange) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(listener.drain())
        tasks.create_task(exchange.close())


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


def _say_what_next(console: Console, settings: Settings, url: str) -> None:
    command = _own_command()
    wav = EXAMPLE_WAV if EXAMPLE_WAV.exists() else "YOUR.wav"
    # `pxbridge call` calls the default address unless it is told another.
    at_home = (settings.host, settings.port) == (Settings().host, Settings().port)
    where = "" if at_home else f" --url {url}"
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
    lines += ["  stop         Ctrl-C", ""]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _own_command() -> str:
    """How to call this program again, from here and in a shell that knows of no virtual environment."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        return f"{python.relative_to(Path.cwd())} -m pxbridge"
    return "pxbridge"


def _url_host(host: str) -> str:
    """What to dial for a server that listens on `host`, from this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        return "localhost"
    return f"[{host}]" if ":" in host else host
