"""Every setting of the bridge: its type, its bounds, its default, and where its value came from.

A setting can be given in four places. The first of them that names it wins::

    command line      --port 5060
    environment       PXBRIDGE_PORT=5060
    a TOML file       port = 5060          (--config FILE, or PXBRIDGE_CONFIG)
    the default       5050

The merge is our own because of its errors: whoever reads one must see which of the four places to mend,
under the name that was written there. A value that is wrong, or a name that does not exist, stops the
start (:class:`pxbridge.errors.ConfigError`); nothing is guessed and nothing is ignored.

A secret (:class:`Secrets`) has no flag, which every user of the machine could read. It comes from the
environment, from a file that ``PXBRIDGE_NAME_FILE``, ``--name-file`` or ``name_file`` names, or last from a
systemd credential called ``pxbridge_name``; and from here on it is never shown, in no error either.

The rate of the phone line is no setting: the call says it, and the model has only one.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import ipaddress
import re
import ssl
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import PydanticUndefined

from pxbridge.calls.numbers import Form as NumberForm
from pxbridge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "PXBRIDGE_"
CONFIG_VARIABLE = "PXBRIDGE_CONFIG"
CONFIG_FLAG = "--config"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"  # where systemd puts what LoadCredential= names

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
_FILE = "_file"  # what a secret's name ends in where a file is named instead

# As many as anyone can try over the network in a lifetime, at the rate that the bridge answers an address.
_MIN_PASSWORD_CHARS = 12
# HMAC-SHA-256 wants a key as long as its result (RFC 2104 §3): 32 bytes, 43 characters of base64.
_MIN_KEY_CHARS = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Secrets = tuple[SecretStr, ...]
"""One or more secrets of a kind, so that one can be replaced while the other is still in use. Each shows as
asterisks wherever it is printed; ``get_secret_value()`` tells it."""

# Some 50 tokens: the engine spends 80 ms of its 240 s window on each.
DEFAULT_TEXT_PROMPT = (
    "You are a friendly assistant who answers the telephone. You speak in short, clear sentences, "
    "you listen, and you ask again when you did not understand."
)


@dataclass(frozen=True)
class Right:
    """What a right value is, as it completes "'x' is not ..."."""

    text: str


def _split_secrets(value: object) -> list[str]:
    """Secrets as they were written, one string of them or several; none of it is ever quoted."""
    parts = [value] if isinstance(value, str | SecretStr) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str | SecretStr) for part in parts):
        raise ValueError("should be text, or a list of texts")
    plain = [part.get_secret_value() if isinstance(part, SecretStr) else part for part in parts]
    return [secret for text in plain for secret in text.split()]


def _split_credentials(value: object) -> object:
    secrets = _split_secrets(value)
    for n, secret in enumerate(secrets, 1):
        user, colon, password = secret.partition(":")
        if not user or not colon:
            raise ValueError(f"the {_ordinal(n)} is not of the form USER:PASSWORD")
        if len(password) < _MIN_PASSWORD_CHARS:
            raise ValueError(
                f"the {_ordinal(n)} has a password of {len(password)} characters; give it at least "
                f"{_MIN_PASSWORD_CHARS}, such as `openssl rand -hex 16` prints"
            )
        if not secret.isascii() or not secret.isprintable():
            raise ValueError(f"the {_ordinal(n)} has characters that a URL cannot carry")
    return secrets


def _split_keys(value: object) -> object:
    secrets = _split_secrets(value)
    for n, secret in enumerate(secrets, 1):
        if len(secret) < _MIN_KEY_CHARS:
            raise ValueError(
                f"the {_ordinal(n)} has {len(secret)} characters; give it at least {_MIN_KEY_CHARS}: "
                "`openssl rand -hex 32` prints one"
            )
    return secrets


def _ordinal(n: int) -> str:
    return ("first", "second", "third")[n - 1] if n <= 3 else f"{n}th"


def _split_networks(value: object) -> object:
    """One string of addresses and networks, or a list of such strings."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("should be a list of networks such as 203.0.113.0/24 or 2001:db8::/32")
    networks = []
    for part in parts:
        for written in re.split(r"[\s,]+", part) if isinstance(part, str) else [part]:
            if written == "":
                continue
            try:
                networks.append(ipaddress.ip_network(written))
            except ValueError as error:
                raise ValueError(f"{written!r} is not an address or a network: {error}") from None
    return tuple(networks)


def _public_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    url = value.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("wss", "ws") or not parts.hostname:
        raise ValueError(f"{mask_url(url)!r} is not a URL such as wss://voice.example.com")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            f"{mask_url(url)!r} has more than a scheme, a host, a port and a path; "
            "the bridge adds what opens its door"
        )
    return url


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
    try:
        url.hostname.encode("idna")
    except UnicodeError:
        raise ValueError(f"{shown!r} names a host that cannot exist: look for a doubled dot") from None
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


_STORE_SCHEMES = ("redis", "rediss", "unix")


def _store_url(value: object) -> object:
    """``memory``, or the URL of a Redis or Valkey server whose client library is there."""
    if not isinstance(value, str) or value.strip().lower() == "memory":
        return value.strip().lower() if isinstance(value, str) else value
    scheme, separator, _ = value.partition("://")
    if not separator or scheme not in _STORE_SCHEMES:
        raise ValueError(
            f"{mask_url(value)!r} is neither memory nor the URL of a Redis or Valkey server; "
            "write redis://HOST:6379/0"
        )
    if importlib.util.find_spec("redis") is None:
        raise ValueError("needs the client library for Redis: pip install 'pxbridge[redis]'")
    return value.strip()


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _folder(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str) and value.strip() else value


_NUMBER_FORM = Right("one of masked, hashed, full")
_SECONDS = Right("a number of seconds above 0, up to 600")


class Settings(BaseModel):
    """What the bridge was told. Frozen: a reload makes another one, and takes over personas and engines."""

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
        description="Who the agent is and what it should do, in a few sentences. {from}, {to} and "
        "{custom.NAME} in it stand for what the call says.",
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
    engine_silent_timeout_s: Annotated[float, _SECONDS] = Field(
        default=2.5,
        gt=0,
        le=600,
        description="An engine that hears the caller and sends no sound for so long is given up, "
        "if another is free; else it has failover_timeout_s more to come back.",
    )
    warm_sessions: Annotated[int, Right("a whole number from 0 to 100")] = Field(
        default=1,
        ge=0,
        le=100,
        description="Sessions to keep prompted ahead of calls, for each persona that names no other number: "
        "their callers hear the agent at once.",
    )
    warm_max_age_s: Annotated[float, Right("a number of seconds from 10 to 86400")] = Field(
        default=600.0,
        ge=10,
        le=86_400,
        description="A session prompted ahead that is older than this is replaced.",
    )
    max_waiting: Annotated[int, Right("a whole number from 0 to 100000")] = Field(
        default=20,
        ge=0,
        le=100_000,
        description="Calls that may wait for a free engine, with announcements and music; "
        "one more hears that all lines are busy.",
    )
    max_wait_s: Annotated[float, Right("a number of seconds from 0 to 3600")] = Field(
        default=60.0, ge=0, le=3600, description="How long a call may wait for a free engine."
    )
    failover_timeout_s: Annotated[float, _SECONDS] = Field(
        default=20.0,
        gt=0,
        le=600,
        description="When an engine dies in a call: how long another may take before the caller is let go.",
    )
    lease_store: Annotated[
        str, BeforeValidator(_store_url), Right("memory, or a URL such as redis://localhost:6379/0")
    ] = Field(
        default="memory",
        description="Where leases on engines are kept: memory, or the URL of a Redis or Valkey server "
        "(redis://, rediss://, unix://) that all bridges with these engines share.",
    )
    lease_ttl_s: Annotated[float, Right("a number of seconds from 1 to 600")] = Field(
        default=10.0,
        ge=1,
        le=600,
        description="With a shared store: so long after a bridge was killed its engines come free.",
    )
    max_calls: Annotated[int, Right("a whole number from 1 to 100000")] = Field(
        default=100, ge=1, le=100_000, description="Calls at the same time; one more is turned away."
    )
    credentials: Annotated[Secrets, BeforeValidator(_split_credentials), Right("a list of USER:PASSWORD")] = (
        Field(
            default=(),
            description="USER:PASSWORD pairs, apart by spaces, one of which whoever calls must have "
            "(wss://USER:PASSWORD@host/exotel in the applet). Several: for changing them.",
        )
    )
    token_keys: Annotated[Secrets, BeforeValidator(_split_keys), Right("a list of keys")] = Field(
        default=(),
        description="Keys, apart by spaces, of the signed tokens in URLs' paths. The first signs, all are "
        "accepted. None: a key of the process's own, for `/exotel/url`.",
    )
    token_ttl_s: Annotated[float, _SECONDS] = Field(
        default=60.0,
        gt=0,
        le=600,
        description="How long the URL that `/exotel/url` answers with lets a call in.",
    )
    allowed_networks: Annotated[
        tuple[Network, ...], BeforeValidator(_split_networks), Right("a list of networks")
    ] = Field(
        default=(),
        description="Networks (203.0.113.0/24) and addresses that may call; no others may.",
    )
    trusted_proxies: Annotated[
        tuple[Network, ...], BeforeValidator(_split_networks), Right("a list of networks")
    ] = Field(
        default=(),
        description="Networks and addresses of proxies whose X-Forwarded-For, -Host and -Proto are believed.",
    )
    allow_anonymous: Annotated[bool, Right("true or false")] = Field(
        default=False,
        description="Let in anyone who reaches the port, on a public address and in front of an engine too.",
    )
    handshakes_per_minute: Annotated[int, Right("a whole number from 1 to 1000000")] = Field(
        default=600,
        ge=1,
        le=1_000_000,
        description="Requests that one address may make in a minute; more are refused with 429. "
        "All of Exotel's calls may come from a few addresses.",
    )
    max_calls_per_address: Annotated[int | None, Right("a whole number from 1 to 100000")] = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Calls at the same time from one address.",
    )
    public_url: Annotated[str | None, BeforeValidator(_public_url), Right("a wss:// URL")] = Field(
        default=None,
        description="What the internet reaches the telephony port by, such as wss://voice.example.com: "
        "for the answers of `/exotel/url`.",
    )
    tls_cert_file: Annotated[Path | None, Right("the path of a PEM file")] = Field(
        default=None,
        description="PEM file of the certificate and its chain: serves TLS. Read again when it changes.",
    )
    tls_key_file: Annotated[Path | None, Right("the path of a PEM file")] = Field(
        default=None, description="PEM file of the certificate's key, where the certificate's has none."
    )
    drain_s: Annotated[float, Right("a number of seconds from 0 to 14400")] = Field(
        default=60.0,
        ge=0,
        le=14_400,
        description="When the bridge is told to stop: how long calls may go on before they are ended.",
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        Right("one of debug, info, warning, error"),
    ] = Field(default="info", description="How much is logged: debug, info, warning or error.")
    log_format: Annotated[
        Literal["auto", "json", "human"], BeforeValidator(_lower), Right("one of auto, json, human")
    ] = Field(
        default="auto",
        description="How log lines look: json, human, or auto: human on a terminal and json elsewhere.",
    )
    log_numbers: Annotated[NumberForm, BeforeValidator(_lower), _NUMBER_FORM] = Field(
        default=NumberForm.MASKED,
        description="How phone numbers stand in logs: masked but for their last 4 digits, hashed with a key "
        "of this installation, or full.",
    )
    record_numbers: Annotated[NumberForm, BeforeValidator(_lower), _NUMBER_FORM] = Field(
        default=NumberForm.MASKED,
        description="How phone numbers stand in the records of calls and on the console: as `log_numbers`.",
    )
    console_host: Annotated[str, BeforeValidator(_strip), Right("a host name or an address")] = Field(
        default="127.0.0.1",
        min_length=1,
        pattern=r"^\S+$",
        description="Address of the operator's console: metrics, health and calls.",
    )
    console_port: Annotated[int, Right("a port number from 0 (no console) to 65535")] = Field(
        default=5051, ge=0, le=65535, description="Port of the console; 0 for none."
    )
    console_credentials: Annotated[
        Secrets, BeforeValidator(_split_credentials), Right("a list of USER:PASSWORD")
    ] = Field(
        default=(),
        description="USER:PASSWORD pairs, apart by spaces, one of which the console asks for; none: for this "
        "machine only.",
    )
    state_dir: Annotated[Path | None, BeforeValidator(_folder), Right("the path of a folder")] = Field(
        default=None,
        description="Folder for the records of calls and for recordings. None: $STATE_DIRECTORY, which "
        "systemd sets, else `pxbridge` in $XDG_STATE_HOME, else ~/.local/state/pxbridge.",
    )
    keep_records: Annotated[bool, Right("true or false")] = Field(
        default=True,
        description="Keep a record of each call in the state folder: `pxbridge calls` shows them.",
    )
    keep_days: Annotated[float, Right("a number of days above 0, up to 36500")] = Field(
        default=90.0, gt=0, le=36_500, description="Records and recordings older than this are deleted."
    )
    keep_mb: Annotated[int, Right("a whole number from 1 to 100000000")] = Field(
        default=2000,
        ge=1,
        le=100_000_000,
        description="The oldest are deleted too when records and recordings together are larger, in MB.",
    )
    recording_format: Annotated[Literal["wav", "opus"], BeforeValidator(_lower), Right("wav or opus")] = (
        Field(
            default="wav",
            description="What calls are recorded as, where a persona has `record = true`: wav (115 MB an "
            "hour at 8 kHz) or opus (Ogg, 22 MB).",
        )
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The fields as they may be logged: an engine's URL can carry a password or a token."""
        for name, value in super().__repr_args__():
            match name:
                case "engines":
                    yield name, tuple(map(mask_url, value))
                case "lease_store":
                    yield name, mask_url(value)
                case _:
                    yield name, value

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


def state_folder(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Where records and recordings are, as systemd or the XDG base directories say if the settings do not."""
    if settings.state_dir is not None:
        return settings.state_dir
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])  # systemd.exec(5): one for each of the unit's
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "pxbridge"


def flag(name: str) -> str:
    """The command line's name of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment's name of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


def is_secret(name: str) -> bool:
    """Whether a setting is never shown and has no flag of its own."""
    return Settings.model_fields[name].annotation in (Secrets, SecretStr | None)


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
        if is_secret(name):
            group.add_argument(
                flag(name + _FILE),
                metavar="FILE",
                default=argparse.SUPPRESS,
                help=f"File that holds this secret: {about}",
            )
        elif field.annotation is bool:
            group.add_argument(
                flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=about
            )
        elif get_origin(field.annotation) is tuple:
            metavar = "URL[,URL]" if name == "engines" else "NETWORK[,NETWORK]"
            group.add_argument(
                flag(name), metavar=metavar, action="append", default=argparse.SUPPRESS, help=about
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
    for name in filter(is_secret, Settings.model_fields):
        if name + _FILE in flags:
            from_flags[name] = _secret_file(
                flag(name + _FILE), "command line", Path(str(flags[name + _FILE]))
            )
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

    given = _read_credentials(environ) | from_file | from_environment | from_flags
    for one in given.values():
        if one.source == "environment" and one.written in OLD_VARIABLES:
            new = variable(OLD_VARIABLES[one.written])
            notes.append(f"{one.written} is the prototype's name and still works; the new one is {new}")

    settings = _check(given)
    _check_trust(settings, given, notes)
    if settings.tls_key_file is not None and settings.tls_cert_file is None:
        one = given["tls_key_file"]
        mend = f"name its certificate too, with {variable('tls_cert_file')}"
        raise ConfigError(one.written, one.source, f"a key alone serves no TLS; {mend}")
    origins = {name: (one.written, one.source) for name, one in given.items()}
    return Loaded(settings, origins, notes, file, personas)


def _read_environment(environ: Mapping[str, str], notes: list[str]) -> dict[str, _Given]:
    """The settings in the environment. An empty variable counts as not set, as in a compose file."""
    given = {}
    for old, name in OLD_VARIABLES.items():
        if environ.get(old):
            given[name] = _Given(old, "environment", environ[old])
    names = {variable(name): name for name in Settings.model_fields}
    files = {variable(name + _FILE): name for name in Settings.model_fields if is_secret(name)}
    for written, value in sorted(environ.items()):
        if not written.startswith(ENVIRONMENT_PREFIX) or written == CONFIG_VARIABLE:
            continue
        if _KUBERNETES_LINK.fullmatch(written) or (
            written == variable("port") and _KUBERNETES_PORT.match(value)
        ):
            notes.append(f"{written} is Kubernetes' own, for a Service named pxbridge: not read")
        elif written in files:
            if value and environ.get(variable(files[written])):
                other = variable(files[written])
                raise ConfigError(written, "environment", f"contradicts {other}; keep one of the two")
            if value:
                given[files[written]] = _secret_file(written, "environment", Path(value))
        elif written not in names:
            raise ConfigError(written, "environment", f"no such setting; {_nearest(written, names | files)}")
        elif value:
            name = names[written]
            given[name] = _Given(written, "environment", _hidden(value) if is_secret(name) else value)
    return given


def _read_credentials(environ: Mapping[str, str]) -> dict[str, _Given]:
    """The secrets that systemd hands over (systemd.exec(5), LoadCredential=)."""
    folder = environ.get(CREDENTIALS_VARIABLE)
    given = {}
    for name in filter(is_secret, Settings.model_fields if folder else ()):
        written = ENVIRONMENT_PREFIX.lower() + name
        file = Path(str(folder)) / written
        if file.exists():
            given[name] = _secret_file(written, "systemd credential", file)
    return given


def _secret_file(written: str, source: str, file: Path) -> _Given:
    try:
        return _Given(written, source, _hidden(file.expanduser().read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(written, source, f"cannot read {str(file)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(written, source, f"{str(file)!r} is not a text file") from None


def _hidden(value: object) -> object:
    """A secret as it was read, from now on not shown by whatever prints it."""
    if isinstance(value, list):
        return [_hidden(one) for one in value]
    return SecretStr(value) if isinstance(value, str) else value


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
        secret = name.removesuffix(_FILE)
        if secret != name and secret in Settings.model_fields and is_secret(secret):
            if secret in table:
                raise ConfigError(name, path, f"contradicts {secret}; keep one of the two")
            given[secret] = _secret_file(name, path, file.parent / Path(str(value)).expanduser())
            continue
        if name not in Settings.model_fields:
            raise ConfigError(name, path, f"no such setting; {_nearest(name, Settings.model_fields)}")
        if is_secret(name):
            value = _hidden(value)
        elif (name.endswith(_FILE) or name == "state_dir") and isinstance(value, str):
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_door(loaded: Loaded) -> list[str]:
    """Check that not everyone may come in, unless that is what is wanted.

    Returns:
        What the operator should know of how the door is kept, one sentence each, for the log.

    Raises:
        ConfigError: Anyone could reach the bridge or use an engine, and nobody said that this is meant.
    """
    settings = loaded.settings
    public = not is_loopback(settings.host)
    guards = [name for name in ("credentials", "token_keys", "allowed_networks") if getattr(settings, name)]
    if settings.allow_anonymous and guards:
        written, source = loaded.origins["allow_anonymous"]
        other = loaded.origins[guards[0]][0]
        raise ConfigError(written, source, f"contradicts {other}; keep one of the two")
    if not guards and not settings.allow_anonymous and (public or settings.engines):
        name, what = (
            ("host", "the port is open to the network") if public else ("engines", "engines are real")
        )
        written, source = loaded.origins.get(name, (name, "in force"))
        raise ConfigError(
            written,
            source,
            f"{what}, and nothing says who may come in; set {variable('credentials')}, "
            f"{variable('token_keys')} or {variable('allowed_networks')}, "
            f"or {variable('allow_anonymous')}=true to let in anyone",
        )
    notes = []
    if settings.allow_anonymous and (public or settings.engines):
        notes.append("anyone who reaches the telephony port may call (allow_anonymous)")
    if public and guards and settings.tls_cert_file is None and not settings.trusted_proxies:
        notes.append(
            "callers' passwords and voices cross the network in the clear; "
            f"set {variable('tls_cert_file')}, or {variable('trusted_proxies')} and a proxy that serves TLS"
        )
    return notes


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
        written = flag(name + _FILE) if is_secret(name) else flag(name)
        rows.append(f"| `{variable(name)}` | `{written}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"
