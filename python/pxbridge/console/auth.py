"""Access control of the console: logins, tokens, and protection against pages of other sites.

Three kinds of clients prove who they are:

- a person in a browser logs in once and gets a session. Its id is a random number in a cookie that scripts
  cannot read and that no other site's request carries (HttpOnly, SameSite=Strict);
- a program sends a login with each request (Basic, RFC 7617), or
- a token (Bearer, RFC 6750), whose name is written into records.

Without logins and tokens, only programs on this machine may ask.

A page of another site can make its visitor's browser send requests here. Three checks stop that:

- Requests that change something, and WebSockets, must come from a page of this console. Browsers say so in
  ``Origin`` and ``Sec-Fetch-Site``, which scripts cannot forge.
- A body must be JSON. A browser sends JSON to another site only after a CORS preflight, which the console
  refuses.
- Without logins the name in ``Host`` must be one of this machine's names. Otherwise a site could let its own
  name point here (DNS rebinding), and the browser would take its page for a page of this console.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.rate_limit import RateLimiter, counted_as

if TYPE_CHECKING:
    import logging
    from collections import Counter
    from collections.abc import Callable, Collection, Mapping, Sequence

    from aiohttp import web

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})

WRONG_LOGINS_PER_S: Final = 0.1
WRONG_LOGINS_AT_ONCE: Final = 10.0
"""A client may try ten wrong logins, and then one every ten seconds. The answers to more are delayed.

A right login is never refused for the wrong ones of others at its address: behind a proxy that is not trusted
all clients have one address. So a guess costs time and is not impossible. What makes guessing hopeless is the
least length of a password, 12 characters (`pxbridge.settings.values`)."""

DELAY_S: Final = 2.0
"""By how much a refusal is delayed."""

MAX_DELAYED: Final = 32
"""Refusals that are delayed at the same time. More are sent at once, so that they do not fill the memory."""

SESSION_COOKIE: Final = "pxbridge_session"
SESSION_IDLE_S: Final = 12 * 3600.0
"""A session that is not used for a shift is over."""
SESSION_LONGEST_S: Final = 7 * 86_400.0
MAX_SESSIONS: Final = 1000
"""More operators than any installation has. The one that was unused for longest makes room."""

_TOKEN_BYTES: Final = 32


class Refused(StrEnum):
    """Why a request was refused, as the log says it."""

    WRONG_LOGIN = "wrong login"
    TOO_MANY = "too many wrong logins"
    NAME = "the Host is not localhost"
    OTHER_SITE = "asked by another site's page"


@dataclass(frozen=True)
class Refusal:
    """The answer to a request that is not let in.

    Attributes:
        status: The HTTP status.
        text: Why, for people.
        headers: Headers of the answer.
        delay_s: How long to wait before it is sent.
    """

    status: int
    text: str
    headers: Mapping[str, str]
    delay_s: float = 0.0


@dataclass(frozen=True)
class Operator:
    """Who asks.

    Attributes:
        name: The user of a login or the name of a token; None if the console asks for none.
        session: The session's token, if the client has a session.
    """

    name: str | None
    session: str | None = None


def as_connected(address: str, _forwarded: Sequence[str]) -> str:
    """The address of a client where no proxy is trusted."""
    return address


@dataclass
class _Session:
    """One browser's session.

    Attributes:
        user: Whose it is.
        login: The digest of the login that began it.
        began_s: When it began.
        used_s: When it was used last.
    """

    user: str
    login: bytes
    began_s: float
    used_s: float


class Sessions:
    """The sessions of browsers, in memory: a restart ends them, and so does a change of their login.

    Only digests of tokens are kept, so that what is in memory opens nothing.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self, user: str, login: bytes) -> str:
        """A new session; returns its token.

        Args:
            user: Whose it is.
            login: The digest of the login that began it.
        """
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        now_s = self._clock()
        self._sessions[_digest(token)] = _Session(user, login, now_s, now_s)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def user(self, token: str) -> str | None:
        """The user of a session, which is used now; None if there is no such session."""
        if not self.lives(token):
            return None
        digest = _digest(token)
        session = self._sessions[digest]
        session.used_s = self._clock()
        self._sessions.move_to_end(digest)
        return session.user

    def lives(self, token: str) -> bool:
        """Whether there is such a session. Asking does not use it."""
        digest = _digest(token)
        found = self._sessions.get(digest)
        if found is None:
            return False
        now_s = self._clock()
        if now_s - found.used_s > SESSION_IDLE_S or now_s - found.began_s > SESSION_LONGEST_S:
            del self._sessions[digest]
            return False
        return True

    def end(self, token: str) -> None:
        """Ends a session; does nothing if there is no such session."""
        self._sessions.pop(_digest(token), None)

    def end_others(self, logins: Collection[bytes]) -> None:
        """Ends the sessions that none of these logins began; the logins are given by their digests."""
        for token, session in list(self._sessions.items()):
            if session.login not in logins:
                del self._sessions[token]


class Access:
    """Decides about requests.

    Args:
        logins: The accepted ``USER:PASSWORD`` pairs.
        tokens: The accepted ``NAME:TOKEN`` pairs.
        origins: Other origins (``https://console.example``) whose pages may ask, and whose hosts are names of
            this console.
        clock: A monotonic clock, in seconds.
        log: Where refusals are logged, at a limited rate.
        client: The address of a client, from the connection's and the request's ``X-Forwarded-For`` headers.

    Attributes:
        refused: How many requests were refused, by reason.
        sessions: The sessions of browsers.
        changes: How often logins, tokens or origins have changed.
    """

    def __init__(
        self,
        logins: Collection[str] = (),
        tokens: Collection[str] = (),
        origins: Collection[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        log: logging.Logger,
        client: Callable[[str, Sequence[str]], str] = as_connected,
    ) -> None:
        self._wrong = RateLimiter(WRONG_LOGINS_PER_S, WRONG_LOGINS_AT_ONCE, clock)
        self._client = client
        self._delayed = 0
        self._log = log
        self._log_throttle = LogThrottle(self._log_refused)
        self.refused = dict.fromkeys(Refused, 0)
        self.sessions = Sessions(clock)
        self.changes = 0
        self._asked: tuple[tuple[str, ...], ...] = ()
        self.use(logins, tokens, origins)

    def use(self, logins: Collection[str], tokens: Collection[str], origins: Collection[str]) -> None:
        """Puts others in force. Sessions whose login is not among them end."""
        asked = tuple(logins), tuple(tokens), tuple(origins)
        if asked == self._asked:
            return
        self._asked = asked
        self.changes += 1
        self._logins = tuple(login.encode() for login in logins)
        self._tokens = tuple(_name_and_token(each) for each in tokens)
        self._origins = frozenset(map(_origin, origins))
        self._authorities = frozenset(authority for _, authority in self._origins)
        self._names = LOOPBACK_NAMES | {_name(authority) for authority in self._authorities}
        self.sessions.end_others({_digest(login) for login in logins})

    @property
    def asks_for_login(self) -> bool:
        """Whether a client must prove who it is."""
        return bool(self._logins or self._tokens)

    def stranger(self, request: web.Request) -> Refusal | None:
        """The refusal of a request that comes by a wrong name or from another site's page; None if it may
        ask.

        It decides before anything else about a request, and without knowing who asks.
        """
        address = self.address(request)
        if not self.asks_for_login and _name(request.host) not in self._names:
            text = "forbidden: without a login the console answers only requests to localhost\n"
            return self._refuse(Refused.NAME, address, 403, text)
        if self._is_another_sites(request):
            text = "forbidden: a page of another site asks; PXBRIDGE_CONSOLE_ORIGINS can allow its origin\n"
            return self._refuse(Refused.OTHER_SITE, address, 403, text)
        return None

    def operator(self, request: web.Request) -> Operator | Refusal:
        """Who asks, or the refusal of a client that does not prove it."""
        if not self.asks_for_login:
            return Operator(None)
        token = request.cookies.get(SESSION_COOKIE)
        if token and (user := self.sessions.user(token)) is not None:
            return Operator(user, token)
        challenge = (
            {} if _is_script(request) else {"WWW-Authenticate": 'Basic realm="pxbridge", charset="UTF-8"'}
        )
        if "Authorization" not in request.headers:  # browsers ask without a login first
            return Refusal(401, "authentication required\n", challenge)
        scheme, _, proof = request.headers["Authorization"].partition(" ")
        match scheme.lower():
            case "basic":
                return self._checked(request, lambda: self._user(_decoded(proof)), challenge)
            case "bearer":
                return self._checked(request, lambda: self._token_name(proof.strip()), challenge)
            case _:
                return self._checked(request, lambda: None, challenge)

    def log_in(self, request: web.Request, user: str, password: str) -> Operator | Refusal:
        """A new session for a user, or the refusal of a wrong password."""
        asked = self._checked(request, lambda: self._user(f"{user}:{password}".encode()), {})
        if isinstance(asked, Refusal):
            return asked
        return Operator(asked.name, self.sessions.begin(asked.name or "", _digest(f"{user}:{password}")))

    def _checked(
        self, request: web.Request, who: Callable[[], str | None], challenge: Mapping[str, str]
    ) -> Operator | Refusal:
        """Who a proof belongs to. A client that is wrong too often waits for its answer."""
        if (name := who()) is not None:
            return Operator(name)
        address = self.address(request)
        if not self._wrong.take(counted_as(address)):
            again = {"Retry-After": f"{1 / WRONG_LOGINS_PER_S:.0f}"}
            refusal = self._refuse(Refused.TOO_MANY, address, 429, "too many wrong logins\n", again)
            return replace(refusal, delay_s=DELAY_S)
        return self._refuse(Refused.WRONG_LOGIN, address, 401, "authentication required\n", challenge)

    async def delay(self, refusal: Refusal) -> None:
        """Waits before a refusal is sent, if it is to be delayed."""
        if not refusal.delay_s or self._delayed >= MAX_DELAYED:
            return
        self._delayed += 1
        try:
            await asyncio.sleep(refusal.delay_s)
        finally:
            self._delayed -= 1

    def address(self, request: web.Request) -> str:
        """Where a request comes from, as far as proxies are trusted."""
        return self._client(request.remote or "", request.headers.getall("X-Forwarded-For", []))

    def _user(self, given: bytes | None) -> str | None:
        """The user of a login; None if it is not a valid one."""
        if given is None:
            return None
        # All logins are compared, so that the time does not show which one was nearly right.
        known = sum(hmac.compare_digest(given, login) for login in self._logins) > 0
        return given.partition(b":")[0].decode(errors="replace") if known else None

    def _token_name(self, given: str) -> str | None:
        """The name of a token; None if it is not a valid one."""
        digest = _digest(given)
        found = [name for name, known in self._tokens if hmac.compare_digest(known, digest)]
        return found[0] if found else None

    def _is_another_sites(self, request: web.Request) -> bool:
        """Whether a page that is not of this console makes a browser send a request that could do harm."""
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        changes = request.method not in ("GET", "HEAD", "OPTIONS") or is_socket
        written = request.headers.get("Origin")
        origin = None if written is None else _origin(written)
        if origin in self._origins:
            return False
        site = request.headers.get("Sec-Fetch-Site", "none").lower()
        mode = request.headers.get("Sec-Fetch-Mode", "").lower()
        if site in ("cross-site", "same-site") and (changes or mode != "navigate"):
            return True
        return changes and origin is not None and not self._is_own(origin, request)

    def _is_own(self, origin: tuple[str, str], request: web.Request) -> bool:
        """Whether an origin is the one that the request was sent to.

        A page without TLS is never one of a console with TLS, whatever its name is: anybody on the way could
        have written it. Of a name in the settings, only the origins there count.
        """
        scheme, authority = origin
        if authority in self._authorities or (request.secure and scheme == "http"):
            return False
        return authority == _authority(request.host) != ""

    def _refuse(
        self, why: Refused, address: str, status: int, text: str, headers: Mapping[str, str] | None = None
    ) -> Refusal:
        """A refusal; counted, and logged at a limited rate."""
        self.refused[why] += 1
        self._log_throttle.add(why.value, address)
        return Refusal(status, text, headers or {})

    def _log_refused(self, refused: Counter[str], last: str) -> None:
        self._log.warning("console refused requests (%s), the last one from %s", in_words(refused), last)


def _is_script(request: web.Request) -> bool:
    """Whether a page's script asks. A challenge would make the browser open its own box for a password."""
    mode = request.headers.get("Sec-Fetch-Mode", "navigate").lower()
    return mode != "navigate" or request.headers.get("X-Requested-With") == "pxbridge"


def _decoded(basic: str) -> bytes | None:
    """``USER:PASSWORD`` of a Basic login; None if it is not base64."""
    try:
        return base64.b64decode(basic.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None


def _name_and_token(written: str) -> tuple[str, bytes]:
    name, _, token = written.partition(":")
    return name, _digest(token)


def _digest(secret: str) -> bytes:
    """A digest to compare and to keep instead of a secret."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _origin(written: str) -> tuple[str, str]:
    """Scheme and ``host:port`` of an origin, without a usual port; two empty texts for what is no origin."""
    try:
        parts = urlsplit(written)
    except ValueError:
        return "", ""
    return (parts.scheme, _authority(parts.netloc)) if parts.scheme in ("http", "https") else ("", "")


def _authority(host: str) -> str:
    """``host:port`` as a Host header has it, without a usual port."""
    return host.lower().removesuffix(":80").removesuffix(":443")


def _name(host: str) -> str:
    """The host of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
