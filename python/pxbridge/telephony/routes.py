"""The interface between the telephony server and a carrier: its paths for calls and its paths for webhooks.

The server chooses the carrier by the path alone, never by the first message. Each carrier has its own prefix,
such as ``/exotel``.
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
"""A persona's name is one word, so that it can be used unchanged in a file, a log and a URL."""


@dataclass(frozen=True, slots=True)
class CallPath:
    """The path of a call.

    Attributes:
        persona_name: The persona that the path names; None if it names none.
    """

    persona_name: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookPath:
    """The path of a webhook: a carrier's call flow requests it over HTTP."""


Route = CallPath | WebhookPath


class CarrierRoutes(Protocol):
    """One carrier's paths, calls and webhooks."""

    @property
    def max_message_bytes(self) -> int:
        """Size of the carrier's longest message."""
        ...

    @property
    def known_paths(self) -> tuple[str, ...]:
        """The fixed paths, for a hint to a client that wrote one of them differently."""
        ...

    def find(self, path: str) -> Route | None:
        """The route of a path; None if the path is not one of this carrier's.

        Args:
            path: The path, without its query and without a token.
        """
        ...

    def carrier(self, query: str) -> Carrier:
        """The carrier object for a call that is about to be accepted.

        Args:
            query: The query of the call's URL.

        Raises:
            ValueError: The query has an unsupported value. The error's text becomes the HTTP body.
        """
        ...

    def answer(
        self, request: Request, visitor: Visitor, full: Sequence[str]
    ) -> Response | Awaitable[Response]:
        """The HTTP response to a webhook request.

        Args:
            request: The request.
            visitor: The admitted request's address, path and persona.
            full: Reasons why the server accepts no call; empty if it accepts calls.
        """
        ...
