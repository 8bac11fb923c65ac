"""What differs between two readings of the settings and personas, in names only: values may be secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pxbridge.calls.persona import DEFAULT_NAME, Persona
from pxbridge.settings.fields import Settings
from pxbridge.settings.persona_file import KEYS

if TYPE_CHECKING:
    from pxbridge.calls.persona import Personas

_EMPTY: Final = Persona("", "")
_FROM_SETTINGS: Final = {
    "voice_prompt": "voice_prompt",
    "text_prompt": "text_prompt",
    "warm": "warm_sessions",
    "failover_prefers": "failover_prefers",
}
"""Keys of the default persona, and the settings that they come from if ``[personas.default]`` has none."""


class Reading(NamedTuple):
    """The settings and personas of one time."""

    settings: Settings
    personas: Personas

    def value(self, persona: str, key: str) -> Any:
        """The value of a persona's key."""
        return self.personas.numbers(persona) if key == "numbers" else getattr(self.personas[persona], key)

    def inherits(self, persona: str, key: str) -> bool:
        """Whether a persona's key has the value that it has if the file does not name it."""
        if persona != DEFAULT_NAME:
            return bool(self.value(persona, key) == self.value(DEFAULT_NAME, key))
        if key == "numbers":
            return not self.value(persona, key)
        source = _FROM_SETTINGS.get(key)
        inherited = getattr(_EMPTY, key) if source is None else getattr(self.settings, source)
        return bool(self.value(persona, key) == inherited)


def changed_settings(old: Settings, new: Settings) -> set[str]:
    """The names of the settings that differ."""
    return {name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)}


def changed_personas(old: Reading, new: Reading) -> dict[str, list[str]]:
    """For each persona of both readings that differs: its keys that do.

    A key that is inherited in both is left out: the setting, or the default persona, has changed instead.
    """
    found = {}
    for name in old.personas:
        if name not in new.personas:
            continue
        keys = [
            key
            for key in KEYS
            if old.value(name, key) != new.value(name, key)
            and not (old.inherits(name, key) and new.inherits(name, key))
        ]
        if keys:
            found[name] = keys
    return found


def own_keys(reading: Reading, persona: str) -> list[str]:
    """The keys of a persona whose values are not inherited."""
    return [key for key in KEYS if not reading.inherits(persona, key)]
