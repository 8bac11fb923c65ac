"""The voices that engines have: `pxbridge engine` lists them, NVIDIA's server does not.

NVIDIA's own voices are known, and may be joined there by files of the operator's. So a voice is known not to
exist only if every engine tells its voices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Final

from pxbridge.chat_wire import NVIDIAS_VOICES
from pxbridge.engines.http_get import get
from pxbridge.errors import EngineUntrusted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.http_get import Answer

PATH: Final = "/voices"
TIMEOUT_S: Final = 2.0
"""A web page waits for the answer. Without one it shows NVIDIA's voices."""

_NVIDIAS_NAME: Final = re.compile(r"(?:NAT|VAR)[FM]\d+\.pt", re.IGNORECASE)

MAX_VOICES: Final = 1000
MAX_NAME_CHARS: Final = 128


class EngineVoices:
    """What is known of the engines' voices."""

    def __init__(self) -> None:
        self._told: dict[str, frozenset[str] | None] = {}

    async def ask(
        self, engines: Sequence[EngineAddress], telling: Sequence[EngineAddress], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Asks the engines that tell of themselves.

        One that does not answer keeps the voices that it told before.

        Args:
            engines: All engines.
            telling: Engines that may list their voices.
            timeout_s: Limit for each.
        """
        answers = await asyncio.gather(*(ask_voices([engine], timeout_s) for engine in telling))
        new = {str(one): frozenset(voices) for one, voices in zip(telling, answers, strict=True) if voices}
        self._told = {str(engine): new.get(str(engine), self._told.get(str(engine))) for engine in engines}

    @property
    def names(self) -> list[str]:
        """The voices that engines tell, sorted; NVIDIA's too unless every engine tells its voices."""
        told = list(self._told.values())
        nvidias = () if told and None not in told else NVIDIAS_VOICES
        return sorted(frozenset(nvidias).union(*filter(None, told)))

    def exists(self, voice: str) -> bool | None:
        """Whether an engine has this voice; None if that is not known."""
        told = list(self._told.values())
        if any(voice in voices for voices in told if voices is not None):
            return True
        return False if told and None not in told else None

    def doubts(self, voice: str) -> bool:
        """Whether a voice is named like NVIDIA's and is none of them, and no engine is known to have it."""
        return (
            self.exists(voice) is None
            and voice not in NVIDIAS_VOICES
            and bool(_NVIDIAS_NAME.fullmatch(voice))
        )

    def lacking(self, voice: str) -> list[str]:
        """The engines that tell their voices and do not have this one, by their URLs without secrets."""
        return [engine for engine, voices in self._told.items() if voices is not None and voice not in voices]


async def ask_voices(engines: Iterable[EngineAddress], timeout_s: float = TIMEOUT_S) -> list[str] | None:
    """The voices of the first engine that tells them; None if none does in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for engine in engines:
                # The pool's probes tell operators what is wrong with an engine.
                with contextlib.suppress(OSError, EngineUntrusted, UnicodeError):
                    if (voices := _read(await get(engine, PATH, timeout_s))) is not None:
                        return voices
    return None


def _read(answer: Answer | None) -> list[str] | None:
    """The voices in an answer; None if there are none."""
    if answer is None or answer.status != 200:
        return None
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    voices = told.get("voices") if isinstance(told, dict) else None
    if not isinstance(voices, list) or not voices:
        return None
    return [each for each in voices if isinstance(each, str) and len(each) <= MAX_NAME_CHARS][:MAX_VOICES]
