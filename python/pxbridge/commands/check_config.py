"""`pxbridge check-config`: whether a bridge can start with its settings, and where each one comes from.

The first line is the verdict, and warnings follow. ``--changed`` shows only what differs from the defaults.
It finds every error in settings, personas, greetings, access and TLS files that would stop a start, without
starting. It asks engines that tell their voices whether they have those of the personas; an engine that does
not answer is not an error. `pxbridge doctor` also checks whether engines answer and ports are free.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from pxbridge import settings
from pxbridge.app.assembly import engine_addresses
from pxbridge.app.certificates import console_tls, telephony_tls
from pxbridge.app.console import check_console
from pxbridge.calls.persona import DEFAULT_NAME
from pxbridge.calls.unknown_names import voice_problems
from pxbridge.commands.terminal import plain, say
from pxbridge.engines.voices import EngineVoices
from pxbridge.settings import Settings, mask_url
from pxbridge.settings.changes import Reading, changed_settings, own_keys
from pxbridge.settings.persona_file import read_personas
from pxbridge.settings.shown import default_text
from pxbridge.wording import counted

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from pxbridge.calls.persona import Personas
    from pxbridge.settings import Loaded

CAN_START = "the bridge can start with these settings"
SECRET = "***"  # noqa: S105 - shown in place of a secret
MAX_SHOWN_CHARS = 60
"""A longer text is cut on a terminal, where the other settings are of interest too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--changed",
        action="store_true",
        help="show only settings that differ from their defaults, and what personas set themselves",
    )
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
    voices, engines = EngineVoices(), engine_addresses(loaded.settings)
    await voices.ask(engines, engines)
    notes += map(str, voice_problems(personas, voices))
    values, shown = _values(loaded), {name: _persona(personas, name) for name in personas}
    if args.changed:
        not_default = changed_settings(Settings(), loaded.settings)
        values = [(name, value) for name, value in values if name in not_default]
        own = {name: own_keys(Reading(loaded.settings, personas), name) for name in personas}
        shown = {
            name: {key: shown[name][key] for key in keys}
            for name, keys in own.items()
            if keys or name != DEFAULT_NAME
        }
    if args.json:
        found = {
            "settings": {name: {"value": value, "origin": _origin(loaded, name)} for name, value in values},
            "personas": shown,
            "notes": notes,
        }
        console.print(json.dumps(found, indent=2, default=str), markup=False, soft_wrap=True)
        return 0
    verdict = f"good, with {counted(len(notes), 'note')}" if notes else "good"
    console.print(f"{verdict}: {CAN_START}", style="bold", markup=False, soft_wrap=True)
    for note in notes:
        say(console, note, "note: ")
    longest = MAX_SHOWN_CHARS if console.is_terminal else None
    for name, value in values:
        origin = _origin(loaded, name)
        if args.changed:
            origin += f"; default: {default_text(Settings.model_fields[name])}"
        say(console, f"{_text(value, longest)}  ({origin})", f"{name} = ")
    for name, keys in shown.items():
        text = ", ".join(
            f"{key} {_text(value, longest)}" for key, value in keys.items() if value or args.changed
        )
        origin = str(loaded.file) if name in loaded.personas else "the settings"
        say(console, f"{text or 'as the default'}  ({origin})", f"persona {name}: ")
    if not values and not shown:
        say(console, "every setting has its default")
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


def _persona(personas: Personas, name: str) -> dict[str, Any]:
    """A persona in brief. Who may read the settings' file may see its prompts."""
    persona = personas[name]
    return {
        "voice_prompt": persona.voice_prompt,
        "text_prompt": persona.text_prompt,
        "numbers": sorted(personas.numbers(name)),
        "greeting": None if persona.greeting is None else str(persona.greeting),
        "max_duration_s": persona.max_duration_s,
        "keys": list(persona.keys),
        "phrases": list(persona.phrases),
        "record": persona.record,
        "warm": persona.warm,
        "failover_prefers": persona.failover_prefers.value,
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
