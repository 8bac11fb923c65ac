"""Every setting of the bridge: its type, its bounds, its default, and where its value came from.

A setting can be given in four places. The first of them that names it wins::

    command line      --port 5060
    environment       PXBRIDGE_PORT=5060
    a TOML file       port = 5060          (--config FILE, or PXBRIDGE_CONFIG)
    the default       5050

The merge is our own because of its errors: whoever reads one must see which of the four places to mend,
under the name that was written there. A value that is wrong, or a name that does not exist, stops the
start (:class:`pxbridge.errors.ConfigError`); nothing is guessed and nothing is ignored.

The rate of the phone line is no setting: the call says it, and the model has only one.
"""

from __future__ import annotations

import argparse
import difflib
import re
import ssl
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticUndefined

from pxbridge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "PXBRIDGE_"
CONFIG_VARIABLE = "PXBRIDGE_CONFIG"
CONFIG_FLAG = "--config"

# What the prototype called them: still read, where the new name is not set.
OLD_VARIABLES = {"BRIDGE_HOST": "host", "BRIDGE_PORT": "port"}

# Kubernetes puts these into every pod of a namespace that has a Service named `pxbridge`. The last of
# them has the name of our own port setting, so only its value tells them apart.
_KUBERNETES_LINK = re.compile(r"PXBRIDGE_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP)(_\w+)?)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp)://")

# The bridge writes these into an engine's query itself; NVIDIA's server dies of any `seed`.
_RESERVED_ENGINE_QUERY = {"voice_prompt", "text_prompt", "seed"}
_ENGINE_SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_ENGINE_PATH = "/api/chat"

_SHA256_HEX_DIGITS = 64
_MASK = "***"

# Some 50 tokens: the engine spends 80 ms of its 240 s window on each.
DEFAULT_TEXT_PROMPT = (
    "You are a friendly assistant who answers the telephone. You speak in short, clear sentences, "
    "you listen, and you ask again when you did not understand."
)


@dataclass(frozen=True)
class Right:
    """What a right value is, as it completes "'x' is not ..."."""

    text: str


def _split_engines(value: object) -> object:
    """One string of URLs, or a list of such strings, as a tuple of normalised URLs."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("should be a list of WebSocket URLs such as wss://engine.example:8998/api/chat")
    urls = tuple(_engine_url(url) for part in parts for url in re.split(r"[\s,]+", part) if url)
    for url in urls:
        if urls.count(url) > 1:
            raise ValueError(f"{mask_url(url)} is named twice, and an engine has room for one call")
    return urls


def _engine_url(written: str) -> str:
    """A normalised ``ws`` or ``wss`` URL of an engine's ``/api/chat``."""
    shown = mask_url(written)
    if "://" not in written:
        raise ValueError(f"{shown!r} has no scheme; write wss://{shown} (TLS) or ws://{shown} (plain)")
    try:
        url = urlsplit(written)
        port = url.port
    except ValueError as error:
        raise ValueError(f"{shown!r} is not a URL: {error}") from None
    scheme = _ENGINE_SCHEMES.get(url.scheme.lower())
    if scheme is None:
        raise ValueError(
            f"{shown!r} begins with {url.scheme}://; an engine's URL begins with wss:// or ws://"
        )
    if not url.hostname or port == 0:
        raise ValueError(f"{shown!r} names no host; write {scheme}://HOST:8998{_ENGINE_PATH}")
    if url.fragment:
        raise ValueError(f"{shown!r} has a #fragment, which a WebSocket URL cannot have")
    for name, _ in parse_qsl(url.query, keep_blank_values=True):
        if name in _RESERVED_ENGINE_QUERY:
            raise ValueError(
                f"{shown!r} has {name}= in its query; the bridge writes the prompts there itself"
            )
    path = _ENGINE_PATH if url.path in ("", "/") else url.path
    return urlunsplit((scheme, url.netloc, path, url.query, ""))


def mask_url(url: str) -> str:
    """``url`` as it may be shown: without the password and the query's values, which may be tokens."""
    url = re.sub(r"^(\w+://)?[^/?#]*@", rf"\1{_MASK}@", url)
    return re.sub(r"(?<==)[^&#]*", _MASK, url)


def _fingerprint(value: object) -> object:
    """A SHA-256 fingerprint as 64 lower-case hex digits; takes what ``openssl x509`` prints."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?i)^\s*sha-?256(\s+fingerprint)?\s*[:=]\s*", "", value)
    digits = re.sub(r"[:\s]", "", text).lower()
    if not re.fullmatch(f"[0-9a-f]{{{_SHA256_HEX_DIGITS}}}", digits):
        raise ValueError(
            f"is not a SHA-256 fingerprint of {_SHA256_HEX_DIGITS} hex digits, as "
            "`openssl x509 -noout -fingerprint -sha256 -in cert.pem` prints it"
        )
    return digits


def _certificates(value: object) -> object:
    """The path of a PEM file that holds at least one certificate."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value).expanduser()
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:  # an OSError too
        raise ValueError(f"{str(path)!r} holds no certificate in PEM form") from None
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    return path


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


_SECONDS = Right("a number of seconds above 0, up to 600")


class Settings(BaseModel):
    """What the bridge was told. Frozen: a change of settings is a restart."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: Annotated[str, BeforeValidator(_strip), Right("a host name or an address such as 0.0.0.0")] = Field(
        default="127.0.0.1",
        min_length=1,
        pattern=r"^\S+$",
        description="Address to listen on for phone calls. 0.0.0.0 opens it to the network.",
    )
    port: Annotated[int, Right("a port number from 0 (any free one) to 65535")] = Field(
        default=5050, ge=0, le=65535, description="Port to listen on for phone calls."
    )
    engines: Annotated[tuple[str, ...], BeforeValidator(_split_engines)] = Field(
        default=(),
        description="URLs of PersonaPlex servers (wss://host:8998/api/chat), apart by spaces or commas. "
        "None: the rehearsal engine, which greets and repeats what it hears.",
    )
    engine_capacity: Annotated[int, Right("a whole number from 1 to 1000")] = Field(
        default=1, ge=1, le=1000, description="Calls that each engine takes at once. NVIDIA's server takes 1."
    )
    engine_ca_file: Annotated[
        Path | None, BeforeValidator(_certificates), Right("the path of a PEM file")
    ] = Field(
        default=None, description="PEM file of the authority that signed the engines' TLS certificates."
    )
    engine_fingerprint: Annotated[str | None, BeforeValidator(_fingerprint), Right("a fingerprint")] = Field(
        default=None,
        description="SHA-256 fingerprint of the engines' own, self-signed TLS certificate: "
        "that one is trusted and no other.",
    )
    engine_insecure: Annotated[bool, Right("true or false")] = Field(
        default=False,
        description="Trust any TLS certificate of an engine. Whoever sits between can listen to the calls.",
    )
    voice_prompt: Annotated[
        str, BeforeValidator(_strip), Right("a voice the engine has, such as NATF0.pt or a .wav file's name")
    ] = Field(
        default="NATF0.pt",
        pattern=r"^[^\x00-\x1f]+\.(pt|wav)$",
        description="The agent's voice: NATF0-3, NATM0-3, VARF0-4 or VARM0-4, each with .pt at its end.",
    )
    text_prompt: Annotated[str, BeforeValidator(_strip), Right("a text of at least one letter")] = Field(
        default=DEFAULT_TEXT_PROMPT,
        min_length=1,
        description="Who the agent is and what it should do, in a few sentences.",
    )
    engine_connect_timeout_s: Annotated[float, _SECONDS] = Field(
        default=10.0,
        gt=0,
        le=600,
        description="How long to wait for an engine's connection, TLS and upgrade.",
    )
    engine_handshake_timeout_s: Annotated[float, _SECONDS] = Field(
        default=30.0,
        gt=0,
        le=600,
        description="How long an engine may take for its prompts before it counts as busy.",
    )
    max_calls: Annotated[int, Right("a whole number from 1 to 100000")] = Field(
        default=100, ge=1, le=100_000, description="Calls at the same time; one more is turned away."
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        Right("one of debug, info, warning, error"),
    ] = Field(default="info", description="How much is logged: debug, info, warning or error.")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The fields as they may be logged: an engine's URL can carry a password or a token."""
        for name, value in super().__repr_args__():
            yield name, tuple(map(mask_url, value)) if name == "engines" else value

    __str__ = BaseModel.__repr__


class Loaded(NamedTuple):
    """The settings and how they came about.

    Attributes:
        settings: The merged, checked settings.
        origins: For each setting that was given: the name it was written under, and the source.
        notes: What the operator should know, one sentence each, for the log.
        file: The TOML file that was read, if there was one.
        personas: Its table of personas, which `pxbridge.calls.persona_file` reads.
    """

    settings: Settings
    origins: dict[str, tuple[str, str]]
    notes: list[str]
    file: Path | None = None
    personas: Mapping[str, object] = {}


@dataclass(frozen=True)
class _Given:
    """A value as one source has it."""

    written: str
    source: str
    value: object


def flag(name: str) -> str:
    """The command line's name of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment's name of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting; those not used leave no trace in the parsed namespace."""
    group = parser.add_argument_group(
        "settings", "each also as PXBRIDGE_NAME in the environment and as name in a TOML file"
    )
    group.add_argument(
        CONFIG_FLAG,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"TOML file of settings ({CONFIG_VARIABLE})",
    )
    for name, field in Settings.model_fields.items():
        about = f"{(field.description or '').replace('%', '%%')} Default: {_default_text(field)}."
        if field.annotation is bool:
            group.add_argument(
                flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=about
            )
        elif name == "engines":
            group.add_argument(
                flag(name), metavar="URL[,URL]", action="append", default=argparse.SUPPRESS, help=about
            )
        else:
            group.add_argument(
                flag(name), metavar=_metavar(name, field), default=argparse.SUPPRESS, help=about
            )


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Loaded:
    """Merge the four sources and check the result.

    Args:
        flags: The settings given on the command line by field name, and ``config``: what the arguments
            of :func:`add_arguments` parse to. Other keys are not looked at.
        environ: The environment's variables.

    Raises:
        ConfigError: The first thing wrong, in the order of the sources and then of the settings.
    """
    notes: list[str] = []
    from_flags = {
        name: _Given(flag(name), "command line", flags[name])
        for name in Settings.model_fields
        if name in flags
    }
    from_environment = _read_environment(environ, notes)
    file: Path | None = None
    table: dict[str, Any] = {}
    if "config" in flags:
        file, table = _read_file(str(flags["config"]), CONFIG_FLAG, "command line")
    elif environ.get(CONFIG_VARIABLE):
        file, table = _read_file(environ[CONFIG_VARIABLE], CONFIG_VARIABLE, "environment")
    personas = table.pop("personas", {})
    if not isinstance(personas, dict):
        raise ConfigError("personas", str(file), "is not a table; write [personas.NAME] above its keys")
    from_file = _from_table(table, file) if file is not None else {}

    given = from_file | from_environment | from_flags
    for one in given.values():
        if one.source == "environment" and one.written in OLD_VARIABLES:
            new = variable(OLD_VARIABLES[one.written])
            notes.append(f"{one.written} is the prototype's name and still works; the new one is {new}")

    settings = _check(given)
    _check_trust(settings, given, notes)
    origins = {name: (one.written, one.source) for name, one in given.items()}
    return Loaded(settings, origins, notes, file, personas)


def _read_environment(environ: Mapping[str, str], notes: list[str]) -> dict[str, _Given]:
    """The settings in the environment. An empty variable counts as not set, as in a compose file."""
    given = {}
    for old, name in OLD_VARIABLES.items():
        if environ.get(old):
            given[name] = _Given(old, "environment", environ[old])
    names = {variable(name): name for name in Settings.model_fields}
    for written, value in sorted(environ.items()):
        if not written.startswith(ENVIRONMENT_PREFIX) or written == CONFIG_VARIABLE:
            continue
        if _KUBERNETES_LINK.fullmatch(written) or (
            written == variable("port") and _KUBERNETES_PORT.match(value)
        ):
            notes.append(f"{written} is Kubernetes' own, for a Service named pxbridge: not read")
        elif written not in names:
            raise ConfigError(written, "environment", f"no such setting; {_nearest(written, names)}")
        elif value:
            given[names[written]] = _Given(written, "environment", value)
    return given


def _read_file(path: str, written: str, source: str) -> tuple[Path, dict[str, Any]]:
    """A TOML file; ``written`` and ``source`` tell who named it."""
    file = Path(path).expanduser()
    try:
        return file, tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(written, source, f"cannot read {path!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(written, source, f"{path} is not a TOML file: {error}") from None


def _from_table(table: Mapping[str, Any], file: Path) -> dict[str, _Given]:
    """The settings in a file's table."""
    path = str(file)
    given = {}
    for name, value in table.items():
        if name not in Settings.model_fields:
            raise ConfigError(name, path, f"no such setting; {_nearest(name, Settings.model_fields)}")
        if name == "engine_ca_file" and isinstance(value, str):
            # Relative to the file it stands in: the working directory of a service is anyone's guess.
            value = str(file.parent / Path(value).expanduser())
        given[name] = _Given(name, path, value)
    return given


def _nearest(written: str, names: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(written, names, n=1)
    return f"did you mean {near[0]}?" if near else "`pxbridge --help` lists them all"


def _check(given: Mapping[str, _Given]) -> Settings:
    for name, one in given.items():
        # pydantic reads true as 1; a port of true is a slip.
        if isinstance(one.value, bool) and Settings.model_fields[name].annotation is not bool:
            raise ConfigError(one.written, one.source, _not_right(name, one.value))
    try:
        return Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
        name = str(error["loc"][0])
        one = given[name]
        own_words = error["ctx"].get("error") if error["type"] == "value_error" else None
        raise ConfigError(
            one.written, one.source, str(own_words) if own_words else _not_right(name, one.value)
        ) from None


def _check_trust(settings: Settings, given: Mapping[str, _Given], notes: list[str]) -> None:
    """How engines' certificates are trusted: in one way, and never silently in none."""
    ways = [
        name
        for name in ("engine_insecure", "engine_fingerprint", "engine_ca_file")
        if getattr(settings, name) not in (None, False)
    ]
    if len(ways) > 1:
        one, other = given[ways[0]], given[ways[1]]
        raise ConfigError(
            one.written, one.source, f"contradicts {other.written} ({other.source}); keep one of the two"
        )
    if settings.engine_insecure:
        one = given["engine_insecure"]
        notes.append(
            f"{one.written} ({one.source}): engines' TLS certificates are NOT checked; "
            f"pin the certificate with {variable('engine_fingerprint')} instead"
        )
    if ways and not any(url.startswith("wss:") for url in settings.engines):
        one = given[ways[0]]
        notes.append(f"{one.written} ({one.source}) has no effect: no engine's URL begins with wss://")


def _not_right(name: str, value: object) -> str:
    right = next(extra.text for extra in Settings.model_fields[name].metadata if isinstance(extra, Right))
    return f"{value!r} is not {right}"


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


def markdown_table() -> str:
    """The settings as README shows them, one row each."""
    rows = ["| setting | flag | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "a telephone assistant" if name == "text_prompt" else _default_text(field)
        shown = default if default in ("none", "a telephone assistant") else f"`{default}`"
        rows.append(f"| `{variable(name)}` | `{flag(name)}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"
