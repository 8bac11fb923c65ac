"""What a caller hears when the bridge stops."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
from rich.console import Console
from tests.call.rig import Bridge, bridge, speech
from tests.virtual_time import run

from pxbridge import settings
from pxbridge.app.lifecycle import CLOSE_TIMEOUT_S
from pxbridge.app.lifecycle import run as run_bridge
from pxbridge.calls.registry import LONGEST_SENTENCE_S
from pxbridge.simulation.mouth_to_ear import loudness_dbfs
from pxbridge.simulation.phone import Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NEVER_S = 600.0


async def stop_at(b: Bridge, phone: asyncio.Task[Phone], at_s: float) -> tuple[Phone, float]:
    """Stops the bridge in mid-call; the phone, and how long the end took."""
    await asyncio.sleep(at_s)
    loop = asyncio.get_running_loop()
    told_s = loop.time()
    await b.registry.close()
    return await phone, loop.time() - told_s


@pytest.mark.parametrize("at_s", [2.0, 4.5, 7.7, 9.0])
def test_the_agent_ends_its_sentence_and_it_is_heard(at_s: float) -> None:
    async def main() -> tuple[Phone, float]:
        async with bridge(mode=Mode.CANNED) as b:
            return await stop_at(b, asyncio.create_task(b.call(Script(hang_up_at_s=NEVER_S))), at_s)

    phone, took_s = run(main())
    assert phone.close_code == 1012
    assert phone.player.depth_s == 0.0, "words were cut"
    heard = phone.player.heard[: round(phone.duration_s * 8000)]
    spoken = loudness_dbfs(heard, 8000) > -45.0
    assert spoken.any() and not spoken[-10:].any(), "it ended within a word"
    assert took_s < LONGEST_SENTENCE_S + 3.0


def test_an_agent_that_never_pauses_is_cut_short() -> None:
    async def main() -> tuple[Phone, float]:
        async with bridge(mode=Mode.ECHO) as b:
            noise = np.tile(speech()[8000:12000], 200)
            call = b.call(Script(noise, speak_at_s=0.0, hang_up_at_s=NEVER_S))
            return await stop_at(b, asyncio.create_task(call), 5.0)

    phone, took_s = run(main())
    assert phone.close_code == 1012
    assert took_s < LONGEST_SENTENCE_S + 3.0


@pytest.mark.parametrize("at_s", [0.05, 5.0])
def test_a_call_whose_agent_is_silent_ends_at_once(at_s: float) -> None:
    async def main() -> tuple[Phone, float]:
        async with bridge(mode=Mode.ECHO) as b:
            return await stop_at(b, asyncio.create_task(b.call(Script(hang_up_at_s=NEVER_S))), at_s)

    phone, took_s = run(main())
    assert phone.close_code == 1012
    assert took_s < 1.5


@asynccontextmanager
async def process() -> AsyncIterator[str]:
    """A bridge as its process runs it, that would let calls go on for long; the URL that Exotel dials."""
    ready: asyncio.Queue[str] = asyncio.Queue()
    flags = {"port": 0, "console_port": 0, "drain_s": NEVER_S, "keep_records": False}
    running = asyncio.create_task(
        run_bridge(settings.load(flags, {}), Console(file=io.StringIO()), ready.put_nowait)
    )
    try:
        yield await ready.get()
        assert await running == 0
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_calls_in_a_moment_which_the_first_lets_go_on(first: signal.Signals) -> None:
    async def main() -> None:
        async with process() as url:
            phone = Phone(Script(hang_up_at_s=NEVER_S))
            call = asyncio.create_task(place_call(url, phone))
            await asyncio.sleep(5.0)
            os.kill(os.getpid(), first)
            await asyncio.sleep(30.0)
            assert not call.done(), "it may go on"
            os.kill(os.getpid(), signal.SIGTERM)
            told_s = phone.spoken_s
            await call
            assert phone.close_code == 1001
            assert phone.duration_s - told_s < CLOSE_TIMEOUT_S

    run(main(), limit_s=NEVER_S)


def test_a_stop_without_calls_does_not_speak_of_calls_that_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with process():
            os.kill(os.getpid(), signal.SIGTERM)

    run(main(), limit_s=NEVER_S)
    assert "stopping: no calls are live" in capfd.readouterr().err


def test_a_phone_that_does_not_answer_the_close_is_given_a_moment() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with process() as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
            writer.write(
                b"GET /exotel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert b"101" in await reader.readline()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(1.0)
            os.kill(os.getpid(), signal.SIGTERM)
            told_s = loop.time()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()  # its close, and then the end
            assert loop.time() - told_s == pytest.approx(CLOSE_TIMEOUT_S, abs=0.1)
            writer.close()

    run(main(), limit_s=NEVER_S)
