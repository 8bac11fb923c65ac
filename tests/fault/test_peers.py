"""Where `/exotel/url` sends a call that the bridge which is asked cannot take itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from tests.fault.processes import bridge_process, engine_process, fetch, until
from tests.fault.store import PROGRAM, store

from pxbridge.redis_store import RedisStore
from pxbridge.simulation.phone import Line, Phone, Script, place_call
from pxbridge.telephony.peers import PeerBridges
from pxbridge.telephony.tokens import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.fault.processes import BridgeProcess

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")

EVERY_S = 600.0
KEY = "key-of-all-bridges-0123456789-abcdefghij"
FLOW = "flow:a-password-of-its-own"
ONE, OTHER, THIRD = ("wss://one.example.com", "wss://other.example.com", "wss://third.example.com")


@contextlib.asynccontextmanager
async def node(
    store_url: str, url: str, room: int = 0, *, keys: Iterable[str] = (KEY,), personas: Iterable[str] = ()
) -> AsyncIterator[PeerBridges]:
    """A bridge with room for so many calls, as the others see it."""
    signer = Signer([key.encode() for key in keys], lambda: 0.0)
    # It speaks once and no more, so that what is counted there stays counted however long the test takes.
    async with RedisStore(store_url) as client:
        nodes = PeerBridges(client, url, signer, lambda: ["default", *personas], EVERY_S)
        async with nodes.announced(lambda: room):
            while not await nodes._store.client.exists(f"pxbridge:node:{nodes._name}"):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            yield nodes


async def test_the_bridge_with_the_most_room_is_named_and_the_call_counted_there() -> None:
    async with store() as server, node(server.url, ONE) as asked:
        assert await asked.elsewhere(None) is None, "there is nobody else"
        async with node(server.url, OTHER, 2), node(server.url, THIRD, 1):
            named = [await asked.elsewhere(None) for _ in range(4)]
        assert named[0] == OTHER
        assert sorted(filter(None, named)) == [OTHER, OTHER, THIRD], "none is named for more than it said"
        assert named[3] is None
        assert await asked.elsewhere(None) is None, "they have left"


async def test_a_bridge_that_would_not_take_the_call_is_not_named() -> None:
    async with store() as server, node(server.url, ONE) as asked:
        async with node(server.url, OTHER, 5, keys=["another-key-0123456789-abcdefghijklmnop"]):
            assert await asked.elsewhere(None) is None, "it does not know our tokens"
        async with node(server.url, OTHER, 5, keys=["new-key-0123456789-abcdefghijklmnopqrst", KEY]):
            assert await asked.elsewhere("default") == OTHER, "it knows our key too"
            assert await asked.elsewhere("nurse") is None, "it has no such persona"
        async with node(server.url, OTHER, 5, personas=["nurse"]):
            assert await asked.elsewhere("nurse") == OTHER


async def test_what_another_version_says_is_passed_over() -> None:
    async with store() as server, node(server.url, ONE) as asked, node(server.url, OTHER, 50):
        client = asked._store.client
        good = {"url": THIRD, "room": 99, "marks": asked._signer.key_id, "personas": '["default"]'}
        await client.hset("pxbridge:node:x", mapping=good)
        await client.sadd("pxbridge:nodes", "x", b"\xff")
        assert await asked.elsewhere("default") == THIRD
        for name, value in (
            ("room", "many"),
            ("personas", "{"),
            ("personas", "7"),
            ("personas", "[" * 100_000),
            ("marks", b"\xff"),
            ("url", "javascript:alert(1)"),
        ):
            await client.hset("pxbridge:node:x", mapping={**good, name: value})
            assert await asked.elsewhere("default") == OTHER
        await client.set("pxbridge:node:x", "not a hash")
        await client.sadd("pxbridge:nodes", "x")
        assert await asked.elsewhere("default") == OTHER


async def test_bridges_of_one_name_have_room_for_each_other() -> None:
    async with store() as server, node(server.url, ONE) as asked, node(server.url, ONE, 1):
        assert await asked.elsewhere(None) == ONE


async def test_a_bridge_that_leaves_is_named_no_more_though_it_goes_on() -> None:
    async with store() as server, node(server.url, ONE) as asked, node(server.url, OTHER, 5) as other:
        assert await asked.elsewhere(None) == OTHER
        other.leave()
        async with asyncio.timeout(5.0):
            while await asked.elsewhere(None) is not None:
                pass


async def test_a_bridge_that_says_nothing_any_more_is_forgotten() -> None:
    async with store() as server, node(server.url, ONE) as asked, node(server.url, OTHER, 5) as other:
        client = asked._store.client
        assert 0 < await client.pttl(f"pxbridge:node:{other._name}") <= 3500 * EVERY_S
        await client.delete(f"pxbridge:node:{other._name}")  # as it is when its time is over
        assert await asked.elsewhere(None) is None
        assert not await client.sismember("pxbridge:nodes", other._name)


async def test_without_the_store_no_other_bridge_is_known(caplog: pytest.LogCaptureFixture) -> None:
    async with store() as server, node(server.url, ONE) as asked, node(server.url, OTHER, 5):
        await server.stop()
        assert await asked.elsewhere(None) is None
        assert "the lease store does not answer: calls cannot be sent to other bridges" in caplog.text


async def ask(bridge: BridgeProcess) -> str:
    """The URL that a flow gets, or why it gets none."""
    url = f"http://127.0.0.1:{bridge.port}/exotel/url?CallSid=CA1"
    _, body = await asyncio.to_thread(fetch, url, Authorization=f"Basic {b64encode(FLOW.encode()).decode()}")
    answer = json.loads(body)
    return str(answer.get("url") or answer["error"])


async def test_a_bridge_that_is_full_or_drains_sends_its_calls_to_another() -> None:
    async with store() as server, engine_process(slots=3) as engine, contextlib.AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(
                bridge_process(
                    engines=engine,
                    engine_capacity="3",
                    warm_sessions="0",
                    lease_store=server.url,
                    lease_ttl_s="1",
                    allow_anonymous="false",
                    token_keys=KEY,
                    credentials=FLOW,
                    public_url=url,
                    max_calls=most,
                    drain_s="600",
                )
            )
            for url, most in ((ONE, "1"), (OTHER, "2"))
        ]

        async def url_at(start: str) -> str:
            """What `one` answers, as soon as that begins so: it learns of others every two seconds."""
            while not (answer := await ask(one)).startswith(start):  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.1)
            return answer

        async def take(url: str, bridge: BridgeProcess) -> None:
            path = url.partition("/exotel/")[2]
            phone = Phone(Script(hang_up_at_s=600.0), Line())
            call = place_call(f"ws://127.0.0.1:{bridge.port}/exotel/{path}", phone)
            bridge.phones.append(asyncio.create_task(call))
            await until(lambda: len(phone.player.heard) > 0, "the agent is heard")

        async with asyncio.timeout(60.0):
            await take(await url_at(ONE), one)
            await take(await url_at(OTHER), other)
            one.signal(signal.SIGTERM)
            await until(lambda: one.said("stopping: 1 call "), "it drains")
            await take(await url_at(OTHER), other)
            assert await url_at("draining") == "draining: no new calls", "and the other one is full"
