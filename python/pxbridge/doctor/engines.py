"""Whether the engines are there, are who they should be, and, if nobody else can have them, how they talk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import numpy as np

from pxbridge.app.assembly import EngineOpener, addresses, lease_store, shared_store
from pxbridge.audio import OggOpusReader, OggOpusWriter
from pxbridge.doctor.finding import Finding, good, note, wrong
from pxbridge.engines.client import EngineAddress, Unverified
from pxbridge.engines.pool import EnginePool, Lease, Prompts
from pxbridge.errors import (
    EngineBusy,
    EngineError,
    EngineRefused,
    EngineRejected,
    EngineUntrusted,
    NoEngineFree,
    StoreUnreachable,
)
from pxbridge.settings import variable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pxbridge.calls.persona import Personas
    from pxbridge.engines.client import Session
    from pxbridge.engines.leases import LeaseStore
    from pxbridge.settings import Loaded, Settings

ENGINE_HZ: Final = 24_000
STEP_S: Final = 0.08
SLOW_SHARE: Final = 0.85
"""Of its 80 ms: an engine that needs more never catches up after a stall."""
STEPS: Final = 13
"""A second of audio, and the step that the codec's look-ahead costs."""
ANSWER_S: Final = 5.0
MOST_AT_ONCE: Final = 8
"""So many conversations are tried at once, of more that an engine is said to take."""
_PORTS: Final = {"ws": 80, "wss": 443}


async def look_at(loaded: Loaded, personas: Personas | None, *, ours_runs: bool) -> AsyncIterator[Finding]:
    """Looks at every engine.

    Args:
        loaded: The settings.
        personas: An engine is prompted with the default one, and is asked for the voices of all.
        ours_runs: A bridge of these settings runs: the engines are its.
    """
    settings = loaded.settings
    async with shared_store(settings) as store:
        leases = lease_store(settings, store)
        async for finding in _look_at(settings, leases, personas, ours_runs=ours_runs):
            yield finding


async def _look_at(
    settings: Settings, leases: LeaseStore, personas: Personas | None, *, ours_runs: bool
) -> AsyncIterator[Finding]:
    if (problem := await _store_problem(leases)) is not None:
        yield problem
        personas = None  # who has which engine cannot be known
    if not settings.engines:
        yield note(
            "engine",
            "none is set: callers hear the rehearsal engine, which repeats what they say",
            f"{variable('engines')}=wss://HOST:8998/api/chat names a PersonaPlex server",
        )
        return
    if ours_runs:
        yield note("engine", "a bridge runs here and has the engines: no conversation is tried with them")
    for engine, same in await _twins(addresses(settings)):
        yield wrong(
            "engine",
            f"{engine} and {same} are one engine, and each is given calls",
            f"name it once in {variable('engines')}; for more calls at once there is "
            f"{variable('engine_capacity')}",
        )
    for engine in addresses(settings):
        problem = await _reach(engine, settings.engine_connect_timeout_s)
        if problem is not None:
            yield problem
        elif ours_runs or personas is None:
            yield good("engine", f"{engine} is there, and is who it should be")
        else:
            yield await _converse(engine, personas, settings, leases)


async def _reach(engine: EngineAddress, timeout_s: float) -> Finding | None:
    """What is wrong with the way to an engine, short of a conversation; None if nothing is."""
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
            f"look for a firewall between here and port {port} there, and whether the machine is up",
        )
    except OSError as error:
        return wrong(
            "engine",
            f"{engine}: {os.strerror(error.errno) if error.errno else error}",
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
        "engine", f"{engine}: something else answers there", f"correct the port in {variable('engines')}"
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
            f"if the engine's certificate is new, set {variable('engine_fingerprint')} to its fingerprint",
        )
    return None


async def _fingerprint(host: str, port: int) -> str:
    """Of whatever certificate is served there."""
    unverified = EngineAddress("wss://x", Unverified()).tls_context
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(host, port, ssl=unverified)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return hashlib.sha256(certificate).hexdigest()
    except (OSError, TimeoutError):
        return "the one that openssl prints"


async def _speaks_http(host: str, port: int, tls: ssl.SSLContext | None) -> bool:
    """Whether it answers a request that opens no conversation."""
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
    """What is wrong with the way to the store of leases; None if nothing is."""
    try:
        await leases.look(["doctor"])
    except StoreUnreachable as error:
        return wrong(
            "engine",
            f"{error}, so no call gets an engine",
            f"start Redis or Valkey there, or correct {variable('lease_store')}",
        )
    return None


async def _twins(engines: Sequence[EngineAddress]) -> list[tuple[EngineAddress, EngineAddress]]:
    """Engines that are another one under another name."""
    first: dict[tuple[str, int], EngineAddress] = {}
    twins = []
    for engine in engines:
        parts = urlsplit(engine.url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            continue  # told where it is tried
        places = {(str(address[0]), port) for *_, address in found}
        same = next((first[place] for place in places if place in first), None)
        if same is not None:
            twins.append((engine, same))
        first.update(dict.fromkeys(places, engine))
    return twins


async def _converse(
    engine: EngineAddress, personas: Personas, settings: Settings, store: LeaseStore
) -> Finding:
    """Leases the engine, so that no bridge has it meanwhile, prompts it and gives it a second of audio.

    Then it is asked for as many conversations at once as it is said to take, and for the voices of the other
    personas.
    """
    pool = EnginePool(
        [engine],
        settings.engine_capacity,
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
            while len(leases) < min(settings.engine_capacity, MOST_AT_ONCE):
                leases.append(await pool.lease(prompts))
        if not leases:
            return note("engine", f"{engine}: another bridge has it, so no conversation is tried")
        try:
            session = await leases[0].session()
            found = _judge(engine, session.prompt_s, await _talk(session))
            for n, lease in enumerate(leases[1:], 1):
                try:
                    await lease.session()
                except EngineError as error:
                    return wrong(
                        "engine",
                        f"{engine} took {n} of {settings.engine_capacity} conversations at once: {error}",
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
    """What is wrong if the engine does not take a persona's voice."""
    try:
        async with asyncio.timeout(ANSWER_S):  # the conversation before has to end
            lease = await pool.lease_in_turn(Prompts(voice, "Hello."))
    except (EngineError, TimeoutError):
        return note("engine", f"{engine}: taken meanwhile, so the voice of {name} is not tried")
    try:
        await lease.session()
    except EngineRejected as error:
        return wrong(
            "engine",
            str(error),
            f"give the persona {name} a voice_prompt that the engine has; its own log says what it missed",
        )
    except EngineError as error:
        return _of_error(error)
    finally:
        lease.release()
    return None


def _of_error(error: EngineError) -> Finding:
    """What to do about a conversation that did not come about."""
    match error:
        case EngineBusy():
            mend = (
                "end the conversation that it has (another bridge, a browser), or restart it; if it is but "
                f"slow, raise {variable('engine_handshake_timeout_s')}"
            )
        case EngineRefused():
            mend = f"correct the path in {variable('engines')}: it is /api/chat"
        case EngineRejected():
            mend = (
                f"set {variable('voice_prompt')} to a voice that the engine has; "
                "its own log says what it missed"
            )
        case _:
            mend = "look into the engine's own log"
    return wrong("engine", str(error), mend)


async def _talk(session: Session) -> list[float]:
    """Sends a second of silence at once; when each 80 ms of the answer had come."""
    arrived: list[float] = []
    decoder = OggOpusReader(ENGINE_HZ)
    samples = 0
    enough = asyncio.Event()

    def hear(ogg: bytes) -> None:
        nonlocal samples
        samples += len(decoder.read(ogg))
        while samples >= (len(arrived) + 1) * STEP_S * ENGINE_HZ:
            arrived.append(time.monotonic())
        if len(arrived) >= STEPS - 1:
            enough.set()

    session.listen(on_audio=hear, on_text=lambda _: None, on_close=lambda _: enough.set())
    encoder = OggOpusWriter(ENGINE_HZ)
    session.send_audio(encoder.headers())
    session.send_audio(encoder.write(np.zeros(round(STEPS * STEP_S * ENGINE_HZ), np.float32)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            await enough.wait()
    return arrived


def _judge(engine: EngineAddress, prompt_s: float, arrived: list[float]) -> Finding:
    """What its speed says.

    Args:
        engine: The engine.
        prompt_s: How long it took for its prompts.
        arrived: When each of its 80 ms of audio had come, for a second of audio sent at once.
    """
    if len(arrived) < 2:
        return wrong(
            "engine",
            f"{engine} takes its prompts and then says nothing",
            "look into its own log, or restart it",
        )
    step_s = (arrived[-1] - arrived[0]) / (len(arrived) - 1)
    talk = f"{prompt_s:.1f} s for its prompts, {step_s * 1000:.0f} ms for each 80 ms of audio"
    if step_s > STEP_S:
        return wrong(
            "engine",
            f"{engine} is slower than speech: {talk}",
            "give it a faster GPU, or the GPU to itself (`nvidia-smi` shows who else uses it)",
        )
    if step_s > SLOW_SHARE * STEP_S:
        return note("engine", f"{engine} is hardly faster than speech: {talk}", "after a stall it stays late")
    return good("engine", f"{engine}: {talk}")
