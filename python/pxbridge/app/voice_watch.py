"""Follows which voices engines have, and logs which of the personas' voices they lack.

Engines are asked at the start, after a reload, and now and then, because an engine's operator may change its
voices. A problem is logged once, until it is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from pxbridge.calls.unknown_names import voice_problems
from pxbridge.periodic import repeat, stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pxbridge.calls.persona import Personas
    from pxbridge.calls.unknown_names import VoiceProblem
    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.voices import EngineVoices

log = logging.getLogger("pxbridge")

ASK_EVERY_S: Final = 60.0
"""How long a call may be refused for a voice that an engine has just got."""
FIRST_S: Final = 5.0
"""The first probes show by then which engines tell of themselves (`pxbridge.engines.probe.TIMEOUT_S`)."""
NOTICE_S: Final = 1.0
"""How soon a reload, or another engine, is noticed."""


class VoiceWatch:
    """Asks engines for their voices.

    Args:
        voices: Keeps what they tell.
        engines: All engines.
        telling: The engines that report their voices.
        personas: The personas in force.
    """

    def __init__(
        self,
        voices: EngineVoices,
        engines: Callable[[], Sequence[EngineAddress]],
        telling: Callable[[], list[EngineAddress]],
        personas: Callable[[], Personas],
    ) -> None:
        self._voices = voices
        self._engines = engines
        self._telling = telling
        self._personas = personas
        self._clock = asyncio.get_running_loop().time
        self._asked: list[EngineAddress] = []
        self._ask_at_s = self._clock() + FIRST_S
        self._logged: list[VoiceProblem] = []

    def look_again(self) -> None:
        """Asks soon, and logs every problem again: the settings have changed."""
        self._logged = []
        self._ask_at_s = self._clock()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Asks now and then, while the block runs."""
        task = asyncio.create_task(repeat("asking engines for their voices", self._round), name="voices")
        try:
            yield
        finally:
            await stop([task])

    async def _round(self) -> None:
        if self._clock() >= self._ask_at_s or self._telling() != self._asked:
            await self._look()
        await asyncio.sleep(NOTICE_S)

    async def _look(self) -> None:
        """Asks once, and logs what is new."""
        self._ask_at_s = self._clock() + ASK_EVERY_S
        self._asked = self._telling()
        await self._voices.ask(self._engines(), self._asked)
        problems = voice_problems(self._personas(), self._voices)
        for problem in problems:
            if problem not in self._logged:
                log.warning("%s", problem)
        self._logged = problems
