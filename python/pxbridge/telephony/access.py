"""Access control of the telephony port.

First, requests are limited per address, so that passwords cannot be guessed by trying. Second, if networks
are configured, addresses outside them are refused. Third, if credentials or tokens are configured, a request
must carry one of them:

- a Basic credential. A carrier sends it if the URL that it dials contains ``USER:PASSWORD@``.
- a signed token in the path, ``/PREFIX/t/TOKEN/...`` (`pxbridge.telephony.tokens`). The path is the only part
  of a URL that every carrier passes on; some carriers drop the query on some routes. A token made by a
  webhook is for one call (`pxbridge.telephony.call_tokens`) and expires within a minute. A token made by an
  operator (``pxbridge token``) is valid for the whole port until the expiry that it carries.

Secrets are compared in constant time. Each check compares against all of them.

Behind a proxy every connection has the proxy's address. The client's address is then taken from
``X-Forwarded-For``, read from the right: a trusted proxy vouches for the entry that it appended, and not for
the entries to its left. A proxy that passes on bytes tells the address by the PROXY protocol instead
(`pxbridge.websocket.proxy_protocol`); then the connection has the client's address from its beginning.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from pxbridge.log_throttle import LogThrottle, in_words
from pxbridge.rate_limit import RateLimiter, counted_as, parsed_address
from pxbridge.telephony.call_tokens import CallTokens, TokenUse
from pxbridge.telephony.refusals import ANSWERS, Refused
from pxbridge.telephony.tokens import TOKEN_PATH, Scope, Signer, without_token
from pxbridge.websocket import text_response

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Iterable, Sequence

    from pxbridge.websocket import Request, Response

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

log = logging.getLogger(__name__)


BURST_S: Final = 10.0
"""Largest burst of one address, as seconds of its request rate."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """An admitted request.

    Args:
        address: The client's address; behind a trusted proxy, the address that the proxy reports.
        path: The requested path, without its query and without a token.
        persona_name: The persona that the token names; ``None`` if it names none, or if there is no token.
        token_use: The use of a token for one call; ``None`` if there is no such token.
    """

    address: str
    path: str
    persona_name: str | None = None
    token_use: TokenUse | None = field(default=None, compare=False)


class AccessControl:
    """Admits or refuses each request, by the rules in the module's docstring.

    Args:
        signer: Checks tokens.
        clock: Seconds, monotonic.
        credentials: Accepted credentials, each ``USER:PASSWORD``.
        tokens_prove: Whether a request needs a token (or a credential).
        networks: Networks whose addresses are admitted; empty admits every address.
        proxies: Networks of proxies whose ``X-Forwarded-*`` headers are trusted.
        requests_per_minute: Limit per address. Requests from the loopback address are not limited: they come
            from a tunnel or a proxy that is not configured, and so from many clients.
        calls_per_address: Limit of simultaneous calls per address; ``None`` for no limit.
        call_tokens: Remembers which tokens for one call have been used; by default, those of this bridge.
        call_later: Calls a function after a delay in seconds; by default, the event loop's.
    """

    def __init__(
        self,
        signer: Signer,
        clock: Callable[[], float],
        *,
        credentials: Iterable[str] = (),
        tokens_prove: bool = False,
        networks: Sequence[Network] = (),
        proxies: Sequence[Network] = (),
        requests_per_minute: int = 600,
        calls_per_address: int | None = None,
        call_tokens: CallTokens | None = None,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self.refused: Counter[Refused] = Counter()
        """Number of refused requests by reason."""
        self._signer = signer
        self._clock = clock
        self._calls: Counter[str] = Counter()
        self._call_tokens = call_tokens or CallTokens(time.time)
        self._throttle = LogThrottle(_log, call_later)
        self.use(
            credentials=credentials,
            tokens_prove=tokens_prove,
            networks=networks,
            proxies=proxies,
            requests_per_minute=requests_per_minute,
            calls_per_address=calls_per_address,
        )

    def use(
        self,
        *,
        credentials: Iterable[str] = (),
        tokens_prove: bool = False,
        networks: Sequence[Network] = (),
        proxies: Sequence[Network] = (),
        requests_per_minute: int = 600,
        calls_per_address: int | None = None,
    ) -> None:
        """Replace the rules for later requests. The arguments are the constructor's."""
        self._credentials = [_digest(credential.encode()) for credential in credentials]
        self._tokens_prove = tokens_prove
        self._networks = tuple(networks)
        self._proxies = tuple(proxies)
        self._rate = RateLimiter(requests_per_minute / 60, requests_per_minute / 60 * BURST_S, self._clock)
        self._calls_per_address = calls_per_address

    def trusts(self, address: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        return _is_in(parsed_address(address), self._proxies)

    def is_proxy(self, request: Request) -> bool:
        """Whether a trusted proxy vouches for a request's ``X-Forwarded-*`` headers."""
        return not request.is_proxys_own and self.trusts(request.address)

    def client(self, request: Request) -> str:
        """The client's address; see `client_behind`."""
        forwarded = [] if request.is_proxys_own else request.headers.get_all("X-Forwarded-For")
        return self.client_behind(request.address, forwarded)

    def client_behind(self, connected: str, forwarded: Sequence[str]) -> str:
        """The address of a client that may be behind proxies, as far as they are trusted.

        Args:
            connected: The address of the connection's other side.
            forwarded: The request's ``X-Forwarded-For`` headers.
        """
        address = parsed_address(connected)
        if address is None:
            return connected
        # Empty entries of a list mean nothing (RFC 9110 §5.6.1): a trailing comma hides no client.
        hops = [hop for line in forwarded for hop in line.split(",") if hop.strip()]
        while hops and _is_in(address, self._proxies):
            before = parsed_address(_without_port(hops.pop().strip()))
            if before is None:
                break  # the proxy does not know the address, or the entry is not the proxy's own
            address = before
        return str(address)

    def admit(self, request: Request, *, webhook: bool) -> Visitor | Response:
        """Admits a request, or returns the HTTP refusal.

        Args:
            request: The request.
            webhook: Whether the request is for a webhook. A call's token gives no access to webhooks.
        """
        address = self.client(request)
        path = request.path.partition("?")[0]
        token = TOKEN_PATH.fullmatch(path)
        visitor = Visitor(address, path)
        if not _is_loopback(address) and not self._rate.take(counted_as(address)):
            return self.refuse(Refused.RATE, address)
        if self._networks and not _is_in(parsed_address(address), self._networks):
            return self.refuse(Refused.NETWORK, address)
        if token is not None:
            checked = self._check_token(token["token"], address, webhook=webhook)
            if isinstance(checked, Refused):
                return self.refuse(checked, address)
            persona_name, use = checked
            return Visitor(address, without_token(path), persona_name, use)
        # With networks set, a webhook needs no token: a flow gets its token only from a webhook.
        asks = self._credentials or (self._tokens_prove and not (webhook and self._networks))
        if not asks:
            return visitor
        written = request.headers.get_all("Authorization")
        if not written:
            return self.refuse(Refused.NO_PROOF, address)
        if len(written) == 1 and self._knows(written[0]):
            return visitor
        return self.refuse(Refused.WRONG_CREDENTIALS, address)

    def too_many_calls(self, visitor: Visitor) -> Response | None:
        """The HTTP refusal if the address has too many calls; else ``None``."""
        if self._calls_per_address is None:
            return None
        if self._calls[counted_as(visitor.address)] < self._calls_per_address:
            return None
        return self.refuse(Refused.CALLS, visitor.address)

    def begin_call(self, address: str) -> None:
        """Count a call that has begun, until `end_call`."""
        self._calls[counted_as(address)] += 1

    def end_call(self, address: str) -> None:
        """Count the end of a call that `begin_call` counted."""
        key = counted_as(address)
        self._calls[key] -= 1
        if self._calls[key] <= 0:
            del self._calls[key]

    def refuse(self, why: Refused, address: str) -> Response:
        """The HTTP refusal. Counts it, and logs it at a limited rate."""
        self._count(why, address)
        status, headers = ANSWERS[why]
        text = {401: "authentication required\n", 429: "too many requests\n"}.get(status, "forbidden\n")
        return text_response(status, text, headers)

    def _check_token(
        self, written: str, address: str, *, webhook: bool
    ) -> tuple[str | None, TokenUse | None] | Refused:
        """The persona and the use of a token that gives access, or the reason for which it is refused."""
        token = self._signer.check(written)
        if isinstance(token, Refused):
            return token
        if token.scope is Scope.PORT:
            return token.persona_name, None
        if webhook:
            return Refused.BAD_TOKEN
        if not self._call_tokens.handshake(token.nonce):
            return Refused.USED
        refused = partial(self._count, Refused.USED, address)
        return token.persona_name, TokenUse(self._call_tokens, token.nonce, token.expires_s, refused)

    def _count(self, why: Refused, address: str) -> None:
        self.refused[why] += 1
        self._throttle.add(why.value, address)

    def _knows(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.strip().partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            written = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        known = False
        for credential in self._credentials:
            known |= hmac.compare_digest(credential, _digest(written))
        return known


def _log(refused: Counter[str], last: str) -> None:
    log.warning("telephony port: refused requests (%s), the last from %s", in_words(refused), last)


def _digest(secret: bytes) -> bytes:
    """A digest to compare instead of the secret, so that timing does not reveal even the secret's length."""
    return hashlib.sha256(secret).digest()


def _without_port(hop: str) -> str:
    """An ``X-Forwarded-For`` entry without quotes, brackets and port."""
    hop = hop.strip('"')
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _is_loopback(address: str) -> bool:
    parsed = parsed_address(address)
    return parsed is not None and parsed.is_loopback


def _is_in(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, networks: Iterable[Network]
) -> bool:
    return address is not None and any(address in network for network in networks)
