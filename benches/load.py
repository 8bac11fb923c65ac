"""Many calls at once through a bridge: what they cost and how late they are; ours beside a plain Python one.

    python benches/load.py                        20 calls of 30 s, both bridges
    python benches/load.py --calls 20 50 100 --only ours
    python benches/load.py --chunk-ms 20 --json load.json

Three processes: an engine (the rehearsal engine, echoing or canned), the bridge, and this one, which is all
the phones. CPU and memory are the bridge's alone. A phone speaks all the time, with a loud tone every few
seconds; the engine echoes, and the tone's way back tells the delay from mouth to ear, through a player that
plays as Exotel's does: a packet is heard when it has arrived and the one before it is over.

Delay is from mouth to ear; holes are counted after the first seconds, per minute of a call. Wall-clock
figures of a shared machine vary by 1.7 times: compare the rows of one run with each other.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import wave
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
BRIDGES = ("ours", "plain")

RATE_HZ = 8_000
PACKET_BYTES = 320
PACKET_S = PACKET_BYTES / 2 / RATE_HZ

# Delays up to the tones' period are told apart. The plain bridge keeps the time of the engine's prompts as
# delay for good, so the period must be longer than those.
TONE_EVERY_S = 4.0
TONE_S = 0.06
TONE_HZ = 1_000
TONE_LEVEL = 0.9
# Speech is scaled below this and the tone is above it, before and after a codec.
SPEECH_LEVEL = 0.3
THRESHOLD = int(0.6 * 32768)

# A conversation's first seconds are connecting, prompts and a queue that finds its depth.
SETTLE_S = 5.0
STARTS_SPREAD_S = 2.0
# A hole shorter than this is the arithmetic of arrival times, and no ear would notice.
HOLE_S = 0.002
BOOT_TIMEOUT_S = 20.0


def spoken(period_s: float = TONE_EVERY_S) -> NDArray[np.int16]:
    """One period of what a caller says: speech and one tone, at its end."""
    with wave.open(str(ROOT / "tests" / "vectors" / "speech_8k.wav")) as file:
        speech = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(float)
    said = np.resize(speech, round(period_s * RATE_HZ)) * (SPEECH_LEVEL * 32767 / np.abs(speech).max())
    length = round(TONE_S * RATE_HZ)
    envelope = np.sin(np.pi * np.arange(length) / length)
    said[-length:] = TONE_LEVEL * 32767 * envelope * np.sin(2 * np.pi * TONE_HZ / RATE_HZ * np.arange(length))
    pcm: NDArray[np.int16] = said.astype(np.int16)
    return pcm


def onset(pcm: NDArray[np.int16]) -> int | None:
    """The first sample of a tone in `pcm`."""
    loud = pcm > THRESHOLD
    first = int(loud.argmax())
    return first if loud[first] else None


@dataclass
class Phone:
    """One call: sends at real time, and plays what comes as Exotel does."""

    url: str
    messages: Sequence[str]
    chunk_s: float
    tone_at_s: float
    starts_at_s: float
    measures_from_s: float
    ends_at_s: float
    delays_s: list[float] = field(default_factory=list)
    holes_s: list[float] = field(default_factory=list)
    heard_s: float = 0.0
    broken: str | None = None
    _queue_ends_s: float | None = None
    _last_tone_s: float = -1e9
    _began_s: float = 0.0

    async def call(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.starts_at_s - loop.time())
        try:
            async with connect(self.url, compression=None, max_size=None, ping_interval=None) as ws:
                sid = f"load-{os.getpid()}-{id(self)}"
                start = {"stream_sid": sid, "call_sid": sid, "account_sid": "load", "from": "1", "to": "2"}
                start["media_format"] = {"encoding": "raw/slin", "sample_rate": str(RATE_HZ)}  # type: ignore[assignment]
                await ws.send('{"event":"connected"}')
                await ws.send(json.dumps({"event": "start", "stream_sid": sid, "start": start}))
                self._began_s = loop.time()
                hearing = asyncio.create_task(self._hear(ws))
                number = 0
                while loop.time() < self.ends_at_s:
                    number += 1
                    await asyncio.sleep(self._began_s + number * self.chunk_s - loop.time())
                    await ws.send(self.messages[(number - 1) % len(self.messages)])
                await ws.send(
                    json.dumps({"event": "stop", "stream_sid": sid, "stop": {"reason": "callended"}})
                )
                hearing.cancel()
        except (ConnectionClosed, OSError, TimeoutError) as error:
            self.broken = repr(error)

    async def _hear(self, ws: object) -> None:
        loop = asyncio.get_running_loop()
        async for message in ws:  # type: ignore[attr-defined]
            now_s = loop.time()
            event = json.loads(message)
            if event["event"] == "media":
                self._play(np.frombuffer(base64.b64decode(event["media"]["payload"]), np.int16), now_s)
            elif event["event"] == "mark":
                loop.call_at(self._queue_ends_s or now_s, self._echo_mark, ws, message)

    def _echo_mark(self, ws: object, message: str) -> None:
        task = asyncio.ensure_future(ws.send(message))  # type: ignore[attr-defined]
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _play(self, pcm: NDArray[np.int16], now_s: float) -> None:
        queue_ends_s = now_s if self._queue_ends_s is None else self._queue_ends_s
        plays_at_s = max(now_s, queue_ends_s)
        measured = now_s >= self.measures_from_s
        if measured and plays_at_s - queue_ends_s > HOLE_S:
            self.holes_s.append(plays_at_s - queue_ends_s)
        # A tail that fills no packet is played as one: the rest of it is silence.
        packets = -(-len(pcm) * 2 // PACKET_BYTES)
        self._queue_ends_s = plays_at_s + packets * PACKET_S
        self.heard_s += len(pcm) / RATE_HZ
        first = onset(pcm)
        if first is None:
            return
        heard_at_s = plays_at_s + first / RATE_HZ
        if measured and heard_at_s - self._last_tone_s > TONE_EVERY_S / 4:
            since = heard_at_s - self._began_s - self.tone_at_s
            self.delays_s.append(since % TONE_EVERY_S)
        self._last_tone_s = heard_at_s


@dataclass
class Row:
    """What one bridge did under one number of calls."""

    bridge: str
    calls: int
    chunk_ms: float
    cpu_ms_per_call_s: float
    cpu_of_a_core: float
    memory_kib_per_call: float
    delay_p50_ms: float
    delay_p95_ms: float
    delay_p99_ms: float
    tones: int
    holes_per_call_minute: float
    hole_ms_per_call_minute: float
    broken_calls: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(port: int, *command: str, quiet: bool = False) -> Iterator[psutil.Process]:
    """A server, from when its port answers until the block ends."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PXBRIDGE_")}
    started = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
        cwd=ROOT,
        env=environ,
    )
    try:
        give_up_at_s = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            if started.poll() is not None or time.monotonic() > give_up_at_s:
                raise SystemExit(f"did not start: {' '.join(command)}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def command(bridge: str, port: int, engine: str, calls: int) -> list[str]:
    if bridge == "plain":
        return ["benches/plain_bridge.py", "--port", str(port), "--engine", engine]
    limits = ["--max-calls", str(calls), "--engine-capacity", str(calls)]
    return [
        "-m",
        "pxbridge",
        "--port",
        str(port),
        "--engines",
        engine,
        "--allow-anonymous",
        "--log-level",
        "error",
        *limits,
    ]


def cpu_s(bridge: psutil.Process) -> float:
    times = bridge.cpu_times()
    return float(times.user + times.system)


async def load(
    bridge: psutil.Process, name: str, url: str, calls: int, chunk_ms: float, seconds: float
) -> Row:
    said = spoken()
    chunk = round(RATE_HZ * chunk_ms / 1000)
    whole = np.resize(said, np.lcm(len(said), chunk))
    messages = []
    for start in range(0, len(whole), chunk):
        payload = base64.b64encode(whole[start : start + chunk].tobytes()).decode()
        media = {"chunk": "1", "timestamp": "1", "payload": payload}
        messages.append(json.dumps({"event": "media", "stream_sid": "load", "media": media}))
    tone = onset(said)
    assert tone is not None
    idle_bytes = bridge.memory_full_info().uss
    now_s = asyncio.get_running_loop().time()
    measures_from_s = now_s + STARTS_SPREAD_S + SETTLE_S
    phones = [
        Phone(
            url,
            messages,
            chunk_ms / 1000,
            tone / RATE_HZ,
            starts_at_s=now_s + STARTS_SPREAD_S * number / calls,
            measures_from_s=measures_from_s,
            ends_at_s=measures_from_s + seconds,
        )
        for number in range(calls)
    ]
    running = asyncio.gather(*(phone.call() for phone in phones))
    loop = asyncio.get_running_loop()
    await asyncio.sleep(measures_from_s - loop.time())
    before_s, began_s = cpu_s(bridge), time.monotonic()
    await asyncio.sleep(measures_from_s + seconds - 0.5 - loop.time())
    used_s, lasted_s = cpu_s(bridge) - before_s, time.monotonic() - began_s
    live_bytes = bridge.memory_full_info().uss
    await running
    delays_ms = 1000 * np.array([delay for phone in phones for delay in phone.delays_s] or [float("nan")])
    holes_ms = 1000 * np.array([hole for phone in phones for hole in phone.holes_s])
    minutes = calls * seconds / 60
    p50, p95, p99 = (float(value) for value in np.percentile(delays_ms, (50, 95, 99)))
    return Row(
        bridge=name,
        calls=calls,
        chunk_ms=chunk_ms,
        cpu_ms_per_call_s=1000 * used_s / (lasted_s * calls),
        cpu_of_a_core=used_s / lasted_s,
        memory_kib_per_call=(live_bytes - idle_bytes) / 1024 / calls,
        delay_p50_ms=p50,
        delay_p95_ms=p95,
        delay_p99_ms=p99,
        tones=sum(len(phone.delays_s) for phone in phones),
        holes_per_call_minute=len(holes_ms) / minutes,
        hole_ms_per_call_minute=float(holes_ms.sum()) / minutes,
        broken_calls=sum(phone.broken is not None for phone in phones),
    )


def measure(bridge: str, calls: int, args: argparse.Namespace) -> Row:
    engine_port, port = free_port(), free_port()
    engine = ["-m", "pxbridge.personaplex.rehearsal", "--port", str(engine_port), "--mode", args.engine]
    engine += ["--slots", str(calls), "--step-ms", str(args.step_ms), "--prompt-s", str(args.prompt_s)]
    url = f"ws://127.0.0.1:{engine_port}/api/chat"
    with (
        process(engine_port, *engine, quiet=True),
        process(port, *command(bridge, port, url, calls)) as running,
    ):
        return asyncio.run(
            load(running, bridge, f"ws://127.0.0.1:{port}/", calls, args.chunk_ms, args.seconds)
        )


def table(rows: Sequence[Row], args: argparse.Namespace) -> Table:
    made = Table(
        title=f"{args.chunk_ms:g} ms chunks, {args.engine} engine, {args.step_ms:g} ms a step, "
        f"prompts of {args.prompt_s:g} s, {args.seconds:g} s each"
    )
    for column in (
        "bridge",
        "calls",
        "CPU ms/call·s",
        "a core",
        "KiB/call",
        "delay p50 ms",
        "p95",
        "p99",
        "holes/min",
        "ms/min",
        "broken",
    ):
        made.add_column(column, justify="left" if column == "bridge" else "right")
    for row in rows:
        made.add_row(
            row.bridge,
            str(row.calls),
            f"{row.cpu_ms_per_call_s:.2f}",
            f"{row.cpu_of_a_core:.0%}",
            f"{row.memory_kib_per_call:.0f}",
            f"{row.delay_p50_ms:.0f}",
            f"{row.delay_p95_ms:.0f}",
            f"{row.delay_p99_ms:.0f}",
            f"{row.holes_per_call_minute:.1f}",
            f"{row.hole_ms_per_call_minute:.0f}",
            str(row.broken_calls),
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--calls", type=int, nargs="+", default=[20], help="calls at once; several: a row each"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="measured, after settling (%(default)s)")
    parser.add_argument("--chunk-ms", type=float, default=100.0, help="the phones' chunks (%(default)s)")
    parser.add_argument("--step-ms", type=float, default=30.0, help="the engine's step (%(default)s)")
    parser.add_argument("--prompt-s", type=float, default=0.0, help="the engine's prompts (%(default)s)")
    parser.add_argument(
        "--engine", choices=["echo", "canned"], default="echo", help="canned: cheaper, and tells no delays"
    )
    parser.add_argument("--only", choices=BRIDGES, help="one bridge alone")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    args = parser.parse_args()
    # Numbers that a narrow log cuts off are worth nothing.
    console = Console() if sys.stdout.isatty() else Console(width=110)
    rows = []
    for calls in args.calls:
        for bridge in [args.only] if args.only else BRIDGES:
            with console.status(f"{calls} calls through {bridge}"):
                rows.append(measure(bridge, calls, args))
    console.print(table(rows, args))
    by_name = {row.bridge: row for row in rows if row.calls == args.calls[0]}
    if len(by_name) == len(BRIDGES):
        ratio = by_name["ours"].cpu_ms_per_call_s / by_name["plain"].cpu_ms_per_call_s
        console.print(f"CPU per call-second at {args.calls[0]} calls: ours is {ratio:.2f} of plain's")
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
