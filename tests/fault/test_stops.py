"""A bridge that is told to stop ends: with a store, while something hangs, and when it is told twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.fault.processes import QUIET, Program, bridge_process, program, until
from tests.fault.store import PROGRAM, store

from pxbridge.redis_store import RedisStore
from pxbridge.telephony.peers import PeerBridges
from pxbridge.telephony.tokens import Signer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

needs_store = pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")

STOPS = int(os.environ.get("PXBRIDGE_STOPS", "50"))
"""Processes that are stopped, which takes a minute and a half. A stop that hangs once in twenty is found."""

AT_ONE_TIME = 5
LIMIT_S = 20.0
"""A stop takes a tenth of a second on an idle machine. The process itself would end after 15 s."""


@needs_store
async def test_every_stop_of_a_bridge_that_shares_a_store_ends() -> None:
    async with store() as server:

        async def start_and_stop(number: int) -> int:
            async with bridge_process(
                lease_store=server.url,
                lease_ttl_s="1",
                public_url="wss://bridge.example.com",
                engines="ws://127.0.0.1:9 ws://127.0.0.1:10",
                warm_sessions="0",
                drain_s="600",
            ) as bridge:
                # Its announcements are at another place in their round each time.
                await asyncio.sleep(0.01 * number)
                bridge.signal(signal.SIGTERM)
                status = await bridge.ends(LIMIT_S)
            assert "Traceback" not in bridge.log and "left behind" not in bridge.log
            return status

        for first in range(0, STOPS, AT_ONE_TIME):
            numbers = range(first, min(first + AT_ONE_TIME, STOPS))
            assert await asyncio.gather(*map(start_and_stop, numbers)) == [0] * len(numbers)


@needs_store
async def test_announcements_end_in_whatever_turn_of_the_loop_they_are_told_to() -> None:
    async with store() as server, RedisStore(server.url) as client:
        for turns in range(60):
            bridge = PeerBridges(client, "wss://bridge.example.com", Signer([b"k"], time.time), list)
            async with asyncio.timeout(LIMIT_S):
                began_s = time.monotonic()
                async with bridge.announced(lambda: 1):
                    while not await client.client.exists(f"pxbridge:node:{bridge._name}"):  # noqa: ASYNC110
                        await asyncio.sleep(0)
                    bridge.leave()
                    for _ in range(turns):
                        await asyncio.sleep(0)
                assert time.monotonic() - began_s < 1.0, f"after {turns} turns of the loop"


def hanging_bridge(how: str, folder: Path, limit_s: float) -> AbstractAsyncContextManager[Program]:
    """A bridge that hangs at its end, which may take `limit_s`."""
    environ = {**QUIET, "PXBRIDGE_PORT": "0", "PXBRIDGE_STATE_DIR": str(folder)}
    return program("tests.fault.hanging_bridge", how, str(limit_s), environ=environ)


async def hangs(bridge: Program) -> None:
    await until(lambda: bridge.said(" takes calls at "), "it has started")
    bridge.signal(signal.SIGTERM)
    await until(lambda: bridge.said("hangs now"), "it hangs")


@pytest.mark.parametrize("how", ["wait", "loop"])
async def test_an_end_that_hangs_has_a_limit(how: str, tmp_path: Path) -> None:
    async with hanging_bridge(how, tmp_path, limit_s=1.0) as bridge:
        await hangs(bridge)
        assert await bridge.ends(LIMIT_S) == -signal.SIGALRM
    if how == "wait":  # the log has a thread, but what hangs is named by the loop
        assert bridge.said("not ended after 1 s, and killed now; still running: ")


@pytest.mark.parametrize("how", ["wait", "loop"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_a_bridge_that_hangs_at_its_end(
    how: str, second: signal.Signals, tmp_path: Path
) -> None:
    async with hanging_bridge(how, tmp_path, limit_s=600.0) as bridge:
        await hangs(bridge)
        bridge.signal(second)
        assert await bridge.ends(LIMIT_S) in (-signal.SIGALRM, -second)


async def test_a_signal_ends_a_bridge_that_hangs_in_a_reload(tmp_path: Path) -> None:
    config = tmp_path / "pxbridge.toml"
    config.write_text("")
    async with bridge_process(config=str(config)) as bridge:
        config.unlink()
        os.mkfifo(config)
        bridge.signal(signal.SIGHUP)
        writer = await asyncio.to_thread(os.open, config, os.O_WRONLY)  # returns when the bridge reads it
        bridge.signal(signal.SIGTERM)
        assert await bridge.ends(LIMIT_S) == 0
        os.close(writer)
