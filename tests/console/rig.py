"""A console in front of a bridge of the call tests, in virtual time or in real time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.call.rig import bridge

from pxbridge.calls.numbers import Numbers
from pxbridge.calls.operating import operate
from pxbridge.console.live import Live
from pxbridge.console.live_view import LiveView
from pxbridge.console.server import Console, serve
from pxbridge.console.talk import Talks
from pxbridge.records.recent_calls import RecentCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.call.rig import Bridge

    from pxbridge.simulation.faults import Fault


@dataclass
class Served:
    """What a test can reach."""

    bridge: Bridge
    console: Console
    live: Live
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def served(
    *faults: Sequence[Fault],
    console: dict[str, Any] | None = None,
    numbers: Numbers = Numbers(),  # noqa: B008  frozen
    **options: Any,
) -> AsyncIterator[Served]:
    """A bridge with a console.

    Args:
        faults: Of the engines, one entry for each.
        console: Further arguments of the console.
        numbers: How phone numbers are written.
        options: Of the bridge.
    """
    clock = asyncio.get_running_loop().time
    recent = RecentCalls(numbers, clock)
    options["subscribers"] = [recent, *options.get("subscribers", ())]
    async with bridge(*faults, **options) as b:

        async def no_voices() -> None:
            return None

        view = LiveView(b.registry, b.pool, b.listener.full, numbers, rehearsal=True, clock=clock)
        b.registry.subscribe(view)
        live = Live(view.snapshot)
        talks = Talks(b.listener.take, lambda: b.registry.personas, no_voices, rehearsal=True)
        made = Console(
            lambda: b"",
            recent.calls,
            b.listener.full,
            partial(operate, b.registry),
            live=live,
            talks=talks,
            **(console or {}),
        )
        async with serve(made, "127.0.0.1", 0) as port:
            yield Served(b, made, live, port)
