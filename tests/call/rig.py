"""A bridge in one virtual-time loop: rehearsal engines, the exchange behind its listener, and phones."""

from __future__ import annotations

import asyncio
import wave
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.call.relay import Relay

from pxbridge.calls.conversation import CallLimits
from pxbridge.calls.events import Event, Kind
from pxbridge.calls.numbers import Numbers
from pxbridge.calls.persona import Persona, Personas
from pxbridge.calls.registry import CallRegistry
from pxbridge.calls.unknown_names import NameCheck
from pxbridge.engines.address import EngineAddress
from pxbridge.engines.client import open_session
from pxbridge.engines.pool import EnginePool, PoolLimits, Prompts
from pxbridge.ops.logs import CallLog
from pxbridge.simulation.phone import Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode, Rehearsal
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.server import TelephonyServer, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from numpy.typing import NDArray

    from pxbridge.calls.call import Call, CallRecord
    from pxbridge.calls.events import Subscriber
    from pxbridge.calls.handover import HandOvers
    from pxbridge.calls.playout_options import PlayoutOptions
    from pxbridge.engines.session import Session
    from pxbridge.simulation.faults import Fault
    from pxbridge.simulation.network import Network
    from pxbridge.telephony.routes import CarrierRoutes

KIND = Personas(Persona("NATF0.pt", "You are kind."))
IMPATIENT = CallLimits(max_wait_s=8.0, failover_timeout_s=5.0)
"""Shorter than the defaults, so that tests of what comes after are."""
VECTORS = Path(__file__).parents[1] / "vectors"


def speech(rate_hz: int = 8000) -> NDArray[np.int16]:
    """Five seconds of a real voice at 8, 16 or 24 kHz."""
    at_hz = {8000: 8000, 16000: 8000, 24000: 24000}[rate_hz]
    with wave.open(str(VECTORS / f"speech_{at_hz // 1000}k.wav")) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    if at_hz == rate_hz:
        return pcm
    # Twice the rate by an ideal low-pass: the spectrum, with nothing above its old end.
    spectrum = np.fft.rfft(pcm.astype(np.float64))
    doubled = np.fft.irfft(np.append(spectrum, np.zeros(len(pcm) // 2)), 2 * len(pcm)) * 2
    return np.clip(np.rint(doubled), -32768, 32767).astype(np.int16)


@dataclass
class Bridge:
    """What a test can reach of the bridge that it started."""

    listener: TelephonyServer
    registry: CallRegistry
    pool: EnginePool
    engines: list[Rehearsal]
    records: list[CallRecord] = field(default_factory=list)
    prompted: list[Prompts] = field(default_factory=list)
    """What engines were told, session by session."""
    events: list[Event] = field(default_factory=list)

    def forget(self) -> None:
        """Lets go of what was noted for the test."""
        for notes in (self.records, self.prompted, self.events):
            notes.clear()

    """What happened, in all calls."""

    def url(self, rate_hz: int = 8000) -> str:
        return f"ws://127.0.0.1:{self.listener.port}/exotel?sample-rate={rate_hz}"

    async def call(
        self, script: Script | None = None, line: Line | None = None, *, seed: int = 0, **options: Any
    ) -> Phone:
        """Places a call and plays it to its end."""
        line = line or Line()
        phone = Phone(script or Script(speech(line.rate_hz), speak_at_s=1.0), line, seed=seed, **options)
        await place_call(self.url(line.rate_hz), phone)
        return phone

    async def record(self) -> CallRecord:
        """Of the call that has just been hung up."""
        while self.registry.live:  # noqa: ASYNC110  virtual time: this costs nothing
            await asyncio.sleep(0.1)
        return self.records[-1]


@asynccontextmanager
async def bridge(
    *faults: Sequence[Fault],
    mode: Mode = Mode.ECHO,
    prompt_s: float = 0.0,
    step_ms: float = 30,
    slots: int = 1,
    handshake_timeout_s: float = 5.0,
    personas: Personas = KIND,
    subscribers: Sequence[Subscriber] = (),
    call_subscribers: Sequence[Callable[[Call], Subscriber]] = (),
    engine_network: Network | None = None,
    warm: int = 0,
    limits: CallLimits = IMPATIENT,
    pool_limits: PoolLimits | None = None,
    handovers: HandOvers | None = None,
    playout: PlayoutOptions | None = None,
    names: NameCheck | None = None,
    carriers: Sequence[CarrierRoutes] = (ExotelRoutes(),),
) -> AsyncIterator[Bridge]:
    """A running bridge with one engine for each entry of `faults` (none: one good engine).

    What happens on the `engine_network`, from the bridge (`up`) to each engine and back, counts from the
    connection's beginning.

    It keeps `warm` sessions of the default persona, and yields when they are prompted if they can be.
    """

    prompted: list[Prompts] = []

    async def open_engine(
        address: EngineAddress,
        prompts: Prompts,
        connected: Callable[[Session], None],
        moved: Callable[[int], None] | None = None,
    ) -> Session:
        prompted.append(prompts)
        return await open_session(
            address,
            *prompts,
            handshake_timeout_s=prompt_s + handshake_timeout_s,
            connected=connected,
            moved=moved,
        )

    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(
                Rehearsal(mode=mode, prompt_s=prompt_s, step_ms=step_ms, slots=slots, faults=each)
            )
            for each in (faults or ((),))
        ]
        urls = [engine.url for engine in engines]
        if engine_network is not None:
            for number, engine in enumerate(engines):
                relay = await stack.enter_async_context(Relay(engine.port, engine_network))
                urls[number] = engine.url.replace(f":{engine.port}/", f":{relay.port}/")
        ahead = Prompts(personas.default.voice_prompt, personas.default.text_prompt)
        pool = await stack.enter_async_context(
            EnginePool(
                [EngineAddress(url) for url in urls],
                capacity=slots,
                open_session=open_engine,
                warm={ahead: warm},
                limits=pool_limits,
            )
        )
        records: list[CallRecord] = []
        events: list[Event] = []

        def keep(record: CallRecord, event: Event) -> None:
            events.append(event)
            if event.kind is Kind.ENDED:
                records.append(record)

        watching: list[Subscriber] = [keep, CallLog(Numbers()), *subscribers]
        names = names or NameCheck()
        registry = CallRegistry(pool, personas, watching, call_subscribers, handovers, limits, playout, names)
        listener = await stack.enter_async_context(
            listen(
                registry.handle,
                "127.0.0.1",
                0,
                carriers=carriers,
                unknown_persona=lambda name: names.refusal(name, personas),
                max_calls=2000,
            )
        )
        if warm:
            await asyncio.sleep(prompt_s + 1.0)
        yield Bridge(listener, registry, pool, engines, records, prompted, events)
