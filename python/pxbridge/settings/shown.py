"""The settings as flags of the command line, and as a table for the README."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, get_args, get_origin

from pydantic_core import PydanticUndefined

from pxbridge.settings.fields import Settings, flag, from_file, is_secret, variable
from pxbridge.settings.sources import CONFIG, CONFIG_VARIABLE, FILE_SUFFIX

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


_LIST_METAVARS = {"engines": "URL[,URL]", "engine_fingerprint": "SHA256[,SHA256]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each setting. Flags that are not used are absent from the parsed namespace."""
    group = parser.add_argument_group(
        "settings", "also as PXBRIDGE_NAME in the environment and as name in a TOML file"
    )
    group.add_argument(
        flag(CONFIG),
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"TOML file of settings ({CONFIG_VARIABLE})",
    )
    for name, field in Settings.model_fields.items():
        about = f"{(field.description or '').replace('%', '%%')} Default: {_default_text(field)}."
        if is_secret(name):
            group.add_argument(
                flag(name + FILE_SUFFIX),
                metavar="FILE",
                default=argparse.SUPPRESS,
                help=f"File that contains this secret. {about}",
            )
            continue
        if from_file(name):
            group.add_argument(
                flag(name + FILE_SUFFIX),
                metavar="FILE",
                default=argparse.SUPPRESS,
                help=f"File that contains the value of {flag(name)}. Other users of the machine can read "
                "flags.",
            )
        if field.annotation is bool:
            group.add_argument(
                flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=about
            )
        elif get_origin(field.annotation) is tuple:
            group.add_argument(
                flag(name),
                metavar=_LIST_METAVARS.get(name, "NETWORK[,NETWORK]"),
                action="append",
                default=argparse.SUPPRESS,
                help=about,
            )
        else:
            group.add_argument(
                flag(name), metavar=_metavar(name, field), default=argparse.SUPPRESS, help=about
            )


def markdown_table() -> str:
    """The settings as the README shows them, one row each."""
    rows = ["| setting | flag | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "a telephone assistant" if name == "text_prompt" else _default_text(field)
        shown = default if default in ("none", "a telephone assistant") else f"`{default}`"
        written = flag(name + FILE_SUFFIX) if is_secret(name) else flag(name)
        rows.append(f"| `{variable(name)}` | `{written}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


def _default_text(field: FieldInfo) -> str:
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
    if field.annotation is not None and get_args(field.annotation) and name == "log_level":
        return "LEVEL"
    return "N" if field.annotation is int else "TEXT"
