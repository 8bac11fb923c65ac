"""The bridge and its engines as processes of their own, as an operator runs them; phones live in the test.

Nothing waits for a time: a test waits until what it needs is so (`until`), and fails if that takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pxbridge.commands.processes import free_port
from pxbridge.simulation.phone import Line, Phone, Script, place_call

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

ROOT = Path(__file__).parents[2]
QUIET = {
    "PXBRIDGE_ALLOW_ANONYMOUS": "true",
    "PXBRIDGE_CONSOLE_PORT": "0",
    "PXBRIDGE_LOG_FORMAT": "json",
    "PXBRIDGE_SHED_ABOVE_LAG_MS": "0",  # a busy machine is no failure
}
"""A bridge that minds nothing but its calls."""

LIMIT_S = 60.0
"""Far more than anything here takes, and a busy machine is no failure."""


async def until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Returns as soon as `condition` holds."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not so within {limit_s:g} s")
        await asyncio.sleep(0.01)


@dataclass(eq=False)
class Program:
    """A running process and what it has printed."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self, limit_s: float = LIMIT_S) -> int:
        """Its exit status."""
        async with asyncio.timeout(limit_s):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def program(*arguments: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
    """Runs `python -m ...` with the settings in `environ` and no others; killed at the end of the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PXBRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        cwd=ROOT,
        env={**inherited, "PYTHONUNBUFFERED": "1", **(environ or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    running = Program(process)

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            running.lines.append(line.decode(errors="replace"))

    reader = asyncio.create_task(read())
    try:
        yield running
    except BaseException as failed:
        failed.add_note(f"{arguments[0]}, exit status {process.returncode}, printed:\n{running.log[-4000:]}")
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reader


@dataclass(eq=False)
class BridgeProcess(Program):
    """A bridge that takes calls."""

    port: int = 0
    state: Path = Path()
    """Its folder."""
    began_in_s: float = 0.0
    """What its start took: on a machine that is busy, its end takes longer too."""
    phones: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/exotel"

    async def call(self, script: Script | None = None, line: Line | None = None, *, port: int = 0) -> Phone:
        """A call that goes on by itself until somebody ends it; returns when it is live.

        It is placed at `port`, if that leads to the bridge too.
        """
        before = self.log.count('"call live"')
        phone = Phone(script or Script(hang_up_at_s=600.0), line)
        url = f"ws://127.0.0.1:{port or self.port}/exotel"
        self.phones.append(asyncio.create_task(place_call(url, phone)))
        await until(lambda: self.log.count('"call live"') > before, "a call is live")
        return phone

    def ready(self) -> tuple[int, str]:
        """What `/readyz` answers: status and text."""
        return fetch(f"http://127.0.0.1:{self.port}/readyz")


def fetch(url: str, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextlib.asynccontextmanager
async def bridge_process(
    port: int = 0, environ: Mapping[str, str] | None = None, **settings: str
) -> AsyncIterator[BridgeProcess]:
    """A bridge on `port` (0: any); `settings` by name."""
    given = {f"PXBRIDGE_{name.upper()}": value for name, value in settings.items()}
    async with contextlib.AsyncExitStack() as stack:
        state = Path(settings.get("state_dir") or stack.enter_context(tempfile.TemporaryDirectory()))
        (state / "tmp").mkdir(exist_ok=True)
        own = {**QUIET, "PXBRIDGE_PORT": str(port), "PXBRIDGE_STATE_DIR": str(state)}
        own["TMPDIR"] = str(state / "tmp")
        began_s = time.monotonic()
        started = await stack.enter_async_context(
            program("pxbridge", environ={**own, **given, **(environ or {})})
        )
        bridge = BridgeProcess(started.process, started.lines, state=state)
        await until(
            lambda: bridge.said(" takes calls at ") or started.process.returncode is not None,
            "the bridge has started",
        )
        assert started.process.returncode is None, bridge.log
        bridge.began_in_s = time.monotonic() - began_s
        line = next(line for line in bridge.lines if " takes calls at " in line)
        bridge.port = int(line.split()[-1].removesuffix("/exotel").rpartition(":")[2])
        try:
            yield bridge
        finally:
            for phone in bridge.phones:
                phone.cancel()
            await asyncio.gather(*bridge.phones, return_exceptions=True)


@dataclass(eq=False)
class EngineProcess(Program):
    """A rehearsal engine."""

    url: str = ""


@contextlib.asynccontextmanager
async def engine_process(mode: str = "echo", slots: int = 1, prompt_s: float = 0.0) -> AsyncIterator[str]:
    """The URL of a rehearsal engine that works."""
    async with engine_program(mode, slots, prompt_s) as engine:
        yield engine.url


@contextlib.asynccontextmanager
async def engine_program(
    mode: str = "echo", slots: int = 1, prompt_s: float = 0.0, options: Sequence[str] = ()
) -> AsyncIterator[EngineProcess]:
    """A rehearsal engine whose process a test wants to hurt; `options` are more words of its command."""
    port = free_port()
    arguments = ("--port", str(port), "--mode", mode, "--slots", str(slots), "--prompt-s", str(prompt_s))
    scheme = "wss" if "--tls-cert" in options else "ws"
    async with program("pxbridge.simulation.rehearsal", *arguments, *options) as engine:
        await until(lambda: engine.said("rehearsal engine"), "the engine has started")
        yield EngineProcess(engine.process, engine.lines, f"{scheme}://127.0.0.1:{port}/api/chat")
