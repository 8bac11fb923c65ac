"""Which engine takes the next call.

NVIDIA's server takes one conversation and keeps a second one waiting without a word, so whoever shares
engines must own the leases: a call holds one from before it connects until its session has closed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pxbridge.errors import EngineError, NoEngineFree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pxbridge.personaplex.client import EngineAddress


@dataclass(slots=True)
class _Engine:
    address: EngineAddress
    capacity: int
    leased: int = 0
    failures: int = 0
    """Sessions in a row that did not come up: engines that work are tried first."""
    turn: int = field(default=0)
    """When it was last leased, so that equals take turns."""


class EnginePool:
    """Leases on engines, for one process.

    Args:
        addresses: The engines.
        capacity: Conversations each takes at once (NVIDIA's server: 1).
    """

    def __init__(self, addresses: Sequence[EngineAddress], capacity: int = 1) -> None:
        self._engines = [_Engine(address, capacity) for address in addresses]
        self._capacity = capacity
        self._turn = 0

    def replace_engines(self, addresses: Sequence[EngineAddress]) -> None:
        """Leases these engines from now on; leases on others go on until they are given back.

        An engine is its URL: one that is trusted in another way now is still as taken as it was.
        """
        known = {engine.address.url: engine for engine in self._engines}
        engines = [
            known.pop(address.url) if address.url in known else _Engine(address, self._capacity)
            for address in addresses
        ]
        for engine, address in zip(engines, addresses, strict=True):
            engine.address, engine.capacity = address, self._capacity
        leaving = [engine for engine in known.values() if engine.leased]
        for engine in leaving:
            engine.capacity = 0
        self._engines = engines + leaving

    @property
    def free(self) -> int:
        """Slots that could be leased now."""
        return sum(max(0, engine.capacity - engine.leased) for engine in self._engines)

    def snapshot(self) -> dict[str, dict[str, int]]:
        """For each engine, by name: how many of its slots are in which state."""
        return {
            str(engine.address): {"idle": engine.capacity - engine.leased, "leased": engine.leased}
            for engine in self._engines
        }

    @contextmanager
    def lease(self, avoid: frozenset[EngineAddress] = frozenset()) -> Iterator[EngineAddress]:
        """One slot of the engine that failed least and waited longest; given back on leaving.

        An `EngineError` that leaves the block counts against the engine.

        Args:
            avoid: Engines already tried for this call.

        Raises:
            NoEngineFree: Every slot is leased.
        """
        open_slots = [e for e in self._engines if e.leased < e.capacity and e.address not in avoid]
        if not open_slots:
            raise NoEngineFree(f"all {sum(e.capacity for e in self._engines)} engine slots are taken")
        engine = min(open_slots, key=lambda e: (e.failures, e.leased, e.turn))
        self._turn += 1
        engine.turn = self._turn
        engine.leased += 1
        try:
            yield engine.address
        except EngineError:
            engine.failures += 1
            raise
        else:
            engine.failures = 0
        finally:
            engine.leased -= 1
