"""A call over a real socket: the thin shell that asks a `Phone` what is due and tells it what came."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
)

from pxbridge.errors import CallFailed, CallRefused
from pxbridge.simulation.phone.machine import Fault, Wire

if TYPE_CHECKING:
    import ssl

    from websockets.asyncio.client import ClientConnection

    from pxbridge.simulation.phone.machine import Phone

OPEN_TIMEOUT_S = 10.0
"""Exotel's own limit for the handshake."""
SEND_TIMEOUT_S = 5.0
"""A bridge that has not read for this long is given up."""

OBSERVE = {"Pxbridge-Observe": "1"}
"""The header by which a phone that is not Exotel's asks pxbridge to tell it about its call."""
OBSERVED_EVENT = "pxbridge"
"""The `event` of what comes then. It goes past the call: not counted, not delayed, not played."""

Observer = Callable[[Mapping[str, Any]], None]
"""Told each thing that the bridge tells of the call: `kind`, `at_s` since `start`, and the rest by name."""


class Clock:
    """Call time on the event loop's clock.

    Args:
        speed: Call seconds per real second; tests with a real socket use more than 1.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._zero = 0.0

    def start(self, at_s: float) -> None:
        """From now on, it is `at_s`."""
        self._zero = asyncio.get_running_loop().time() - at_s / self._speed

    def now_s(self) -> float:
        """Call time now."""
        return (asyncio.get_running_loop().time() - self._zero) * self._speed

    async def wait(self, until_s: float, wake: asyncio.Event) -> None:
        """Waits until `until_s`, or until `wake` is set, whichever comes first."""
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
    """Dials a bridge as Exotel does and plays the call to its end; the phone holds what became of it.

    The last of what `observe` is told comes after `stop`; it is waited for as long as for the bridge's close.

    Args:
        url: `ws://` or `wss://`, with a user and password for Basic authentication if the bridge wants them.
        phone: The call; use it once.
        tls: For `wss://`: whom to trust; None trusts the system's certificates.
        clock: Faster time, for tests.
        observe: Told what the bridge tells of the call, if it is pxbridge; None asks for nothing, as Exotel.

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


def shown(url: str) -> str:
    """A URL as it may be printed: without the user and password in it."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return scheme + separator + authority.rpartition("@")[2] + slash + path


async def _connect(url: str, tls: ssl.SSLContext | None, headers: Mapping[str, str]) -> ClientConnection:
    name = shown(url)
    try:
        return await connect(
            url,
            ssl=tls,
            additional_headers=headers,
            compression=None,  # as Exotel; it would only cost time
            proxy=None,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,
            max_size=None,  # a payload over the limit is counted, not refused
            max_queue=None,  # the player takes everything at once, as Exotel's does
            user_agent_header="pxbridge phone (simulated Exotel)",
        )
    except InvalidStatus as refused:
        response = refused.response
        detail = bytes(response.body or b"").decode("utf-8", "replace").strip()[:200]
        message = f"{name} refused the call: HTTP {response.status_code} {response.reason_phrase}"
        raise CallRefused(f"{message}: {detail}" if detail else message, response.status_code) from refused
    except InvalidURI as error:
        raise CallFailed(f"{name!r} is no ws:// or wss:// address") from error
    except (InvalidHandshake, InvalidMessage) as error:
        raise CallFailed(f"{name} answers, but not as a WebSocket server: {error}") from error
    except TimeoutError as error:
        raise CallFailed(f"{name} did not answer within {OPEN_TIMEOUT_S:g} s") from error
    except OSError as error:
        number = error.errno or 0  # negative for a name that does not resolve: not one of the system's
        why = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise CallFailed(f"{name} cannot be reached: {why}") from error


async def _read(
    ws: ClientConnection, phone: Phone, clock: Clock, wake: asyncio.Event, observe: Observer | None
) -> None:
    try:
        while True:
            message = await ws.recv()
            if observe is not None and (told := _observed(message)) is not None:
                observe(told)
                continue
            phone.receive(message, clock.now_s())
            wake.set()
    except ConnectionClosed:
        phone.closed(clock.now_s(), ws.close_code or 1006, ws.close_reason or "")
        wake.set()


def _observed(message: str | bytes) -> Mapping[str, Any] | None:
    """What the bridge tells of the call in this message; None for a message of the call itself."""
    # Most messages are audio: they are not to be read twice for this.
    if not isinstance(message, str) or OBSERVED_EVENT not in message:
        return None
    try:
        told = json.loads(message)
    except ValueError:
        return None
    return told if isinstance(told, dict) and told.get("event") == OBSERVED_EVENT else None


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
                pass  # the reader tells the phone
