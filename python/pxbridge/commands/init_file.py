"""The file that `pxbridge init` writes: the answers as TOML, with fresh secrets and comments."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pxbridge.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET_BYTES: Final = 16
"""128 bits of a password cannot be guessed, however many requests an attacker makes."""

KEY_BYTES: Final = 32
"""HMAC-SHA-256 wants a key as long as its result (RFC 2104 §3)."""

ALL_ADDRESSES: Final = "0.0.0.0"  # noqa: S104 - what the operator chose
THIS_MACHINE: Final = "127.0.0.1"


class Reach(StrEnum):
    """How the carrier reaches the bridge."""

    TUNNEL = "tunnel"
    """A tunnel program on this machine, such as cloudflared."""
    PROXY = "proxy"
    """A reverse proxy on this machine, which serves TLS."""
    DIRECT = "direct"
    """The bridge's own port, which is open to the network."""


class Access(StrEnum):
    """What a caller must show."""

    PASSWORD = "password"  # noqa: S105 - a kind of access
    TOKEN = "token"  # noqa: S105
    BOTH = "both"
    """Either of the two is enough."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What `pxbridge init` asks for. The defaults are a bridge to try out, behind a tunnel.

    Attributes:
        engines: URLs of PersonaPlex servers; none means the rehearsal engine.
        engine_fingerprint: Fingerprint of the servers' self-signed certificate.
        engine_capacity: Calls that each engine takes at the same time.
        text_prompt: Who the agent is.
        voice_prompt: The agent's voice.
        transfer_to: The number of a person; the caller's key 0 asks for them.
        record: Whether calls are recorded.
        reach: How the carrier reaches the bridge.
        tls_cert_file: The port's own certificate.
        tls_key_file: Its key, if it is in another file.
        public_url: By which the internet reaches the port.
        access: The secrets that a caller must send.
        console_login: Whether the console asks for a login.
    """

    engines: tuple[str, ...] = ()
    engine_fingerprint: str | None = None
    engine_capacity: int = 1
    text_prompt: str = Settings.model_fields["text_prompt"].default
    voice_prompt: str = Settings.model_fields["voice_prompt"].default
    transfer_to: str | None = None
    record: bool = False
    reach: Reach = Reach.TUNNEL
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    public_url: str | None = None
    access: Access = Access.PASSWORD
    console_login: bool = False

    @property
    def has_password(self) -> bool:
        """Whether a user and a password let a caller in."""
        return self.access is not Access.TOKEN


@dataclass(frozen=True, slots=True)
class Fresh:
    """New secrets.

    Attributes:
        password: The carrier's.
        token_key: Signs tokens.
        console_password: The operator's.
    """

    password: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))
    token_key: str = field(default_factory=lambda: secrets.token_hex(KEY_BYTES))
    console_password: str = field(default_factory=lambda: secrets.token_hex(SECRET_BYTES))

    @property
    def credential(self) -> str:
        """``USER:PASSWORD`` of the carrier."""
        return f"exotel:{self.password}"


def render(answers: Answers, fresh: Fresh) -> str:
    """The file's text."""
    return "\n".join(_lines(answers, fresh)) + "\n"


def _lines(answers: Answers, fresh: Fresh) -> Iterator[str]:
    yield "# The settings of a pxbridge, made by `pxbridge init`. It holds secrets: keep it to its user."
    yield "# `pxbridge help settings` lists all settings, `pxbridge check-config --config FILE` shows these,"
    yield "# and SIGHUP puts most changes in force for the calls to come."
    for part in (_engines, _agent, _reach):
        yield ""
        yield from part(answers)
    yield ""
    yield from _access(answers, fresh)
    yield ""
    yield from _console(answers, fresh)
    yield ""
    yield "# -- several bridges, several agents"
    yield ""
    yield "# Bridges with the same engines share a Redis or Valkey server (pip install 'pxbridge[redis]')."
    yield '# lease_store = "redis://localhost:6379/0"'
    yield ""
    yield from _personas(answers)


def _engines(answers: Answers) -> Iterator[str]:
    yield "# -- the engines: PersonaPlex servers"
    yield ""
    if answers.engines:
        yield f"engines = {_list(answers.engines)}"
    else:
        yield "# None: the rehearsal engine. It has no model: it greets, and repeats what it hears."
        yield '# engines = ["wss://GPU-HOST:8998/api/chat"]'
    yield "# How many calls each takes at once: NVIDIA's server 1. `pxbridge engine` tells it by itself."
    yield f"engine_capacity = {answers.engine_capacity}"
    yield "# The only certificate that is trusted, if it is a self-signed one."
    if answers.engine_fingerprint is None:
        yield '# engine_fingerprint = "AB:CD:..."  # openssl x509 -noout -fingerprint -sha256 -in cert.pem'
    else:
        yield f"engine_fingerprint = {_text(answers.engine_fingerprint)}"


def _agent(answers: Answers) -> Iterator[str]:
    yield "# -- the agent"
    yield ""
    yield "# Who it is and what it should do. {from}, {to} and {custom.NAME} are filled in for each call."
    yield f"text_prompt = {_text(answers.text_prompt)}"
    yield "# NATF0-3, NATM0-3, VARF0-4 or VARM0-4, each followed by .pt."
    yield f"voice_prompt = {_text(answers.voice_prompt)}"


def _reach(answers: Answers) -> Iterator[str]:
    yield "# -- how the carrier reaches the bridge"
    yield ""
    match answers.reach:
        case Reach.TUNNEL:
            yield "# A tunnel on this machine dials this address. `pxbridge --tunnel` starts one."
            yield f"host = {_text(THIS_MACHINE)}"
        case Reach.PROXY:
            yield "# A proxy on this machine dials this address, and says whose call it is."
            yield f"host = {_text(THIS_MACHINE)}"
            yield f"trusted_proxies = {_list((THIS_MACHINE, '::1'))}"
        case Reach.DIRECT:
            yield "# Every address of this machine."
            yield f"host = {_text(ALL_ADDRESSES)}"
    yield f"port = {Settings.model_fields['port'].default}"
    yield "# The port serves TLS with this certificate. The files are read again when they change."
    for name in ("tls_cert_file", "tls_key_file"):
        path = getattr(answers, name)
        yield (
            f'# {name} = "/etc/pxbridge/{name[4:-5]}.pem"' if path is None else f"{name} = {_text(str(path))}"
        )
    yield "# The URL by which the internet reaches the port. /exotel/url answers with it."
    if answers.public_url is None:
        yield '# public_url = "wss://voice.example.com"'
    else:
        yield f"public_url = {_text(answers.public_url)}"


def _access(answers: Answers, fresh: Fresh) -> Iterator[str]:
    yield "# -- who may call"
    yield ""
    if answers.has_password:
        yield "# The applet's URL has it: wss://USER:PASSWORD@HOST/exotel. Set two while you change it."
        yield f"credentials = {_list((fresh.credential,))}"
    if answers.access is not Access.PASSWORD:
        yield "# Signs the tokens of `pxbridge token`, which stand in a URL's path in place of a password."
        yield f"token_keys = {_list((fresh.token_key,))}"


def _console(answers: Answers, fresh: Fresh) -> Iterator[str]:
    yield "# -- the operator's console: metrics, health and calls, for this machine only"
    yield ""
    yield f"console_host = {_text(THIS_MACHINE)}"
    yield f"console_port = {Settings.model_fields['console_port'].default}"
    if answers.console_login:
        yield f"console_credentials = {_list((f'operator:{fresh.console_password}',))}"


def _personas(answers: Answers) -> Iterator[str]:
    yield "# What every agent has that does not say otherwise."
    yield "[personas.default]"
    yield f"record = {json.dumps(answers.record)}"
    if answers.transfer_to is not None:
        yield "# The caller's key 0 asks for a person: Passthru and Connect in the flow dial this number."
        yield f'keys = {{ "0" = {{ hand_over = {_list((answers.transfer_to,))} }} }}'
    yield ""
    yield "# Another agent, for the calls to its number, or to /exotel/books."
    yield "# [personas.books]"
    yield '# text_prompt = "You are Asha, of the bookshop Blue Door. {custom.name} calls."'
    yield '# voice_prompt = "NATF1.pt"'
    yield '# numbers = ["08047180000"]'


def _list(values: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _text(value: str) -> str:
    """A basic string of TOML: JSON's escapes are TOML's too, but for DEL, which JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
