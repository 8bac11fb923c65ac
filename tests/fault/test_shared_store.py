"""Leases that several bridges share: in a real server, with real bridges, one of which is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import TYPE_CHECKING

import pytest
from tests.fault.processes import bridge_process, engine_process, fetch, until
from tests.fault.store import PROGRAM, store

from pxbridge.calls.handover import HandOvers
from pxbridge.calls.redis_handover import RedisShelf
from pxbridge.errors import StoreUnreachable
from pxbridge.exotel.phone import Line, Phone, Script, place_call
from pxbridge.personaplex.leases import Grant, Renewal
from pxbridge.personaplex.redis_leases import RedisLeases
from pxbridge.redis_store import RedisStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")

TTL_S = 1.0

NURSE = """
port = 0
keep_records = false

[personas.nurse]
text_prompt = "You are a nurse."
keys = { "0" = { hand_over = ["+911", "+912"] } }
"""


def leases(url: str, *, ttl_s: float) -> RedisLeases:
    return RedisLeases(RedisStore(url), ttl_s=ttl_s)


@contextlib.asynccontextmanager
async def decisions(url: str) -> AsyncIterator[HandOvers]:
    shared = HandOvers(asyncio.get_running_loop().time, RedisShelf(RedisStore(url)))
    try:
        yield shared
    finally:
        await shared.close()


async def test_a_slot_is_leased_once_and_only_its_holder_gives_it_back() -> None:
    async with store() as server:
        ours, theirs = leases(server.url, ttl_s=60), leases(server.url, ttl_s=60)
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
        ours, theirs = leases(server.url, ttl_s=0.3), leases(server.url, ttl_s=60)
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
        ours = leases(server.url, ttl_s=60)
        grant = await ours.acquire("engine#0")
        assert grant is not None
        await server.stop()
        with pytest.raises(StoreUnreachable):
            await ours.renew(grant)
        await server.start()
        assert await ours.renew(grant) is Renewal.HELD
        other = leases(server.url, ttl_s=60)
        assert await other.acquire("engine#0") is None
        await other.close()
        await ours.close()


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


async def test_every_bridge_knows_which_calls_any_of_them_handed_over() -> None:
    async with store() as server, decisions(server.url) as ours, decisions(server.url) as theirs:
        async with decisions(server.url) as third:
            third.decide("CA1", ["+911", "+912"])
            third.decide("CA2")
            third.decide("CA1", ["+913"])
        assert await ours.look_up("CA1") == ("+913",)
        assert await theirs.look_up("CA2") == ()
        assert await ours.look_up("CA3") is None
        assert ours.find("CA1") is None, "asked for each time: the decision may change"


async def test_without_the_store_a_bridge_knows_its_own_calls_and_says_what_it_cannot_know(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with store() as server, decisions(server.url) as ours:
        await server.stop()
        ours.decide("CA1", ["+911"])
        assert await ours.look_up("CA1") == ("+911",)
        assert await ours.look_up("CA2") is None
        await ours.close()
    assert "handed over is known to this process only: the lease store does not answer" in caplog.text
    assert "only what this process knows is known of a hand-over" in caplog.text


async def test_a_call_that_comes_back_at_another_bridge_is_no_longer_handed_over() -> None:
    async with store() as server, decisions(server.url) as ours, decisions(server.url) as theirs:
        async with decisions(server.url) as third:
            third.decide("CA1", ["+911"])
        theirs.begin("CA1")
        await until(lambda: not theirs._unkept, "it is in the store")
        assert await ours.look_up("CA1") is None


async def test_the_flow_may_ask_another_bridge_than_had_the_call(tmp_path: Path) -> None:
    file = tmp_path / "pxbridge.toml"
    file.write_text(NURSE)
    async with store() as server, engine_process(slots=2) as engine:
        settings = {
            "PXBRIDGE_CONFIG": str(file),
            "PXBRIDGE_ENGINES": engine,
            "PXBRIDGE_ENGINE_CAPACITY": "2",
            "PXBRIDGE_LEASE_STORE": server.url,
            "PXBRIDGE_ALLOW_ANONYMOUS": "true",
        }
        async with bridge_process(environ=settings) as one, bridge_process(environ=settings) as other:
            phone = Phone(Script(hang_up_at_s=20.0), Line(dtmf=((1.0, "0"),)))
            await place_call(f"ws://127.0.0.1:{one.port}/exotel/nurse", phone)
            assert phone.close_code == 1000, "the bridge ended it"

            async def ask(name: str) -> tuple[int, str]:
                url = f"http://127.0.0.1:{other.port}/exotel/{name}?CallSid={phone.line.call_sid}"
                return await asyncio.to_thread(fetch, url)

            assert (await ask("passthru"))[0] == 302
            status, body = await ask("connect")
            assert (status, json.loads(body)["destination"]["numbers"]) == (200, ["+911", "+912"])
