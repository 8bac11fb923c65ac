"""Every setting of the bridge: its name, its type, its bounds, its default and what it does.

The README's table, the command line's flags and the checks are all made from here. The rate of the phone
line is no setting: the call says it, and the model has only one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from pxbridge.calls.numbers import Form as NumberForm
from pxbridge.calls.persona import FailoverPrefers
from pxbridge.calls.playout_options import PlayoutOptions, PlayoutProfile
from pxbridge.settings.values import (
    Network,
    Right,
    Secrets,
    Within,
    certificates,
    fingerprint,
    folder,
    lower,
    mask_url,
    split_credentials,
    split_engines,
    split_keys,
    split_networks,
    store_url,
    strip,
    websocket_url,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT_PREFIX = "PXBRIDGE_"

# Some 50 tokens: the engine spends 80 ms of its 240 s window on each.
DEFAULT_TEXT_PROMPT = (
    "You are a friendly assistant who answers the telephone. You speak in short, clear sentences, "
    "you listen, and you ask again when you did not understand."
)

_NUMBER_FORM = Right("one of masked, hashed, full")
_SECONDS = Within("a number of seconds", 0, 600, above=True)


class Settings(BaseModel):
    """What the bridge was told. Frozen: a reload makes another one, and takes over personas and engines."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: Annotated[str, BeforeValidator(strip), Right("a host name or an address such as 0.0.0.0")] = Field(
        default="127.0.0.1",
        min_length=1,
        pattern=r"^\S+$",
        description="Address to listen on for phone calls. 0.0.0.0 opens it to the network.",
    )
    port: Annotated[int, Right("a port number from 0 (any free one) to 65535")] = Field(
        default=5050, ge=0, le=65535, description="Port to listen on for phone calls."
    )
    engines: Annotated[tuple[str, ...], BeforeValidator(split_engines)] = Field(
        default=(),
        description="URLs of PersonaPlex servers (wss://host:8998/api/chat), apart by spaces or commas. "
        "None: the rehearsal engine, which greets and repeats what it hears.",
    )
    engine_capacity: Annotated[int, Within("a whole number", 1, 1_000)] = Field(
        default=1, description="Calls that each engine takes at once. NVIDIA's server takes 1."
    )
    engine_ca_file: Annotated[Path | None, BeforeValidator(certificates), Right("the path of a PEM file")] = (
        Field(
            default=None, description="PEM file of the authority that signed the engines' TLS certificates."
        )
    )
    engine_fingerprint: Annotated[str | None, BeforeValidator(fingerprint), Right("a fingerprint")] = Field(
        default=None,
        description="SHA-256 fingerprint of the engines' own, self-signed TLS certificate: "
        "that one is trusted and no other.",
    )
    engine_insecure: Annotated[bool, Right("true or false")] = Field(
        default=False,
        description="Trust any TLS certificate of an engine. Whoever sits between can listen to the calls.",
    )
    voice_prompt: Annotated[
        str, BeforeValidator(strip), Right("a voice the engine has, such as NATF0.pt or a .wav file's name")
    ] = Field(
        default="NATF0.pt",
        pattern=r"^[^\x00-\x1f]+\.(pt|wav)$",
        description="The agent's voice: NATF0-3, NATM0-3, VARF0-4 or VARM0-4, each with .pt at its end.",
    )
    text_prompt: Annotated[str, BeforeValidator(strip), Right("a text of at least one letter")] = Field(
        default=DEFAULT_TEXT_PROMPT,
        min_length=1,
        description="Who the agent is and what it should do, in a few sentences. {from}, {to} and "
        "{custom.NAME} in it stand for what the call says.",
    )
    engine_connect_timeout_s: Annotated[float, _SECONDS] = Field(
        default=10.0,
        description="How long to wait for an engine's connection, TLS and upgrade.",
    )
    engine_handshake_timeout_s: Annotated[float, _SECONDS] = Field(
        default=30.0,
        description="How long an engine may take for its prompts before it counts as busy.",
    )
    engine_silent_timeout_s: Annotated[float, _SECONDS] = Field(
        default=2.5,
        description="An engine that hears the caller and sends no sound for so long is given up, "
        "if another is free; else it has failover_timeout_s more to come back.",
    )
    warm_sessions: Annotated[int, Within("a whole number", 0, 100)] = Field(
        default=1,
        description="Sessions to keep prompted ahead of calls, for each persona that names no other number: "
        "their callers hear the agent at once.",
    )
    warm_max_age_s: Annotated[float, Within("a number of seconds", 10, 86_400)] = Field(
        default=600.0,
        description="A session prompted ahead that is older than this is replaced.",
    )
    max_waiting: Annotated[int, Within("a whole number", 0, 100_000)] = Field(
        default=20,
        description="Calls that may wait for a free engine, with announcements and music; "
        "one more hears that all lines are busy.",
    )
    max_wait_s: Annotated[float, Within("a number of seconds", 0, 3_600)] = Field(
        default=60.0, description="How long a call may wait for a free engine."
    )
    failover_timeout_s: Annotated[float, _SECONDS] = Field(
        default=20.0,
        description="When an engine dies in a call: how long another may take before the caller is let go.",
    )
    failover_prefers: Annotated[FailoverPrefers, BeforeValidator(lower), Right("soonest or informed")] = (
        Field(
            default=FailoverPrefers.SOONEST,
            description="Which engine goes on when one dies in a call: the soonest, a session prompted "
            "ahead, is heard within a second and knows nothing of the call; an informed one is told what "
            "the agent has said, and the caller waits for its prompts.",
        )
    )
    phone_silent_timeout_s: Annotated[float, _SECONDS] = Field(
        default=30.0,
        description="A phone that sends nothing at all for so long, and did not hang up, is gone. "
        "Exotel sends all the time.",
    )
    lease_store: Annotated[
        str, BeforeValidator(store_url), Right("memory, or a URL such as redis://localhost:6379/0")
    ] = Field(
        default="memory",
        description="Where leases on engines and hand-overs are kept: memory (hand-overs in the state "
        "folder), or the URL of a Redis or Valkey server (redis://, rediss://, unix://) that all "
        "bridges with these engines share.",
    )
    lease_ttl_s: Annotated[float, Within("a number of seconds", 1, 600)] = Field(
        default=10.0,
        description="With a shared store: so long after a bridge was killed its engines come free.",
    )
    max_calls: Annotated[int, Within("a whole number", 1, 100_000)] = Field(
        default=100, description="Calls at the same time; one more is turned away."
    )
    playout_profile: Annotated[
        PlayoutProfile, BeforeValidator(lower), Right("one of standard, strict, low-delay")
    ] = Field(
        default=PlayoutOptions.profile,
        description="What is sent to Exotel: standard, strict (payloads of at least 3,200 bytes, Exotel's "
        "documented minimum, for accounts that insist on it; 160 ms more delay) or low-delay (sound that is "
        "late once in a while is made up instead of being waited for).",
    )
    max_backlog_ms: Annotated[int, Within("a whole number of milliseconds", 0, 10_000)] = Field(
        default=PlayoutOptions.max_backlog_ms,
        description="Of sound that comes late, from the phone or from the engine, the most that is still "
        "worth hearing, made faster to catch up; what is older is cut.",
    )
    gate_ms: Annotated[int, Within("a whole number of milliseconds", 0, 10_000)] = Field(
        default=PlayoutOptions.gate_ms,
        description="So much of a caller's first sound is silence to the engine: lines crack when they open.",
    )
    credentials: Annotated[Secrets, BeforeValidator(split_credentials), Right("a list of USER:PASSWORD")] = (
        Field(
            default=(),
            description="USER:PASSWORD pairs, apart by spaces, one of which whoever calls must have "
            "(wss://USER:PASSWORD@host/exotel in the applet). Several: for changing them.",
        )
    )
    token_keys: Annotated[Secrets, BeforeValidator(split_keys), Right("a list of keys")] = Field(
        default=(),
        description="Keys, apart by spaces, of the signed tokens in URLs' paths. The first signs, all are "
        "accepted. None: a key of the process's own, for `/exotel/url`.",
    )
    token_ttl_s: Annotated[float, _SECONDS] = Field(
        default=60.0,
        description="How long the URL that `/exotel/url` answers with lets a call in.",
    )
    allowed_networks: Annotated[
        tuple[Network, ...], BeforeValidator(split_networks), Right("a list of networks")
    ] = Field(
        default=(),
        description="Networks (203.0.113.0/24) and addresses that may call; no others may.",
    )
    trusted_proxies: Annotated[
        tuple[Network, ...], BeforeValidator(split_networks), Right("a list of networks")
    ] = Field(
        default=(),
        description="Networks and addresses of proxies whose X-Forwarded-For, -Host and -Proto are believed.",
    )
    allow_anonymous: Annotated[bool, Right("true or false")] = Field(
        default=False,
        description="Let in anyone who reaches the port, on a public address and in front of an engine too.",
    )
    handshakes_per_minute: Annotated[int, Within("a whole number", 1, 1_000_000)] = Field(
        default=600,
        description="Requests that one address may make in a minute; more are refused with 429. "
        "All of Exotel's calls may come from a few addresses.",
    )
    max_calls_per_address: Annotated[int | None, Within("a whole number", 1, 100_000)] = Field(
        default=None,
        description="Calls at the same time from one address.",
    )
    public_url: Annotated[str | None, BeforeValidator(websocket_url), Right("a wss:// URL")] = Field(
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
    drain_s: Annotated[float, Within("a number of seconds", 0, 14_400)] = Field(
        default=60.0,
        description="When the bridge is told to stop: how long calls may go on before they are ended.",
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lower),
        Right("one of debug, info, warning, error"),
    ] = Field(default="info", description="How much is logged: debug, info, warning or error.")
    log_format: Annotated[
        Literal["auto", "json", "human"], BeforeValidator(lower), Right("one of auto, json, human")
    ] = Field(
        default="auto",
        description="How log lines look: json, human, or auto: human on a terminal and json elsewhere.",
    )
    log_numbers: Annotated[NumberForm, BeforeValidator(lower), _NUMBER_FORM] = Field(
        default=NumberForm.MASKED,
        description="How phone numbers stand in logs: masked but for their last 4 digits, hashed with a key "
        "of this installation, or full.",
    )
    record_numbers: Annotated[NumberForm, BeforeValidator(lower), _NUMBER_FORM] = Field(
        default=NumberForm.MASKED,
        description="How phone numbers stand in the records of calls and on the console: as `log_numbers`.",
    )
    console_host: Annotated[str, BeforeValidator(strip), Right("a host name or an address")] = Field(
        default="127.0.0.1",
        min_length=1,
        pattern=r"^\S+$",
        description="Address of the operator's console: metrics, health and calls.",
    )
    console_port: Annotated[int, Right("a port number from 0 (no console) to 65535")] = Field(
        default=5051, ge=0, le=65535, description="Port of the console; 0 for none."
    )
    console_credentials: Annotated[
        Secrets, BeforeValidator(split_credentials), Right("a list of USER:PASSWORD")
    ] = Field(
        default=(),
        description="USER:PASSWORD pairs, apart by spaces, one of which the console asks for; none: for this "
        "machine only.",
    )
    state_dir: Annotated[Path | None, BeforeValidator(folder), Right("the path of a folder")] = Field(
        default=None,
        description="Folder for hand-overs, the records of calls and recordings. None: $STATE_DIRECTORY, "
        "which systemd sets, else `pxbridge` in $XDG_STATE_HOME, else ~/.local/state/pxbridge.",
    )
    keep_records: Annotated[bool, Right("true or false")] = Field(
        default=True,
        description="Keep a record of each call in the state folder: `pxbridge calls` shows them.",
    )
    keep_days: Annotated[float, Within("a number of days", 0, 36_500, above=True)] = Field(
        default=90.0, description="Records and recordings older than this are deleted."
    )
    keep_mb: Annotated[int, Within("a whole number", 1, 100_000_000)] = Field(
        default=2000,
        description="The oldest are deleted too when records and recordings together are larger, in MB.",
    )
    recording_format: Annotated[Literal["wav", "opus"], BeforeValidator(lower), Right("wav or opus")] = Field(
        default="wav",
        description="What calls are recorded as, where a persona has `record = true`: wav (115 MB an "
        "hour at 8 kHz) or opus (Ogg, 22 MB).",
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


def from_file(name: str) -> bool:
    """Whether a setting's value can stand in a file of its own, because it is a secret or may hold one."""
    return is_secret(name) or name in ("engines", "lease_store")


def is_secret(name: str) -> bool:
    """Whether a setting is never shown and has no flag of its own."""
    return Settings.model_fields[name].annotation in (Secrets, SecretStr | None)
