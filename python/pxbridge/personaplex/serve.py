"""The engine as a process: a loaded model, its thread and its port, from the start to the end.

::

    load       the checkpoint is read; settings and the port are checked before that
    warm up    the port answers, and `/readyz` says that it is not ready
    serve      until SIGTERM or SIGINT
    drain      new clients are refused; conversations may go on for `drain_s`, then they end with 1001

A second signal ends the process at once. If the device fails, every conversation ends with 1011 and the exit
status is 1, so that a supervisor starts the engine again. Until then bridges use other engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pxbridge.errors import ConfigError
from pxbridge.personaplex.certificate import certificate_in
from pxbridge.personaplex.engine import Engine, EngineThread
from pxbridge.personaplex.input_recorder import InputRecorder
from pxbridge.personaplex.places import Places
from pxbridge.personaplex.query import Defaults
from pxbridge.personaplex.server import EngineServer, Rules, end_after_fault, listen
from pxbridge.personaplex.static_files import StaticFiles
from pxbridge.personaplex.telemetry import Telemetry
from pxbridge.wording import counted, lasted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pxbridge.personaplex.certificate import Certificate
    from pxbridge.personaplex.personas import FilePersonas
    from pxbridge.personaplex.session import TextReader
    from pxbridge.personaplex.stepper import Stepper

log = logging.getLogger("pxbridge.engine")

DEFAULT_PORT: Final = 8998
DEFAULT_DRAIN_S: Final = 600.0
"""Calls last minutes, and an engine that is being replaced can wait for them."""
DEFAULT_LINE: Final = 16
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
LAST_WORK_S: Final = 5.0
"""How long the thread may take to end its present work."""

EXIT_DEVICE_FAILED: Final = 1


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be served.

    Attributes:
        name: The checkpoint's name, for people.
        stepper: The model.
        personas: Its voices and its tokenizer.
        text: Makes a reader of tokens for one conversation.
        memory: Returns the device's memory in bytes, by purpose.
    """

    name: str
    stepper: Stepper
    personas: FilePersonas
    text: Callable[[], TextReader]
    memory: Callable[[], Mapping[str, int]] = dict


@dataclass(frozen=True)
class Options:
    """How the engine is served.

    Attributes:
        host: Where it listens.
        port: 0 for any free one.
        token: The secret that clients must send; None: none is needed.
        allow_anonymous: Whether a public address may be used without a token.
        origins: Other origins whose pages may talk.
        ssl: Folder of the TLS certificate, which is made there if it is missing; None: no TLS.
        static: Folder of a web client.
        record_input: Folder for records of the models' input.
        model_arguments: Arguments with which `pxbridge engine offline` loads the same model, for the records.
        line: How many clients may wait for a slot.
        drain_s: How long conversations may go on after SIGTERM.
        defaults: Prompts for clients that send none.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = None
    allow_anonymous: bool = False
    origins: frozenset[str] = frozenset()
    ssl: Path | None = None
    static: Path | None = None
    record_input: Path | None = None
    model_arguments: tuple[str, ...] = ()
    line: int = DEFAULT_LINE
    drain_s: float = DEFAULT_DRAIN_S
    defaults: Defaults = field(default_factory=Defaults)


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`.

    Attributes:
        options: As given.
        certificate: The TLS certificate.
        recorder: Records the models' input.
        files: The web client.
    """

    options: Options
    certificate: Certificate | None
    recorder: InputRecorder | None
    files: StaticFiles | None


def prepare(options: Options) -> Prepared:
    """Checks the options before the checkpoint is read, because reading it takes a minute.

    Raises:
        ConfigError: An option cannot be used; the text says how to fix it.
    """
    if options.token is None and not options.allow_anonymous and not _is_loopback(options.host):
        raise ConfigError(
            "--host",
            "command line",
            f"{options.host} can be reached from other machines: set PXBRIDGE_ENGINE_TOKEN to a secret that "
            "clients must send, or add --allow-anonymous",
        )
    _require_free_port(options.host, options.port)
    certificate = None if options.ssl is None else certificate_in(options.ssl, options.host)
    files = None
    if options.static is not None:
        if not options.static.is_dir():
            raise ConfigError(
                "--static", "command line", f"{options.static} is not a folder; `none` serves no files"
            )
        files = StaticFiles(options.static)
    recorder = None
    if options.record_input is not None:
        try:
            recorder = InputRecorder(options.record_input, options.model_arguments)
        except OSError as error:
            problem = f"{options.record_input}: {error.strerror or error}"
            raise ConfigError("--record-input", "command line", problem) from error
    return Prepared(options, certificate, recorder, files)


async def serve(loaded: Loaded, prepared: Prepared, ready: Callable[[str], None] | None = None) -> int:
    """Serves a model until a signal ends it, or its device fails.

    Args:
        loaded: The model.
        prepared: Made by `prepare`.
        ready: Called with the URL for clients, once a conversation can begin.

    Returns:
        The exit status.

    Raises:
        ConfigError: The address cannot be listened on after all.
    """
    options, certificate = prepared.options, prepared.certificate
    telemetry = Telemetry()
    telemetry.memory = loaded.memory
    engine = Engine(loaded.stepper, telemetry, prepare=loaded.personas.read_all)
    places = Places(loaded.stepper.slots, options.line)
    server = EngineServer(
        engine,
        places,
        loaded.personas,
        loaded.text,
        telemetry,
        Rules(options.token, options.defaults, loaded.name, options.origins, _own_names(options.host)),
        prepared.recorder,
        prepared.files,
    )
    ssl = None if certificate is None else certificate.context
    async with contextlib.AsyncExitStack() as stack:
        if prepared.recorder is not None:
            stack.callback(prepared.recorder.close)
        signals = stack.enter_context(_signals())
        try:
            await stack.enter_async_context(listen(server, options.host, options.port, ssl=ssl))
        except OSError as error:
            raise _cannot_listen(options, error) from error
        url = _url(options, server.port)
        _tell(options, certificate, url)
        began_s = asyncio.get_running_loop().time()
        with EngineThread(engine) as thread:
            status = await _live(server, engine, signals, options, began_s, url, ready)
            if status == EXIT_DEVICE_FAILED:
                end_after_fault(server)
    # If the device hangs, its thread does too. The process ends nevertheless.
    if not await thread.join(LAST_WORK_S):
        log.warning("the model's thread has not ended")
    return status


async def _live(
    server: EngineServer,
    engine: Engine,
    signals: asyncio.Queue[signal.Signals],
    options: Options,
    began_s: float,
    url: str,
    ready: Callable[[str], None] | None,
) -> int:
    """From the warm-up to the end of the last conversation; the exit status."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:

        def start(work: asyncio.Task[object]) -> asyncio.Task[object]:
            stack.push_async_callback(_cancel, work)
            return work

        fault = start(asyncio.create_task(server.watch()))
        warm = start(asyncio.create_task(engine.ready.wait()))
        told = start(asyncio.create_task(signals.get()))
        await asyncio.wait({fault, warm, told}, return_when=asyncio.FIRST_COMPLETED)
        if warm.done():
            server.warm_up_s = round(loop.time() - began_s, 3)
            log.info("ready after %.1f s: %s at %s", server.warm_up_s, counted(engine.slots, "slot"), url)
            if ready is not None:
                ready(url)
            await asyncio.wait({fault, told}, return_when=asyncio.FIRST_COMPLETED)
        if fault.done():
            log.critical("the device failed, every conversation ends: %s", fault.result())
            return EXIT_DEVICE_FAILED
        log.info(
            "stopping: %s may go on for up to %s; a second signal ends them at once",
            counted(len(server.sessions), "conversation"),
            lasted(options.drain_s),
        )
        drained = start(asyncio.create_task(server.drain(options.drain_s)))
        again = start(asyncio.create_task(signals.get()))
        await asyncio.wait({drained, again, fault}, return_when=asyncio.FIRST_COMPLETED)
        if fault.done():
            log.critical("the device failed, every conversation ends: %s", fault.result())
            return EXIT_DEVICE_FAILED
    return 0


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _tell(options: Options, certificate: Certificate | None, url: str) -> None:
    if certificate is not None:
        log.info(
            "TLS: the %s certificate in %s has the SHA-256 fingerprint %s; a bridge trusts it with "
            "PXBRIDGE_ENGINE_FINGERPRINT=%s",
            "new" if certificate.made else "existing",
            options.ssl,
            certificate.sha256,
            certificate.sha256,
        )
    if options.record_input is not None:
        log.warning("the callers' audio is recorded in %s", options.record_input)
    if options.token is None and not _is_loopback(options.host):
        log.warning("no token is set: anybody who can reach %s can use this engine", options.host)
    log.info("listening at %s; warming up", url)


def _url(options: Options, port: int) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{'ws' if options.ssl is None else 'wss'}://{host}:{port}/api/chat"


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _own_names(host: str) -> frozenset[str] | None:
    """The names that a page of this server can have: on loopback this machine's, elsewhere any."""
    return LOOPBACK_NAMES | {host.lower()} if _is_loopback(host) else None


def _require_free_port(host: str, port: int) -> None:
    """Raises ConfigError if the address cannot be listened on."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
            return
    except OSError as error:
        raise _cannot_listen(Options(host=host, port=port), error) from error


def _cannot_listen(options: Options, error: OSError) -> ConfigError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        problem = f"{options.host} is no address of this machine: {error.strerror or error}"
        return ConfigError("--host", "command line", problem)
    return ConfigError(
        "--port", "command line", f"{options.host}:{options.port}: {error.strerror or error}; choose another"
    )


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """Collects SIGINT and SIGTERM in a queue while the block runs."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        yield signals
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
