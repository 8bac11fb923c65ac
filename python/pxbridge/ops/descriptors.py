"""The process's limit of file descriptors.

Each call needs a few: the phone, the engine, a recording. So strangers get only a share: handshakes on the
telephony port (`pxbridge.websocket.serving`), and clients of the console (`pxbridge.console.connections`).
"""

from __future__ import annotations

import resource
from typing import Final

ENOUGH: Final = 65_536
"""More than any number of calls in one process needs. Where the hard limit is endless, this one is set."""


def allowed() -> int:
    """How many descriptors the process may have after `raise_limit`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    return ENOUGH if soft == resource.RLIM_INFINITY else max(soft, most)


def raise_limit() -> None:
    """Raises the soft limit, which is 1024 on most machines for programs that use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < allowed():
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed(), hard))
