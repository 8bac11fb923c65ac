"""Reads and checks the query of `/api/chat`, before the client is admitted.

NVIDIA's server upgrades first, and then closes without a reason. Here a client with a wrong parameter gets an
HTTP answer that names the parameter and says what would be right. Unknown parameters are ignored: NVIDIA's
web client sends several, and proxies add more.
"""

from __future__ import annotations

import math
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl

from pxbridge.errors import BadQuery
from pxbridge.personaplex.stepper import MAX_TOP_K, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from pxbridge.personaplex.prompt import Prompt

MOST_PARAMETERS: Final = 64
MOST_TEMPERATURE: Final = 10.0
"""At this temperature tokens are drawn almost at random. With more, numbers would overflow."""
SEED_BITS: Final = 63
"""A seed fits into a signed 64-bit integer, which every file format and language has."""
ANY_SEED: Final = -1
"""NVIDIA's web client sends this if no seed was chosen."""

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_SHOWN_CHARS: Final = 40


class Personas(Protocol):
    """Lists voices, and makes a prompt of a voice and a text."""

    def voices(self) -> list[str]:
        """The names of the voices."""
        ...

    def prompt(self, voice: str, text: str) -> Callable[[], Generator[None, None, Prompt]]:
        """Checks a persona. Returns a function that makes its prompt in parts, in the engine's thread.

        Raises:
            BadQuery: There is no such voice, or the text is too long.
        """
        ...


@dataclass(frozen=True)
class Defaults:
    """Prompts for clients that send none, such as Kyutai's. None: such a client is refused.

    Attributes:
        voice: A voice's name.
        text: A text prompt.
    """

    voice: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Asked:
    """A client's query, read and checked.

    Attributes:
        voice: The voice's name, as it was written.
        text: The text prompt, as it was written; empty for none.
        sampling: How tokens are drawn. Its seed is a random one where none was given.
        waits: Whether it wants to wait in line for a slot.
        prompt: Makes the prompt in parts, in the engine's thread.
    """

    voice: str
    text: str
    sampling: Sampling
    waits: bool
    prompt: Callable[[], Generator[None, None, Prompt]]


def read_query(query: str, personas: Personas, defaults: Defaults) -> Asked:
    """Reads and checks a query.

    Args:
        query: The part of the URL after the question mark.
        personas: The voices.
        defaults: Prompts to use where the query has none.

    Raises:
        BadQuery: Something in it cannot be served.
    """
    given = _parameters(query)
    voice = given.get("voice_prompt", defaults.voice)
    if voice is None:
        raise BadQuery("voice_prompt", "is missing; " + _known(personas))
    if not voice.strip():
        raise BadQuery("voice_prompt", "is empty; " + _known(personas))
    text = given.get("text_prompt", defaults.text)
    if text is None:
        raise BadQuery("text_prompt", "is missing; say who the agent is, or leave it empty for nobody")
    if "\0" in text:
        raise BadQuery("text_prompt", "has a NUL character")
    seed = _whole(given, "seed", ANY_SEED, ANY_SEED, (1 << SEED_BITS) - 1)
    sampling = Sampling(
        text_temperature=_decimal(given, "text_temperature", Sampling.text_temperature),
        text_top_k=_whole(given, "text_topk", Sampling.text_top_k, 1, MAX_TOP_K),
        audio_temperature=_decimal(given, "audio_temperature", Sampling.audio_temperature),
        audio_top_k=_whole(given, "audio_topk", Sampling.audio_top_k, 1, MAX_TOP_K),
        seed=secrets.randbits(SEED_BITS) if seed == ANY_SEED else seed,
    )
    waits = _whole(given, "queue", 0, 0, 1) == 1
    return Asked(voice, text, sampling, waits, personas.prompt(voice, text))


def _known(personas: Personas) -> str:
    names = personas.voices()
    return f"there are {', '.join(names)}" if names else "and there is none here"


def _parameters(query: str) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS)
    except UnicodeDecodeError:
        raise BadQuery("the query", "is not UTF-8") from None
    except ValueError:
        raise BadQuery("the query", f"has more than {MOST_PARAMETERS} parameters") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given and name in _OURS:
            raise BadQuery(name, "is given twice")
        given[name] = value
    return given


_OURS: Final = frozenset(
    {
        "voice_prompt",
        "text_prompt",
        "seed",
        "text_temperature",
        "text_topk",
        "audio_temperature",
        "audio_topk",
        "queue",
    }
)


def _whole(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    if name not in given:
        return default
    written = given[name].strip()
    if _WHOLE.fullmatch(written) and least <= int(written) <= most:
        return int(written)
    raise BadQuery(name, f"{_shown(written)} is not a whole number from {least} to {most}")


def _decimal(given: Mapping[str, str], name: str, default: float) -> float:
    if name not in given:
        return default
    written = given[name].strip()
    value = float(written) if _DECIMAL.fullmatch(written) else math.nan
    if 0 <= value <= MOST_TEMPERATURE:
        return value
    raise BadQuery(name, f"{_shown(written)} is not a number from 0 to {MOST_TEMPERATURE:g}")


def _shown(written: str) -> str:
    return repr(written if len(written) <= _SHOWN_CHARS else f"{written[:_SHOWN_CHARS]}…")
