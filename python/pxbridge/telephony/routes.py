"""What the telephony server needs of any carrier: which paths are its calls, and which are its webhooks.

The server chooses the carrier by the path alone, never by looking at the first message. Each carrier has a
prefix of its own, such as ``/exotel``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from pxbridge.telephony.access import Visitor
    from pxbridge.telephony.carrier import Carrier
    from pxbridge.websocket import Request, Response

PERSONA_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A persona's name is one word, so that it can stand in a file, a log and a URL unchanged."""


@dataclass(frozen=True, slots=True)
class CallPath:
    """A path that a call comes in by.

    Attributes:
        persona_name: Whom the path asks for; None if it leaves that open.
    """

    persona_name: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookPath:
    """A path that a carrier's call flow asks over HTTP."""


Route = CallPath | WebhookPath


class CarrierRoutes(Protocol):
    """One carrier's part of the server."""

    @property
    def max_message_bytes(self) -> int:
        """The carrier's longest message."""
        ...

    def find(self, path: str) -> Route | None:
        """What a path leads to; None if it is none of this carrier's.

        Args:
            path: Without its query, and without a token.
        """
        ...

    def carrier(self, query: str) -> Carrier:
        """The carrier of a call that is about to come in.

        Args:
            query: Of the call's URL.

        Raises:
            ValueError: The query asks for something that does not exist. The text is the answer.
        """
        ...

    def answer(
        self, request: Request, visitor: Visitor, full: Sequence[str]
    ) -> Response | Awaitable[Response]:
        """The answer to a webhook.

        Args:
            request: What was asked.
            visitor: Who asked.
            full: Reasons why the server takes no call; none if it does.
        """
        ...
