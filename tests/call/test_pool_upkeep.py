"""What the pool does beside any call: it goes on whatever happens, and keeps to the settings as they are."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from tests.virtual_time import run

from pxbridge.personaplex.client import EngineAddress, Pinned, Unverified
from pxbridge.personaplex.leases import Grant, MemoryLeases, Refusal, Renewal, Use
from pxbridge.personaplex.pool import EnginePool, Prompts, SlotState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

KIND, STERN = Prompts("NATF0.pt", "You are kind."), Prompts("NATF0.pt", "You are stern.")
A, B = EngineAddress("ws://a/api/chat"), EngineAddress("ws://b/api/chat")
PROMPT_S = 2.0


class FakeSession:
    """Lives until it is closed."""

    def __init__(self, engine: EngineAddress, prompts: Prompts) -> None:
        self.engine, self.prompts = engine, prompts
        self.prompt_s = PROMPT_S
        self._closed = asyncio.Event()

    @property
    def is_live(self) -> bool:
        return not self._closed.is_set()

    def close(self) -> None:
        self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()


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
) -> AsyncIterator[EnginePool]:
    """A pool whose engines are not there: sessions with them take `PROMPT_S` and nothing else."""

    async def open_session(
        engine: EngineAddress, prompts: Prompts, connected: Callable[[], None]
    ) -> FakeSession:
        connected()
        await asyncio.sleep(PROMPT_S)
        return FakeSession(engine, prompts)

    async def answers(_engine: EngineAddress) -> bool:
        return there()

    async with EnginePool(
        engines,
        1,
        open_session=open_session,  # type: ignore[arg-type]
        store=store,
        warm=warm,
        answers=answers,
    ) as running:
        yield running


def shown(b: EnginePool) -> dict[str, list[str]]:
    return {str(engine): [state.value for state in states] for engine, states in b.engines()}


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
