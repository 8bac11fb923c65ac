"""Checks the engines: reachable, trusted, and, if no bridge can be using them, how fast they talk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import numpy as np

from pxbridge.app.assembly import EngineOpener, engine_addresses, lease_store, shared_store
from pxbridge.audio import OggOpusReader, OggOpusWriter
from pxbridge.calls.unknown_names import voice_problems
from pxbridge.chat_wire import ENGINE_HZ, FRAME_S
from pxbridge.doctor.engine_figures import figures, judge
from pxbridge.doctor.finding import Finding, good, note, wrong
from pxbridge.engines.address import EngineAddress, Unverified
from pxbridge.engines.pool import EnginePool, Prompts
from pxbridge.engines.probe import Told, Wrong, probe
from pxbridge.engines.voices import EngineVoices
from pxbridge.errors import (
    EngineBusy,
    EngineError,
    EngineFull,
    EngineRefused,
    EngineRejected,
    EngineUntrusted,
    NoEngineFree,
    StoreUnreachable,
)
from pxbridge.settings import variable
from pxbridge.wording import os_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pxbridge.calls.persona import Personas
    from pxbridge.engines.lease import Lease
    from pxbridge.engines.leases import LeaseStore
    from pxbridge.engines.session import Session
    from pxbridge.settings import Loaded, Settings

SLOW_SHARE: Final = 0.85
"""Share of its 80 ms that a step may take. An engine that needs more does not catch up after a stall."""
STEPS: Final = 13
"""One second of audio, and one more step for the look-ahead of the codec."""
ANSWER_S: Final = 5.0
MAX_CONVERSATIONS: Final = 8
"""Conversations that are tried at the same time, even if `engine_capacity` is higher."""
_PORTS: Final = {"ws": 80, "wss": 443}


async def check(loaded: Loaded, personas: Personas | None, *, bridge_runs: bool) -> AsyncIterator[Finding]:
    """Checks every engine.

    Args:
        loaded: The settings.
        personas: Each engine is prompted with the default persona and asked for the voices of all. None: they
            are wrong, so no conversation is tried.
        bridge_runs: A bridge with these settings runs and uses the engines, so no conversation is tried.
    """
    settings = loaded.settings
    async with shared_store(settings) as store:
        leases = lease_store(settings, store)
        async for finding in _check_all(settings, leases, personas, bridge_runs=bridge_runs):
            yield finding


async def _check_all(
    settings: Settings, leases: LeaseStore, personas: Personas | None, *, bridge_runs: bool
) -> AsyncIterator[Finding]:
    if (problem := await _store_problem(leases)) is not None:
        yield problem
        personas = None  # an engine may be in use, so no conversation is tried
    if not settings.engines:
        yield note(
            "engine",
            "none is set; callers hear the rehearsal engine, which repeats what they say",
            f"set {variable('engines')}=wss://HOST:8998/api/chat to use a PersonaPlex server",
        )
        return
    if bridge_runs:
        yield note("engine", "a bridge runs here and uses the engines, so no conversation is tried")
    for engine, same in await _duplicates(engine_addresses(settings)):
        yield wrong(
            "engine",
            f"{engine} and {same} are the same engine, so it would get too many calls",
            f"name it once in {variable('engines')}; for more calls at the same time set "
            f"{variable('engine_capacity')}",
        )
    for engine in engine_addresses(settings):
        problem = await _reach(engine, settings.engine_connect_timeout_s)
        if problem is not None:
            yield problem
            continue
        capacity = settings.engine_capacity
        match await probe(engine):
            case Wrong(what):
                about_token = variable("engine_token") in what
                fix = f"set {variable('engine_token')} to its token" if about_token else "read its log"
                yield wrong("engine", f"{engine} {what}", fix)
                continue
            case Told() as told:
                yield judge(engine, told, await figures(engine))
                problems = [] if personas is None else await _voice_problems(engine, personas)
                for problem in problems:
                    yield problem
                if problems:
                    continue  # a conversation by such a voice would be refused
                capacity = told.free
                if told.closed is not None or not told.free:
                    continue  # the finding says so
            case None:
                pass
        if bridge_runs or personas is None:
            yield good("engine", f"{engine} is reachable and trusted")
        else:
            yield await _converse(engine, personas, settings, leases, capacity)


async def _voice_problems(engine: EngineAddress, personas: Personas) -> list[Finding]:
    """The personas' voices that the engine does not have, if it tells its voices."""
    voices = EngineVoices()
    await voices.ask([engine], [engine], ANSWER_S)
    return [
        wrong("engine", f"{engine}: {problem.what}", problem.fix)
        for problem in voice_problems(personas, voices)
    ]


async def _reach(engine: EngineAddress, timeout_s: float) -> Finding | None:
    """The problem in reaching an engine, without a conversation; None if there is none."""
    parts = urlsplit(engine.url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
            writer.transport.abort()
    except socket.gaierror:
        return wrong(
            "engine", f"{engine}: no such host", f"correct {variable('engines')}, or the DNS of this machine"
        )
    except TimeoutError:
        return wrong(
            "engine",
            f"{engine}: no connection within {timeout_s:g} s",
            f"check that the machine is up, and that no firewall blocks its port {port}",
        )
    except OSError as error:
        return wrong(
            "engine",
            f"{engine}: {os_problem(error)}",
            f"start PersonaPlex there (`python -m moshi.server --ssl DIR`), or correct port {port} "
            f"in {variable('engines')}",
        )
    if parts.scheme == "wss":
        return await _check_tls(engine, host, port)
    if await _speaks_http(host, port, None):
        return None
    if await _speaks_http(host, port, EngineAddress("wss://x", Unverified()).tls_context):
        return wrong(
            "engine", f"{engine} speaks TLS", f"write wss:// instead of ws:// in {variable('engines')}"
        )
    return wrong(
        "engine", f"{engine}: another program answers there", f"correct the port in {variable('engines')}"
    )


async def _check_tls(engine: EngineAddress, host: str, port: int) -> Finding | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(host, port, ssl=engine.tls_context)
    except ssl.SSLCertVerificationError as error:
        seen = await _fingerprint(host, port)
        return wrong(
            "engine",
            f"{engine}: its certificate is not trusted ({error.verify_message})",
            f"if {seen} is the engine's SHA-256 fingerprint, set {variable('engine_fingerprint')} to it",
        )
    except (ssl.SSLError, ConnectionResetError):
        return wrong(
            "engine", f"{engine} speaks no TLS", f"write ws:// instead of wss:// in {variable('engines')}"
        )
    except (OSError, TimeoutError) as error:
        return wrong("engine", f"{engine}: TLS failed: {error or 'no answer'}", "restart the engine")
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    try:
        engine.check_certificate(certificate)
    except EngineUntrusted as error:
        return wrong(
            "engine",
            str(error),
            f"if the engine has a new certificate, set {variable('engine_fingerprint')} to its fingerprint",
        )
    return None


async def _fingerprint(host: str, port: int) -> str:
    """The fingerprint of the certificate at an address, in hex, or words for it if it cannot be read."""
    unverified = EngineAddress("wss://x", Unverified()).tls_context
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(host, port, ssl=unverified)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return hashlib.sha256(certificate).hexdigest()
    except (OSError, TimeoutError):
        return "the one that `openssl s_client` prints"


async def _speaks_http(host: str, port: int, tls: ssl.SSLContext | None) -> bool:
    """Whether an HTTP server answers there. The request opens no conversation."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            try:
                writer.write(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                return (await reader.read(5)).startswith(b"HTTP/")
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False


async def _store_problem(leases: LeaseStore) -> Finding | None:
    """The problem in reaching the lease store; None if there is none."""
    try:
        await leases.look(["doctor"])
    except StoreUnreachable as error:
        return wrong(
            "engine",
            f"{error}, so no call can get an engine",
            f"start Redis or Valkey, or correct {variable('lease_store')}",
        )
    return None


async def _duplicates(engines: Sequence[EngineAddress]) -> list[tuple[EngineAddress, EngineAddress]]:
    """Pairs of engines with different URLs and the same address and port."""
    first: dict[tuple[str, int], EngineAddress] = {}
    duplicates = []
    for engine in engines:
        parts = urlsplit(engine.url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            continue  # `_reach` reports it
        places = {(str(address[0]), port) for *_, address in found}
        same = next((first[place] for place in places if place in first), None)
        if same is not None:
            duplicates.append((engine, same))
        first.update(dict.fromkeys(places, engine))
    return duplicates


async def _converse(
    engine: EngineAddress, personas: Personas, settings: Settings, store: LeaseStore, capacity: int
) -> Finding:
    """Leases the engine, so that no bridge uses it meanwhile, prompts it and sends it a second of audio.

    Then tries as many conversations at the same time as it should take (`capacity`), and the voices of the
    other personas.
    """
    pool = EnginePool(
        [engine],
        capacity,
        open_session=EngineOpener(settings),
        store=store,
    )
    voices = {persona.voice_prompt: name for name, persona in personas.items()}
    default, _ = personas.default.for_call({})
    voices.pop(default.voice_prompt, None)
    async with pool:
        prompts = Prompts(default.voice_prompt, default.text_prompt)
        leases: list[Lease] = []
        with contextlib.suppress(NoEngineFree):
            while len(leases) < min(capacity, MAX_CONVERSATIONS):
                leases.append(await pool.lease(prompts))
        if not leases:
            return note("engine", f"{engine}: another bridge uses it, so no conversation is tried")
        try:
            session = await leases[0].session()
            found = _judge(engine, session.prompt_s, await _talk(session))
            for n, lease in enumerate(leases[1:], 1):
                try:
                    await lease.session()
                except EngineError as error:
                    return wrong(
                        "engine",
                        f"{engine} took {n} of {capacity} conversations at the same time: {error}",
                        f"set {variable('engine_capacity')}={n}; NVIDIA's server takes 1",
                    )
        except EngineError as error:
            return _of_error(error)
        finally:
            for lease in leases:
                lease.release()
        for voice, name in voices.items():
            if (problem := await _lacks_voice(pool, engine, voice, name)) is not None:
                return problem
        return found


async def _lacks_voice(pool: EnginePool, engine: EngineAddress, voice: str, name: str) -> Finding | None:
    """The problem if the engine does not accept a persona's voice; None if it does."""
    try:
        async with asyncio.timeout(ANSWER_S):  # the conversation before must end first
            lease = await pool.lease_in_turn(Prompts(voice, "Hello."))
    except (EngineError, TimeoutError):
        return note("engine", f"{engine}: in use meanwhile, so the voice of {name} is not tried")
    try:
        await lease.session()
    except EngineRejected as error:
        return wrong(
            "engine",
            str(error),
            f"set the voice_prompt of the persona {name} to a voice of the engine; its log says what is "
            "missing",
        )
    except EngineError as error:
        return _of_error(error)
    finally:
        lease.release()
    return None


def _of_error(error: EngineError) -> Finding:
    """The finding for a conversation that failed."""
    match error:
        case EngineFull():
            fix = "try again when it has room, or is ready"
        case EngineBusy():
            fix = (
                "end its other conversation (another bridge, a browser), or restart it; if it is only slow, "
                f"raise {variable('engine_handshake_timeout_s')}"
            )
        case EngineRefused(status=401):
            fix = f"set {variable('engine_token')} to the token that the engine was started with"
        case EngineRejected(status=404):
            fix = f"correct the path in {variable('engines')}: it is /api/chat"
        case EngineRejected():
            fix = f"set {variable('voice_prompt')} to a voice of the engine; its log says what is missing"
        case _:
            fix = "read the engine's log"
    return wrong("engine", str(error), fix)


async def _talk(session: Session) -> list[float]:
    """Sends a second of silence at once; returns when each 80 ms of the answer had arrived."""
    arrived: list[float] = []
    decoder = OggOpusReader(ENGINE_HZ)
    samples = 0
    enough = asyncio.Event()

    def hear(ogg: bytes) -> None:
        nonlocal samples
        samples += len(decoder.read(ogg))
        while samples >= (len(arrived) + 1) * FRAME_S * ENGINE_HZ:
            arrived.append(time.monotonic())
        if len(arrived) >= STEPS - 1:
            enough.set()

    session.listen(on_audio=hear, on_text=lambda _: None, on_close=lambda _: enough.set())
    encoder = OggOpusWriter(ENGINE_HZ)
    session.send_audio(encoder.headers())
    session.send_audio(encoder.write(np.zeros(round(STEPS * FRAME_S * ENGINE_HZ), np.float32)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            await enough.wait()
    return arrived


def _judge(engine: EngineAddress, prompt_s: float, arrived: list[float]) -> Finding:
    """The finding about an engine's speed.

    Args:
        engine: The engine.
        prompt_s: How long it took to process its prompts.
        arrived: When each 80 ms of its audio had arrived, for one second of audio sent at once.
    """
    if len(arrived) < 2:
        return wrong(
            "engine",
            f"{engine} accepts its prompts and then sends no audio",
            "read its log, or restart it",
        )
    step_s = (arrived[-1] - arrived[0]) / (len(arrived) - 1)
    speed = f"{prompt_s:.1f} s for its prompts, {step_s * 1000:.0f} ms for each 80 ms of audio"
    if step_s > FRAME_S:
        return wrong(
            "engine",
            f"{engine} is slower than speech: {speed}",
            "use a faster GPU, or free the GPU of other work (`nvidia-smi` lists it)",
        )
    if step_s > SLOW_SHARE * FRAME_S:
        return note(
            "engine",
            f"{engine} is hardly faster than speech, so it stays late after a stall: {speed}",
            "use a faster GPU, or free the GPU of other work (`nvidia-smi` lists it)",
        )
    return good("engine", f"{engine}: {speed}")
