"""How the value of one setting is read: what may be written, what it becomes, and what is said of a slip.

These are pydantic's validators of the fields (`pxbridge.settings.fields`). What they raise completes a line
that begins with the name as it was written and with the source, so it names neither; and what may be a
password or a token is masked in it.
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

if TYPE_CHECKING:
    from collections.abc import Iterator

# The bridge writes these into an engine's query itself; NVIDIA's server dies of any `seed`.
_RESERVED_ENGINE_QUERY = {"voice_prompt", "text_prompt", "seed"}
_ENGINE_SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_ENGINE_PATH = "/api/chat"

_SHA256_HEX_DIGITS = 64
_MASK = "***"

# As many as anyone can try over the network in a lifetime, at the rate that the bridge answers an address.
_MIN_PASSWORD_CHARS = 12
# HMAC-SHA-256 wants a key as long as its result (RFC 2104 §3): 32 bytes, 43 characters of base64.
_MIN_KEY_CHARS = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Secrets = tuple[SecretStr, ...]
"""One or more secrets of a kind, so that one can be replaced while the other is still in use. Each shows as
asterisks wherever it is printed; ``get_secret_value()`` tells it."""


@dataclass(frozen=True)
class Right:
    """What a right value is, as it completes "'x' is not ..."."""

    text: str


@dataclass(frozen=True)
class Within(Right, GroupedMetadata):
    """The same of a number that has bounds, and the bounds."""

    text: str = field(init=False)
    what: str
    least: int
    most: int
    above: bool = False
    """The least itself is out of bounds."""

    def __post_init__(self) -> None:
        bounds = f"above {self.least}, up to" if self.above else f"from {self.least} to"
        object.__setattr__(self, "text", f"{self.what} {bounds} {self.most}")

    def __iter__(self) -> Iterator[object]:
        yield Gt(self.least) if self.above else Ge(self.least)
        yield Le(self.most)


def split_secrets(value: object) -> list[str]:
    """Secrets as they were written, one string of them or several; none of it is ever quoted."""
    parts = [value] if isinstance(value, str | SecretStr) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str | SecretStr) for part in parts):
        raise ValueError("should be text, or a list of texts")
    return [secret for part in parts for secret in _plain(part).split()]


def _plain(text: str | SecretStr) -> str:
    return text.get_secret_value() if isinstance(text, SecretStr) else text


def split_credentials(value: object) -> object:
    """``USER:PASSWORD`` pairs that a URL can carry, with passwords long enough not to be guessed."""
    secrets = split_secrets(value)
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


def split_keys(value: object) -> object:
    """Keys long enough to sign with."""
    secrets = split_secrets(value)
    for n, secret in enumerate(secrets, 1):
        if len(secret) < _MIN_KEY_CHARS:
            raise ValueError(
                f"the {_ordinal(n)} has {len(secret)} characters; give it at least {_MIN_KEY_CHARS}: "
                "`openssl rand -hex 32` prints one"
            )
    return secrets


def _ordinal(n: int) -> str:
    return ("first", "second", "third")[n - 1] if n <= 3 else f"{n}th"


def split_networks(value: object) -> object:
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


def websocket_url(value: object) -> object:
    """A ``ws`` or ``wss`` URL of a scheme, a host, and perhaps a port and a path."""
    if not isinstance(value, str):
        return value
    url = value.strip().rstrip("/")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None  # the error's own text quotes what may be a password
    if parts is None or parts.scheme not in ("wss", "ws") or not parts.hostname or not is_plain(url):
        raise ValueError(f"{mask_url(url)!r} is not a URL such as wss://voice.example.com")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            f"{mask_url(url)!r} has more than a scheme, a host, a port and a path; "
            "the bridge adds what opens its door"
        )
    return url


def split_engines(value: object) -> object:
    """One string of URLs, or a list of such strings, as a tuple of normalised URLs."""
    parts = [value] if isinstance(value, str | SecretStr) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str | SecretStr) for part in parts):
        raise ValueError("should be a list of WebSocket URLs such as wss://engine.example:8998/api/chat")
    urls = tuple(_engine_url(url) for part in parts for url in re.split(r"[\s,]+", _plain(part)) if url)
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
    except ValueError:
        url = None  # the error's own text quotes what may be a password
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


_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]{0,15}://)?")
_SHOWABLE = re.compile(
    r"(?P<user>[^/?#]*@)?(?P<host>(?:\[[0-9A-Fa-f:.]*\]|[^@/?#:\[\]]*)(?::[0-9]*)?)"
    r"(?P<path>/[^@?#]*)?(?P<query>\?[^@#]*)?(?P<fragment>#[^@]*)?",
    re.DOTALL,
)

ESCAPES = "write @ / ? # : in a password as %40 %2F %3F %23 %3A"
"""The mend of most URLs that are none."""


def mask_url(url: str) -> str:
    """``url`` as it may be shown: without user, password, and the query's values, which may be tokens.

    Where a password was not escaped, nobody can tell where it ends. So of a URL that is not plainly one, with
    its only ``@`` before a host and whatever port is a number, no more than the scheme is shown.
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
    """Whether a URL has no ``@`` but the one before its host, and no port but a number."""
    scheme = _SCHEME.match(url)
    return _SHOWABLE.fullmatch(url, 0 if scheme is None else scheme.end()) is not None


def fingerprint(value: object) -> object:
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


def certificates(value: object) -> object:
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


def store_url(value: object) -> object:
    """``memory``, or the URL of a Redis or Valkey server whose client library is there."""
    if not isinstance(value, str | SecretStr):
        raise ValueError("should be text: memory, or a URL such as redis://localhost:6379/0")
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
    """Whether the client library understands a URL and all the options in its query."""
    from redis import asyncio as redis

    try:
        client: Any = redis.Redis.from_url(url)
        client.connection_pool.make_connection()
    except (ValueError, TypeError):  # the error's own text quotes what may be a password
        return False
    return True


def lower(value: object) -> object:
    """Text in small letters; anything else as it is."""
    return value.lower() if isinstance(value, str) else value


def strip(value: object) -> object:
    """Text without the space around it; anything else as it is."""
    return value.strip() if isinstance(value, str) else value


def folder(value: object) -> object:
    """A path, with ``~`` for the home folder."""
    return Path(value).expanduser() if isinstance(value, str) and value.strip() else value
