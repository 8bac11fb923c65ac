"""Talking with an agent in a browser: ``/api/chat`` of the console, and what the page for it can offer.

A talk is a call of the carrier `pxbridge.telephony.browser`. Like a phone call it waits in line for an
engine, is recorded, failed over and counted.

A page cannot read why an upgrade was refused. So a talk that cannot begin is accepted first. Then it gets the
reason and is closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

from pxbridge import chat_wire
from pxbridge.calls.persona import SHOWN, TEXT_PROMPT_LIMIT, VOICE_NAME, no_such_persona
from pxbridge.console import models
from pxbridge.console.sockets import serve_socket
from pxbridge.telephony.browser import LIMITS, BrowserCarrier
from pxbridge.telephony.server import Arrival

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from pxbridge.calls.persona import Personas
    from pxbridge.websocket import WebSocket

log = logging.getLogger("pxbridge.console")

POLICY_VIOLATION: Final = 1008
TRY_AGAIN_LATER: Final = 1013

MAX_PROMPT_BYTES: Final = 7500
"""Percent-encoded. An engine's request line has 8,190 bytes (aiohttp, websockets), with everything else in
it. A longer one is refused, which would count against the engine."""

ASK_VOICES_EVERY_S: Final = 60.0
"""An engine's voices change when its operator changes them."""


class Talks:
    """Begins talks.

    Args:
        take: Begins a call, or says why none is taken.
        personas: The agents that can be talked with.
        engine_voices: The voices of an engine that tells them; None if none does.
        takes_sampling: Whether an engine draws tokens as a session asks for.
        rehearsal: Whether the engine is the rehearsal engine.
    """

    def __init__(
        self,
        take: Callable[[Arrival], list[str]],
        personas: Callable[[], Personas],
        engine_voices: Callable[[], Awaitable[list[str] | None]],
        takes_sampling: Callable[[], bool] = lambda: False,
        *,
        rehearsal: bool,
    ) -> None:
        self._take = take
        self._personas = personas
        self._engine_voices = engine_voices
        self._takes_sampling = takes_sampling
        self._rehearsal = rehearsal
        self._voices = list(chat_wire.NVIDIAS_VOICES)
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def chat(self, request: web.Request, peer: str) -> web.StreamResponse:
        """Serves ``/api/chat`` to a client at the address `peer` until the talk is over."""
        return await serve_socket(
            request,
            LIMITS,
            lambda socket: self._begin(socket, request.url.raw_query_string, peer),
        )

    def _begin(self, socket: WebSocket, query: str, peer: str) -> None:
        try:
            carrier = BrowserCarrier(query)
            self._check(carrier)
        except ValueError as wrong:
            _refuse(socket, POLICY_VIOLATION, str(wrong))
            return
        arrival = Arrival(socket, carrier, carrier.parameters.get("persona"), peer)
        if reasons := self._take(arrival):
            _refuse(socket, TRY_AGAIN_LATER, "; ".join(reasons))

    def _check(self, carrier: BrowserCarrier) -> None:
        """Checks what the query chooses. A phone's flow gets a default instead; a person can choose again.

        Raises:
            ValueError: It cannot be had. The text says what is wrong.
        """
        persona, voice, text = (
            carrier.parameters.get(name, "") for name in ("persona", "voice_prompt", "text_prompt")
        )
        chat_wire.sampling_query(carrier.parameters)
        if persona and persona not in self._personas():
            raise ValueError(no_such_persona(persona))
        if voice and not VOICE_NAME.fullmatch(voice):
            raise ValueError(f"{voice[:SHOWN]!r} is not a voice; a voice's name is like NATF0.pt")
        if len(text) > TEXT_PROMPT_LIMIT:
            raise ValueError(f"the prompt has {len(text)} characters; at most {TEXT_PROMPT_LIMIT} are told")
        if (size := len(quote_plus(text))) > MAX_PROMPT_BYTES:
            raise ValueError(
                f"the prompt takes {size} bytes in an engine's URL, which holds {MAX_PROMPT_BYTES}; "
                "write it shorter, or in Latin letters"
            )

    async def offer(self) -> models.Talk:
        """What the talk page can offer."""
        personas = self._personas()
        default = personas.default
        voices = await self._known_voices()
        return models.Talk(
            rehearsal=self._rehearsal,
            recorded=default.record,
            voices=voices,
            voice=default.voice_prompt,
            prompt_limit=TEXT_PROMPT_LIMIT,
            samples=self._takes_sampling(),
            personas=[
                models.TalkPersona(
                    name=each.name,
                    voice=each.voice_prompt,
                    prompt=each.text_prompt,
                    recorded=each.record,
                    greets=each.greeting is not None,
                )
                for each in personas.values()
            ],
        )

    async def _known_voices(self) -> list[str]:
        """The engine's voices, asked for now and then; those that were known if it does not tell."""
        async with self._asking:
            now_s = time.monotonic()
            if now_s - self._asked_s >= ASK_VOICES_EVERY_S:
                self._asked_s = now_s
                self._voices = await self._engine_voices() or self._voices
            return self._voices


def _refuse(socket: WebSocket, code: int, why: str) -> None:
    socket.on_message = lambda _message, _is_text: None
    socket.send(chat_wire.error(why))
    socket.close(code, why)
