"""A tunnel program that is a script: what it starts ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from tests.fault.processes import until
from tests.tunnel.test_programs import LIMIT_S, is_running

from pxbridge.tunnel import child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

AT_ONCE_S = 0.01

IN_ANOTHER_GROUP = (
    "import subprocess, time\n"
    "real = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "print(real.pid, flush=True)\n"
    "time.sleep(600)\n"
)


@contextlib.asynccontextmanager
async def script(*command: str) -> AsyncIterator[tuple[child.Child, int]]:
    """A running script that prints the process id of the real program, and that id."""
    printed: list[str] = []
    started = await child.start(command, os.environ, printed.append, "")
    await until(lambda: printed, "the real program has started")
    try:
        yield started, int(printed[0])
    finally:
        for number in (started.pid, int(printed[0])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        await started.wait(LIMIT_S)


async def ends(pid: int) -> None:
    await until(lambda: not is_running(pid), "the real program has ended")


async def test_the_program_behind_a_script_ends_with_the_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "STOP_TIMEOUT_S", LIMIT_S)
    async with script("sh", "-c", "sleep 600 & echo $!; wait") as (started, real):
        async with asyncio.timeout(LIMIT_S):
            await started.stop()
        await ends(real)
        assert started.status == -signal.SIGTERM


async def test_a_script_and_a_program_that_ignore_sigterm_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "STOP_TIMEOUT_S", AT_ONCE_S)
    monkeypatch.setattr(child, "KILL_TIMEOUT_S", LIMIT_S)
    async with script("sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait") as (started, real):
        async with asyncio.timeout(LIMIT_S):
            await started.stop()
        await ends(real)
        assert started.status == -signal.SIGKILL


async def test_the_program_behind_a_script_that_has_ended_ends_too() -> None:
    async with script("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!") as (started, real):
        await started.wait(LIMIT_S)
        assert started.status == 0 and is_running(real)
        await started.stop()
        await ends(real)


async def test_a_program_in_another_group_does_not_hold_up_the_end_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child, "STOP_TIMEOUT_S", AT_ONCE_S)
    monkeypatch.setattr(child, "KILL_TIMEOUT_S", AT_ONCE_S)
    async with script(sys.executable, "-c", IN_ANOTHER_GROUP) as (started, real):
        async with asyncio.timeout(LIMIT_S):
            await started.stop()
        assert is_running(real)
        assert "the tunnel may still be open" in caplog.text


async def test_a_stop_that_is_cancelled_kills_at_once() -> None:
    async with script("sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait") as (started, real):
        stopping = asyncio.create_task(started.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await started.wait(LIMIT_S)
        assert started.status == -signal.SIGKILL
        await ends(real)
