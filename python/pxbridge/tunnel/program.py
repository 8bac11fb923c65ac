"""The interface between `pxbridge.tunnel.supervisor` and a tunnel program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK: Final = "127.0.0.1"
ASK_TIMEOUT_S: Final = 2.0
"""The programs' own endpoints are on loopback and answer in milliseconds."""


class Program(Protocol):
    """One start of a tunnel program: how it is called, and what it tells."""

    @property
    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        ...

    def read(self, line: str) -> None:
        """Takes a line that it has printed."""
        ...

    async def address(self) -> str | None:
        """Its public URL, ``ws://`` or ``wss://``, without a path; None while it has none."""
        ...

    async def is_connected(self) -> bool:
        """Whether it says that it is connected to its service."""
        ...

    def last_words(self, lines: Sequence[str]) -> str:
        """Why it ended, or has no address, from its last lines; empty if they do not tell."""
        ...


class Programs(Protocol):
    """A kind of tunnel program."""

    @property
    def name(self) -> str:
        """The program's file."""
        ...

    @property
    def install(self) -> str:
        """Where to get it."""
        ...

    def new(self, host: str, port: int) -> Program:
        """A start of it that leads to `host` and `port`."""
        ...

    def failed(self, connected: bool) -> None:
        """The last start did not come up. A program may be called in another way the next time.

        Args:
            connected: Whether it said that it was connected to its service.
        """
        ...


async def ask(url: str) -> tuple[int, Any]:
    """Status and decoded JSON of an endpoint of the program's own; (0, None) if it does not answer.

    The content type is not looked at: cloudflared sends JSON as text/plain.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)) as session,
            session.get(url) as answer,
        ):
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError):
        return 0, None
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, None
