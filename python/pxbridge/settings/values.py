"""Reads the value of one setting: the accepted spellings, and the error for any other value.

These are pydantic's validators for the fields (`pxbridge.settings.fields`). Their errors complete a line that
begins with the setting's name and source, so they name neither. They mask what may be a password or a token.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from annotated_types import Ge, GroupedMetadata, Gt, Le
from pydantic import SecretStr

from pxbridge.settings.files import check_regular, expanded
from pxbridge.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

# The bridge writes the prompts into the query itself. NVIDIA's server crashes on any `seed`.
_RESERVED_ENGINE_QUERY = {"voice_prompt", "text_prompt", "seed", "queue"}
_ENGINE_SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_ENGINE_PATH = "/api/chat"

_SHA256_HEX_DIGITS = 64
_MASK = "***"

# Nobody can try as many over the network in a lifetime, at the rate at which the bridge answers an address.
_MIN_PASSWORD_CHARS = 12
# HMAC-SHA-256 needs a key as long as its result (RFC 2104 §3): 32 bytes. Characters are counted as bytes.
_MIN_KEY_CHARS = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Secrets = tuple[SecretStr, ...]
"""One or more secrets of a kind, so that an old one stays valid while a new one is rolled out. A secret
prints
as asterisks; ``get_secret_value()`` returns it."""


@dataclass(frozen=True)
class Right:
    """The text for a valid value. It completes the error "'x' is not ..."."""

    text: str


@dataclass(frozen=True)
class Within(Right, GroupedMetadata):
    """The same for a number with bounds, and the bounds themselves."""

    text: str = field(init=False)
    what: str
    least: int
    most: int
    above: bool = False
    """Whether `least` itself is out of bounds."""

    def __post_init__(self) -> None:
        bounds = f"above {self.least}, up to" if self.above else f"from {self.least} to"
        object.__setattr__(self, "text", f"{self.what} {bounds} {self.most}")

    def __iter__(self) -> Iterator[object]:
        yield Gt(self.least) if self.above else Ge(self.least)
        yield Le(self.most)


def split_secrets(value: object) -> list[str]:
    """Secrets from one string or a list of strings, separated by spaces. Errors never quote them.

    Quotes around the string or around a secret are dropped.
    """
    parts = [value] if isinstance(value, str | SecretStr) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str | SecretStr) for part in parts):
        raise ValueError("is not text or a list of texts")
    return [unquoted(secret) for part in parts for secret in unquoted(_plain(part).strip()).split()]


def unquoted(text: str) -> str:
    """Drops the quotes around a text: `docker run --env-file` keeps those of the file."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text.count(text[0]) == 2:
        return text[1:-1]
    return text


def _refuse_commas(secrets: list[str], another: str) -> None:
    """Refuses secrets that were separated by commas: together they would be one secret that nobody knows.

    Args:
        secrets: The secrets.
        another: A pattern for the beginning of a further secret behind a comma.
    """
    for n, secret in enumerate(secrets, 1):
        if secret.endswith(",") or re.search(f",{another}", secret):
            raise ValueError(f"the {_ordinal(n)} has a comma where the next begins; separate them by spaces")


def _plain(text: str | SecretStr) -> str:
    return text.get_secret_value() if isinstance(text, SecretStr) else text


def split_credentials(value: object) -> object:
    """``USER:PASSWORD`` pairs that fit into a URL, with passwords too long to be guessed."""
    return _pairs(value, "USER", "PASSWORD", _MIN_PASSWORD_CHARS, "`openssl rand -hex 16`", "a URL")


def split_tokens(value: object) -> object:
    """``NAME:TOKEN`` pairs that fit into a header, with tokens too long to be guessed."""
    return _pairs(value, "NAME", "TOKEN", _MIN_KEY_CHARS, "`openssl rand -hex 32`", "a header")


def _pairs(value: object, name: str, proof: str, least_chars: int, made_by: str, place: str) -> list[str]:
    """Pairs of a name and its proof, such as a password.

    Args:
        value: As for `split_secrets`.
        name: The word for the first half of a pair, in errors.
        proof: And the proof.
        least_chars: The shortest proof.
        made_by: A command that makes a proof.
        place: Where the pair is sent.
    """
    secrets = split_secrets(value)
    _refuse_commas(secrets, "[^:,]+:")
    for n, secret in enumerate(secrets, 1):
        written_name, colon, written_proof = secret.partition(":")
        if not written_name or not colon:
            raise ValueError(f"the {_ordinal(n)} is not of the form {name}:{proof}")
        if len(written_proof) < least_chars:
            raise ValueError(
                f"the {_ordinal(n)} has a {proof.lower()} of {counted(len(written_proof), 'character')}; "
                f"use at least {least_chars}, for example from {made_by}"
            )
        if not secret.isascii() or not secret.isprintable():
            raise ValueError(f"the {_ordinal(n)} has characters that {place} cannot contain; use ASCII")
    return secrets


def split_origins(value: object) -> object:
    """Origins of web pages from one string or a list of strings, separated by spaces or commas."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("is not a list of origins such as https://console.example.com")
    return tuple(_origin(each) for part in parts for each in re.split(r"[\s,]+", part) if each)


def _origin(written: str) -> str:
    """A normalised origin: scheme, host and port."""
    origin = written.rstrip("/").lower()
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        parts = None  # the error's own text may quote a password
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or origin != f"{parts.scheme}://{parts.netloc}"
        or "@" in parts.netloc
    ):
        raise ValueError(
            f"{mask_url(written)!r} is not an origin; write a scheme and a host such as "
            "https://console.example.com, with a port if it is not the usual one"
        )
    return origin


def split_keys(value: object) -> object:
    """Keys that are long enough for signing."""
    secrets = split_secrets(value)
    _refuse_commas(secrets, f"[^,]{{{_MIN_KEY_CHARS}}}")
    for n, secret in enumerate(secrets, 1):
        if len(secret) < _MIN_KEY_CHARS:
            raise ValueError(
                f"the {_ordinal(n)} has {counted(len(secret), 'character')}; use at least {_MIN_KEY_CHARS}, "
                "for example from `openssl rand -hex 32`"
            )
    return secrets


def _ordinal(n: int) -> str:
    return ("first", "second", "third")[n - 1] if n <= 3 else f"{n}th"


def split_networks(value: object) -> object:
    """Addresses and networks from one string or a list of strings, separated by spaces or commas."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("is not a list of networks such as 203.0.113.0/24 or 2001:db8::/32")
    networks = []
    for part in parts:
        for written in re.split(r"[\s,]+", part) if isinstance(part, str) else [part]:
            if written == "":
                continue
            try:
                networks.append(ipaddress.ip_network(written))
            except ValueError as error:
                why = _meant(written) or str(error)
                raise ValueError(f"{written!r} is not an address or a network: {why}") from None
    return tuple(networks)


def _meant(written: object) -> str:
    """Which network an address with a length could mean: that of `10.0.0.1/8` is 10.0.0.0/8."""
    try:
        network = ipaddress.ip_network(written, strict=False)  # type: ignore[arg-type]
    except ValueError:
        return ""
    address = str(written).partition("/")[0]
    return f"write {network} for the network, or {address} for the address alone"


def websocket_url(value: object) -> object:
    """A ``ws`` or ``wss`` URL with a host, and at most a port and a path."""
    if not isinstance(value, str):
        return value
    url = value.strip().rstrip("/")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None  # the error's own text may quote a password
    if parts is None or parts.scheme not in ("wss", "ws") or not parts.hostname or not is_plain(url):
        raise ValueError(f"{mask_url(url)!r} is not a URL such as wss://voice.example.com")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            f"{mask_url(url)!r} has more than a scheme, a host, a port and a path; "
            "remove the rest, the bridge adds tokens itself"
        )
    return url


def split_engines(value: object) -> object:
    """Normalised URLs from one string or a list of strings, separated by spaces or commas."""
    parts = [value] if isinstance(value, str | SecretStr) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str | SecretStr) for part in parts):
        raise ValueError("is not a list of WebSocket URLs such as wss://engine.example:8998/api/chat")
    urls = tuple(_engine_url(url) for part in parts for url in re.split(r"[\s,]+", _plain(part)) if url)
    for url in urls:
        if urls.count(url) > 1:
            raise ValueError(f"{mask_url(url)} is named twice; name each engine once")
    return urls


def _engine_url(written: str) -> str:
    """The normalised ``ws`` or ``wss`` URL of an engine's ``/api/chat``."""
    shown = mask_url(written)
    if "://" not in written:
        raise ValueError(f"{shown!r} has no scheme; write wss://{shown} (TLS) or ws://{shown} (plain)")
    try:
        url = urlsplit(written)
        port = url.port
    except ValueError:
        url = None  # the error's own text may quote a password
    if url is None or not is_plain(written):
        raise ValueError(f"{shown!r} is not a URL such as wss://HOST:8998{_ENGINE_PATH}; {ESCAPES}")
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
        raise ValueError(
            f"{shown!r} has an impossible host name; look for a double dot or a very long part"
        ) from None
    if url.fragment:
        raise ValueError(f"{shown!r} has a #fragment, which a WebSocket URL cannot have; remove it")
    for name, _ in parse_qsl(url.query, keep_blank_values=True):
        if name in _RESERVED_ENGINE_QUERY:
            raise ValueError(
                f"{shown!r} has {name}= in its query; remove it, the bridge writes the query itself"
            )
    path = _ENGINE_PATH if url.path in ("", "/") else url.path
    return urlunsplit((scheme, url.netloc, path, url.query, ""))


_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]{0,15}://)?")
_SHOWABLE = re.compile(
    r"(?P<user>[^/?#]*@)?(?P<host>(?:\[[0-9A-Fa-f:.]*\]|[^@/?#:\[\]]*)(?::[0-9]*)?)"
    r"(?P<path>/[^@?#]*)?(?P<query>\?[^@#]*)?(?P<fragment>#[^@]*)?",
    re.DOTALL,
)

ESCAPES = "write @ / ? # : in a password as %40 %2F %3F %23 %3A"
"""The fix for most invalid URLs."""


def mask_url(url: str) -> str:
    """A URL as it may be shown: without user, password, and the values of its query, which may be tokens.

    If a password was not escaped, its end cannot be found. Of such a URL (see `is_plain`) only the scheme is
    shown.
    """
    scheme = _SCHEME.match(url)
    begin = "" if scheme is None else scheme[0]
    found = _SHOWABLE.fullmatch(url, len(begin))
    if found is None:
        return begin + _MASK
    user = f"{_MASK}@" if found["user"] else ""
    query = re.sub(r"[^&?=]+(?=&|$)|(?<==)[^&]*", _MASK, found["query"] or "")
    return (
        begin
        + user
        + found["host"]
        + (found["path"] or "")
        + query
        + (f"#{_MASK}" if found["fragment"] else "")
    )


def is_plain(url: str) -> bool:
    """Whether a URL has no ``@`` except the one before its host, and its port, if any, is a number."""
    scheme = _SCHEME.match(url)
    return _SHOWABLE.fullmatch(url, 0 if scheme is None else scheme.end()) is not None


_MAX_TOKEN_CHARS = 1_000


def token(value: object) -> object:
    """A secret that fits into an HTTP header. Errors never quote it."""
    if value is None:
        return None
    if not isinstance(value, str | SecretStr):
        raise ValueError("is not text")
    text = _plain(value).strip()
    if not text or len(text) > _MAX_TOKEN_CHARS or re.fullmatch(r"[\x21-\x7e]+", text) is None:
        raise ValueError(
            "is not a token of ASCII characters without spaces, for example from `openssl rand -hex 24`"
        )
    return text


def split_fingerprints(value: object) -> object:
    """SHA-256 fingerprints from one string or a list of strings, separated by spaces or commas."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    text = ",".join(parts)
    spaced = re.sub(r"\s*[:=]\s*", ":", re.sub(r"(?i)sha-?256(\s+fingerprint)?\s*[:=]\s*", " ", text))
    one = re.sub(r"[:\s]", "", spaced)
    if len(one) == _SHA256_HEX_DIGITS:  # one with spaces between its bytes
        return (fingerprint(one),)
    return tuple(fingerprint(part) for part in re.split(r"[\s,]+", spaced) if part)


def fingerprint(value: str) -> str:
    """A SHA-256 fingerprint as 64 lower-case hex digits. Accepts the output of ``openssl x509``."""
    text = re.sub(r"(?i)^\s*sha-?256(\s+fingerprint)?\s*[:=]\s*", "", value)
    digits = re.sub(r"[:\s]", "", text).lower()
    if not re.fullmatch(f"[0-9a-f]{{{_SHA256_HEX_DIGITS}}}", digits):
        raise ValueError(
            f"is not a SHA-256 fingerprint of {_SHA256_HEX_DIGITS} hex digits, as "
            "`openssl x509 -noout -fingerprint -sha256 -in cert.pem` prints it"
        )
    return digits


def certificates(value: object) -> object:
    """The path of a PEM file that holds at least one certificate."""
    if not isinstance(value, str | Path):
        return value
    path = expanded(value)
    check_regular(path)  # OpenSSL would look for a certificate in /dev/zero without end
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:  # an OSError too
        raise ValueError(f"{str(path)!r} holds no certificate in PEM form") from None
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    return path


_STORE_SCHEMES = ("redis", "rediss", "unix")


def store_url(value: object) -> object:
    """``memory``, or the URL of a Redis or Valkey server. Its client library must be installed."""
    if not isinstance(value, str | SecretStr):
        raise ValueError("is not text; write memory, or a URL such as redis://localhost:6379/0")
    url = _plain(value).strip()
    if url.lower() == "memory":
        return "memory"
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _STORE_SCHEMES:
        raise ValueError(
            f"{mask_url(url)!r} is neither memory nor the URL of a Redis or Valkey server; "
            "write redis://HOST:6379/0"
        )
    if importlib.util.find_spec("redis") is None:
        raise ValueError("needs the client library for Redis: pip install 'pxbridge[redis]'")
    if not is_plain(url) or not _client_takes(url):
        raise ValueError(f"{mask_url(url)!r} is not a URL such as redis://:PASSWORD@HOST:6379/0; {ESCAPES}")
    return url


def _client_takes(url: str) -> bool:
    """Whether the client library accepts a URL and all options in its query."""
    from redis import asyncio as redis

    try:
        client: Any = redis.Redis.from_url(url)
        client.connection_pool.make_connection()
    except (ValueError, TypeError):  # the error's own text may quote a password
        return False
    return True


def lower(value: object) -> object:
    """Text in lower case; anything else unchanged."""
    return value.lower() if isinstance(value, str) else value


def strip(value: object) -> object:
    """Text without surrounding space; anything else unchanged."""
    return value.strip() if isinstance(value, str) else value


def folder(value: object) -> object:
    """A path. ``~`` is replaced by the home folder."""
    return expanded(value) if isinstance(value, str) and value.strip() else value
