"""Places the call of a `Phone` over a real socket."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    SecurityError,
)
from websockets.uri import parse_uri

from pxbridge.errors import CallFailed, CallRefused
from pxbridge.simulation.phone.machine import BROKEN_OFF, Fault, Wire
from pxbridge.simulation.phone.shown_url import shown, without_secrets
from pxbridge.wording import os_problem

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from pxbridge.simulation.phone.machine import Phone

OPEN_TIMEOUT_S = 10.0
"""Exotel's own limit for the handshake."""
SEND_TIMEOUT_S = 5.0
"""A bridge that has not read for this long is disconnected."""

OBSERVE = {"Pxbridge-Observe": "1"}
"""The header with which a simulated phone asks pxbridge for reports on its call."""
OBSERVED_EVENT = "pxbridge"
"""The `event` of these reports. They are not part of the call: not counted, not delayed, not played."""

Observer = Callable[[Mapping[str, Any]], None]
"""Takes a report of the bridge: `kind`, `at_s` since `start`, and its details by name."""


class Clock:
    """Call time on the event loop's clock.

    Args:
        speed: Call seconds per real second; tests with a real socket use more than 1.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._zero = 0.0

    def start(self, at_s: float) -> None:
        """Sets the call time to `at_s` now."""
        self._zero = asyncio.get_running_loop().time() - at_s / self._speed

    def now_s(self) -> float:
        """The call time."""
        return (asyncio.get_running_loop().time() - self._zero) * self._speed

    async def wait(self, until_s: float, wake: asyncio.Event) -> None:
        """Waits until `until_s` or until `wake` is set, whichever comes first."""
        loop = asyncio.get_running_loop()
        timer = None
        if until_s != float("inf"):
            timer = loop.call_at(self._zero + until_s / self._speed, wake.set)
        try:
            await wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        wake.clear()


async def place_call(
    url: str,
    phone: Phone,
    *,
    tls: ssl.SSLContext | None = None,
    clock: Clock | None = None,
    observe: Observer | None = None,
) -> None:
    """Dials a bridge as Exotel does and holds the call to its end. The results are in `phone`.

    The last report comes after `stop`. The phone waits for it as long as for the bridge's close.

    Args:
        url: `ws://` or `wss://`, with a user and password for Basic authentication if the bridge wants them.
        phone: The call; can be used once.
        tls: Which certificates to trust, for `wss://`; None: those of the system.
        clock: The call's clock; tests use a faster one.
        observe: Takes reports, if the bridge is pxbridge; None does not ask for them, like Exotel.

    Raises:
        CallFailed: No connection.
        CallRefused: The server answered the upgrade with an HTTP error.
    """
    clock = clock or Clock()
    ws = await _connect(url, tls, {} if observe is None else OBSERVE)
    clock.start(phone.starts_at_s)
    wake = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(_read(ws, phone, clock, wake, observe))
            while not phone.is_over:
                for item in phone.due(clock.now_s()):
                    await _put_on_wire(ws, item, phone)
                if not phone.is_over:
                    await clock.wait(phone.next_at_s, wake)
            reader.cancel()
    finally:
        ws.transport.abort()
        await ws.wait_closed()


async def _connect(url: str, tls: ssl.SSLContext | None, headers: Mapping[str, str]) -> ClientConnection:
    name = shown(url)
    # Errors that quote a URL are not kept as the cause: they would be part of a traceback.
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):
        raise CallFailed(f"{name!r} is not a ws:// or wss:// URL") from None
    # websockets takes no "ssl=None" for wss://, and no "ssl" for ws://.
    trusted: dict[str, Any] = {} if tls is None else {"ssl": tls}
    try:
        return await connect(
            url,
            **trusted,
            additional_headers=headers,
            compression=None,  # like Exotel; it would only take time
            proxy=None,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,
            max_size=None,  # a payload over the limit is counted, not refused
            max_queue=None,  # like Exotel, the phone never stops reading
            user_agent_header="pxbridge phone (simulated Exotel)",
        )
    except InvalidStatus as refused:
        response = refused.response
        detail = bytes(response.body or b"").decode("utf-8", "replace").strip()[:200]
        message = f"{name} refused the call: HTTP {response.status_code} {response.reason_phrase}"
        if detail and detail.lower() != response.reason_phrase.lower():
            message += f": {without_secrets(detail, url)}"
        raise CallRefused(message, response.status_code) from refused
    except InvalidURI as error:
        raise CallFailed(f"{name} sends the call on to {shown(error.uri)}: dial that address") from None
    except (InvalidHandshake, InvalidMessage, SecurityError) as error:
        why = without_secrets(str(error), url)
        raise CallFailed(f"{name} answers, but is not a WebSocket server: {why}") from None
    except TimeoutError as error:
        raise CallFailed(f"{name} did not answer within {OPEN_TIMEOUT_S:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise CallFailed(f"{name}: {_distrust(error)}") from error
    except ssl.SSLError as error:
        if error.reason in _PLAIN:
            raise CallFailed(f"{name} does not speak TLS: this port takes ws:// calls") from error
        raise CallFailed(f"{name} does not speak TLS as expected: {error.reason or error}") from error
    except OSError as error:
        raise CallFailed(f"{name} cannot be reached: {os_problem(error)}") from error
    except ValueError:  # the last one: some errors of TLS are a ValueError, too
        raise CallFailed(f"{name} sends the call on to an address that is no URL") from None


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    """Why a server's certificate is not trusted, for people."""
    why = _DISTRUST.get(error.verify_code)
    return f"its certificate {why}" if why else f"its certificate is not valid: {error.verify_message}"


# OpenSSL's reasons if the server speaks another protocol, such as plain HTTP.
_PLAIN = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}

# OpenSSL's verification errors (x509_vfy.h).
_DISTRUST = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed; to trust it, pass it with --ca FILE",
    19: "comes from an unknown authority; to trust it, pass the authority's certificate with --ca FILE",
    20: "comes from an unknown authority; to trust it, pass the authority's certificate with --ca FILE",
    62: "is for another host name",
    64: "is for another address",
}


async def _read(
    ws: ClientConnection, phone: Phone, clock: Clock, wake: asyncio.Event, observe: Observer | None
) -> None:
    try:
        while True:
            message = await ws.recv()
            if observe is not None and (report := _report(message)) is not None:
                observe(report)
                continue
            phone.receive(message, clock.now_s())
            wake.set()
    except ConnectionClosed:
        phone.closed(clock.now_s(), ws.close_code or BROKEN_OFF, ws.close_reason or "")
        wake.set()


def _report(message: str | bytes) -> Mapping[str, Any] | None:
    """The report in this message; None for a message of the call itself."""
    # Most messages are audio, and must not be parsed twice for this.
    if not isinstance(message, str) or OBSERVED_EVENT not in message:
        return None
    try:
        report = json.loads(message)
    except ValueError:
        return None
    return report if isinstance(report, dict) and report.get("event") == OBSERVED_EVENT else None


async def _put_on_wire(ws: ClientConnection, item: str | Wire, phone: Phone) -> None:
    match item:
        case Wire.ABORT:
            ws.transport.abort()
        case Wire.CLOSE:
            await ws.close()
        case text:
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await ws.send(text)
            except TimeoutError:
                phone.faults[Fault.DOES_NOT_READ] += 1
                ws.transport.abort()
            except ConnectionClosed:
                pass  # the reading task tells the phone
