"""A Redis or Valkey server that several bridges share: ``pip install pxbridge[redis]``.

It holds leases on engines, hand-overs and the addresses of the bridges. It carries no audio, so live calls
continue without it. A process opens one `RedisStore`, and all its parts share the connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, Self

from pxbridge.errors import StoreUnreachable
from pxbridge.periodic import cancellations
from pxbridge.wording import os_problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

ANSWER_TIMEOUT_S: Final = 2.0
"""A server in the same network answers within 1 ms. The start of a call waits for the answer."""

CLOSE_TIMEOUT_S: Final = 1.0
"""How long closing the connections may take when the process ends."""

PREFIX: Final = "pxbridge:"
"""The prefix of every key, because other programs may use the same server."""


def _why(error: Exception) -> str:
    """Why the server does not answer, without the library's text: it may have an address and a user name."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason}"
    return os_problem(cause) if isinstance(cause, OSError) else type(error).__name__


class RedisStore:
    """A client of the server: ``async with RedisStore(url) as store``.

    Connections are opened when needed and kept until the block ends.

    Args:
        url: ``redis://host:6379/0``, ``rediss://`` for TLS, ``unix://``; may hold a user and a password.

    Attributes:
        client: The client of the redis library. Use it inside `answer`.

    Raises:
        ImportError: The extra ``redis`` is not installed.
        ValueError: The URL is invalid.
    """

    def __init__(self, url: str) -> None:
        # Imported here because it is an optional dependency: a single bridge does not need it.
        from redis import asyncio as redis
        from redis.exceptions import RedisError

        self.client: Any = redis.Redis.from_url(
            url, socket_timeout=ANSWER_TIMEOUT_S, socket_connect_timeout=ANSWER_TIMEOUT_S
        )
        self._failures = (RedisError, OSError, TimeoutError)

    @contextlib.asynccontextmanager
    async def answer(self) -> AsyncIterator[None]:
        """Limits how long the block may wait for answers.

        The library waits with `asyncio.wait_for`, which on Python 3.11 returns the result and drops a
        cancellation if both come in the same turn of the loop (python/cpython#86296). A task that was
        cancelled there would go on as if nothing had happened, so its cancellation is raised here.

        Raises:
            StoreUnreachable: The server did not answer, or answered with an error.
        """
        cancelled_before = cancellations()
        failure = ""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                yield
        except self._failures as error:
            failure = _why(error)
        if cancellations() > cancelled_before:
            raise asyncio.CancelledError
        if failure:
            raise StoreUnreachable(f"the lease store does not answer ({failure})")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections, within `CLOSE_TIMEOUT_S`."""
        with contextlib.suppress(*self._failures):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.client.aclose()
