"""Jobs that repeat, and tasks that are stopped, although a cancellation may be lost on its way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.virtual_time import run

from pxbridge.errors import StoreUnreachable
from pxbridge.periodic import AFTER_FAULT_S, STOP_TIMEOUT_S, repeat, stop
from pxbridge.redis_store import RedisStore

if TYPE_CHECKING:
    import pytest


async def swallow() -> None:
    """Waits until it is cancelled, and returns as if it had been answered.

    So does `asyncio.wait_for` of Python 3.11 if the answer and the cancellation come in the same turn.
    """
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def started(task: asyncio.Task[None]) -> asyncio.Task[None]:
    await asyncio.sleep(0.001)
    return task


def test_a_job_that_loses_its_cancellation_does_not_run_again() -> None:
    async def main() -> tuple[int, bool, float]:
        runs = 0

        async def job() -> None:
            nonlocal runs
            runs += 1
            await swallow()

        task = await started(asyncio.create_task(repeat("job", job)))
        began_s = asyncio.get_running_loop().time()
        await stop([task])
        return runs, task.cancelled(), asyncio.get_running_loop().time() - began_s

    runs, cancelled, took_s = run(main())
    assert (runs, cancelled) == (1, True)
    assert took_s < 0.1


def test_a_job_that_fails_because_of_its_cancellation_does_not_run_again() -> None:
    async def main() -> tuple[bool, float]:
        async def job() -> None:
            await swallow()
            raise RuntimeError("the connection is in an unknown state")

        task = await started(asyncio.create_task(repeat("job", job)))
        began_s = asyncio.get_running_loop().time()
        await stop([task])
        return task.cancelled(), asyncio.get_running_loop().time() - began_s

    cancelled, took_s = run(main())
    assert cancelled and took_s < AFTER_FAULT_S / 2


def test_a_task_that_lost_its_first_cancellation_is_cancelled_again() -> None:
    async def main() -> bool:
        async def work() -> None:
            await swallow()
            await asyncio.Event().wait()

        task = await started(asyncio.create_task(work()))
        await stop([task])
        return task.cancelled()

    assert run(main())


def test_a_task_that_never_ends_is_left_behind_and_named(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> float:
        ends = asyncio.Event()

        async def work() -> None:
            while not ends.is_set():
                await swallow()

        loop = asyncio.get_running_loop()
        task = await started(asyncio.create_task(work(), name="stubborn"))
        began_s = loop.time()
        await stop([task])
        took_s = loop.time() - began_s
        ends.set()
        task.cancel()
        await asyncio.wait([task])
        return took_s

    assert run(main()) < STOP_TIMEOUT_S + 0.1
    assert f"stubborn did not stop within {STOP_TIMEOUT_S:g} s" in caplog.text


def test_a_cancellation_that_comes_with_an_answer_of_the_store_is_not_lost() -> None:
    async def main() -> list[bool]:
        async with RedisStore("redis://127.0.0.1:9/0") as store:

            async def asks(*, fails: bool) -> None:
                async with store.answer():
                    await swallow()
                    if fails:
                        raise OSError("the connection was closed while the answer came")
                await asyncio.Event().wait()  # what a job does next

            found = []
            for fails in (False, True):
                task = await started(asyncio.create_task(asks(fails=fails)))
                task.cancel()
                await asyncio.wait([task], timeout=1.0)
                found.append(task.cancelled())
                task.cancel()
            return found

    assert run(main()) == [True, True]


def test_a_limit_around_the_store_holds_although_its_cancellation_came_with_an_answer() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with RedisStore("redis://127.0.0.1:9/0") as store:
            try:
                async with asyncio.timeout(0.5):
                    async with store.answer():
                        await swallow()
                    await asyncio.sleep(100.0)
            except TimeoutError:
                return loop.time()
        return float("inf")

    assert run(main()) < 0.6


def test_the_limit_of_the_store_itself_cancels_nobody() -> None:
    async def main() -> list[str]:
        said = []
        async with RedisStore("redis://127.0.0.1:9/0") as store:
            for fails in (False, True):
                try:
                    async with store.answer():
                        await swallow()  # until the limit of the answer
                        if fails:
                            raise OSError("the connection is closed")
                    said.append("answered")
                except StoreUnreachable as error:
                    said.append(str(error))
        return said

    assert run(main()) == ["answered", "the lease store does not answer (OSError)"]
