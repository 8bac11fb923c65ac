"""A Redis or Valkey server that several bridges share: ``pip install pxbridge[redis]``.

It is asked about slots of engines and about calls that go on to a person, never for sound: when it is gone,
calls go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from pxbridge.errors import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_TIMEOUT_S: Final = 2.0
"""A store in the same network answers in a millisecond; a call's start waits for it."""

PREFIX: Final = "pxbridge:"
"""Before every key: bridges that share a store share it."""


class RedisStore:
    """A connection to the server.

    Args:
        url: ``redis://host:6379/0``, ``rediss://`` for TLS, ``unix://``; may hold a user and a password.

    Attributes:
        client: The library's. Use it inside `answer`.

    Raises:
        ImportError: The extra is not installed.
        ValueError: The URL is none.
    """

    def __init__(self, url: str) -> None:
        # An extra: whoever runs one bridge needs no client library.
        from redis import asyncio as redis
        from redis.exceptions import RedisError

        self.client: Any = redis.Redis.from_url(
            url, socket_timeout=ANSWER_TIMEOUT_S, socket_connect_timeout=ANSWER_TIMEOUT_S
        )
        self._failures = (RedisError, OSError, TimeoutError)

    @contextlib.asynccontextmanager
    async def answer(self) -> AsyncIterator[None]:
        """Bounds the block in time.

        Raises:
            StoreUnreachable: Whatever went wrong in it.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                yield
        except self._failures as error:
            # The error's own text may name the server's address and its user.
            raise StoreUnreachable(f"the lease store does not answer ({type(error).__name__})") from None

    async def close(self) -> None:
        """Closes the connections."""
        with contextlib.suppress(*self._failures):
            await self.client.aclose()
