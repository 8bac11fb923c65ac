"""One client of the rehearsal engine, from its upgrade to its end: who may speak when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from typing import TYPE_CHECKING, Final

from websockets.exceptions import ConnectionClosed

from pxbridge import chat_wire
from pxbridge.simulation import strict_ogg
from pxbridge.simulation.strict_ogg import PageReader, PageWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.asyncio.server import ServerConnection

    from pxbridge.simulation.faults import Fault
    from pxbridge.simulation.rehearsal.machines import Machine

log = logging.getLogger("pxbridge.simulation.rehearsal")

_AUDIO: Final = bytes([chat_wire.Kind.AUDIO])


class Session:
    """One client, from its upgrade to its end."""

    def __init__(self, connection: ServerConnection, machine: Machine, faults: Sequence[Fault]) -> None:
        self._connection = connection
        self._machine = machine
        self._faults = faults
        self._heard_something = asyncio.Event()

    # What faults may do

    def cut(self) -> None:
        """Ends the connection without a closing handshake."""
        self._connection.transport.abort()

    async def close(self, code: int, reason: str) -> None:
        """Ends the connection with a closing handshake."""
        await self._connection.close(code, reason)

    async def send(self, message: bytes) -> None:
        """Sends one message."""
        await self._connection.send(message)

    async def pause(self, delay_s: float) -> None:
        """Lets time pass."""
        await asyncio.sleep(delay_s)

    async def forever(self) -> None:
        """Waits until the session ends."""
        await asyncio.get_running_loop().create_future()

    # The life of the session

    async def discard_input(self) -> None:
        """Reads and discards what the client sends; returns when the client is gone."""
        async for _ in self._connection:
            pass

    async def prompt(self, prompt_s: float) -> None:
        """Waits as long as a real engine needs for its prompts."""
        for fault in self._faults:
            await fault.while_prompting(self)
        await self.pause(prompt_s)

    async def converse(self, step_s: float) -> None:
        """Sends the handshake, then listens and makes steps until the client is gone.

        `discard_input` must have ended, because the client answers the handshake at once with its headers.
        """
        await self.send(chat_wire.handshake())
        pages = PageWriter(random.getrandbits(32))
        for message in self._with_faults(-1, [chat_wire.audio(page) for page in pages.headers()]):
            await self.send(message)
        async with asyncio.TaskGroup() as session:
            stepping = session.create_task(self._step_forever(pages, step_s))
            await self._hear_until_gone()
            stepping.cancel()

    async def _hear_until_gone(self) -> None:
        caller = PageReader()
        with contextlib.suppress(ConnectionClosed):
            async for message in self._connection:
                if isinstance(message, bytes) and message[:1] == _AUDIO:
                    self._hear(caller, message[1:])

    def _hear(self, caller: PageReader, ogg: bytes) -> None:
        was_deaf = caller.deaf_because
        for packet in caller.read(ogg):
            self._machine.hear(packet)
        if caller.deaf_because != was_deaf:
            log.warning(
                "the caller sent %s; a real engine hears nothing more now, and neither does this one",
                caller.deaf_because,
            )
        self._heard_something.set()

    async def _step_forever(self, pages: PageWriter, step_s: float) -> None:
        loop = asyncio.get_running_loop()
        free_at_s = loop.time()
        with contextlib.suppress(ConnectionClosed):
            for number in itertools.count():
                while not self._machine.is_ready():
                    self._heard_something.clear()
                    await self._heard_something.wait()
                for fault in self._faults:
                    await fault.before_step(self, number)
                # On a busy GPU, a step begins when the last one has ended and its audio has arrived. Due
                # times are used, so that late wake-ups do not add up.
                free_at_s = max(free_at_s, loop.time()) + step_s
                await asyncio.sleep(free_at_s - loop.time())
                packets, text = self._machine.step()
                messages = [chat_wire.audio(pages.page(p, strict_ogg.packet_samples(p))) for p in packets]
                if text:
                    messages.append(chat_wire.text(text))
                for message in self._with_faults(number, messages):
                    await self.send(message)

    def _with_faults(self, step: int, messages: list[bytes]) -> list[bytes]:
        for fault in self._faults:
            messages = fault.sending(step, messages)
        return messages
