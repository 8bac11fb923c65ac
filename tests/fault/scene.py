"""A scenario's cast: a bridge, its engines, a caller whom something happens to, and a neighbour who is not to
notice.

Both callers are told from what reaches their ears alone. The one who is hit says a tone without end, the
engines echo, and whatever is heard that is not the tone is not the agent. The neighbour speaks, and each half
second of it is looked for in what came back: that gives the delay as it was at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import wave
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.fault.processes import bridge_process, engine_program, fetch, free_port, until

from pxbridge.exotel.phone import Line, Phone, Script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from numpy.typing import NDArray
    from tests.fault.processes import BridgeProcess, EngineProcess

SPEECH = Path(__file__).parents[1] / "vectors/speech_8k.wav"

TONE_HZ = 1_150
"""Whole periods in 20 ms, and no note of the bridge's own sounds."""
PACKET_MS = 20

WINDOW_S = 0.5
LONGEST_DELAY_S = 1.5
ALIKE = 0.5
"""A window that went through two codecs correlates with itself by 0.8 and more, with others below 0.4."""

CALM_S = 2.5
"""What is needed to know how it was before."""

DELAY_CHANGE_S = 0.3
"""A machine that is busy with other tests stalls a call for moments, and playout makes room for that."""
HOLES_SHARE = 0.15
"""The same for holes."""
FOUND_SHARE = 0.6
"""The same for windows in which a hole fell."""


def tone(rate_hz: int = 8000, seconds: float = 60.0) -> NDArray[np.int16]:
    samples = np.arange(round(rate_hz * seconds))
    said: NDArray[np.int16] = np.rint(8000 * np.sin(2 * np.pi * TONE_HZ / rate_hz * samples)).astype(np.int16)
    return said


def speech(seconds: float = 60.0) -> NDArray[np.int16]:
    with wave.open(str(SPEECH)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return np.resize(pcm, round(seconds * file.getframerate()))


def agent_heard(phone: Phone) -> NDArray[np.bool_]:
    """For each 20 ms since the call's start: whether the tone was at the caller's ear."""
    phone.player.advance(max(phone.duration_s, phone.spoken_s))
    length = phone.line.rate_hz * PACKET_MS // 1000
    heard = phone.player.heard
    packets = heard[: len(heard) // length * length].reshape(-1, length) / 32768
    power = np.mean(packets**2, axis=1)
    at_tone = (
        2 * np.abs(packets @ np.exp(-2j * np.pi * TONE_HZ / phone.line.rate_hz * np.arange(length))) ** 2
    )
    found: NDArray[np.bool_] = (power > 1e-4) & (at_tone / length**2 > 0.5 * power)
    return found


def longest_gap_s(phone: Phone) -> float:
    """The longest stretch between two of the agent's sounds."""
    at = np.flatnonzero(agent_heard(phone))
    return float(np.diff(at).max() - 1) * PACKET_MS / 1000 if len(at) > 1 else float("inf")


def heard_s(phone: Phone) -> float:
    """How much of the agent was heard."""
    return float(agent_heard(phone).sum()) * PACKET_MS / 1000


def delays_s(phone: Phone, from_s: float, until_s: float) -> list[float | None]:
    """From mouth to ear, for each window said in that time; None where it was not found."""
    phone.player.advance(max(phone.duration_s, phone.spoken_s))
    rate_hz = phone.line.rate_hz
    said, heard = phone.said.astype(float), phone.player.heard.astype(float)
    length, most = round(WINDOW_S * rate_hz), round(LONGEST_DELAY_S * rate_hz)
    delays: list[float | None] = []
    for at in range(round(from_s * rate_hz), round(until_s * rate_hz) - length, length):
        window, around = said[at : at + length], heard[at : at + length + most]
        if len(around) < length + most or np.abs(window).max() < 500:
            continue
        score = np.correlate(around, window, "valid")
        energy = np.convolve(around**2, np.ones(length), "valid")
        best = int(score.argmax())
        alike = score[best] / np.sqrt(max(energy[best], 1.0) * np.sum(window**2))
        delays.append(best / rate_hz if alike > ALIKE else None)
    return delays


@dataclass
class Scene:
    """What a scenario can do and look at."""

    bridge: BridgeProcess
    console: str
    engine: EngineProcess | None
    """The one that goes wrong."""
    descriptors: int = 0
    callers: list[Phone] = field(default_factory=list)

    async def call(self, line: Line | None = None, said: NDArray[np.int16] | None = None) -> Phone:
        """A call that is live; it says the tone until it hangs up."""
        line = line or Line()
        said = tone(line.rate_hz) if said is None else said
        phone = await self.bridge.call(Script(said, speak_at_s=0.0, hang_up_at_s=600.0), line)
        self.callers.append(phone)
        return phone

    async def hears(self, phone: Phone, seconds: float = 0.5) -> None:
        """Waits until the agent has been heard for so long, from now on."""
        wanted_s, deadline_s = heard_s(phone) + seconds, time.monotonic() + 40.0
        while heard_s(phone) < wanted_s:
            assert time.monotonic() < deadline_s, "the caller does not hear the agent"
            await asyncio.sleep(0.25)  # looking at all that was heard takes time that the phones need

    async def slots(self) -> Counter[str]:
        """How many slots are in which state."""
        _, text = await asyncio.to_thread(fetch, f"{self.console}/metrics")
        slots: Counter[str] = Counter()
        for state, count in re.findall(r'^pxbridge_engine_slots\{.*state="(\w+)"\} (\S+)$', text, re.M):
            slots[state] += int(float(count))
        return slots

    async def until_slots(self, what: str, **wanted: int) -> None:
        """Waits until so many slots are in these states."""
        deadline_s = time.monotonic() + 20.0
        while (slots := await self.slots()) and any(slots[state] != n for state, n in wanted.items()):
            assert time.monotonic() < deadline_s, f"{what}: {slots}"
            await asyncio.sleep(0.05)

    def open_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.bridge.process.pid}/fd").iterdir()))

    async def leaves_nothing(self) -> None:
        """All hang up, and the bridge is as it was before the first call."""
        for phone in self.callers:
            phone.caller.leave()
        await asyncio.gather(*self.bridge.phones, return_exceptions=True)
        await until(lambda: self.open_descriptors() <= self.descriptors, "descriptors are closed")
        await self.until_slots("slots are free", live=0, cooling=0, connecting=0, prompting=0)
        assert self.bridge.ready()[0] == 200, self.bridge.ready()
        assert "Traceback" not in self.bridge.log


@dataclass
class Neighbour:
    """A call on the same bridge that nothing is to happen to."""

    phone: Phone
    harm_from_s: float = 0.0

    def harm_begins(self) -> None:
        self.harm_from_s = self.phone.spoken_s

    async def noticed_nothing(self) -> str:
        """Its delay and its holes since the harm began, which are as before; in words."""
        phone = self.phone
        harm_until_s = phone.spoken_s
        # What was said last is heard a little later, and what is looked at is looked for with air behind it.
        await until(
            lambda: phone.spoken_s > harm_until_s + LONGEST_DELAY_S + WINDOW_S, "the neighbour goes on"
        )
        assert phone.close_code is None and not phone.faults, phone.faults
        before = [d for d in delays_s(phone, 0.5, self.harm_from_s) if d is not None]
        since = delays_s(phone, self.harm_from_s - WINDOW_S, harm_until_s + WINDOW_S)
        found = [d for d in since if d is not None]
        holes_s = sum(h.duration_s for h in phone.player.holes if h.at_s >= self.harm_from_s)
        span_s = phone.spoken_s - self.harm_from_s
        told = (
            f"neighbour: delay {np.median(before):.3f} s before, {np.median(found):.3f} s "
            f"({min(found):.3f}..{max(found):.3f}) in {len(found)} of {len(since)} windows since; "
            f"holes {holes_s:.2f} s in {span_s:.1f} s"
        )
        assert len(found) >= FOUND_SHARE * len(since), told
        assert float(np.median(found)) < float(np.median(before)) + DELAY_CHANGE_S, told
        assert holes_s < HOLES_SHARE * span_s, told
        return told


@contextlib.asynccontextmanager
async def scene(
    fault: str | None = None,
    *,
    options: Sequence[str] = (),
    prompt_s: float = 0.0,
    slots: int = 1,
    good_engines: int = 2,
    **settings: Any,
) -> AsyncIterator[tuple[Scene, Neighbour]]:
    """A bridge with a neighbour on it.

    Args:
        fault: What is wrong with the engine that the next call gets; None for an engine that works until
            it is hurt.
        options: More words for that engine's command line; ``--tls-cert`` makes its URL a ``wss``.
        prompt_s: The time of prompts of all engines.
        slots: Conversations that each engine takes.
        good_engines: 2: the neighbour's and one to fall back on, with a bad one between them; 1: none but
            the neighbour's.
        settings: Of the bridge.
    """
    async with contextlib.AsyncExitStack() as stack:
        good = engine_program(slots=2 * slots, prompt_s=prompt_s)
        faults = ("--fault", fault) if fault else ()
        bad = engine_program(slots=slots, prompt_s=prompt_s, options=(*faults, *options))
        wanted = (good, bad) if good_engines > 1 else (good,)
        engines = await asyncio.gather(*(stack.enter_async_context(each) for each in wanted))
        urls = [engine.url for engine in engines]
        if good_engines > 1:
            # In the order in which calls get them. Two names of one process: two engines to the bridge.
            urls.append(urls[0].replace("127.0.0.1", "localhost"))
        console = free_port()
        own: dict[str, Any] = {"warm_sessions": "0", "engine_capacity": str(slots), "engines": " ".join(urls)}
        bridge = await stack.enter_async_context(
            bridge_process(**{**own, "console_port": str(console), **settings})
        )
        stage = Scene(bridge, f"http://127.0.0.1:{console}", engines[1] if good_engines > 1 else None)
        warm = int(settings.get("warm_sessions", "0"))
        await stage.until_slots("sessions are prompted ahead", warm=warm, connecting=0, prompting=0)
        stage.descriptors = stage.open_descriptors()
        neighbour = Neighbour(await stage.call(said=speech()))
        await until(lambda: neighbour.phone.spoken_s > CALM_S, "the neighbour talks")
        await stage.until_slots("sessions are prompted ahead", warm=warm, connecting=0, prompting=0)
        yield stage, neighbour
