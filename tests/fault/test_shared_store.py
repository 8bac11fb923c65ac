"""Which calls go on to a person, known to all bridges that share a store."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from tests.fault.processes import LIMIT_S, bridge_process, engine_process, fetch, until
from tests.fault.store import KINDS, PROGRAM, store

from pxbridge.calls.handover import HandOvers
from pxbridge.calls.redis_handover import RedisHandOverStore
from pxbridge.redis_store import RedisStore
from pxbridge.simulation.phone import Line, Phone, Script, place_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fault.store import Keeps

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")

NURSE = """
port = 0
keep_records = false

[personas.nurse]
text_prompt = "You are a nurse."
keys = { "0" = { hand_over = ["+911", "+912"] } }
"""


@contextlib.asynccontextmanager
async def decisions(url: str) -> AsyncIterator[HandOvers]:
    async with RedisStore(url) as client:
        shared = HandOvers(asyncio.get_running_loop().time, RedisHandOverStore(client))
        try:
            yield shared
        finally:
            await shared.close()


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
    assert (
        "hand-overs cannot be stored; only this process knows them: the lease store does not answer"
        in caplog.text
    )
    assert "the hand-over store does not answer; using this process's memory" in caplog.text


async def test_a_call_that_comes_back_at_another_bridge_is_no_longer_handed_over() -> None:
    async with store() as server, decisions(server.url) as ours, decisions(server.url) as theirs:
        async with decisions(server.url) as third:
            third.decide("CA1", ["+911"])
        theirs.begin("CA1")
        await until(lambda: not theirs._unstored, "it is in the store")
        assert await ours.look_up("CA1") is None


@pytest.mark.parametrize("keeps", KINDS)
async def test_a_hand_over_outlives_a_store_that_forgot_it(keeps: Keeps) -> None:
    async with store(keeps) as server, decisions(server.url) as ours, decisions(server.url) as theirs:
        ours.decide("CA1", ["+910"])
        await until(lambda: not ours._unstored, "it is in the store")
        await server.save()
        ours.decide("CA1", ["+911"])
        theirs.begin("CA2")
        await until(lambda: not ours._unstored and not theirs._unstored, "it is in the store")
        await server.stop()
        await server.start()
        assert await ours.look_up("CA1") == ("+911",)
        async with asyncio.timeout(LIMIT_S):  # the connections of before are gone
            while await theirs.look_up("CA1") != ("+911",):  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.01)


async def test_the_flow_may_ask_another_bridge_than_had_the_call(tmp_path: Path) -> None:
    file = tmp_path / "pxbridge.toml"
    file.write_text(NURSE)
    async with store() as server, engine_process(slots=2) as engine:
        settings = {
            "PXBRIDGE_CONFIG": str(file),
            "PXBRIDGE_ENGINES": engine,
            "PXBRIDGE_ENGINE_CAPACITY": "2",
            "PXBRIDGE_LEASE_STORE": server.url,
            "PXBRIDGE_LEASE_TTL_S": "1",
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
