"""Slots that are promised to calls about to arrive: a call flow has got a URL and has not dialled it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PROMISED_S: Final = 10.0
"""How long a promised slot is kept. Exotel connects at once after it gets the URL. It gives up a handshake
after this long."""


class Promises:
    """The promises that are neither kept nor over.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s: dict[str, float] = {}  # by call; the one that ends first comes first

    def __len__(self) -> int:
        return self.besides(None)

    def besides(self, call: str | None) -> int:
        """Number of promises to other calls than this one."""
        now_s = self._clock()
        while self._until_s and next(iter(self._until_s.values())) <= now_s:
            del self._until_s[next(iter(self._until_s))]
        return len(self._until_s) - (call in self._until_s)

    def make(self, call: str) -> None:
        """Promises a slot to a call. A call that asks again still has one, for as long as from now on."""
        self._until_s.pop(call, None)
        self._until_s[call] = self._clock() + PROMISED_S

    def keep(self, call: str) -> None:
        """A call has arrived by a URL that promised it a slot. It takes its slot now, so its promise ends.

        Its carrier may call it by another id than its flow did. Then the oldest promise ends.
        """
        if not len(self):
            return
        if call not in self._until_s:
            call = next(iter(self._until_s))
        del self._until_s[call]
