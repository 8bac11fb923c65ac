"""A scenario's cast: a bridge, its engines, a caller whom something happens to, and a neighbour who is not to
notice.

Both callers are told from what reaches their ears alone. The one who is hit says a tone without end, the
engines echo, and whatever is heard that is not the tone is not the agent. The neighbour speaks, and each half
second of it is looked for in what came back: that gives the delay as it was at that moment.

How much a neighbour may notice is no number of this machine's: a third caller says the same at the same time
to a bridge of its own (`tests.fault.control`), and the neighbour may fare little worse than that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
import wave
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.fault.control import control_url
from tests.fault.processes import LIMIT_S, bridge_process, engine_program, fetch, until

from pxbridge.commands.processes import free_port
from pxbridge.simulation.phone import Line, Phone, Script, place_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from numpy.typing import NDArray
    from tests.fault.processes import BridgeProcess, EngineProcess, Program

SPEECH = Path(__file__).parents[1] / "vectors/speech_8k.wav"

TONE_HZ = 1_150
"""Whole periods in 20 ms, and no note of the bridge's own sounds."""
PACKET_MS = 20
LOUD = 2e-3
"""The tone has 15 times this power. Comfort noise may sound like it, and has an eighth of this at most."""

WINDOW_S = 0.5
LONGEST_DELAY_S = 1.5
ALIKE = 0.5
"""A window that went through two codecs correlates with itself by 0.8 and more, with others below 0.4."""

CALM_S = 2.5
"""What is needed to know how it was before."""

WATCHED_S = 3.0
"""So long at least a neighbour is watched from the beginning of the harm: half a dozen windows."""

WORSE = 2.0
"""How many times as much as the control a neighbour may suffer: one busy machine stalls two processes at
different moments."""
DELAY_S = 0.1
"""What may be added to that, in delay: five packets, half of what a listener begins to notice."""
HOLES_S = 0.1
"""The same in holes, all together."""
WAITED = 0.2
"""The same in holes, and a quarter of it in delay, for each second that the neighbour's own processes were
ready to run and the machine ran others: next to nothing on a machine that is not busy."""
SLACK_S = 0.3
"""The same in a gap for which processes have to be connected and asked."""
WINDOWS = 1
"""The same in windows that are not found again: one hole spoils the window in which it falls."""


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
    found: NDArray[np.bool_] = (power > LOUD) & (at_tone / length**2 > 0.5 * power)
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
        score = _correlate(around, window)
        energy = np.concatenate(([0.0], np.cumsum(around**2)))
        energy = energy[length:] - energy[:-length]
        best = int(score.argmax())
        alike = score[best] / np.sqrt(max(energy[best], 1.0) * np.sum(window**2))
        delays.append(best / rate_hz if alike > ALIKE else None)
    return delays


def _correlate(around: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """`np.correlate(around, window, "valid")` in a hundredth of the time, which the phones need."""
    size = 1 << (len(around) + len(window)).bit_length()
    product = np.fft.irfft(np.fft.rfft(around, size) * np.conj(np.fft.rfft(window, size)), size)
    return product[: len(around) - len(window) + 1]


@dataclass
class Scene:
    """What a scenario can do and look at."""

    bridge: BridgeProcess
    console: str
    engine: EngineProcess | None
    """The one that goes wrong."""
    state: Path
    """The bridge's folder; `tmp` in it is where it would put temporary files."""
    descriptors: int = 0
    tasks: int = 0
    engines: dict[EngineProcess, int] = field(default_factory=dict)
    """All that run, with how many descriptors each had before the first call."""
    callers: list[Phone] = field(default_factory=list)

    async def call(
        self, line: Line | None = None, said: NDArray[np.int16] | None = None, *, port: int = 0
    ) -> Phone:
        """A call that is live; it says the tone until it hangs up. It goes by `port` if there is one."""
        line = line or Line()
        said = tone(line.rate_hz) if said is None else said
        phone = await self.bridge.call(Script(said, speak_at_s=0.0, hang_up_at_s=600.0), line, port=port)
        self.callers.append(phone)
        return phone

    async def hears(self, phone: Phone, seconds: float = 0.5) -> None:
        """Waits until the agent has been heard for so long, from now on."""
        wanted_s, deadline_s = heard_s(phone) + seconds, time.monotonic() + 40.0
        while heard_s(phone) < wanted_s:
            assert time.monotonic() < deadline_s, "the caller does not hear the agent"
            await asyncio.sleep(0.25)  # looking at all that was heard takes time that the phones need

    async def metrics(self) -> str:
        """What Prometheus would scrape."""
        _, text = await asyncio.to_thread(fetch, f"{self.console}/metrics")
        return text

    async def slots(self) -> Counter[str]:
        """How many slots are in which state."""
        text = await self.metrics()
        slots: Counter[str] = Counter()
        for state, count in re.findall(r'^pxbridge_engine_slots\{.*state="(\w+)"\} (\S+)$', text, re.M):
            slots[state] += int(float(count))
        return slots

    async def until_slots(self, what: str, **wanted: int) -> None:
        """Waits until so many slots are in these states."""
        deadline_s = time.monotonic() + LIMIT_S
        while (slots := await self.slots()) and any(slots[state] != n for state, n in wanted.items()):
            assert time.monotonic() < deadline_s, f"{what}: {slots}"
            await asyncio.sleep(0.05)

    async def open_tasks(self) -> int:
        """Tasks of the bridge's event loop."""
        found = re.search(r"^pxbridge_event_loop_tasks (\S+)$", await self.metrics(), re.M)
        assert found is not None
        return int(float(found[1]))

    async def notes_what_there_is(self) -> None:
        """That is what `leaves_nothing` compares with."""
        self.descriptors = open_descriptors(self.bridge)
        self.tasks = await self.open_tasks()
        self.engines = {engine: open_descriptors(engine) for engine in self.engines}

    async def leaves_nothing(self, *, lost_engine: bool = False) -> None:
        """All hang up, and the bridge is as it was before the first call: descriptors, tasks, slots, files.

        Args:
            lost_engine: Whether the engine that was hurt is not there any more.
        """
        for phone in self.callers:
            phone.caller.leave()
        await asyncio.gather(*self.bridge.phones, return_exceptions=True)
        await self.until_slots("slots are free", live=0, cooling=0, connecting=0, prompting=0)
        await _closed(self.bridge, self.descriptors)
        deadline_s = time.monotonic() + LIMIT_S
        while (tasks := await self.open_tasks()) > self.tasks:
            assert time.monotonic() < deadline_s, f"{tasks} tasks, and there were {self.tasks}"
            await asyncio.sleep(0.05)
        for engine, descriptors in self.engines.items():
            if engine is not self.engine or not lost_engine:
                await _closed(engine, descriptors)
        self.left_on_disk()
        assert self.bridge.ready()[0] == 200, self.bridge.ready()
        assert "Traceback" not in self.bridge.log

    def left_on_disk(self) -> None:
        """No file but the records and recordings."""
        assert not list((self.state / "tmp").iterdir()), "temporary files"
        names = {file.name.partition("-")[0] for file in self.state.iterdir()}
        assert names <= {"calls.db", "handovers.db", "recordings", "tmp", "pxbridge.toml"}, names

    async def engines_are_left(self) -> None:
        """No engine has a connection any more."""
        for engine, descriptors in self.engines.items():
            await _closed(engine, descriptors)


async def _closed(program: Program, descriptors: int) -> None:
    try:
        await until(lambda: open_descriptors(program) <= descriptors, "connections are closed")
    except AssertionError as error:
        raise AssertionError(f"{error}: there were {descriptors}, and are {_open_now(program)}") from None


def _open_now(program: Program) -> list[str]:
    """What a process has open, but for its databases, which are opened when they are first needed."""
    links = []
    for each in Path(f"/proc/{program.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(each.readlink()))
    return sorted(link for link in links if ".db" not in link)


def open_descriptors(program: Program) -> int:
    return len(_open_now(program))


@dataclass(frozen=True)
class Fared:
    """How a call fared since the harm began.

    Attributes:
        delay_s: Its median, from mouth to ear.
        more_s: By how much it has grown.
        missed: Windows of speech that were not found again, of so many.
        windows: See `missed`.
        holes_s: The length of all holes.
    """

    delay_s: float
    more_s: float
    missed: int
    windows: int
    holes_s: float

    def __str__(self) -> str:
        return (
            f"delay {self.delay_s:.3f} s ({self.more_s:+.3f}), "
            f"{self.missed} of {self.windows} windows missed, holes {self.holes_s:.2f} s"
        )


@dataclass
class Neighbour:
    """A call on the same bridge that nothing is to happen to, and one that nothing can happen to."""

    phone: Phone
    control: Phone
    programs: tuple[int, ...] = ()
    """Processes that the neighbour's sound goes through."""
    harm_from_s: float = 0.0
    control_from_s: float = 0.0
    waited_before_s: float = 0.0

    def harm_begins(self) -> None:
        self.harm_from_s, self.control_from_s = self.phone.spoken_s, self.control.spoken_s
        self.waited_before_s = sum(map(_waited_s, self.programs))

    @property
    def waited_s(self) -> float:
        """How long those processes have been ready to run since, and the machine ran others."""
        return sum(map(_waited_s, self.programs)) - self.waited_before_s

    def slack_s(self) -> float:
        """What a machine that does other things may add to a gap, by what it did to the control."""
        control = _fared(self.control, self.control_from_s, self.control.spoken_s - self.control_from_s)
        return SLACK_S + WORSE * (control.holes_s + max(0.0, control.more_s)) + WAITED * self.waited_s

    async def noticed_nothing(self) -> str:
        """Its delay and its holes since the harm began are hardly worse than the control's; in words."""
        phone = self.phone
        await until(lambda: phone.spoken_s > self.harm_from_s + WATCHED_S, "the neighbour goes on")
        harm_until_s = phone.spoken_s
        # What was said last is heard a little later, and what is looked at is looked for with air behind it.
        await until(
            lambda: phone.spoken_s > harm_until_s + LONGEST_DELAY_S + 2 * WINDOW_S, "the neighbour goes on"
        )
        assert phone.close_code is None and not phone.faults, phone.faults
        span_s = harm_until_s - self.harm_from_s
        its = _fared(phone, self.harm_from_s, span_s)
        control = _fared(self.control, self.control_from_s, span_s)
        waited_s = self.waited_s
        told = f"{span_s:.1f} s: neighbour {its}; control {control}; waited {waited_s:.2f} s"
        assert its.more_s <= WORSE * max(0.0, control.more_s) + DELAY_S + WAITED / 4 * waited_s, told
        assert its.missed <= WORSE * control.missed + WINDOWS, told
        assert its.holes_s <= WORSE * control.holes_s + HOLES_S + WAITED * waited_s, told
        return told


def _waited_s(process: int) -> float:
    """Seconds that a process has waited for a processor (Documentation/scheduler/sched-stats.rst)."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0  # it has ended, or the kernel does not count


def _fared(phone: Phone, from_s: float, span_s: float) -> Fared:
    before = [d for d in delays_s(phone, 0.5, from_s) if d is not None]
    since = delays_s(phone, from_s - WINDOW_S, from_s + span_s + WINDOW_S)
    found = [d for d in since if d is not None]
    assert before and found, "nothing of what was said came back"
    holes_s = sum(h.duration_s for h in phone.player.holes if from_s <= h.at_s < from_s + span_s)
    delay_s = float(np.median(found))
    return Fared(delay_s, delay_s - float(np.median(before)), len(since) - len(found), len(since), holes_s)


@contextlib.asynccontextmanager
async def scene(
    fault: str | None = None,
    *,
    options: Sequence[str] = (),
    prompt_s: float = 0.0,
    slots: int = 1,
    good_engines: int = 2,
    reached_by: Callable[[EngineProcess], AbstractAsyncContextManager[str]] | None = None,
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
        reached_by: What lies between the bridge and the one that goes wrong; its URL for the bridge.
        settings: Of the bridge.
    """
    url = control_url()
    async with contextlib.AsyncExitStack() as stack:
        good = engine_program(slots=2 * slots, prompt_s=prompt_s)
        faults = ("--fault", fault) if fault else ()
        bad = engine_program(slots=slots, prompt_s=prompt_s, options=(*faults, *options))
        wanted = (good, bad) if good_engines > 1 else (good,)
        engines = await asyncio.gather(*(stack.enter_async_context(each) for each in wanted))
        urls = [engine.url for engine in engines]
        if reached_by is not None:
            urls[1] = await stack.enter_async_context(reached_by(engines[1]))
        if good_engines > 1:
            # In the order in which calls get them. Two names of one process: two engines to the bridge.
            urls.append(urls[0].replace("127.0.0.1", "localhost"))
        console = free_port()
        own: dict[str, Any] = {"warm_sessions": "0", "engine_capacity": str(slots), "engines": " ".join(urls)}
        bridge = await stack.enter_async_context(
            bridge_process(**{**own, "console_port": str(console), **settings})
        )
        stage = Scene(
            bridge, f"http://127.0.0.1:{console}", engines[1] if good_engines > 1 else None, bridge.state
        )
        stage.engines = dict.fromkeys(engines, 0)
        warm = int(settings.get("warm_sessions", "0"))
        await stage.until_slots("sessions are prompted ahead", warm=warm, connecting=0, prompting=0)
        await stage.notes_what_there_is()
        control = Phone(Script(speech(), speak_at_s=0.0, hang_up_at_s=600.0))
        placed = asyncio.create_task(place_call(url, control))
        stack.push_async_callback(_hang_up, placed)
        programs = (bridge.process.pid, engines[0].process.pid, os.getpid())
        neighbour = Neighbour(await stage.call(said=speech()), control, programs)
        await until(lambda: neighbour.phone.spoken_s > CALM_S, "the neighbour talks")
        await stage.until_slots("sessions are prompted ahead", warm=warm, connecting=0, prompting=0)
        yield stage, neighbour


async def _hang_up(call: asyncio.Task[None]) -> None:
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
