"""The settings as flags of the command line, and as tables for the documentation."""

from __future__ import annotations

import argparse
import enum
from typing import TYPE_CHECKING, Final, get_args, get_origin

from pydantic_core import PydanticUndefined

from pxbridge.settings.fields import Settings, flag, from_file, is_secret, variable
from pxbridge.settings.sources import CONFIG, CONFIG_VARIABLE, FILE_SUFFIX

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


SECTIONS: Final = {
    "host": "Telephony port",
    "engines": "Engines",
    "voice_prompt": "The agent",
    "engine_connect_timeout_s": "Engines' time limits",
    "warm_sessions": "Warm sessions, waiting and failover",
    "lease_store": "Several bridges",
    "max_calls": "Calls and their sound",
    "credentials": "Access to the telephony port",
    "public_url": "Public address and TLS",
    "drain_s": "Stopping",
    "log_level": "Logs and numbers",
    "console_host": "Console",
    "state_dir": "State, records and recordings",
}
"""Each section of the settings, by the setting that begins it."""

_LIST_METAVARS: Final = {"engines": "URL[,URL]", "engine_fingerprint": "SHA256[,SHA256]"}


def sections() -> dict[str, dict[str, FieldInfo]]:
    """The settings by section, in the order of their definition."""
    found: dict[str, dict[str, FieldInfo]] = {}
    title = ""
    for name, field in Settings.model_fields.items():
        title = SECTIONS.get(name, title)
        found.setdefault(title, {})[name] = field
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each setting. Flags that are not used are absent from the parsed namespace."""
    parser.add_argument(
        flag(CONFIG),
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"TOML file of settings ({CONFIG_VARIABLE})",
    )
    for title, fields in sections().items():
        group = parser.add_argument_group(title)
        for name, field in fields.items():
            _add_flags(group, name, field)


def _add_flags(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    about = f"{(field.description or '').replace('%', '%%')} Default: {default_text(field)}."
    if is_secret(name):
        group.add_argument(
            flag(name + FILE_SUFFIX),
            metavar="FILE",
            default=argparse.SUPPRESS,
            help=f"File that contains this secret. {about}",
        )
        return
    if from_file(name):
        group.add_argument(
            flag(name + FILE_SUFFIX),
            metavar="FILE",
            default=argparse.SUPPRESS,
            help=f"File that contains the value of {flag(name)}. Other users of the machine can read flags.",
        )
    if field.annotation is bool:
        group.add_argument(
            flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=about
        )
    elif get_origin(field.annotation) is tuple:
        metavar = _LIST_METAVARS.get(name, "NETWORK[,NETWORK]")
        group.add_argument(
            flag(name), metavar=metavar, action="append", default=argparse.SUPPRESS, help=about
        )
    else:
        group.add_argument(flag(name), metavar=_metavar(name, field), default=argparse.SUPPRESS, help=about)


def markdown_table() -> str:
    """The settings as the documentation shows them: a table for each section, one row each."""
    return "\n".join(
        f"### {title}\n\n| setting | flag | default | meaning |\n|---|---|---|---|\n"
        + "".join(_row(name, field) for name, field in fields.items())
        for title, fields in sections().items()
    )


def _row(name: str, field: FieldInfo) -> str:
    default = "a telephone assistant" if name == "text_prompt" else default_text(field)
    shown = default if default in ("none", "a telephone assistant") else f"`{default}`"
    written = flag(name + FILE_SUFFIX) if is_secret(name) else flag(name)
    return f"| `{variable(name)}` | `{written}` | {shown} | {field.description} |\n"


def default_text(field: FieldInfo) -> str:
    """The default of a setting, for people."""
    match field.default:
        case None | ():
            return "none"
        case bool(value):
            return str(value).lower()
        case float(value):
            return f"{value:g}"
        case str(value) if " " in value:
            return f'"{value}"'
        case value:
            assert value is not PydanticUndefined  # noqa: S101 - every setting has a default
            return str(value)


def _metavar(name: str, field: FieldInfo) -> str:
    if name.endswith("_s"):
        return "SECONDS"
    if name.endswith("_file"):
        return "FILE"
    if name.endswith("_dir"):
        return "FOLDER"
    if choices := [each for each in get_args(field.annotation) if isinstance(each, str)]:
        return "|".join(choices)
    if isinstance(field.annotation, type) and issubclass(field.annotation, enum.Enum):
        return "|".join(str(each.value) for each in field.annotation)
    if name.endswith("_ms"):
        return "MS"
    kinds = {field.annotation, *get_args(field.annotation)}
    return "N" if kinds & {int, float} else "TEXT"
