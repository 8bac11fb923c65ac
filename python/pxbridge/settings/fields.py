"""Every setting of the bridge: its name, its type, its bounds, its default and what it does.

The table in `docs/configuration.md`, the command line's flags and the checks are all made from this module.
The sample rate is not a setting: each call states the rate of its line, and the model has a fixed one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from pxbridge.calls.numbers import Form as NumberForm
from pxbridge.calls.persona import FailoverPrefers
from pxbridge.calls.playout_options import PlayoutOptions, PlayoutProfile
from pxbridge.calls.unknown_names import UnknownNames
from pxbridge.settings.values import (
    Network,
    Right,
    Secrets,
    Within,
    certificates,
    folder,
    lower,
    mask_url,
    split_credentials,
    split_engines,
    split_fingerprints,
    split_keys,
    split_networks,
    split_origins,
    split_tokens,
    store_url,
    strip,
    token,
    websocket_url,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT_PREFIX = "PXBRIDGE_"

# About 50 tokens. Each takes 80 ms of the model's context, which holds 240 s.
DEFAULT_TEXT_PROMPT = (
    "You are a friendly assistant who answers the telephone. You speak in short, clear sentences, "
    "you listen, and you ask again when you did not understand."
)

_NUMBER_FORM = Right("one of masked, hashed, full")
_SECONDS = Within("a number of seconds", 0, 600, above=True)


class Settings(BaseModel):
    """The settings. Frozen: a reload makes a new object."""

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
        description="URLs of PersonaPlex servers (wss://host:8998/api/chat), separated by spaces or commas. "
        "None: the rehearsal engine, which greets and repeats what it hears.",
    )
    engine_capacity: Annotated[int, Within("a whole number", 1, 1_000)] = Field(
        default=1,
        description="Calls that each engine takes at the same time, if it does not tell by itself, as "
        "`pxbridge engine` does. NVIDIA's server takes 1.",
    )
    engine_ca_file: Annotated[Path | None, BeforeValidator(certificates), Right("the path of a PEM file")] = (
        Field(
            default=None, description="PEM file of the authority that signed the engines' TLS certificates."
        )
    )
    engine_fingerprint: Annotated[
        tuple[str, ...], BeforeValidator(split_fingerprints), Right("a fingerprint, or one for each engine")
    ] = Field(
        default=(),
        description="SHA-256 fingerprint of the engines' self-signed TLS certificate, or one fingerprint for "
        "each of the engines in their order, separated by spaces or commas. No other certificate is trusted.",
    )
    engine_token: Annotated[SecretStr | None, BeforeValidator(token), Right("a token")] = Field(
        default=None,
        description="The token that the engines were started with. An engine whose URL has a user and a "
        "password gets those instead.",
    )
    engine_insecure: Annotated[bool, Right("true or false")] = Field(
        default=False,
        description="Trust any TLS certificate of an engine. Anyone on the network path can then hear the "
        "calls.",
    )
    voice_prompt: Annotated[
        str, BeforeValidator(strip), Right("a voice the engine has, such as NATF0.pt or a .wav file's name")
    ] = Field(
        default="NATF0.pt",
        pattern=r"^[^\x00-\x1f]+\.(pt|wav)$",
        description="The agent's voice: NATF0-3, NATM0-3, VARF0-4 or VARM0-4, each followed by .pt.",
    )
    text_prompt: Annotated[str, BeforeValidator(strip), Right("a text of at least one letter")] = Field(
        default=DEFAULT_TEXT_PROMPT,
        min_length=1,
        description="Who the agent is and what it should do, in a few sentences. {from}, {to} and "
        "{custom.NAME} are replaced by the call's numbers and custom parameters.",
    )
    unknown_names: Annotated[UnknownNames, BeforeValidator(lower), Right("refuse or warn")] = Field(
        default=UnknownNames.REFUSE,
        description="What happens to a call that names a persona that does not exist, or a voice that no "
        "engine has. refuse: it gets 404 at its handshake, or is closed with 1008, and the carrier's flow "
        "goes on. warn: the default persona answers, or another voice is used. Both are counted and logged.",
    )
    engine_connect_timeout_s: Annotated[float, _SECONDS] = Field(
        default=10.0,
        description="How long connecting to an engine may take: TCP, TLS and the WebSocket upgrade.",
    )
    engine_handshake_timeout_s: Annotated[float, _SECONDS] = Field(
        default=30.0,
        description="How long an engine may take to process its prompts. After that it counts as busy.",
    )
    engine_hedge_after_s: Annotated[float, Within("a number of seconds", 0, 3_600)] = Field(
        default=3.0,
        description="A second engine is asked, if one is free, when the first has not processed its prompts "
        "after this long, or after twice the usual time if that is longer. The call takes whichever is ready "
        "first. 0: never.",
    )
    engine_silent_timeout_s: Annotated[float, _SECONDS] = Field(
        default=2.5,
        description="An engine that gets the caller's audio and sends none for this long is replaced, if "
        "another is free. If none is, it has failover_timeout_s more to answer.",
    )
    warm_sessions: Annotated[int, Within("a whole number", 0, 100)] = Field(
        default=1,
        description="Engine sessions to keep prompted ahead of calls, for each persona that does not set "
        "`warm`. A caller who gets such a session hears the agent at once.",
    )
    warm_max_age_s: Annotated[float, Within("a number of seconds", 10, 86_400)] = Field(
        default=600.0,
        description="A session prompted ahead of calls is replaced when it is older than this.",
    )
    max_waiting: Annotated[int, Within("a whole number", 0, 100_000)] = Field(
        default=20,
        description="Calls that may wait for a free engine, with announcements and music. "
        "Further callers hear that all lines are busy.",
    )
    max_wait_s: Annotated[float, Within("a number of seconds", 0, 3_600)] = Field(
        default=60.0, description="How long a call may wait for a free engine."
    )
    failover_timeout_s: Annotated[float, _SECONDS] = Field(
        default=20.0,
        description="When an engine dies during a call: how long the next one may take before the call ends.",
    )
    failover_prefers: Annotated[FailoverPrefers, BeforeValidator(lower), Right("soonest or informed")] = (
        Field(
            default=FailoverPrefers.SOONEST,
            description="Which session continues when an engine dies during a call. soonest: one that was "
            "prompted ahead; it is heard within a second and knows nothing of the call. informed: one whose "
            "prompt contains what the agent has said; the caller waits until it is prompted.",
        )
    )
    phone_silent_timeout_s: Annotated[float, _SECONDS] = Field(
        default=30.0,
        description="A call ends when its phone has sent nothing at all for this long. "
        "Exotel sends audio all the time.",
    )
    lease_store: Annotated[
        str, BeforeValidator(store_url), Right("memory, or a URL such as redis://localhost:6379/0")
    ] = Field(
        default="memory",
        description="Where leases on engines and hand-overs are kept. memory: in this process, and "
        "hand-overs in the state folder. Or the URL of a Redis or Valkey server (redis://, rediss://, "
        "unix://) that all bridges with these engines share.",
    )
    lease_ttl_s: Annotated[float, Within("a number of seconds", 1, 600)] = Field(
        default=10.0,
        description="With a shared store: engines held by a killed bridge are freed after this long.",
    )
    max_calls: Annotated[int, Within("a whole number", 1, 100_000)] = Field(
        default=100, description="Calls at the same time. Further calls are rejected."
    )
    shed_above_lag_ms: Annotated[float, Within("a number of milliseconds", 0, 10_000)] = Field(
        default=40.0,
        description="New calls are refused while the event loop is later than this (95th percentile of 5 s). "
        "Then the machine has more calls than it can serve, and all callers would hear gaps. 0: never.",
    )
    shed_below_lag_ms: Annotated[float, Within("a number of milliseconds", 1, 10_000)] = Field(
        default=20.0,
        description="After that, new calls are accepted again when the event loop is less late than this.",
    )
    playout_profile: Annotated[
        PlayoutProfile, BeforeValidator(lower), Right("one of standard, strict, low-delay")
    ] = Field(
        default=PlayoutOptions.profile,
        description="How audio is sent to the carrier: standard, strict or low-delay. strict: payloads of at "
        "least 3,200 bytes, Exotel's documented minimum, for accounts that enforce it; 160 ms more delay. "
        "low-delay: occasional late packets are concealed instead of buffered for.",
    )
    max_backlog_ms: Annotated[int, Within("a whole number of milliseconds", 0, 10_000)] = Field(
        default=PlayoutOptions.max_backlog_ms,
        description="Late audio, from the phone or from the engine, is played faster to catch up. "
        "Audio that is later than this is cut.",
    )
    gate_ms: Annotated[int, Within("a whole number of milliseconds", 0, 10_000)] = Field(
        default=PlayoutOptions.gate_ms,
        description="The engine gets silence for this first part of the caller's audio, because lines click "
        "when they open.",
    )
    credentials: Annotated[Secrets, BeforeValidator(split_credentials), Right("a list of USER:PASSWORD")] = (
        Field(
            default=(),
            description="USER:PASSWORD pairs, separated by spaces. A caller must send one of them "
            "(wss://USER:PASSWORD@host/exotel in the applet). Several are for changing passwords.",
        )
    )
    token_keys: Annotated[Secrets, BeforeValidator(split_keys), Right("a list of keys")] = Field(
        default=(),
        description="Keys of the signed tokens in URL paths, separated by spaces. The first one signs. "
        "Tokens of all of them are accepted. None: the process makes a key for `/exotel/url`.",
    )
    token_ttl_s: Annotated[float, _SECONDS] = Field(
        default=60.0,
        description="How long a URL from `/exotel/url` is valid.",
    )
    allowed_networks: Annotated[
        tuple[Network, ...], BeforeValidator(split_networks), Right("a list of networks")
    ] = Field(
        default=(),
        description="Networks (203.0.113.0/24) and addresses that may call. None: any network.",
    )
    trusted_proxies: Annotated[
        tuple[Network, ...], BeforeValidator(split_networks), Right("a list of networks")
    ] = Field(
        default=(),
        description="Networks and addresses of proxies whose X-Forwarded-For, -Host and -Proto are trusted.",
    )
    proxy_protocol: Annotated[bool, Right("true or false")] = Field(
        default=False,
        description="The trusted proxies begin each connection to the telephony port with a PROXY protocol "
        "header, version 1 or 2, before TLS. Their connections without one are refused, and headers from any "
        "other address.",
    )
    allow_anonymous: Annotated[bool, Right("true or false")] = Field(
        default=False,
        description="Let anyone call who reaches the port, even on a public address or with real engines.",
    )
    handshakes_per_minute: Annotated[int, Within("a whole number", 1, 1_000_000)] = Field(
        default=600,
        description="Requests that one address may make in a minute. More are refused with 429. "
        "All of Exotel's calls may come from a few addresses.",
    )
    max_calls_per_address: Annotated[int | None, Within("a whole number", 1, 100_000)] = Field(
        default=None,
        description="Calls at the same time from one address. None: no limit.",
    )
    public_url: Annotated[str | None, BeforeValidator(websocket_url), Right("a wss:// URL")] = Field(
        default=None,
        description="The URL by which the internet reaches the telephony port, such as "
        "wss://voice.example.com. `/exotel/url` answers with it.",
    )
    tls_cert_file: Annotated[Path | None, Right("the path of a PEM file")] = Field(
        default=None,
        description="PEM file of the certificate and its chain. If set, the telephony port serves TLS. The "
        "file is read again when it changes.",
    )
    tls_key_file: Annotated[Path | None, Right("the path of a PEM file")] = Field(
        default=None, description="PEM file of the certificate's key, if it is not in the certificate's file."
    )
    drain_s: Annotated[float, Within("a number of seconds", 0, 14_400)] = Field(
        default=60.0,
        description="When the bridge is told to stop: how long live calls may go on before they are ended.",
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lower),
        Right("one of debug, info, warning, error"),
    ] = Field(
        default="info", description="The least severe level that is logged: debug, info, warning or error."
    )
    log_format: Annotated[
        Literal["auto", "json", "human"], BeforeValidator(lower), Right("one of auto, json, human")
    ] = Field(
        default="auto",
        description="The format of log lines: json, human, or auto (human on a terminal, else json).",
    )
    log_numbers: Annotated[NumberForm, BeforeValidator(lower), _NUMBER_FORM] = Field(
        default=NumberForm.MASKED,
        description="How phone numbers are written in logs: masked (all but the last 4 digits), hashed (with "
        "a key of this installation) or full.",
    )
    record_numbers: Annotated[NumberForm, BeforeValidator(lower), _NUMBER_FORM] = Field(
        default=NumberForm.MASKED,
        description="How phone numbers are written in the records of calls and on the console: masked, "
        "hashed or full, as for `log_numbers`.",
    )
    console_host: Annotated[str, BeforeValidator(strip), Right("a host name or an address")] = Field(
        default="127.0.0.1",
        min_length=1,
        pattern=r"^\S+$",
        description="Address to listen on for the console: the web pages, metrics, health and calls.",
    )
    console_port: Annotated[int, Right("a port number from 0 (no console) to 65535")] = Field(
        default=5051, ge=0, le=65535, description="Port of the console. 0: no console."
    )
    console_credentials: Annotated[
        Secrets, BeforeValidator(split_credentials), Right("a list of USER:PASSWORD")
    ] = Field(
        default=(),
        description="USER:PASSWORD pairs for the console, separated by spaces. None: no login, and only this "
        "machine can reach it.",
    )
    console_tokens: Annotated[Secrets, BeforeValidator(split_tokens), Right("a list of NAME:TOKEN")] = Field(
        default=(),
        description="NAME:TOKEN pairs for programs that use the console (Authorization: Bearer TOKEN), "
        "separated by spaces. The name is noted where a program ends a call.",
    )
    console_origins: Annotated[
        tuple[str, ...], BeforeValidator(split_origins), Right("a list of origins")
    ] = Field(
        default=(),
        description="Other origins by which the console is reached, such as https://console.example.com of a "
        "proxy, separated by spaces or commas. Their pages may use it, and their hosts are names of it.",
    )
    console_tls_cert_file: Annotated[Path | None, Right("the path of a PEM file")] = Field(
        default=None,
        description="PEM file of the console's certificate and its chain. If set, the console serves TLS, "
        "which browsers demand before they open a microphone for any host but localhost. The file is read "
        "again when it changes.",
    )
    console_tls_key_file: Annotated[Path | None, Right("the path of a PEM file")] = Field(
        default=None,
        description="PEM file of the key of the console's certificate, if it is not in the same file.",
    )
    state_dir: Annotated[Path | None, BeforeValidator(folder), Right("the path of a folder")] = Field(
        default=None,
        description="Folder for hand-overs, the records of calls and recordings. None: $STATE_DIRECTORY "
        "(which systemd sets), else `pxbridge` in $XDG_STATE_HOME, else ~/.local/state/pxbridge.",
    )
    keep_records: Annotated[bool, Right("true or false")] = Field(
        default=True,
        description="Keep a record of each call in the state folder. `pxbridge calls` shows them.",
    )
    keep_days: Annotated[float, Within("a number of days", 0, 36_500, above=True)] = Field(
        default=90.0,
        description="Records and recordings older than this are deleted, each hour at most a day's worth.",
    )
    keep_mb: Annotated[int, Within("a whole number", 1, 100_000_000)] = Field(
        default=2000,
        description="The largest size of records and recordings together, in MB. Beyond it the oldest are "
        "deleted.",
    )
    recording_format: Annotated[Literal["wav", "opus"], BeforeValidator(lower), Right("wav or opus")] = Field(
        default="wav",
        description="The format of recordings, for personas with `record = true`: wav (115 MB an hour at "
        "8 kHz) or opus (Ogg, 22 MB an hour).",
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The fields as they may be logged. A URL may contain a password or a token, which is masked."""
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
    """The folder of records and recordings: as the settings say, else systemd, else the XDG base folders."""
    if settings.state_dir is not None:
        return settings.state_dir
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])  # systemd.exec(5): a list of the unit's folders
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "pxbridge"


def flag(name: str) -> str:
    """The name of a setting on the command line."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The name of a setting in the environment."""
    return ENVIRONMENT_PREFIX + name.upper()


def from_file(name: str) -> bool:
    """Whether a setting's value can be read from a file, because it is a secret or may contain one."""
    return is_secret(name) or name in ("engines", "lease_store")


def is_secret(name: str) -> bool:
    """Whether a setting is a secret: never shown, and without a flag for its value."""
    return Settings.model_fields[name].annotation in (Secrets, SecretStr | None)
