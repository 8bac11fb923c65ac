"""What keeps a bridge from being ready, beside its doors: the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

UNHEALTHY = "unhealthy"
"""The state of a slot whose engine is known not to work."""


WARM = "warm"
"""The state of a slot that a call can have without asking anybody."""


def no_engine(snapshot: Mapping[str, Mapping[str, int]], store_gone_s: float | None = None) -> list[str]:
    """The same as `engines_not_ready`, as strangers may read it: without the engines' addresses."""
    if not engines_not_ready(snapshot, store_gone_s):
        return []
    if store_gone_s is not None:
        return ["the lease store does not answer"]
    return [f"none of the {len(snapshot)} engines works"]


def engines_not_ready(
    snapshot: Mapping[str, Mapping[str, int]], store_gone_s: float | None = None
) -> list[str]:
    """Why no engine could take a call, however long it waited; nothing while one may.

    That all are taken is no reason: a call may wait for one.

    Args:
        snapshot: For each engine, by name: how many of its slots are in which state.
        store_gone_s: For how long the store of leases has not answered; None: it does.
    """
    if store_gone_s is not None and not any(states.get(WARM) for states in snapshot.values()):
        return [f"the lease store has not answered for {store_gone_s:.0f} s"]
    works = any(
        count for states in snapshot.values() for state, count in states.items() if state != UNHEALTHY
    )
    if works:
        return []
    return [f"no engine works: {', '.join(sorted(snapshot))}" if snapshot else "there is no engine"]
