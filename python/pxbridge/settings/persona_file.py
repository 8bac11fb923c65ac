"""Personas as an operator writes them: ``[personas.NAME]`` tables in the TOML file of the settings.

A key that a table leaves out has the value of the default persona: the voice and prompt of the settings, and
``[personas.default]``. An error stops the start with one line that names the file, the persona, the key and
the fix.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pxbridge.calls.greeting import decode_greeting
from pxbridge.calls.numbers import MAX_NUMBERS, dialable
from pxbridge.calls.persona import (
    DEFAULT_NAME,
    PERSONA_NAME,
    VOICE_NAME,
    FailoverPrefers,
    Persona,
    Personas,
    number_key,
    template_fault,
)
from pxbridge.calls.phrases import Action, End, HandOver, letters
from pxbridge.errors import ConfigError, InputError
from pxbridge.settings.files import expanded
from pxbridge.telephony.reserved import RESERVED_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.settings import Loaded

DTMF_DIGITS = "0123456789*#"
MOST_WARM = 100
LONGEST_CALL_S = 14_400.0
"""Exotel's own limit on a call."""


class _Fault(Exception):
    """The error in the value of one key, and the fix."""


@dataclass(frozen=True)
class _Key:
    """One key of a persona's table: how its value is read, an example, and its description in the README."""

    read: Callable[[Any, Path], Any]
    shown: str
    about: str


def read_personas(loaded: Loaded) -> Personas:
    """The personas of a process: the default one from the settings, and those of the file.

    Raises:
        ConfigError: The first error in one of them.
    """
    settings = loaded.settings
    if fault := template_fault(settings.text_prompt):
        raise ConfigError(*loaded.origins.get("text_prompt", ("text_prompt", "default")), fault)
    default = Persona(
        settings.voice_prompt,
        settings.text_prompt,
        warm=settings.warm_sessions,
        failover_prefers=settings.failover_prefers,
    )
    file = loaded.file or Path()
    # The default first, because the others take from it what their tables leave out.
    tables = sorted(loaded.personas.items(), key=lambda each: each[0] != DEFAULT_NAME)
    others: dict[str, Persona] = {}
    numbers: dict[str, str] = {}
    for name, table in tables:
        values = _read_table(name, table, file)
        for number in values.pop("numbers", ()):
            if (other := numbers.setdefault(number_key(number), name)) != name:
                raise _error(
                    name, "numbers", file, f"{number!r} belongs to {other!r} too; name it in one of the two"
                )
        persona = replace(default, name=name, **values)
        if persona.warm and not persona.fixed:
            if "warm" in values:
                raise _error(
                    name,
                    "warm",
                    file,
                    "its prompt has fields that only a call can fill; remove warm, or the fields",
                )
            persona = replace(persona, warm=0)
        if name == DEFAULT_NAME:
            default = persona
        else:
            others[name] = persona
    return Personas(default, others, numbers)


def markdown_table() -> str:
    """The keys of a persona as the README shows them, one row each."""
    rows = ["| key | example | meaning |", "|---|---|---|"]
    rows += [f"| `{name}` | `{key.shown}` | {key.about} |" for name, key in KEYS.items()]
    return "\n".join(rows) + "\n"


def _read_table(name: str, table: object, file: Path) -> dict[str, Any]:
    if not PERSONA_NAME.fullmatch(name):
        raise ConfigError(
            f"personas.{name!r}", str(file), "is not a name of up to 64 letters, digits, - and _"
        )
    if name.lower() in RESERVED_WORDS:
        problem = f"/exotel/{name} has another use, so no call could name this persona; choose another name"
        raise ConfigError(f"personas.{name}", str(file), problem)
    if not isinstance(table, dict):
        raise ConfigError(f"personas.{name}", str(file), f"is not a table; write [personas.{name}]")
    values = {}
    for key, value in table.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            fix = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(KEYS)}"
            raise _error(name, key, file, f"no such key; {fix}")
        try:
            values[key] = KEYS[key].read(value, file.parent)
        except _Fault as fault:
            raise _error(name, key, file, str(fault)) from None
    return values


def _error(persona: str, key: str, file: Path, problem: str) -> ConfigError:
    return ConfigError(f"personas.{persona}.{key}", str(file), " ".join(problem.split()))


def _voice(value: object, _: Path) -> str:
    if not isinstance(value, str) or not VOICE_NAME.fullmatch(value):
        raise _Fault(f"{value!r} is not a voice of the engine, such as NATF0.pt or the name of a .wav file")
    return value


def _text(value: object, _: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Fault(f"{value!r} is not a text; write at least one letter")
    text = " ".join(value.split())
    if fault := template_fault(text):
        raise _Fault(fault)
    return text


def _numbers(value: object, _: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_NUMBERS:
        raise _Fault(f'is not a list of up to {MAX_NUMBERS} phone numbers, such as ["+918047180000"]')
    try:
        return tuple(map(dialable, value))
    except ValueError as error:
        raise _Fault(str(error)) from None


def _dialled(value: object, folder: Path) -> tuple[str, ...]:
    if value == []:
        return ()
    return _numbers(value, folder)


def _greeting(value: object, folder: Path) -> Path:
    if not isinstance(value, str):
        raise _Fault(f"{value!r} is not the path of a WAV or Ogg Opus file")
    try:
        path = folder / expanded(value)
        decode_greeting(path)
    except (InputError, ValueError) as error:
        raise _Fault(f"cannot be played: {error}") from None
    return path


def _seconds(value: object, _: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_CALL_S:
        raise _Fault(f"{value!r} is not a number of seconds above 0, up to {LONGEST_CALL_S:.0f}")
    return float(value)


def _flag(value: object, _: Path) -> bool:
    if not isinstance(value, bool):
        raise _Fault(f"{value!r} is not true or false")
    return value


def _count(value: object, _: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_WARM:
        raise _Fault(f"{value!r} is not a whole number from 0 to {MOST_WARM}")
    return value


def _preference(value: object, _: Path) -> FailoverPrefers:
    if not isinstance(value, str) or value not in set(FailoverPrefers):
        raise _Fault(f"{value!r} is not {' or '.join(FailoverPrefers)}")
    return FailoverPrefers(value)


def _action(trigger: str, value: object, folder: Path) -> Action:
    if value == "end":
        return End()
    if isinstance(value, dict) and list(value) == ["hand_over"]:
        try:
            return HandOver(_numbers(value["hand_over"], folder))
        except _Fault as fault:
            raise _Fault(f"{trigger!r}: hand_over {fault}") from None
    raise _Fault(f'{trigger!r} has the action {value!r}; write "end" or {{ hand_over = ["+91..."] }}')


def _keys(value: object, folder: Path) -> dict[str, Action]:
    if not isinstance(value, dict):
        raise _Fault('is not a table such as { "0" = { hand_over = ["+91..."] }, "#" = "end" }')
    for digit in value:
        if len(digit) != 1 or digit not in DTMF_DIGITS:
            raise _Fault(f"{digit!r} is not a telephone key: 0 to 9, * or #")
    return {digit: _action(digit, action, folder) for digit, action in value.items()}


def _phrases(value: object, folder: Path) -> dict[str, Action]:
    if not isinstance(value, dict):
        raise _Fault('is not a table such as { "goodbye" = "end" }')
    seen: dict[str, str] = {}
    for phrase in value:
        if not letters(phrase):
            raise _Fault(f"{phrase!r} has no letter, so it cannot be recognised in speech; add words")
        if (other := seen.setdefault(letters(phrase), phrase)) != phrase:
            raise _Fault(f"{phrase!r} and {other!r} sound the same; keep one of the two")
    return {phrase: _action(phrase, action, folder) for phrase, action in value.items()}


KEYS = {
    "voice_prompt": _Key(_voice, '"NATM1.pt"', "The agent's voice."),
    "text_prompt": _Key(
        _text,
        '"You are Asha, of Blue Door. {custom.name} calls."',
        "Who the agent is. `{from}`, `{to}` and `{custom.NAME}` (a custom parameter of the stream) are "
        "filled in for each call. They are empty if a call does not have them.",
    ),
    "numbers": _Key(
        _dialled,
        '["08047180000"]',
        "Dialled numbers that this persona answers. A number with +91, with 0 or without either is the same.",
    ),
    "greeting": _Key(
        _greeting,
        '"welcome.wav"',
        "A WAV or Ogg Opus file that the caller hears first. Its path is relative to the TOML file.",
    ),
    "max_duration_s": _Key(_seconds, "600", "The longest call, in seconds. Without it there is no limit."),
    "keys": _Key(
        _keys,
        '{ "0" = { hand_over = ["+91..."] }, "#" = "end" }',
        "Actions of the caller's keys: hand the call over to one of these numbers, or end it.",
    ),
    "phrases": _Key(
        _phrases,
        '{ "goodbye" = "end" }',
        "Actions of the agent's own words, once the caller has heard them: the same two.",
    ),
    "record": _Key(_flag, "true", "Whether calls with this persona are recorded."),
    "warm": _Key(_count, "1", "Engine sessions kept prompted ahead of calls. Not for a prompt with fields."),
    "failover_prefers": _Key(
        _preference,
        '"informed"',
        "Which session continues when an engine dies during a call; see `PXBRIDGE_FAILOVER_PREFERS`.",
    ),
}
"""Every key of a persona's table."""
