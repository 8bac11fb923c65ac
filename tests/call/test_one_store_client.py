"""A process has one client of the store that bridges share, whatever it keeps there."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from tests.fault.store import PROGRAM, store

from pxbridge import settings
from pxbridge.app import lifecycle
from pxbridge.doctor import examine

redis = pytest.importorskip("redis.asyncio")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENGINE = "ws://127.0.0.1:9"


@contextlib.contextmanager
def clients_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    made: list[Any] = []
    from_url = redis.Redis.from_url

    def make(url: str, **options: Any) -> Any:
        client = from_url(url, **options)
        made.append(client)
        return client

    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "from_url", make)
        yield made


def shared(store_url: str, folder: Path) -> dict[str, object]:
    return {
        "port": 0,
        "console_port": 0,
        "engines": ENGINE,
        "allow_anonymous": True,
        "lease_store": store_url,
        "public_url": "wss://voice.example.com",
        "state_dir": str(folder),
        "keep_records": False,
    }


@pytest.mark.skipif(PROGRAM is None, reason="needs valkey-server or redis-server")
async def test_leases_hand_overs_and_peers_share_one_client_which_is_closed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store() as server:
        loaded = settings.load(shared(server.url, tmp_path), {})
        with clients_made(monkeypatch) as made:
            keys: list[bytes] = []

            async def look() -> None:
                while not any(key.startswith(b"pxbridge:node:") for key in keys):
                    keys[:] = await made[0].keys("*")
                    await asyncio.sleep(0.01)
                os.kill(os.getpid(), signal.SIGTERM)

            looking: list[asyncio.Task[None]] = []
            async with asyncio.timeout(20):
                await lifecycle.run(
                    loaded,
                    Console(file=io.StringIO()),
                    lambda _url: looking.append(asyncio.ensure_future(look())),
                )
        async with redis.Redis.from_url(server.url) as asking:
            connections = await asking.client_list()
    assert len(made) == 1
    assert b"pxbridge:remembers" in keys, "the pool asked for leases there"
    assert len(connections) == 1, "only the one that asks is left"


async def test_the_doctor_uses_one_client_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = shared("redis://127.0.0.1:9/0", tmp_path)
    settings.load(flags, {})
    with clients_made(monkeypatch) as made:
        found = [finding async for finding in examine(flags, {})]
    assert any("the lease store does not answer" in finding.what for finding in found)
    # The settings try the URL with a client that never connects; the checks share another.
    assert len(made) == 2
