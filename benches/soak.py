"""Many calls for minutes while their engines are killed at random: what callers lose, and what leaks.

    python benches/soak.py                                   50 calls, 10 minutes, 14 engines of 5 slots
    python benches/soak.py --minutes 1 --calls 10 --engines 4 --json soak.json
    python benches/soak.py --short                           8 calls for 40 s, for CI; goes first if it may

Two bridges that share a store, and the engines, are processes of their own, as in production; the callers
live here. Each caller calls, talks for a while, ends the call in one of the ways in which phones do, and
calls again. Every caller sends a tone all the time and the engines echo it: any other sound is not the agent.
So the cost of a failure is measured at the caller's ear, without asking the bridge, and the bridge's own
sounds count as lost.

In the second half, one phone floods, one holds for 5 s again and again, and the store is killed twice and
comes back with an older memory (`soak_troubles.py`). The other callers must not hear a difference.
`soak_verdict.py` has what is promised.

Exit status 1: a promise was broken. 3: none was, but the machine was too busy to judge what callers hear. On
a machine that does other work, run it with `chrt -r 1`, which lets it go first: a caller that gets no
processor hears gaps too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridges import Lateness, go_first
from gate import EXIT_NOT_JUDGED
from pxbridge.commands import terminal
from pxbridge.commands.processes import free_port, server
from pxbridge.commands.terminal import say
from pxbridge.wording import counted
from soak_callers import SHORT, Caller, Pace, place
from soak_processes import Bridge, Bridges, Engine
from soak_report import report
from soak_troubles import LEASE_TTL_S, Troubles, store_process
from soak_verdict import BRIDGES, Kill, Soak

if TYPE_CHECKING:
    from rich.console import Console

DOWN_S = (2.0, 6.0)
SAMPLE_EVERY_S = 5.0
SETTLE_S = 5.0
"""After the last call, for probes, closing handshakes and sessions that are being prompted ahead to end."""
JOIN_EVERY_S = 0.2
SHORT_MINUTES = 40 / 60
SHORT_RUN = {"minutes": SHORT_MINUTES, "calls": 8, "engines": 5, "slots": 4, "warm": 2}


async def soak(args: argparse.Namespace, console: Console) -> Soak:
    result = Soak(args.minutes, args.calls, args.short)
    pace, chance, lateness = SHORT if args.short else Pace(), random.Random(args.seed), Lateness()
    engines = [Engine(args.slots, args.prompt_s) for _ in range(args.engines)]
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(lateness)
        for engine in engines:
            stack.push_async_callback(engine.stop)
            await engine.start()
        store = await stack.enter_async_context(store_process())
        result.with_store = store is not None
        if store is None:
            say(console, "no Redis or Valkey server is installed: one bridge, and no store that comes back")
        words = _settings(args, engines)
        if store is not None:
            words += ["--lease-store", store.url, "--lease-ttl-s", str(LEASE_TTL_S)]
        ports, bridges = [], []
        for _ in range(1 if store is None else BRIDGES):
            port, console_port = free_port(), free_port()
            state = stack.enter_context(tempfile.TemporaryDirectory())
            own = ["--port", str(port), "--console-port", str(console_port), "--state-dir", state]
            pid = await stack.enter_async_context(server(port, "-m", "pxbridge", *own, *words))
            ports.append(port)
            bridges.append(Bridge(pid, console_port))
        bridge = Bridges(bridges)
        await asyncio.sleep(SETTLE_S)
        result.idle = bridge.sample(0.0, 0)
        cpu_s, began_s = bridge.cpu_s(), time.monotonic()
        until_s = began_s + args.minutes * 60
        urls = [f"ws://127.0.0.1:{port}/exotel" for port in ports]
        result.troubles = troubles = Troubles((began_s + until_s) / 2, until_s)
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(_sample(bridge, result, began_s, console))
            killing = group.create_task(_kill(engines, bridge, result, pace, chance, until_s))
            group.create_task(troubles.flood(ports[0]))
            group.create_task(_hold(urls[0], result, pace))
            if store is not None:
                group.create_task(troubles.restart_store(store))
            callers = [
                group.create_task(
                    _join(
                        Caller(urls[number % len(urls)], random.Random(chance.random()), pace, result),
                        number * JOIN_EVERY_S,
                        until_s,
                    )
                )
                for number in range(args.calls)
            ]
            await asyncio.wait(callers)
            sampling.cancel()
            await asyncio.wait([killing])
        result.cpu_of_a_core = (bridge.cpu_s() - cpu_s) / (time.monotonic() - began_s)
        await asyncio.sleep(SETTLE_S)
        result.after = bridge.sample(time.monotonic() - began_s, result.live)
        result.counted, result.lag = await bridge.outcomes(), await bridge.lag()
        result.floods_closed = await bridge.floods_closed()
        result.slowest_answer_s = bridge.slowest_answer_s
        result.slots_after = dict(sum((await bridge.slots()).values(), Counter()))
    for kill in result.kills:
        kill.lost_s.sort()
    result.late_ms = lateness.late_ms
    result.assign()
    return result


def _settings(args: argparse.Namespace, engines: list[Engine]) -> list[str]:
    """The arguments of each bridge."""
    return [
        *("--engines", ",".join(engine.url for engine in engines)),
        *("--engine-capacity", str(args.slots), "--warm-sessions", str(args.warm)),
        *("--max-calls", str(2 * args.calls), "--shed-above-lag-ms", "0"),
        *("--allow-anonymous", "--handshakes-per-minute", "1000000", "--log-format", "json"),
    ]


async def _hold(url: str, result: Soak, pace: Pace) -> None:
    """The phone that holds."""
    assert result.troubles is not None
    await asyncio.sleep(result.troubles.from_s - time.monotonic())
    result.holder = await place(url, result.troubles.until_s, "stop", pace.hold_every_s)


async def _join(caller: Caller, after_s: float, until_s: float) -> None:
    await asyncio.sleep(after_s)
    await caller.call_until(until_s)


async def _sample(bridge: Bridges, result: Soak, began_s: float, console: Console) -> None:
    while True:
        await asyncio.sleep(SAMPLE_EVERY_S)
        sample = bridge.sample(time.monotonic() - began_s, result.live)
        result.samples.append(sample)
        if len(result.samples) % 12 == 0:
            console.print(
                f"{sample.at_s / 60:4.1f} min: {counted(len(result.outcomes), 'call')} over, "
                f"{counted(len(result.kills), 'engine')} killed, "
                f"{sample.memory_bytes / 1e6:.1f} MB, {sample.descriptors} descriptors"
            )


async def _kill(
    engines: list[Engine],
    bridge: Bridges,
    result: Soak,
    pace: Pace,
    chance: random.Random,
    until_s: float,
) -> None:
    """Kills engines, and starts each again a little later, until shortly before the end."""
    async with asyncio.TaskGroup() as coming_back:
        while True:
            await asyncio.sleep(chance.uniform(*pace.kill_every_s))
            if time.monotonic() > until_s - 2 * DOWN_S[1]:
                return
            if result.troubles is not None and not result.troubles.may_kill_engines(time.monotonic()):
                continue
            engine = chance.choice([engine for engine in engines if engine.runs])
            slots = await bridge.slots()
            own = next(states for name, states in slots.items() if f":{engine.port}" in name)
            others = sum((states for states in slots.values() if states is not own), Counter[str]())
            result.kills.append(Kill(time.monotonic(), own["live"], others["warm"], others["idle"]))
            engine.kill()
            coming_back.create_task(_come_back(engine, chance.uniform(*DOWN_S)))


async def _come_back(engine: Engine, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await engine.start()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=50, help="at a time (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="(%(default)s)")
    parser.add_argument("--engines", type=int, default=14, help="processes (%(default)s)")
    parser.add_argument("--slots", type=int, default=5, help="of each (%(default)s)")
    parser.add_argument("--warm", type=int, default=5, help="sessions prompted ahead (%(default)s)")
    parser.add_argument("--prompt-s", type=float, default=0.6, help="an engine's prompts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is random (%(default)s)")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--short", action="store_true", help="8 calls for 40 s; judges counts and ratios")
    args = parser.parse_args()
    if args.short:
        vars(args).update(SHORT_RUN)
        go_first()
    console = terminal.console()
    result = asyncio.run(soak(args, console))
    report(result, console)
    broken = result.broken_promises()
    if args.json:
        told: dict[str, Any] = {**asdict(result), "broken": broken}
        args.json.write_text(json.dumps(told, indent=1))
    if broken:
        return 1
    return EXIT_NOT_JUDGED if result.too_busy else 0


if __name__ == "__main__":
    sys.exit(main())
