"""Exotel's part of the telephony port: which paths are calls, and which are webhooks.

====================  ==================================================================================
``/``, ``/exotel``    Exotel's WebSocket; ``?sample-rate=`` 8000, 16000 or 24000 sets the line's rate
``/exotel/PERSONA``   the same; the caller speaks with that persona
``/exotel/url`` ...   webhooks of call flows (`pxbridge.telephony.exotel.webhooks`)
====================  ==================================================================================
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from pxbridge.telephony.exotel.carrier import ExotelCarrier
from pxbridge.telephony.exotel.messages import LINE_RATES_HZ, MAX_MESSAGE_BYTES, parse_rate
from pxbridge.telephony.exotel.webhooks import WEBHOOK_PATH, WEBHOOK_PATHS
from pxbridge.telephony.routes import PERSONA_NAME, CallPath, WebhookPath

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from pxbridge.telephony.access import Visitor
    from pxbridge.telephony.exotel.webhooks import Webhooks
    from pxbridge.telephony.routes import Route
    from pxbridge.websocket import Request, Response

_CALL_PATH: Final = re.compile(rf"/|/exotel/?|/exotel/(?P<persona>{PERSONA_NAME.pattern})/?")


class ExotelRoutes:
    """Exotel's paths; a `pxbridge.telephony.routes.CarrierRoutes`.

    Args:
        webhooks: Answers the webhooks of call flows; None serves no webhooks.
    """

    max_message_bytes: Final = MAX_MESSAGE_BYTES

    def __init__(self, webhooks: Webhooks | None = None) -> None:
        self._webhooks = webhooks

    @property
    def known_paths(self) -> tuple[str, ...]:
        """The fixed paths, for a hint to a client that wrote one of them differently."""
        webhooks = () if self._webhooks is None else WEBHOOK_PATHS
        return ("/exotel", *webhooks)

    def find(self, path: str) -> Route | None:
        """The route of a path; None if the path is not one of Exotel's."""
        if WEBHOOK_PATH.fullmatch(path) is not None:
            return None if self._webhooks is None else WebhookPath()
        call = _CALL_PATH.fullmatch(path)
        return None if call is None else CallPath(call["persona"])

    def carrier(self, query: str) -> ExotelCarrier:
        """The carrier object for a call that is about to be accepted.

        Raises:
            ValueError: The query has a sample rate that Exotel does not offer. The text says how to fix it.
        """
        return ExotelCarrier(_rate_hz(query))

    def answer(
        self, request: Request, visitor: Visitor, full: Sequence[str]
    ) -> Response | Awaitable[Response]:
        """The HTTP response to a webhook request.

        Args:
            request: The request.
            visitor: The admitted request's address, path and persona.
            full: Reasons why the server accepts no call; empty if it accepts calls.
        """
        assert self._webhooks is not None  # noqa: S101  without webhooks, `find` returns no WebhookPath
        return self._webhooks.answer(request, visitor, full)


def _rate_hz(query: str) -> int | None:
    """The sample rate in a URL's query; None if it has none.

    Raises:
        ValueError: Exotel does not offer the rate. The text says how to fix it.
    """
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower().replace("_", "").replace("-", "") == "samplerate":
            rate_hz = parse_rate(value)
            if rate_hz not in LINE_RATES_HZ:
                raise ValueError(
                    f"sample-rate={value[:20]} is not a sample rate of Exotel's streams: "
                    "write sample-rate=8000, 16000 or 24000 into the applet's URL, or leave it out"
                )
            return rate_hz
    return None
