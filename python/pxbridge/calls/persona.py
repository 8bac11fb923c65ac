"""Personas: voice, text prompt, greeting, limits, and the actions of keys and words.

Personas are sections ``[personas.NAME]`` of the TOML file (`pxbridge.settings.persona_file` reads them). The
settings' own voice and text prompt make the default persona. A call's persona is named, in this order of
precedence, by the URL's path, by the custom parameter ``persona``, or by the dialled number.

A text prompt may contain the fields ``{from}``, ``{to}`` and ``{custom.NAME}``. Their values, and a call
flow's ``voice_prompt`` and ``text_prompt``, come through the telephone network from strangers. So such text
is made printable and bounded, and loses the characters that have a meaning here or in the engine's prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from pxbridge.calls.phrases import Action, End, HandOver, PhraseSpotter
from pxbridge.chat_wire import sampling_query
from pxbridge.telephony.routes import PERSONA_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "PERSONA_NAME",
    "Action",
    "End",
    "FailoverPrefers",
    "HandOver",
    "Persona",
    "Personas",
    "PhraseSpotter",
    "UnknownName",
    "Where",
    "template_fault",
]

VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.(?:pt|wav)")
"""A valid voice prompt. NVIDIA's server joins it to a folder's path, so it has no separators and no dots."""

DEFAULT_NAME = "default"

TEXT_PROMPT_LIMIT = 2000
"""In characters. Each token costs 80 ms of prompting, and one step of the model's window of 3000. NVIDIA's
longest example has some 600 characters."""

FIELD_LIMIT = 100
"""In characters: enough for a name or the number of an order, too little for instructions."""

SHOWN = 80
"""How many characters of a stranger's text a note repeats."""

NATIONAL_DIGITS = 10
"""Two numbers are the same if their last ten digits agree. These are India's national numbers; carriers write
them with 0, with +91 or with nothing before them."""

_FIELD = re.compile(r"\{(from|to|custom\.([A-Za-z0-9_-]{1,64}))\}")
_BRACED = re.compile(r"\{[^{}]*\}?|\}")
_MEANINGFUL = str.maketrans("", "", "{}<>")
"""Braces make fields. Angle brackets make the tags that the engine puts around a prompt (``<system>``)."""


class FailoverPrefers(StrEnum):
    """What matters more when an engine dies in a call and another takes over."""

    SOONEST = "soonest"
    """The caller hears an agent soon: takes a session that was prompted ahead, which knows nothing of the
    call."""
    INFORMED = "informed"
    """The agent knows what was said: prompts an engine for this call, while the caller waits."""


class Where(StrEnum):
    """Where a call names what does not exist. Metrics use the value."""

    PATH = "path"
    """A persona in the path of the call's URL, or in its token."""
    WEBHOOK = "webhook"
    """A persona in a request for a call's URL."""
    PARAMETER = "parameter"
    """A persona in the stream's custom parameter."""
    VOICE = "voice"
    """A voice, in a custom parameter or in the persona."""


class UnknownName(NamedTuple):
    """A name that a call gives, of what does not exist."""

    where: Where
    name: str


@dataclass(frozen=True, slots=True)
class Persona:
    """One agent that callers speak with.

    Args:
        voice_prompt: File name of a voice the engine has (``NATF0.pt``).
        text_prompt: Tells the agent who it is. The engine wraps it in ``<system>`` tags. Before `for_call` it
            may contain fields.
        name: The persona's name in the file.
        sampling: How the engine draws tokens (`chat_wire.sampling_query`); empty: as it does by default.
        greeting: A WAV or Ogg Opus file that is played to the caller first.
        max_duration_s: The longest duration of a call; None for no limit.
        keys: The actions of DTMF keys, by digit.
        phrases: The actions of phrases in the agent's words.
        record: Whether calls are recorded.
        warm: Sessions to keep connected and prompted ahead of calls.
        failover_prefers: Which engine goes on when one dies in a call.
    """

    voice_prompt: str
    text_prompt: str
    name: str = DEFAULT_NAME
    sampling: str = ""
    greeting: Path | None = None
    max_duration_s: float | None = None
    keys: Mapping[str, Action] = field(default_factory=dict, hash=False)
    phrases: Mapping[str, Action] = field(default_factory=dict, hash=False)
    record: bool = False
    warm: int = 0
    failover_prefers: FailoverPrefers = FailoverPrefers.SOONEST

    @property
    def fixed(self) -> bool:
        """Whether the prompt is the same for every call, so that a session can be prompted ahead."""
        return _FIELD.search(self.text_prompt) is None

    def spotter(self) -> PhraseSpotter:
        """A spotter of this persona's phrases, for one call."""
        return PhraseSpotter(self.phrases)

    def for_call(
        self, custom: Mapping[str, str], *, caller: str = "", called: str = ""
    ) -> tuple[Persona, list[str]]:
        """This persona for one call: with its fields filled in, and changed by custom parameters.

        A call flow may set ``voice_prompt`` and ``text_prompt`` for the default persona only. A named persona
        is always as its file says.

        Args:
            custom: The custom parameters of the call's start message.
            caller: The number that calls.
            called: The number that was dialled.

        Returns:
            The persona, without fields, and a note for the log for each parameter that was refused or cut.
        """
        persona, notes = self, []
        values = {"from": caller, "to": called, **{f"custom.{name}": text for name, text in custom.items()}}
        filled = _FIELD.sub(lambda found: clean(values.get(found[1], ""), FIELD_LIMIT), self.text_prompt)
        persona = replace(persona, text_prompt=filled)
        try:
            persona = replace(persona, sampling=sampling_query(custom))
        except ValueError as wrong:
            notes.append(f"{wrong}: ignored")
        voice, text = custom.get("voice_prompt"), custom.get("text_prompt")
        if self.name != DEFAULT_NAME:
            if voice or text:
                notes.append(f"voice_prompt and text_prompt are not for the persona {self.name!r}: ignored")
            return persona, notes
        if voice:
            if VOICE_NAME.fullmatch(voice):
                persona = replace(persona, voice_prompt=voice)
            else:
                notes.append(
                    f"voice_prompt {voice[:SHOWN]!r} is not a voice's file name such as NATF0.pt: ignored"
                )
        if text:
            whole = clean(text, len(text))
            if len(whole) > TEXT_PROMPT_LIMIT:
                notes.append(f"text_prompt has {len(whole)} characters: cut at {TEXT_PROMPT_LIMIT}")
            if whole:
                persona = replace(persona, text_prompt=whole[:TEXT_PROMPT_LIMIT])
        return persona, notes


class Personas(Mapping[str, Persona]):
    """All personas of a process, by name; decides which one a call gets.

    Args:
        default: The persona of a call that names no other.
        others: The named personas.
        numbers: Which persona answers at which dialled number (see `number_key`).
    """

    def __init__(
        self,
        default: Persona,
        others: Mapping[str, Persona] | None = None,
        numbers: Mapping[str, str] | None = None,
    ) -> None:
        self.default = default
        self._personas = {DEFAULT_NAME: default, **(others or {})}
        self._numbers = dict(numbers or {})

    def __getitem__(self, name: str) -> Persona:
        return self._personas[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._personas)

    def __len__(self) -> int:
        return len(self._personas)

    @property
    def greetings(self) -> frozenset[Path]:
        """The personas' files of greetings."""
        return frozenset(each.greeting for each in self.values() if each.greeting is not None)

    def numbers(self, name: str) -> frozenset[str]:
        """The dialled numbers that a persona answers, in the form of `number_key`."""
        return frozenset(number for number, persona in self._numbers.items() if persona == name)

    def choose(
        self, path: str | None, called: str, custom: Mapping[str, str]
    ) -> tuple[Persona, list[UnknownName]]:
        """The persona of a call: by path, else custom parameter, else dialled number, else the default.

        Args:
            path: The name in the URL's path; None if there is none.
            called: The number that was dialled.
            custom: The custom parameters of the call's start message; only ``persona`` counts.

        Returns:
            The persona, and each unknown name that was passed over.
        """
        unknown: list[UnknownName] = []
        for where, name in ((Where.PATH, path), (Where.PARAMETER, custom.get("persona"))):
            if not name:
                continue
            if name in self._personas:
                return self._personas[name], unknown
            unknown.append(UnknownName(where, name))
        name = self._numbers.get(number_key(called))
        return (self._personas[name] if name else self.default), unknown

    def name_for(self, asked: str | None, called: str) -> str | None:
        """The persona to name in a URL for one call: the one that is asked for, else by the dialled number.

        None leaves the choice to the call, whose parameters may still name a persona.

        Raises:
            LookupError: The persona that is asked for does not exist.
        """
        if asked is None:
            return self._numbers.get(number_key(called))
        if asked not in self._personas:
            raise LookupError(no_such_persona(asked))
        return asked


def no_such_persona(name: str) -> str:
    """The error for the name of a persona that does not exist, the same wherever it was given."""
    return f"no persona here is called {name[:SHOWN]!r}"


def number_key(number: str) -> str:
    """The digits that identify a phone number, however it is written."""
    return "".join(c for c in number if c in "0123456789").lstrip("0")[-NATIONAL_DIGITS:]


def clean(text: str, limit: int) -> str:
    """A stranger's text made safe for a prompt: one printable line of at most `limit` characters."""
    printable = "".join(c if c.isprintable() else " " for c in text.translate(_MEANINGFUL))
    return " ".join(printable.split())[:limit].rstrip()


def template_fault(text_prompt: str) -> str | None:
    """What is wrong with a text prompt that may contain fields, and how to fix it; None if nothing is."""
    if len(text_prompt) > TEXT_PROMPT_LIMIT:
        return f"has {len(text_prompt)} characters; an engine is told at most {TEXT_PROMPT_LIMIT}"
    for braced in _BRACED.findall(text_prompt):
        if not _FIELD.fullmatch(braced):
            return (
                f"{braced[:SHOWN]!r} is no field: write {{from}}, {{to}} or {{custom.NAME}}, "
                "and no other braces"
            )
    if not _FIELD.sub("", text_prompt).strip():
        return "says nothing beside its fields, and an engine dies of an empty prompt: write a sentence"
    return None
