"""Bridges that share engines: who gets which, and who keeps it, whatever the store or a bridge does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from tests.fault.processes import bridge_process, engine_process, until
from tests.fault.store import KINDS, PROGRAM, store

from pxbridge.engines.leases import Grant, Refusal, Renewal, Use
from pxbridge.engines.redis_leases import RedisLeases
from pxbridge.errors import StoreUnreachable
from pxbridge.redis_store import RedisStore
from pxbridge.simulation.phone import Script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.fault.processes import BridgeProcess
    from tests.fault.store import Keeps, Store

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")

T = TypeVar("T")

TTL_S = 1.0
LONG_S = 60.0


@asynccontextmanager
async def leases(url: str, *, ttl_s: float = LONG_S) -> AsyncIterator[RedisLeases]:
    async with RedisStore(url) as client:
        yield RedisLeases(client, ttl_s=ttl_s)


async def settled(url: str) -> None:
    """Returns when a new store gives leases."""
    async with leases(url, ttl_s=0.05) as first:
        while not isinstance(grant := await first.acquire("first", Use.CALL), Grant):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await first.release(grant)


async def given(store: RedisLeases, key: str = "engine#0", use: Use = Use.CALL) -> Grant:
    grant = await store.acquire(key, use)
    assert isinstance(grant, Grant)
    return grant


async def tried(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of a store that has just started, and may still read what it kept."""
    while True:
        with contextlib.suppress(StoreUnreachable):
            return await ask()


async def answered(store: RedisLeases, key: str = "engine#0") -> Grant | Refusal:
    return await tried(lambda: store.acquire(key, Use.CALL))


async def renewed(store: RedisLeases, grant: Grant) -> Renewal:
    (renewal,) = await tried(lambda: store.renew([(grant, Use.CALL)]))
    return renewal


async def test_a_slot_is_leased_once_and_only_its_holder_gives_it_back() -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url) as ours, leases(server.url) as theirs:
            first = await given(ours)
            assert await theirs.acquire("engine#0", Use.CALL) is Refusal.CALL
            await theirs.release(Grant(first.key, "guessed", first.fence))
            assert await theirs.look(["engine#0", "engine#1"]) == [Refusal.CALL, None]
            await ours.release(first)
            second = await given(theirs)
            assert second.fence > first.fence
            await ours.release(first)
            assert await ours.look(["engine#0"]) == [Refusal.CALL], "a late release gives nobody else's back"


async def test_a_lease_whose_answer_got_lost_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url) as ours, leases(server.url) as theirs:
            ask = ours._eval

            async def granted_and_lost(*asked: Any) -> None:
                await ask(*asked)
                raise StoreUnreachable("the answer did not come in time")

            with monkeypatch.context() as patched:
                patched.setattr(ours, "_eval", granted_and_lost)
                with pytest.raises(StoreUnreachable):
                    await ours.acquire("engine#0", Use.CALL)
            assert await theirs.acquire("engine#0", Use.CALL) is Refusal.CALL
            assert await ours.look(["engine#0"]) == [None]
            await given(theirs)


async def test_a_lease_expires_unless_it_is_renewed_and_its_old_holder_is_fenced_off() -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url, ttl_s=0.3) as ours, leases(server.url) as theirs:
            first = await given(ours)
            for _ in range(4):
                await asyncio.sleep(0.1)
                assert await ours.renew([(first, Use.CALL)]) == [Renewal.HELD]
            while not isinstance(taken := await theirs.acquire("engine#0", Use.CALL), Grant):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert await ours.renew([(first, Use.CALL)]) == [Renewal.LOST]
            assert await theirs.renew([(taken, Use.CALL)]) == [Renewal.HELD]


async def test_a_renewal_that_comes_after_the_release_takes_nothing_back() -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url) as ours, leases(server.url) as theirs:
            first = await given(ours)
            await ours.release(first)
            assert await ours.renew([(first, Use.CALL)]) == [Renewal.LOST]
            await given(theirs)


@pytest.mark.parametrize("keeps", KINDS)
async def test_a_store_that_forgot_gives_nothing_until_holders_had_time_to_say_what_they_hold(
    keeps: Keeps,
) -> None:
    async with store(keeps) as server:
        await settled(server.url)
        async with leases(server.url) as ours, leases(server.url, ttl_s=0.5) as theirs:
            await given(ours, "engine#1")
            await server.save()
            grant = await given(ours)
            await server.stop()
            with pytest.raises(StoreUnreachable):
                await ours.renew([(grant, Use.CALL)])
            await server.start()
            assert await answered(theirs) is Refusal.SETTLING
            assert await theirs.look(["engine#0"]) == [Refusal.SETTLING]
            assert await ours.renew([(grant, Use.CALL)]) == [Renewal.HELD]
            assert await theirs.look(["engine#0"]) == [Refusal.CALL]
            while (answer := await theirs.acquire("engine#2", Use.CALL)) is Refusal.SETTLING:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert isinstance(answer, Grant)
            assert answer.fence > grant.fence, "fences rise over the loss"
            assert await theirs.acquire("engine#0", Use.CALL) is Refusal.CALL


async def test_a_snapshot_of_an_earlier_holder_does_not_end_the_call_of_the_present_one() -> None:
    async with store("snapshot") as server:
        await settled(server.url)
        async with leases(server.url) as ours, leases(server.url) as theirs:
            before = await given(theirs)
            await server.save()
            await theirs.release(before)
            call = await given(ours)
            await server.stop()
            await server.start()
            assert await answered(theirs) is Refusal.SETTLING, "the old lease counts for nothing"
            assert await renewed(ours, call) is Renewal.HELD
            assert await theirs.look(["engine#0"]) == [Refusal.CALL]


async def test_of_two_that_believe_they_hold_a_slot_the_later_one_keeps_it_when_the_store_forgot() -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url, ttl_s=0.05) as cut_off, leases(server.url) as holder:
            early = await given(cut_off)
            while not isinstance(late := await holder.acquire("engine#0", Use.CALL), Grant):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await server.stop()
            await server.start()
            async with leases(server.url) as cut_off:
                await answered(cut_off, "engine#1")
                assert await renewed(cut_off, early) is Renewal.HELD, "nobody knows better yet"
                assert await renewed(holder, late) is Renewal.HELD
                assert await renewed(cut_off, early) is Renewal.LOST


@pytest.mark.parametrize("keeps", KINDS)
async def test_leases_that_expired_while_the_store_was_gone_are_given_to_nobody_else_at_once(
    keeps: Keeps,
) -> None:
    async with store(keeps) as server:
        await settled(server.url)
        async with leases(server.url, ttl_s=0.2) as ours, leases(server.url) as theirs:
            call = await given(ours)
            await server.save()
            await server.stop()
            await asyncio.sleep(0.3)
            await server.start()
            assert await answered(theirs) is Refusal.SETTLING
            assert await renewed(ours, call) is Renewal.HELD


async def test_leases_that_expired_while_the_store_was_frozen_are_given_to_nobody_else_at_once() -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url, ttl_s=0.2) as ours, leases(server.url) as theirs:
            call = await given(ours)
            with server.frozen():
                await asyncio.sleep(0.3)
            assert await theirs.acquire("engine#0", Use.CALL) is Refusal.SETTLING
            assert await renewed(ours, call) is Renewal.HELD


async def test_a_store_that_nobody_used_for_long_gives_leases_at_once() -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url, ttl_s=0.05) as ours:
            await ours.release(await given(ours))
            await asyncio.sleep(0.2)
            await given(ours)


async def test_a_user_that_may_not_ask_for_the_run_has_leases_all_the_same() -> None:
    async with store() as server, RedisStore(server.url) as owner:
        await owner.client.execute_command("ACL", "SETUSER", "bridge", "on", ">pw", "~*", "+@all", "-info")
        url = server.url.replace("redis://", "redis://bridge:pw@")
        await settled(url)
        async with leases(url, ttl_s=0.2) as ours, leases(url) as theirs:
            call = await given(ours)
            with server.frozen():
                await asyncio.sleep(0.3)
            assert await theirs.acquire("engine#0", Use.CALL) is Refusal.SETTLING
            assert await renewed(ours, call) is Renewal.HELD


async def test_what_is_kept_warm_is_wanted_by_calls_and_goes_to_nobody_else() -> None:
    async with store() as server:
        await settled(server.url)
        async with leases(server.url) as ours, leases(server.url) as theirs:
            warm = await given(ours, use=Use.WARM)
            assert await theirs.acquire("engine#0", Use.CALL) is Refusal.WARM
            assert await ours.renew([(warm, Use.WARM)]) == [Renewal.HELD]
            await theirs.want("engine#0")
            assert await ours.renew([(warm, Use.WARM)]) == [Renewal.WANTED]
            await ours.release(warm)
            assert await ours.acquire("engine#0", Use.WARM) is Refusal.WANTED
            call = await given(theirs)
            await theirs.release(call)
            await given(ours, use=Use.WARM)


def sharing(server: Store, engine: str, **settings: str) -> AbstractAsyncContextManager[BridgeProcess]:
    """A bridge that shares this engine."""
    shared = {
        "engines": engine,
        "lease_store": server.url,
        "lease_ttl_s": str(TTL_S),
        "warm_sessions": "0",
        "log_level": "debug",
        **settings,
    }
    return bridge_process(environ={f"PXBRIDGE_{name.upper()}": value for name, value in shared.items()})


@asynccontextmanager
async def two_bridges(
    keeps: Keeps = "nothing", **of_the_other: str
) -> AsyncIterator[tuple[Store, BridgeProcess, BridgeProcess]]:
    """A store and two bridges that share one engine; settings of the second's own may be given."""
    async with (
        store(keeps) as server,
        engine_process() as engine,
        sharing(server, engine) as one,
        sharing(server, engine, **of_the_other) as other,
    ):
        yield server, one, other


async def a_caller_waits(bridge: BridgeProcess) -> asyncio.Task[object]:
    waits: asyncio.Task[object] = asyncio.create_task(bridge.call(Script(hang_up_at_s=600.0)))
    await until(lambda: '"waiting"' in bridge.log, "a caller waits")
    return waits


async def test_the_engine_of_a_bridge_that_was_killed_comes_free_for_the_other() -> None:
    async with two_bridges() as (_server, one, other):
        await one.call()
        waits = await a_caller_waits(other)
        assert not waits.done()
        one.signal(signal.SIGKILL)
        await waits


async def test_of_two_bridges_that_want_an_engine_one_has_it_until_its_caller_hangs_up() -> None:
    async with two_bridges() as (_server, one, other):
        await one.call()
        waits = await a_caller_waits(other)
        await asyncio.sleep(2 * TTL_S)  # what others want is renewed all the same
        assert not waits.done()
        one.phones[0].cancel()
        await waits
        assert not one.said('"engine lost"')
        assert not other.said('"engine lost"')


async def test_a_store_that_is_gone_and_back_ends_no_call() -> None:
    async with (
        store() as server,
        engine_process(slots=2) as engine,
        sharing(server, engine, engine_capacity="2") as bridge,
    ):
        await bridge.call()
        await server.stop()
        await until(lambda: bridge.said("does not answer"), "the bridge has noticed")
        later = asyncio.create_task(bridge.call())
        await until(lambda: '"waiting"' in bridge.log, "and goes on")
        assert not later.done()
        await server.start()
        await later
        assert bridge.log.count("no engine can be leased until it answers") == 1, "which is said once"
        assert bridge.log.count('"call ended"') == 0
        assert bridge.log.count('"engine lost"') == 0


@pytest.mark.parametrize(
    ("keeps", "gone_s"),
    [("nothing", 0.0), ("nothing", 2 * TTL_S), ("snapshot", 0.0), ("log", 2 * TTL_S)],
    ids=["at once", "after two lives of a lease", "with a snapshot", "with a log, after two lives"],
)
async def test_a_live_call_keeps_its_engine_when_the_store_forgot_and_another_bridge_wants_it(
    gone_s: float, keeps: Keeps
) -> None:
    async with two_bridges(keeps, warm_sessions="1") as (server, one, other):
        await server.save()
        await one.call()
        waits = await a_caller_waits(other)
        for _ in range(3):
            await server.stop()
            await asyncio.sleep(gone_s)
            await server.start()
            await asyncio.sleep(2 * TTL_S)  # a race that is lost is lost by then
            assert not one.said('"engine lost"')
            assert not waits.done()
        one.phones[0].cancel()
        await waits


async def test_a_call_gets_the_engine_that_another_bridge_only_keeps_warm() -> None:
    async with (
        store() as server,
        engine_process() as engine,
        sharing(server, engine, warm_sessions="1") as one,
        sharing(server, engine, warm_sessions="1") as other,
    ):
        for bridge in (one, other, one):
            await bridge.call()
            bridge.phones[-1].cancel()
            await asyncio.sleep(2 * TTL_S)  # one of them keeps it warm by then, for nobody


async def test_a_bridge_that_is_told_to_stop_gives_its_warm_sessions_to_the_others_at_once() -> None:
    async with (
        store() as server,
        engine_process(slots=2) as engine,
        sharing(server, engine, engine_capacity="2", warm_sessions="1", drain_s="600") as one,
    ):
        await one.call()
        async with sharing(server, engine, engine_capacity="2") as other:
            one.signal(signal.SIGTERM)
            await until(lambda: one.said("stopping: 1 call "), "it drains")
            began_s = asyncio.get_running_loop().time()
            await other.call()
            assert asyncio.get_running_loop().time() - began_s < 5.0
            third = await a_caller_waits(other)
            assert not third.done(), "and keeps what its live call has"
