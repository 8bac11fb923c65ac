"""pxbridge, but what it sends to a phone leaves `LATE_S` later: the gate on speed must refuse it."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING

from pxbridge.cli import main
from pxbridge.websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

LATE_S = 0.05

send_all = WebSocket.send_all


def send_all_late(self: WebSocket, messages: Sequence[tuple[bytes, bool]]) -> None:
    """A line's sound goes to its phone by this."""
    asyncio.get_running_loop().call_later(LATE_S, partial(send_all, self, list(messages)))


if __name__ == "__main__":
    WebSocket.send_all = send_all_late  # type: ignore[method-assign]
    sys.exit(main())
