"""`pxbridge check-config`: the settings of a bridge, and where each one comes from.

It finds every error in settings, personas, greetings, access and TLS files that would stop a start, without
starting. `pxbridge doctor` also checks whether engines answer and ports are free.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from pxbridge import settings
from pxbridge.app.certificates import console_tls, telephony_tls
from pxbridge.app.console import check_console
from pxbridge.commands.terminal import plain, say
from pxbridge.settings import mask_url
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from pxbridge.calls.persona import Persona, Personas
    from pxbridge.settings import Loaded

SECRET = "***"  # noqa: S105 - shown in place of a secret
MAX_SHOWN_CHARS = 60
"""A longer text is cut on a terminal, where the other settings are of interest too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "exit status: 0 the bridge can start with these settings, 2 it cannot"
    settings.add_arguments(parser)


async def run(args: argparse.Namespace, console: Console) -> int:
    """Prints the settings; returns the exit status.

    Raises:
        ConfigError: The first error, as a start would report it.
    """
    loaded = settings.load(vars(args), os.environ)
    personas, notes = check(loaded)
    if args.json:
        found = {
            "settings": {
                name: {"value": value, "origin": _origin(loaded, name)} for name, value in _values(loaded)
            },
            "personas": {name: _persona(persona) for name, persona in personas.items()},
            "notes": notes,
        }
        console.print(json.dumps(found, indent=2, default=str), markup=False, soft_wrap=True)
        return 0
    longest = MAX_SHOWN_CHARS if console.is_terminal else None
    for name, value in _values(loaded):
        say(console, f"{_text(value, longest)}  ({_origin(loaded, name)})", f"{name} = ")
    for name, persona in personas.items():
        text = ", ".join(
            f"{key} {_text(value, longest)}" for key, value in _persona(persona).items() if value
        )
        origin = loaded.file if name in loaded.personas else "the settings"
        say(console, f"{text}  ({origin})", f"persona {name}: ")
    for note in notes:
        say(console, note, "note: ")
    say(console, "the bridge can start with these settings")
    return 0


def check(loaded: Loaded) -> tuple[Personas, list[str]]:
    """The personas, and the warnings for the operator, of settings that a bridge can start with.

    Raises:
        ConfigError: The first error, as a start would report it.
    """
    personas = read_personas(loaded)
    notes = [*loaded.notes, *settings.check_access(loaded)]
    check_console(loaded)
    telephony_tls(loaded)
    console_tls(loaded)
    return personas, notes


def _values(loaded: Loaded) -> list[tuple[str, Any]]:
    """The settings as they may be shown."""
    return [(str(name), _masked(value)) for name, value in loaded.settings.__repr_args__()]


def _masked(value: object) -> Any:
    match value:
        case SecretStr():
            return SECRET
        case str() if "://" in value:
            return mask_url(value)
        case tuple() | list() | frozenset():
            return [_masked(each) for each in value]
        case None | bool() | int() | float():
            return value
        case _:
            return str(value)


def _persona(persona: Persona) -> dict[str, Any]:
    """A persona in brief. Who may read the settings' file may see its prompts."""
    return {
        "voice_prompt": persona.voice_prompt,
        "text_prompt": persona.text_prompt,
        "greeting": None if persona.greeting is None else str(persona.greeting),
        "max_duration_s": persona.max_duration_s,
        "keys": list(persona.keys),
        "phrases": list(persona.phrases),
        "record": persona.record,
        "warm": persona.warm,
    }


def _origin(loaded: Loaded, name: str) -> str:
    if name not in loaded.origins:
        return "default"
    written, source = loaded.origins[name]
    return f"{written} ({source})"


def _text(value: object, longest: int | None) -> str:
    match value:
        case None | []:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return " ".join(map(str, value))
        case float():
            return f"{value:g}"
        case str() if longest is not None and len(value) > longest:
            return plain(value[:longest]) + "…"
        case _:
            return plain(value)
