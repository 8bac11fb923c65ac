"""The voices of an engine that tells them: `pxbridge engine` does, NVIDIA's server does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Final

from pxbridge.engines.http_get import get
from pxbridge.errors import EngineUntrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.http_get import Answer

PATH: Final = "/voices"
TIMEOUT_S: Final = 2.0
"""A page waits for it, and known voices serve as well."""

MAX_VOICES: Final = 1000
MAX_NAME_CHARS: Final = 128


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
