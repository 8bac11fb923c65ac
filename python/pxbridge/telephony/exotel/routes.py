"""Exotel's part of the telephony port: which paths are calls, and which are webhooks.

====================  ==================================================================================
``/``, ``/exotel``    Exotel's WebSocket; ``?sample-rate=`` 8000, 16000 or 24000 sets the line's rate
``/exotel/PERSONA``   the same, for callers who shall speak with that persona
``/exotel/url`` ...   what flows ask (`pxbridge.telephony.exotel.webhooks`)
====================  ==================================================================================
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from pxbridge.telephony.exotel.carrier import ExotelCarrier
from pxbridge.telephony.exotel.messages import LINE_RATES_HZ, MAX_MESSAGE_BYTES, parse_rate
from pxbridge.telephony.exotel.webhooks import WEBHOOK_PATH
from pxbridge.telephony.routes import PERSONA_NAME, CallPath, WebhookPath
from pxbridge.websocket import text_response

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
        webhooks: Answers what flows ask; None: there are no webhooks.
    """

    max_message_bytes: Final = MAX_MESSAGE_BYTES

    def __init__(self, webhooks: Webhooks | None = None) -> None:
        self._webhooks = webhooks

    def find(self, path: str) -> Route | None:
        """What a path leads to; None if it is none of Exotel's."""
        if WEBHOOK_PATH.fullmatch(path) is not None:
            return None if self._webhooks is None else WebhookPath()
        call = _CALL_PATH.fullmatch(path)
        return None if call is None else CallPath(call["persona"])

    def carrier(self, query: str) -> ExotelCarrier:
        """The carrier of a call that is about to come in.

        Raises:
            ValueError: The query names a sample rate that does not exist; the text says how to fix that.
        """
        return ExotelCarrier(_rate_hz(query))

    def answer(
        self, request: Request, visitor: Visitor, full: Sequence[str]
    ) -> Response | Awaitable[Response]:
        """The answer to a webhook.

        Args:
            request: What was asked.
            visitor: Who asked.
            full: Reasons why the server takes no call; none if it does.
        """
        if self._webhooks is None:
            return text_response(404, "not found\n")
        return self._webhooks.answer(request, visitor, full)


def _rate_hz(query: str) -> int | None:
    """The sample rate that a URL's query names; None if it names none.

    Raises:
        ValueError: It names one that does not exist; the text says how to fix that.
    """
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower().replace("_", "").replace("-", "") == "samplerate":
            rate_hz = parse_rate(value)
            if rate_hz not in LINE_RATES_HZ:
                raise ValueError(
                    f"sample-rate={value[:20]} is not a rate of Exotel's streams: "
                    "write sample-rate=8000, 16000 or 24000 into the applet's URL, or leave it out"
                )
            return rate_hz
    return None
