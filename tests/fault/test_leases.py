"""Leases that several bridges share: in a real server, with real bridges, one of which is killed."""

from __future__ import annotations

import asyncio
import signal

import pytest
from tests.fault.processes import bridge_process, engine_process, until
from tests.fault.store import PROGRAM, store

from pxbridge.exotel.phone import Script
from pxbridge.personaplex.leases import Grant, Renewal, StoreUnreachable
from pxbridge.personaplex.redis_leases import RedisLeases

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")

TTL_S = 1.0


async def test_a_slot_is_leased_once_and_only_its_holder_gives_it_back() -> None:
    async with store() as server:
        ours, theirs = RedisLeases(server.url, ttl_s=60), RedisLeases(server.url, ttl_s=60)
        first = await ours.acquire("engine#0")
        assert first is not None
        assert await theirs.acquire("engine#0") is None
        await theirs.release(Grant(first.key, "guessed", first.fence))
        assert await theirs.acquire("engine#0") is None
        await ours.release(first)
        second = await theirs.acquire("engine#0")
        assert second is not None
        assert second.fence > first.fence
        await ours.release(first)
        assert await ours.acquire("engine#0") is None, "a late release gives nobody else's lease back"
        await ours.close()
        await theirs.close()


async def test_a_lease_expires_unless_it_is_renewed_and_its_old_holder_is_fenced_off() -> None:
    async with store() as server:
        ours, theirs = RedisLeases(server.url, ttl_s=0.3), RedisLeases(server.url, ttl_s=60)
        first = await ours.acquire("engine#0")
        assert first is not None
        for _ in range(4):
            await asyncio.sleep(0.1)
            assert await ours.renew(first) is Renewal.HELD
        taken = None
        while taken is None:
            taken = await theirs.acquire("engine#0")
            await asyncio.sleep(0.05)
        assert await ours.renew(first) is Renewal.LOST
        assert await theirs.renew(taken) is Renewal.HELD
        await ours.close()
        await theirs.close()


async def test_a_store_that_forgot_a_lease_takes_it_again_from_its_holder() -> None:
    async with store() as server:
        leases = RedisLeases(server.url, ttl_s=60)
        grant = await leases.acquire("engine#0")
        assert grant is not None
        await server.stop()
        with pytest.raises(StoreUnreachable):
            await leases.renew(grant)
        await server.start()
        assert await leases.renew(grant) is Renewal.HELD
        other = RedisLeases(server.url, ttl_s=60)
        assert await other.acquire("engine#0") is None
        await other.close()
        await leases.close()


async def test_the_engine_of_a_bridge_that_was_killed_comes_free_for_the_other() -> None:
    async with store() as server, engine_process() as engine:
        settings = {
            "PXBRIDGE_ENGINES": engine,
            "PXBRIDGE_LEASE_STORE": server.url,
            "PXBRIDGE_LEASE_TTL_S": str(TTL_S),
            "PXBRIDGE_WARM_SESSIONS": "0",
            "PXBRIDGE_LOG_LEVEL": "debug",
        }
        async with bridge_process(environ=settings) as one, bridge_process(environ=settings) as other:
            await one.call()
            waits = asyncio.create_task(other.call(Script(hang_up_at_s=600.0)))
            await until(lambda: '"waiting"' in other.log, "the second caller waits")
            assert not waits.done()
            one.signal(signal.SIGKILL)
            await waits


async def test_a_store_that_is_gone_and_back_ends_no_call() -> None:
    async with (
        store() as server,
        engine_process(slots=2) as engine,
        bridge_process(
            engines=engine,
            engine_capacity="2",
            lease_store=server.url,
            lease_ttl_s=str(TTL_S),
            warm_sessions="0",
            log_level="debug",
        ) as bridge,
    ):
        await bridge.call()
        await server.stop()
        await until(lambda: bridge.said("does not answer"), "the bridge has noticed")
        later = asyncio.create_task(bridge.call())
        await until(lambda: bridge.log.count("does not answer") > 3, "and goes on")
        assert not later.done()
        await server.start()
        await later
        assert bridge.log.count('"call ended"') == 0
        assert bridge.log.count('"engine lost"') == 0
