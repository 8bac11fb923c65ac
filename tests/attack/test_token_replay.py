"""A token for one call in the hands of somebody who saw the URL: it admits that call and no other.

Exotel repeats a handshake that it thinks has failed, with the same token and the same call, and has to be let
in each time.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attack.test_who_comes_in import KEY, PASSWORD, deployed, fetch
from tests.fault.processes import bridge_process, engine_process
from tests.fault.store import PROGRAM, store
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pxbridge.errors import StoreUnreachable
from pxbridge.redis_store import RedisStore
from pxbridge.telephony.call_tokens import HANDSHAKES, CallTokens, RedisTokens, TokenUse
from pxbridge.telephony.exotel.spelling import Exotel

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

SHARED = {
    "PXBRIDGE_ALLOW_ANONYMOUS": "false",
    "PXBRIDGE_CREDENTIALS": f"asha:{PASSWORD}",
    "PXBRIDGE_ENGINE_CAPACITY": "3",
    "PXBRIDGE_LEASE_TTL_S": "1",
    "PXBRIDGE_WARM_SESSIONS": "0",
    "PXBRIDGE_PUBLIC_URL": "wss://voice.example.com",
    "PXBRIDGE_TOKEN_KEYS": KEY,
}


async def call(where: str, path: str, call_sid: str, stack: AsyncExitStack) -> ClientConnection:
    phone = await stack.enter_async_context(connect(f"ws://{where}{path}"))
    await phone.send(Exotel("MZ1").start(call_sid=call_sid))
    return phone


async def is_heard(phone: ClientConnection) -> bool:
    """Whether the call goes on; False if it was closed with 1008."""
    try:
        return any('"media"' in message for message in [str(await phone.recv()) for _ in range(20)])
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (1008, "its token was used for another call")
        return False


async def path_for_a_call(where: str, call_sid: str) -> str:
    status, body = await fetch(where, f"/exotel/url?CallSid={call_sid}", user=f"asha:{PASSWORD}")
    assert status == 200, body
    url: str = json.loads(body)["url"]
    return urlsplit(url).path


async def test_a_token_admits_one_call_however_often_it_is_dialled() -> None:
    async with deployed() as where, AsyncExitStack() as stack:
        path = await path_for_a_call(where, "CA1")
        first = await call(where, path, "CA1", stack)
        assert await is_heard(first)
        assert not await is_heard(await call(where, path, "CA2", stack)), "another call"
        assert await is_heard(await call(where, path, "CA1", stack)), "the same call once more"
        assert not await is_heard(await call(where, path, "", stack)), "who knows which call"
        with pytest.raises(InvalidStatus) as refused:
            await call(where, path, "CA1", stack)
        assert refused.value.response.status_code == 403, f"more than {HANDSHAKES} handshakes"


async def test_a_token_of_a_call_that_has_ended_admits_no_other() -> None:
    async with deployed() as where, AsyncExitStack() as stack:
        path = await path_for_a_call(where, "CA1")
        first = await call(where, path, "CA1", stack)
        assert await is_heard(first)
        await first.close()
        assert not await is_heard(await call(where, path, "CA2", stack))


async def test_a_handshake_without_a_call_does_not_use_the_token_up() -> None:
    async with deployed() as where, AsyncExitStack() as stack:
        path = await path_for_a_call(where, "CA1")
        async with connect(f"ws://{where}{path}"):
            pass
        assert await is_heard(await call(where, path, "CA1", stack))


@pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")
async def test_a_token_admits_one_call_at_all_bridges_that_share_a_store() -> None:
    async with store() as server, RedisStore(server.url) as one, RedisStore(server.url) as other:
        here, there = CallTokens(lambda: 0.0, RedisTokens(one)), CallTokens(lambda: 0.0, RedisTokens(other))

        async def claims(nonce: str, *calls: tuple[CallTokens, str]) -> list[bool]:
            return await asyncio.gather(*(at.claim_shared(nonce, sid, 60.0) for at, sid in calls))

        assert await claims("a", (here, "CA1")) == [True]
        assert await claims("a", (there, "CA2"), (there, "CA1"), (here, "CA2")) == [False, True, False]
        for number in range(20):
            at_once = await claims(f"n{number}", (here, "CA1"), (there, "CA2"), (here, "CA3"), (there, "CA4"))
            assert sum(at_once) == 1
        assert await claims("nameless", (here, "")) == [True]
        assert await claims("nameless", (there, "")) == [False], "nobody knows whether it is the same call"
        left_ms = await one.client.pttl("pxbridge:token:a")
        assert 100_000 < left_ms <= 120_000, "it is forgotten some time after it has expired"


@pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")
async def test_a_replay_at_another_bridge_is_refused_before_it_gets_an_engine() -> None:
    async with store() as server, engine_process(slots=8) as engine, AsyncExitStack() as stack:
        environ = {**SHARED, "PXBRIDGE_LEASE_STORE": server.url, "PXBRIDGE_ENGINES": engine}
        environ["PXBRIDGE_ENGINE_CAPACITY"] = "8"
        bridges = [await stack.enter_async_context(bridge_process(environ=environ)) for _ in range(2)]
        one, other = (f"127.0.0.1:{bridge.port}" for bridge in bridges)
        async with asyncio.timeout(20):  # a store that has just started grants nothing for a while
            while (await fetch(one, "/exotel/url", user=f"asha:{PASSWORD}"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        path = await path_for_a_call(one, "CA1")
        assert await is_heard(await call(one, path, "CA1", stack))
        assert not await is_heard(await call(other, path, "CA2", stack))
        assert await is_heard(await call(other, path, "CA1", stack)), "Exotel's retry may come here"
        path = await path_for_a_call(one, "CA3")
        assert await is_heard(await call(one, path, "CA3", stack))
        victim = await call(other, await path_for_a_call(other, "CA4"), "CA4", stack)
        assert await is_heard(victim)
        assert not await is_heard(await call(other, path, "CA4", stack))
        assert await is_heard(victim), "a connection that is refused ends no other"


async def test_a_lost_store_keeps_no_call_out() -> None:
    class Lost:
        async def claim(self, nonce: str, call_id: str, kept_s: float) -> bool:
            raise StoreUnreachable("it does not answer")

    refused: list[str] = []
    use = TokenUse(CallTokens(lambda: 0.0, Lost()), "a", 60.0, lambda: refused.append("refused"))
    assert use.begin("CA1") and await use.confirm("CA1")
    assert not use.begin("CA2"), "this bridge remembers by itself"
    assert refused == ["refused"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["CA1", "CA2", ""]))))
def test_each_token_is_used_for_one_call(claims: list[tuple[str, str]]) -> None:
    tokens, admitted = CallTokens(lambda: 0.0), set()
    for nonce, call_id in claims:
        if tokens.claim(nonce, call_id):
            admitted.add((nonce, call_id))
    assert len(admitted) == len({nonce for nonce, _ in claims}), "every token admits a call, and only one"
