"""What the pool does beside any call: it goes on whatever happens, and keeps to the settings as they are."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING

import pytest
from tests.virtual_time import run

from pxbridge.engines.address import EngineAddress, Pinned, Unverified
from pxbridge.engines.leases import Grant, MemoryLeases, Refusal, Renewal, Use
from pxbridge.engines.pool import EnginePool, Prompts, SlotState
from pxbridge.engines.probe import Wrong
from pxbridge.errors import EngineBusy, EngineUntrusted, HandshakeFailed, StoreUnreachable
from pxbridge.ops.health import engines_not_ready
from pxbridge.ops.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from pxbridge.engines.probe import Found
    from pxbridge.errors import PeerError

KIND, STERN = Prompts("NATF0.pt", "You are kind."), Prompts("NATF0.pt", "You are stern.")
A, B = EngineAddress("ws://a/api/chat"), EngineAddress("ws://b/api/chat")
PROMPT_S = 2.0


class FakeSession:
    """Lives until it is closed, and for as long as its engine takes to answer the close."""

    def __init__(
        self, engine: EngineAddress, prompts: Prompts, hears: Callable[[], bool], closes_in_s: float = 0.0
    ) -> None:
        self.engine, self.prompts, self.hears = engine, prompts, hears
        self.closes_in_s = closes_in_s
        self.prompt_s = PROMPT_S
        self._closed = asyncio.Event()

    @property
    def is_live(self) -> bool:
        return not self._closed.is_set()

    def close(self) -> None:
        if self.closes_in_s:
            asyncio.get_running_loop().call_later(self.closes_in_s, self._closed.set)
        else:
            self._closed.set()

    async def answers(self, timeout_s: float) -> bool:
        if not self.hears():
            await asyncio.sleep(timeout_s)
        return self.hears()

    async def wait_closed(self) -> None:
        await self._closed.wait()


class Elsewhere(MemoryLeases):
    """A store that another bridge has a part in."""

    renew_every_s = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.theirs: Refusal | None = None
        self.gone = False
        self.asked = 0

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        self.asked += 1
        self._answer()
        return self.theirs or await super().acquire(key, use)

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        self._answer()
        return await super().renew(held)

    async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
        self._answer()
        return [self.theirs] * len(keys) if self.theirs else await super().look(keys)

    def _answer(self) -> None:
        if self.gone:
            raise StoreUnreachable("the lease store does not answer")


class Slow(MemoryLeases):
    """A store whose answers take time, and whose leases want renewing."""

    renew_every_s = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.renewals = 0
        self.fault: Exception | None = None

    async def acquire(self, key: str, use: Use) -> Grant | Refusal:
        await asyncio.sleep(0)
        return await super().acquire(key, use)

    async def renew(self, held: Sequence[tuple[Grant, Use]]) -> list[Renewal]:
        self.renewals += 1
        await asyncio.sleep(0.0005)
        if self.fault is not None:
            raise self.fault
        return await super().renew(held)

    async def release(self, grant: Grant) -> None:
        await asyncio.sleep(0.0007)
        await super().release(grant)


@contextlib.asynccontextmanager
async def pool(
    engines: Sequence[EngineAddress] = (A,),
    *,
    warm: dict[Prompts, int] | None = None,
    store: MemoryLeases | None = None,
    there: Callable[[], bool] = lambda: True,
    hears: Callable[[], bool] = lambda: True,
    refuses: Callable[[], PeerError | None] = lambda: None,
    closes_in_s: float = 0.0,
    probes: Callable[[EngineAddress], Awaitable[Found]] | None = None,
) -> AsyncIterator[EnginePool]:
    """A pool whose engines are not there: sessions with them take `PROMPT_S` and nothing else.

    Args:
        there: Whether engines answer probes.
        hears: Whether sessions answer pings.
        refuses: What becomes of a session instead, if anything.
        closes_in_s: How long engines take to answer a close.
        probes: Probes engines instead.
    """

    async def open_session(
        engine: EngineAddress,
        prompts: Prompts,
        connected: Callable[[FakeSession], None],
        moved: Callable[[int], None] | None = None,
    ) -> FakeSession:
        session = FakeSession(engine, prompts, hears, closes_in_s)
        connected(session)
        await asyncio.sleep(PROMPT_S)
        if (refusal := refuses()) is not None:
            session.close()
            raise refusal
        return session

    async def probe_engine(_engine: EngineAddress) -> Found:
        return None if there() else Wrong("is not there")

    async with EnginePool(
        engines,
        1,
        open_session=open_session,  # type: ignore[arg-type]
        store=store,
        warm=warm,
        probe_engine=probes or probe_engine,
    ) as running:
        yield running


def shown(b: EnginePool) -> dict[str, list[str]]:
    return {
        engine: [state for state, count in counts.items() for _ in range(count)]
        for engine, counts in b.snapshot().items()
    }


def test_a_round_of_upkeep_that_goes_wrong_is_told_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store = Slow()
        odd = True

        def there() -> bool:
            if odd:
                raise RuntimeError("nobody foresaw this")
            return False

        async with pool(store=store, there=there) as b:
            lease = await b.lease(KIND)
            store.fault = RuntimeError("nor this")
            await asyncio.sleep(1.0)
            lease.release()
            store.fault = None
            await asyncio.sleep(20.0)
            odd = False
            await asyncio.sleep(20.0)
            assert shown(b) == {str(A): ["unhealthy"]}, "engines are asked again"
            assert "nobody foresaw this" in caplog.text
            assert "nor this" in caplog.text

    run(main())


def test_an_engine_that_is_removed_while_it_is_prompted_ahead_gets_no_call() -> None:
    async def main() -> None:
        async with pool((A,), warm={KIND: 1}) as b:
            await asyncio.sleep(1.0)
            assert shown(b) == {str(A): ["prompting"]}
            b.replace_engines([B])
            await asyncio.sleep(5.0)
            assert shown(b) == {str(B): ["warm"]}
            lease = await b.lease(KIND)
            assert (lease.engine, lease.warm) == (B, True)
            lease.release()

    run(main())


def test_prompts_that_change_while_the_old_ones_are_read_ahead_take_their_slot() -> None:
    async def main() -> None:
        async with pool(warm={KIND: 1}) as b:
            await asyncio.sleep(1.0)
            b.keep_warm({STERN: 1})
            await asyncio.sleep(4.0)
            lease = await b.lease(STERN)
            assert lease.warm
            lease.release()

    run(main())


@pytest.mark.parametrize("after_s", [1.0, 4.0], ids=["prompting", "warm"])
def test_fewer_warm_sessions_are_kept_as_soon_as_fewer_are_wanted(after_s: float) -> None:
    async def main() -> None:
        async with pool((A, B), warm={KIND: 2}) as b:
            await asyncio.sleep(after_s)
            b.keep_warm({KIND: 1})
            await asyncio.sleep(5.0)
            assert b.states() == {SlotState.WARM: 1, SlotState.IDLE: 1}

    run(main())


@pytest.mark.parametrize("after_s", [1.0, 4.0], ids=["prompting", "warm"])
def test_no_call_gets_a_session_that_was_opened_under_a_trust_that_is_given_up(after_s: float) -> None:
    async def main() -> None:
        lax, strict = (EngineAddress("wss://a/api/chat", trust) for trust in (Unverified(), Pinned("0" * 64)))
        async with pool((lax,), warm={KIND: 1}) as b:
            await asyncio.sleep(after_s)
            b.replace_engines([strict])
            lease = await b.lease_in_turn(KIND)
            session = await lease.session()
            assert session.engine == strict
            lease.release()

    run(main())


def test_an_engine_that_hangs_under_a_warm_session_is_noticed_and_not_offered() -> None:
    async def main() -> None:
        alive = True
        async with pool(warm={KIND: 1}, there=lambda: alive, hears=lambda: alive) as b:
            await asyncio.sleep(60.0)
            assert b.free == 1
            alive = False
            await asyncio.sleep(15.0)
            assert shown(b) == {str(A): ["unhealthy"]}
            assert b.free == 0
            alive = True
            await asyncio.sleep(20.0)
            assert shown(b) == {str(A): ["warm"]}

    run(main())


def test_a_warm_session_whose_connection_was_forgotten_is_replaced() -> None:
    async def main() -> None:
        forgotten = False
        async with pool(warm={KIND: 1}, hears=lambda: not forgotten) as b:
            await asyncio.sleep(10.0)
            (slot,) = b._transitions.directory.used
            before = slot.grant
            forgotten = True
            await asyncio.sleep(11.0)
            forgotten = False
            await asyncio.sleep(5.0)
            assert shown(b) == {str(A): ["warm"]}
            assert slot.grant != before

    run(main())


def test_where_engines_are_few_the_persona_that_was_called_last_is_kept_warm() -> None:
    async def main() -> None:
        async with pool(warm={KIND: 1, STERN: 1}) as b:
            await asyncio.sleep(5.0)
            for expected in (False, True, True):
                lease = await b.lease(STERN)
                assert lease.warm == expected
                await lease.session()
                lease.release()
                await asyncio.sleep(5.0)

    run(main())


def test_what_is_prompted_ahead_counts_as_free() -> None:
    async def main() -> None:
        async with pool(warm={KIND: 1}) as b:
            await asyncio.sleep(1.0)
            assert shown(b) == {str(A): ["prompting"]}
            assert b.free == 1
            await b.lease(KIND)
            assert b.free == 0

    run(main())


def test_what_other_bridges_have_is_not_free_but_what_they_keep_warm_can_be_had() -> None:
    async def main() -> None:
        store = Elsewhere()
        async with pool(store=store) as b:
            for theirs, free, state in (
                (Refusal.CALL, 0, "elsewhere"),
                (Refusal.WARM, 1, "elsewhere"),
                (Refusal.SETTLING, 0, "elsewhere"),
                (None, 1, "idle"),
            ):
                store.theirs = theirs
                await asyncio.sleep(1.5)
                assert (b.free, shown(b)) == (free, {str(A): [state]})

    run(main())


def test_a_store_that_is_gone_is_told_once_and_keeps_a_bridge_without_warm_sessions_from_being_ready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store = Elsewhere()
        async with pool(store=store) as b:

            def scraped() -> list[str]:
                return [line for line in Metrics(b).scrape().decode().splitlines() if "lease_store" in line]

            await asyncio.sleep(1.0)
            assert b.free == 1
            assert "pxbridge_lease_store_up 1.0" in scraped()
            store.gone = True
            await asyncio.sleep(60.0)
            assert b.free == 0
            assert b.store_gone_s == pytest.approx(60.0, abs=1.0)
            (reason,) = engines_not_ready(b.snapshot(), b.store_gone_s)
            assert "lease store" in reason
            assert "pxbridge_lease_store_up 0.0" in scraped()
            assert len([r for r in caplog.records if "does not answer" in r.message]) == 1
            store.gone = False
            await asyncio.sleep(1.0)
            assert (b.free, b.store_gone_s) == (1, None)
            b.keep_warm({KIND: 1})
            await asyncio.sleep(5.0)
            store.gone = True
            await asyncio.sleep(5.0)
            assert engines_not_ready(b.snapshot(), b.store_gone_s) == [], "one call can be taken"
            assert b.free == 1

    run(main())


@pytest.mark.parametrize("warm", [{}, {KIND: 1}])
def test_a_slot_is_free_only_when_its_engine_has_let_go_of_the_last_connection(
    warm: dict[Prompts, int],
) -> None:
    """NVIDIA's server accepts another connection meanwhile, and does not answer it."""

    async def main() -> None:
        async with pool(warm=warm, closes_in_s=2.0) as b:
            await asyncio.sleep(5.0)
            lease = await b.lease(STERN)  # a session with other prompts has to close first
            opening = asyncio.create_task(lease.session())
            await asyncio.sleep(1.0)
            b.keep_warm({})
            opening.cancel()
            lease.cancel()
            await asyncio.sleep(0.8)
            assert shown(b) == {str(A): ["cooling"]}
            await asyncio.sleep(1.5)
            assert shown(b) == {str(A): ["idle"]}

    run(main())


def test_a_failed_attempt_frees_its_slot_when_its_connection_has_ended() -> None:
    async def main() -> None:
        async with pool(refuses=lambda: EngineBusy("silent"), closes_in_s=2.0) as b:
            lease = await b.lease(KIND)
            with pytest.raises(EngineBusy):
                await lease.session()
            lease.release()
            await asyncio.sleep(1.0)
            assert shown(b) == {str(A): ["cooling"]}
            await asyncio.sleep(1.5)
            assert shown(b) != {str(A): ["cooling"]}

    run(main())


def test_an_engine_has_one_probe_at_a_time_however_soon_another_one_is_due() -> None:
    async def main() -> int:
        under_way, most = 0, 0

        async def probe_slowly(_engine: EngineAddress) -> Found:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(10.0)
            under_way -= 1
            return None

        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with pool(probes=probe_slowly) as b:
            for _ in range(20):
                await asyncio.sleep(1.0)
                (engine,) = b._transitions.directory.engines
                engine.probe_at_s = 0.0  # as when it says that it is full
        gc.collect()
        assert faults == []
        return most

    assert run(main()) == 1


def test_a_slot_may_go_while_the_store_is_asked_about_it(caplog: pytest.LogCaptureFixture) -> None:
    class Looked(Elsewhere):
        async def look(self, keys: Sequence[str]) -> list[Refusal | None]:
            answer = await super().look(keys)
            await asyncio.sleep(0.05)
            return answer

    async def main() -> None:
        store = Looked()
        async with pool(store=store) as b:
            (engine,) = b._transitions.directory.engines
            for held in (None, Refusal.CALL) * 20:
                store.theirs = held
                engine.resize(4)
                await asyncio.sleep(0.26)
                engine.resize(1)
                await asyncio.sleep(0.26)

    run(main())
    assert caplog.text == ""


def test_a_slot_is_promised_to_one_call_until_it_has_come_or_does_not() -> None:
    async def main() -> None:
        async with pool((A, B)) as b:
            b.promises.make("one")
            assert b.free == 1
            b.promises.make("two")
            assert b.free == 0
            b.promises.keep("one")
            lease = await b.lease(KIND)
            assert b.free == 0, "one has come, and has its slot; the other may"
            assert b.free_for("two") == 1
            await asyncio.sleep(11.0)
            assert b.free == 1, "it did not"
            lease.release()

    run(main())


def test_a_call_that_asks_often_is_promised_one_slot_and_can_still_have_it() -> None:
    async def main() -> None:
        async with pool((A, B)) as b:
            for _ in range(5):
                assert b.free_for("one") == 2
                b.promises.make("one")
                await asyncio.sleep(1.0)
            assert (b.free, len(b.promises)) == (1, 1)
            b.promises.make("two")
            assert (b.free_for("one"), b.free_for("two"), b.free_for("three")) == (1, 1, 0)
            await asyncio.sleep(7.0)
            assert len(b.promises) == 2, "each is kept for 10 s from when it was asked for last"
            await asyncio.sleep(2.5)
            assert (b.promises.besides("two"), len(b.promises)) == (0, 1)

    run(main())


def test_failures_to_make_a_session_ahead_of_calls_are_counted() -> None:
    async def main() -> None:
        refusal = EngineUntrusted("another certificate is pinned")
        async with pool(warm={KIND: 1}, refuses=lambda: refusal) as b:
            await asyncio.sleep(60.0)
            scraped = Metrics(b).scrape().decode()
            assert b.failures()[str(A)]["ahead"] > 2
            assert f'pxbridge_engine_failures_total{{engine="{A}",phase="ahead"}}' in scraped
            assert f'pxbridge_engine_failures_total{{engine="{A}",phase="call"}} 0.0' in scraped

    run(main())


@pytest.mark.parametrize(("kind", "lines"), [(HandshakeFailed, 1), (EngineUntrusted, 0)])
def test_an_error_that_is_not_an_engine_s_is_logged_with_its_traceback(
    kind: type[PeerError], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with pool(refuses=lambda: kind("not as expected")) as b:
            lease = await b.lease(KIND)
            with pytest.raises(kind):
                await lease.session()
            lease.release()
        assert [record.message for record in caplog.records].count("engine pool: a task failed") == lines

    run(main())
