"""pxbridge, but something hangs while it ends. The first argument says how; the others are its own.

``wait``: a part waits for what never comes. ``loop``: a part stops the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from typing import Any

from pxbridge.app import lifecycle
from pxbridge.cli import main
from pxbridge.engines.pool import EnginePool

AT_ONCE_S = 0.3
"""In place of seconds, for the test alone."""


async def wait(_self: EnginePool, *_error: Any) -> None:
    sys.stderr.write("hangs now\n")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def stop_the_loop(_self: EnginePool, *_error: Any) -> None:
    sys.stderr.write("hangs now\n")
    threading.Event().wait()


if __name__ == "__main__":
    lifecycle.AT_ONCE_S = AT_ONCE_S
    lifecycle.TEARDOWN_S = float(sys.argv.pop(2))
    lifecycle.LAST_LINE_S = 0.1
    EnginePool.__aexit__ = {"wait": wait, "loop": stop_the_loop}[sys.argv.pop(1)]  # type: ignore[assignment]
    sys.exit(main())
