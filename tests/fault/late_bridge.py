"""pxbridge, but what it sends to a phone leaves `LATE_S` later: the gate on speed must refuse it."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from pxbridge.cli import main
from pxbridge.websocket import WebSocket

LATE_S = 0.05

send = WebSocket.send


def send_late(self: WebSocket, data: bytes, *, text: bool = False) -> None:
    if text:  # to a phone; engines get binary messages
        asyncio.get_running_loop().call_later(LATE_S, partial(send, self, data, text=True))
    else:
        send(self, data)


if __name__ == "__main__":
    WebSocket.send = send_late  # type: ignore[method-assign]
    sys.exit(main())
