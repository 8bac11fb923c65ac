"""Exotel's webhooks: the HTTP requests that a call flow makes before and after its stream.

======================  ================================================================================
``/exotel/url``         Before the stream: returns the stream's URL, ``{"url": "wss://..."}``, with a token
                        for one call in its path. The URL leads to this bridge, or to another bridge if this
                        one is full (`pxbridge.telephony.peers`). 503 if all are full, so that the flow can
                        take another branch. ``/exotel/url/PERSONA`` or ``?persona=`` names the persona; 404
                        if it does not exist. Without a name, the dialled number (``CallTo`` or ``To``)
                        chooses the persona. A request with a ``CallSid`` reserves an engine for a few
                        seconds, once per call. HEAD, ``?reserve=no``, and requests without a ``CallSid``
                        get the same answer and reserve nothing: they are for monitors.
``/exotel/passthru``    After the stream (Passthru applet): 302, branch B, if the call was handed over to a
                        person; 200, branch A, if it was not.
``/exotel/connect``     After branch B (Connect applet): the numbers to ring,
                        ``{"destination": {"numbers": [...]}}``, or 404.
======================  ================================================================================

Exotel sends a GET with a query. A POST with a form or a JSON object is accepted too. Exotel's documentation,
samples and requests differ in the case of parameter names, so the case is ignored.
"""

from __future__ import annotations

import json
import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qsl, urlencode

from pxbridge.telephony.exotel.messages import LINE_RATES_HZ, parse_rate
from pxbridge.telephony.routes import PERSONA_NAME
from pxbridge.telephony.tokens import Scope
from pxbridge.websocket import Headers, Response, text_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pxbridge.telephony.access import AccessControl, Visitor
    from pxbridge.telephony.tokens import Signer
    from pxbridge.websocket import Request

log = logging.getLogger(__name__)

WEBHOOK_PATH: Final = re.compile(
    rf"/exotel/(?:(?P<name>passthru|connect)|url(?:/(?P<persona>{PERSONA_NAME.pattern}))?)/?"
)
WEBHOOK_PATHS: Final = ("/exotel/url", "/exotel/passthru", "/exotel/connect")

_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

_NO_PUBLIC_URL: Final = (
    "the public URL of this bridge is not known; set PXBRIDGE_PUBLIC_URL to wss:// and the host that Exotel "
    "dials, or name the proxy in PXBRIDGE_TRUSTED_PROXIES"
)

_NO: Final = frozenset({"no", "false", "0"})

_MAX_PARAMETERS: Final = 100
_MAX_NAME_CHARS: Final = 64
_MAX_VALUE_CHARS: Final = 1024  # the longest value is a recording's URL

MAX_REPORTED: Final = 10_000
"""Number of streams whose reports are remembered, so that a repeated report is logged once."""


def _as_asked(asked: str | None, _called: str) -> str | None:
    """The default choice: accepts any persona name; a dialled number chooses none."""
    return asked


def _nothing(_call: str) -> None:
    pass


def _never_busy(_call: str | None) -> Sequence[str]:
    return ()


async def nowhere(_persona_name: str | None, *, reserve: bool) -> str | None:
    """The default: there is no other bridge."""
    return None


class Elsewhere(Protocol):
    """Finds another bridge for a call."""

    def __call__(self, persona_name: str | None, /, *, reserve: bool) -> Awaitable[str | None]:
        """``wss://host`` of another bridge that takes a call for this persona and accepts our tokens.

        None if there is none. With `reserve`, the call is subtracted from that bridge's room.
        """
        ...


async def _to_nobody(_call_sid: str) -> None:
    """The default: no call was handed over."""


class Webhooks:
    """Answers the webhooks.

    Args:
        signer: Makes the tokens of calls.
        access: Knows the trusted proxies.
        token_ttl_s: Lifetime of the token in a call's URL.
        public_url: ``wss://host`` by which Exotel reaches this bridge. ``None``: taken from the headers of a
            trusted proxy, or from ``Host`` if `serves_tls`.
        serves_tls: Whether this port serves TLS itself. Then ``Host`` names this bridge.
        choose: Returns the persona to put into a call's URL, given the requested persona and the dialled
            number; ``None`` puts none. Raises `LookupError` if the persona does not exist.
        busy: Reasons why no engine can take this call now, by its SID if it has one; empty if one can.
        promise: Called with a call's SID when a URL to this bridge is given out for it: the call is about to
            arrive.
        elsewhere: Finds another bridge when this one takes no call.
        handed_over: Returns the numbers that a call was handed over to, by the call's SID; ``None`` if it was
            not handed over.
    """

    def __init__(
        self,
        signer: Signer,
        access: AccessControl,
        *,
        token_ttl_s: float = 60.0,
        public_url: str | None = None,
        serves_tls: bool = False,
        choose: Callable[[str | None, str], str | None] = _as_asked,
        busy: Callable[[str | None], Sequence[str]] = _never_busy,
        promise: Callable[[str], None] = _nothing,
        elsewhere: Elsewhere = nowhere,
        handed_over: Callable[[str], Awaitable[Sequence[str] | None]] = _to_nobody,
    ) -> None:
        self._signer = signer
        self._access = access
        self._token_ttl_s = token_ttl_s
        self._public_url = public_url
        self._serves_tls = serves_tls
        self._choose = choose
        self._busy = busy
        self._promise = promise
        self._elsewhere = elsewhere
        self._handed_over = handed_over
        self._reported: dict[tuple[str, str], None] = {}

    def answer(
        self, request: Request, visitor: Visitor, full: Sequence[str]
    ) -> Response | Awaitable[Response]:
        """The HTTP response to a webhook request.

        Args:
            request: The request.
            visitor: The admitted request; `visitor.path` matches `WEBHOOK_PATH`.
            full: Reasons why the server accepts no call; empty if it accepts calls.
        """
        if request.method not in ("GET", "HEAD", "POST"):
            return text_response(405, "GET or POST\n", [("Allow", "GET, HEAD, POST")])
        found = WEBHOOK_PATH.fullmatch(visitor.path)
        try:
            parameters = read_parameters(request)
        except ValueError as wrong:
            return text_response(400, f"{wrong}\n")
        match found and found["name"]:
            case "passthru":
                return self._passthru(parameters)
            case "connect":
                return self._connect(parameters)
        persona_name = visitor.persona_name or (found and found["persona"]) or parameters.get("persona")
        return self._url(request, parameters, persona_name, full)

    def _url(
        self, request: Request, parameters: Mapping[str, str], persona_name: str | None, full: Sequence[str]
    ) -> Response | Awaitable[Response]:
        if persona_name is not None and not PERSONA_NAME.fullmatch(persona_name):
            return _json(400, {"error": "the persona's name is not valid"})
        try:
            persona_name = self._choose(persona_name, parameters.get("callto") or parameters.get("to") or "")
        except LookupError as error:
            return _json(404, {"error": str(error.args[0])})
        rate_hz = parse_rate(parameters.get("sample-rate", parameters.get("sample_rate", "")))
        reserve = request.method != "HEAD" and parameters.get("reserve", "").lower() not in _NO
        call_sid = parameters.get("callsid") if reserve else None
        reasons = [*full, *self._busy(call_sid)]
        if reasons:
            return self._url_elsewhere(persona_name, rate_hz, reasons, reserve=call_sid is not None)
        base = self._base_url(request)
        if base is None:
            log.warning("/exotel/url: %s", _NO_PUBLIC_URL)
            return _json(503, {"error": _NO_PUBLIC_URL})
        if call_sid is not None:
            self._promise(call_sid)
        return self._url_at(base, persona_name, rate_hz)

    async def _url_elsewhere(
        self, persona_name: str | None, rate_hz: int | None, reasons: Sequence[str], *, reserve: bool
    ) -> Response:
        base = await self._elsewhere(persona_name, reserve=reserve)
        if base is None:
            return _json(503, {"error": "; ".join(reasons)}, [("Retry-After", "10")])
        log.info("a call is sent to the bridge at %s, not to this one: %s", base, "; ".join(reasons))
        return self._url_at(base, persona_name, rate_hz)

    def _url_at(self, base: str, persona_name: str | None, rate_hz: int | None) -> Response:
        token = self._signer.make(Scope.CALL, self._token_ttl_s, persona_name)
        url = f"{base}/exotel/t/{token}"
        if rate_hz in LINE_RATES_HZ:
            url += "?" + urlencode({"sample-rate": rate_hz})
        return _json(200, {"url": url})

    async def _passthru(self, parameters: Mapping[str, str]) -> Response:
        call_sid = parameters.get("callsid", "")
        if not call_sid:
            return text_response(400, "CallSid is missing\n")
        self._log_report(call_sid, parameters)
        if await self._handed_over(call_sid) is None:
            return text_response(200, "A: not handed over\n")
        return text_response(302, "B: handed over\n")

    async def _connect(self, parameters: Mapping[str, str]) -> Response:
        call_sid = parameters.get("callsid", "")
        if not call_sid:
            return _json(400, {"error": "CallSid is missing"})
        numbers = await self._handed_over(call_sid)
        if not numbers:
            return _json(404, {"error": "the call was not handed over to a number"})
        return _json(200, {"destination": {"numbers": list(numbers)}})

    def _log_report(self, call_sid: str, parameters: Mapping[str, str]) -> None:
        """Logs Exotel's report of how a stream ended, once per stream."""
        told = {name: parameters.get(f"stream[{name}]", "") for name in ("status", "disconnectedby", "error")}
        key = call_sid, parameters.get("stream[streamsid]", "")
        if key in self._reported or not any(told.values()):
            return
        self._reported[key] = None
        if len(self._reported) > MAX_REPORTED:
            del self._reported[next(iter(self._reported))]
        log.info(
            "Exotel reports: stream %s, disconnected by %s%s",
            told["status"] or "ended",
            told["disconnectedby"] or "an unknown side",
            f", error: {told['error']}" if told["error"] else "",
            extra={"call": call_sid},
        )

    def _base_url(self, request: Request) -> str | None:
        """This bridge's public URL: the configured one, else from a trusted proxy or our TLS port."""
        if self._public_url is not None:
            return self._public_url
        headers = request.headers
        host, scheme = _single_value(headers, "Host"), "wss"
        if self._access.is_proxy(request):
            host = _single_value(headers, "X-Forwarded-Host") or host
            scheme = "wss" if _single_value(headers, "X-Forwarded-Proto") in ("https", "wss") else "ws"
        elif not self._serves_tls:
            return None
        return f"{scheme}://{host}" if _HOST.fullmatch(host) else None


def read_parameters(request: Request) -> dict[str, str]:
    """A request's parameters from its query, form or JSON object, by lower-case name.

    ``Stream={"Status": ...}`` is read as ``Stream[Status]=...``. Values are one printable line of at most
    1024 characters.

    Raises:
        ValueError: There are too many parameters, or the body does not have its declared type.
    """
    query = request.path.partition("?")[2]
    pairs: list[tuple[str, Any]] = list(_pairs(query))
    if request.body:
        if (
            _single_value(request.headers, "Content-Type").partition(";")[0].strip().lower()
            == "application/json"
        ):
            pairs += _object(request.body).items()
        else:
            pairs += _pairs(request.body.decode("utf-8", "replace"))
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name.lower() == "stream":
            stream = value if isinstance(value, dict) else _object(str(value), strict=False)
            for key, part in stream.items():
                parameters.setdefault(_line(f"stream[{key}]".lower(), _MAX_NAME_CHARS), _line(part))
        else:
            parameters.setdefault(_line(name.lower(), _MAX_NAME_CHARS), _line(value))
    return {name: value for name, value in parameters.items() if value}


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise ValueError(f"more than {_MAX_PARAMETERS} parameters") from None


def _object(text: str | bytes, *, strict: bool = True) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        if strict:
            raise ValueError("the body is not a JSON object")
        return {}
    if len(value) > _MAX_PARAMETERS:
        raise ValueError(f"more than {_MAX_PARAMETERS} parameters")
    return value


def _line(value: object, most_chars: int = _MAX_VALUE_CHARS) -> str:
    """A scalar as one printable line of bounded length, because it is logged."""
    if value is None or isinstance(value, dict | list | bool):
        return ""
    return "".join(c if c.isprintable() else " " for c in str(value)[:most_chars]).strip()


def _single_value(headers: Headers, name: str) -> str:
    """A header's value; empty if the header is missing or repeated."""
    values = headers.get_all(name)
    return values[0].strip() if len(values) == 1 else ""


def _json(status: int, value: object, headers: Sequence[tuple[str, str]] = ()) -> Response:
    body = json.dumps(value).encode() + b"\n"
    fields = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *headers,
    ]
    return Response(status, HTTPStatus(status).phrase, Headers(fields), body)
