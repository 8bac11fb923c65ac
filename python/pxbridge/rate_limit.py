"""Rate limits per client address."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ADDRESSES: Final = 10_000
"""Most addresses that are counted. Beyond that, the address seen longest ago is forgotten."""

_IPV6_PREFIX: Final = 64  # one customer has a whole /64, so a limit per address would not limit it


class RateLimiter:
    """A token bucket for each address. Buckets start full, and are dropped once they are full again.

    Args:
        per_s: Tokens added to each bucket per second.
        most: A bucket's capacity in tokens, raised to 1 if it is lower.
        clock: Returns seconds, monotonic.
    """

    def __init__(self, per_s: float, most: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._most = max(1.0, most)
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # (level, time); seen longest ago first

    def take(self, key: str) -> bool:
        """Takes a token of the address. Returns whether there was one."""
        now_s = self._clock()
        level = self._level(key, now_s)
        self._levels.pop(key, None)
        granted = level >= 1.0
        self._levels[key] = (level - 1.0 if granted else level, now_s)
        while len(self._levels) > 1:
            oldest = next(iter(self._levels))
            is_full = self._level(oldest, now_s) >= self._most
            if not is_full and len(self._levels) <= MAX_ADDRESSES:
                break
            del self._levels[oldest]
        return granted

    def _level(self, key: str, now_s: float) -> float:
        level, at_s = self._levels.get(key, (self._most, now_s))
        return min(self._most, level + (now_s - at_s) * self._per_s)


def parsed_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parses an address and drops its zone. Returns an IPv4-mapped IPv6 address as IPv4; None if invalid."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def counted_as(address: str) -> str:
    """Returns the key that an address is counted under: the address itself, or the /64 of an IPv6 address."""
    parsed = parsed_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return address
