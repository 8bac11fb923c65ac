"""Whether the engines let a bridge be ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

UNHEALTHY = "unhealthy"
"""The state of a slot whose engine does not work."""

WARM = "warm"
"""The state of a slot that a call can use without asking the lease store."""


def no_engine(snapshot: Mapping[str, Mapping[str, int]], store_gone_s: float | None = None) -> list[str]:
    """As `engines_not_ready`, for the public port: without the addresses of the engines."""
    if not engines_not_ready(snapshot, store_gone_s):
        return []
    if store_gone_s is not None:
        return ["the lease store does not answer"]
    if len(snapshot) == 1:
        return ["the only engine does not work"]
    return [f"none of the {len(snapshot)} engines works"]


def engines_not_ready(
    snapshot: Mapping[str, Mapping[str, int]], store_gone_s: float | None = None
) -> list[str]:
    """Reasons why no call could get an engine, even if it waited; none if one could.

    Busy engines are no reason, because a call may wait for one.

    Args:
        snapshot: For each engine, by name: how many of its slots are in which state.
        store_gone_s: For how long the lease store has not answered; None if it answers.
    """
    if store_gone_s is not None and not any(states.get(WARM) for states in snapshot.values()):
        return [f"the lease store has not answered for {store_gone_s:.0f} s"]
    works = any(
        count for states in snapshot.values() for state, count in states.items() if state != UNHEALTHY
    )
    if works:
        return []
    return [f"no engine works: {', '.join(sorted(snapshot))}" if snapshot else "there is no engine"]
