"""Calls that name a persona or a voice that does not exist: refused or answered, counted and logged.

A persona is named by the path of a call's URL, by a token, by a request for a URL, or by a custom parameter.
A voice is named by a custom parameter or by a persona. A name with a typing mistake would otherwise reach
another agent, or an engine that gives the call up. The setting `unknown_names` chooses between the two
answers.

An engine that does not tell its voices is asked for any voice, with one exception: a name that looks like one
of NVIDIA's voices and is none of them. Such a name is accepted only if a persona uses it, and the log then
warns.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from pxbridge.calls.persona import DEFAULT_NAME, PERSONA_NAME, SHOWN, Where, no_such_persona
from pxbridge.engines.voices import EngineVoices
from pxbridge.log_throttle import LogThrottle

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from pxbridge.calls.persona import Persona, Personas

log = logging.getLogger("pxbridge.names")

MAX_SHOWN_NAMES: Final = 30
"""More would make a line of the log hard to read."""


class UnknownNames(StrEnum):
    """What happens to a call that names a persona or a voice that does not exist."""

    REFUSE = "refuse"
    """It is refused: with 404 at its handshake if the URL names a persona, else by closing it (1008)."""
    WARN = "warn"
    """It is answered by the persona that the rest of the call chooses, or in a voice that exists."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom a caller speaks with.

    Attributes:
        persona: The persona for this call, without fields.
        notes: For the log of the call.
        refusal: Why the call is refused; None if it is not.
    """

    persona: Persona
    notes: list[str] = field(default_factory=list)
    refusal: str | None = None


class NameCheck:
    """Decides about names that calls give.

    Args:
        unknown: What happens to a call with an unknown name (`use` changes it).
        voices: What is known of the engines' voices.
        call_later: Calls a function after a delay in seconds; by default, the event loop's.

    Attributes:
        counts: How often a call gave an unknown name, by where.
    """

    def __init__(
        self,
        unknown: UnknownNames = UnknownNames.WARN,
        voices: EngineVoices | None = None,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self.counts = dict.fromkeys(Where, 0)
        self._unknown = unknown
        self._voices = voices or EngineVoices()
        self._existing: dict[Where, Sequence[str]] = dict.fromkeys(Where, ())
        self._throttles = {where: LogThrottle(partial(self._log, where), call_later) for where in Where}

    def use(self, unknown: UnknownNames) -> None:
        """Changes what happens to later calls."""
        self._unknown = unknown

    def refusal(self, name: str, personas: Personas) -> str | None:
        """Why a call whose URL names this persona is refused before its upgrade; None if it is not.

        If unknown names are not refused, `choose` counts the name.
        """
        if name in personas or self._unknown is UnknownNames.WARN:
            return None
        self._count(Where.PATH, name, personas)
        return no_such_persona(name)

    def name_for(self, asked: str | None, called: str, personas: Personas) -> str | None:
        """The persona to put into a call's URL, as `Personas.name_for`.

        Raises:
            LookupError: The persona that is asked for does not exist, and unknown names are refused.
        """
        if asked is not None and asked not in personas:
            self._count(Where.WEBHOOK, asked, personas)
            if self._unknown is UnknownNames.WARN:
                asked = None
        return personas.name_for(asked, called)

    def choose(
        self, personas: Personas, path: str | None, custom: Mapping[str, str], *, caller: str, called: str
    ) -> Choice:
        """Whom a caller speaks with, and in which voice; see `Personas.choose` and `Persona.for_call`."""
        notes: list[str] = []
        chosen, unknown = personas.choose(path, called, custom)
        for where, name in unknown:
            self._count(where, name, personas)
            if self._unknown is UnknownNames.REFUSE:
                return Choice(chosen, notes, no_such_persona(name))
            notes.append(f"{_PLACES[where]} names {name[:SHOWN]!r}, which is no persona here")
        persona, more = chosen.for_call(custom, caller=caller, called=called)
        if not self._is_missing(persona.voice_prompt, personas):
            return Choice(persona, [*notes, *more])
        self._count(Where.VOICE, persona.voice_prompt)
        missing = f"no engine has the voice {persona.voice_prompt!r}"
        if self._unknown is UnknownNames.REFUSE:
            return Choice(persona, [*notes, *more], missing)
        for other in (chosen, personas.default):
            if not self._is_missing(other.voice_prompt, personas):
                persona = replace(persona, voice_prompt=other.voice_prompt)
                return Choice(persona, [*notes, *more, f"{missing}: {other.voice_prompt} is used"])
        return Choice(persona, [*notes, *more, missing])

    def _is_missing(self, voice: str, personas: Personas) -> bool:
        """Whether a call cannot have this voice. A doubtful one is believed if a persona has it."""
        exists = self._voices.exists(voice)
        if exists is None and self._voices.doubts(voice):
            return voice not in (persona.voice_prompt for persona in personas.values())
        return exists is False

    def _count(self, where: Where, name: str, personas: Personas | None = None) -> None:
        self.counts[where] += 1
        self._existing[where] = self._voices.names if personas is None else list(personas)
        self._throttles[where].add(where.value, name[:SHOWN])

    def _log(self, where: Where, counted: Counter[str], name: str) -> None:
        exist = self._existing[where]
        near, times = _near(name, exist), counted.total()
        refuses = self._unknown is UnknownNames.REFUSE
        if where is not Where.VOICE:
            what = f"{_PLACES[where]} names {name!r}, which is no persona here"
            did = "the call is refused" if refuses else "another persona answers"
            fix = f"correct it there{near}"
            if PERSONA_NAME.fullmatch(name):
                fix += f", or add [personas.{name}]"
        else:
            what = f"a call asks for the voice {name!r}, which no engine has"
            did = "the call is refused" if refuses else "another voice is used"
            fix = f"correct its voice_prompt{near}"
        log.warning(
            "%s%s; %s; there are: %s; %s",
            f"{times} times: " if times > 1 else "",
            what,
            did,
            _listed(exist),
            fix,
        )


class VoiceProblem(NamedTuple):
    """A voice of personas that engines do not have."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


def voice_problems(personas: Personas, voices: EngineVoices) -> list[VoiceProblem]:
    """The voices of personas that engines do not have."""
    users: dict[str, list[str]] = {}
    for name, persona in personas.items():
        users.setdefault(persona.voice_prompt, []).append(name)
    problems = []
    for voice, names in users.items():
        if voices.exists(voice) is False:
            what = f"no engine has the voice {voice!r}"
        elif lacking := voices.lacking(voice):
            what = f"{', '.join(lacking)} has no voice {voice!r}, so such calls fail there"
        elif voices.doubts(voice):
            what = f"{voice!r} is none of NVIDIA's voices, and no engine tells another"
        else:
            continue
        where = "voice_prompt" if names == [DEFAULT_NAME] else f"voice_prompt of {', '.join(names)}"
        fix = f"the voices are: {_listed(voices.names)}; correct it{_near(voice, voices.names)}"
        problems.append(VoiceProblem(f"{where}: {what}", fix))
    return problems


_PLACES: Final = {
    Where.PATH: "the URL's path",
    Where.WEBHOOK: "a request for a call's URL",
    Where.PARAMETER: "the parameter persona",
}


def _near(name: str, exist: Sequence[str]) -> str:
    """The name that was probably meant, as a question in brackets; empty if none is like it."""
    near = difflib.get_close_matches(name, exist, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_SHOWN_NAMES
    return ", ".join(names[:MAX_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
