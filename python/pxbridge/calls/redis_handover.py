"""Which calls go on to a person, known to every bridge that shares a store.

A load balancer sends the flow's question to any of them. A decision is a key that expires; the bridge that
had the call answers from its own memory, which is there with the store gone too.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from pxbridge.calls.handover import KEPT_S, HandOvers
from pxbridge.errors import StoreUnreachable
from pxbridge.redis_store import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pxbridge.redis_store import RedisStore

log = logging.getLogger(__name__)


class SharedHandOvers(HandOvers):
    """The decisions of several bridges.

    Args:
        clock: Seconds, monotonic.
        store: Where the bridges tell each other. Closed with this.
    """

    def __init__(self, clock: Callable[[], float], store: RedisStore) -> None:
        super().__init__(clock)
        self._store = store
        self._telling: set[asyncio.Task[None]] = set()

    def decide(self, call_sid: str, numbers: Sequence[str] = ()) -> None:
        """Hand a call over, and tell the others meanwhile: the agent's last words take longer than that."""
        super().decide(call_sid, numbers)
        if call_sid:
            task = asyncio.create_task(self._tell(call_sid, numbers), name=f"hand-over of {call_sid}")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def look_up(self, call_sid: str) -> tuple[str, ...] | None:
        """The numbers a call was handed over to, by whichever bridge had it; ``None`` if it was not."""
        if (numbers := self.find(call_sid)) is not None:
            return numbers
        try:
            async with self._store.answer():
                told = await self._store.client.get(_key(call_sid))
        except StoreUnreachable as error:
            log.error("call %s: whether another bridge handed it over is not known: %s", call_sid, error)
            return None
        return None if told is None else tuple(json.loads(told))

    async def close(self) -> None:
        """Closes the connections, when everything has been told."""
        if self._telling:
            await asyncio.wait(self._telling)
        await self._store.close()

    async def _tell(self, call_sid: str, numbers: Sequence[str]) -> None:
        try:
            async with self._store.answer():
                await self._store.client.set(_key(call_sid), json.dumps(list(numbers)), ex=round(KEPT_S))
        except StoreUnreachable as error:
            log.error("call %s: that it is handed over could not be told to others: %s", call_sid, error)


def _key(call_sid: str) -> str:
    return f"{PREFIX}handover:{call_sid}"
