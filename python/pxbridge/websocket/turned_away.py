"""What is turned away before it becomes a call: counted by reason, and logged at a limited rate.

A client that cannot get in sees little: a closed connection, a number. The operator's log says what came,
from where, and what to do. Anybody can cause such a line. So there is one line in ten seconds at most, its
texts are fixed, and it has nothing of what a client wrote except what `shown` lets through.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.log_throttle import REPORT_EVERY_S, LogThrottle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why something was turned away. Metrics use the name, logs the value."""

    TLS = "this looks like TLS, and this port speaks plain HTTP"
    PLAIN_HTTP = "this is plain HTTP, and this port speaks TLS"
    TLS_FAILED = "the TLS handshake failed"
    PROXY_UNEXPECTED = "this is a PROXY protocol header, and this port expects none from this address"
    PROXY_INVALID = "no valid PROXY protocol header came, and this port expects one from this address"
    INVALID_REQUEST = "the request is not valid"
    NOT_UPGRADED = "the request is not a valid WebSocket handshake"
    TOO_SLOW = "no whole request came in time"
    NOT_FOUND = "not found"
    METHOD = "the method is not allowed"


class Report(Protocol):
    """Is told of each connection or request that is turned away."""

    def __call__(self, reason: Reason, address: str, asked: str = "", /, *, hint: str = "") -> None:
        """Takes one.

        Args:
            reason: Why.
            address: The client's address.
            asked: What it asked for, safe to log.
            hint: What exactly was wrong, or what its author probably meant. One of few texts.
        """
        ...


def unreported(_reason: Reason, _address: str, _asked: str = "", /, *, hint: str = "") -> None:
    """The default report: nobody is told."""


class TurnedAway:
    """Counts and logs what one port turns away; a `Report`.

    Args:
        port: The port's name in the log.
        advice: What an operator can do, for some of the reasons.
        call_later: Calls a function after a delay in seconds; by default, the event loop's.
    """

    def __init__(
        self,
        port: str,
        advice: Mapping[Reason, str],
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self.counts: Counter[Reason] = Counter()
        """How many were turned away, by reason."""
        self._port = port
        self._advice = advice
        self._throttle = LogThrottle(self._log, call_later)

    def __call__(self, reason: Reason, address: str, asked: str = "", /, *, hint: str = "") -> None:
        """Counts one, and logs it soon.

        Args:
            reason: Why.
            address: The client's address.
            asked: What it asked for, safe to log.
            hint: What exactly was wrong, or what its author probably meant. One of few texts: never a
                client's own.
        """
        self.counts[reason] += 1
        advice = hint or self._advice.get(reason, "")
        what = f"{reason.value}: {advice}" if advice else reason.value
        who = address or "an unknown address"
        self._throttle.add(what, f"{who} ({asked})" if asked else who)

    def _log(self, counts: Counter[str], last: str) -> None:
        if counts.total() == 1:
            log.info("%s: turned away %s: %s", self._port, last, *counts)
            return
        log.info(
            "%s: turned away %d in %g s, the last %s: %s",
            self._port,
            counts.total(),
            REPORT_EVERY_S,
            last,
            "; ".join(f"{count} x {what}" for what, count in counts.most_common()),
        )


_MAX_METHOD_CHARS: Final = 16
_MAX_SEGMENTS: Final = 6
_SHOWN_METHOD: Final = re.compile(r"[A-Z]+")
_SHOWN_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]{0,24}")
_HIDDEN: Final = "***"


def shown(method: str, target: str) -> str:
    """A request's method and path as they may be logged.

    The query is left out. Of the path, segments that could be a secret are masked: one that is long, that has
    another character than a name has, or that follows ``/t``, as tokens do.
    """
    method = method[:_MAX_METHOD_CHARS]
    if not _SHOWN_METHOD.fullmatch(method):
        method = _HIDDEN
    path = re.split(r"[?#;]", target, maxsplit=1)[0]
    segments = path.split("/")
    seen = [
        segment if _SHOWN_SEGMENT.fullmatch(segment) and before != "t" else _HIDDEN
        for before, segment in zip(["", *segments], segments[:_MAX_SEGMENTS], strict=False)
    ]
    if len(segments) > _MAX_SEGMENTS:
        seen.append("...")
    return f"{method} {'/'.join(seen)}"
