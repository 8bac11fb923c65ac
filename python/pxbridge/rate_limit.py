"""How often somebody may do something, by where they come from."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ADDRESSES: Final = 10_000
"""Addresses that are counted. When more come at once, the one heard of longest ago is forgotten."""

_IPV6_PREFIX: Final = 64  # what one customer has: counting single addresses would count nothing


class RateLimiter:
    """A token bucket for each address, full at first; those that are full again are forgotten.

    Args:
        per_s: Tokens that come into each in a second.
        most: What it holds; at least one.
        clock: Seconds, monotonic.
    """

    def __init__(self, per_s: float, most: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._most = max(1.0, most)
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # level and when; the longest unheard first

    def has(self, key: str) -> bool:
        """Whether there is a token to take."""
        return self._level(key, self._clock()) >= 1.0

    def take(self, key: str) -> bool:
        """Takes a token, if there is one."""
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
    """An address without its zone; an IPv4 one that stands in an IPv6 one is that."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def counted_as(address: str) -> str:
    """Who is counted together: an address, or an IPv6 customer's network."""
    parsed = parsed_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return address
