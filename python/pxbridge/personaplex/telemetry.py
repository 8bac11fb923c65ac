"""The engine's metrics for Prometheus.

Names, units and labels follow Prometheus' conventions, as the bridge's do (`pxbridge.ops.metrics`). No label
says anything about a caller. The engine's thread updates counters directly: they are thread-safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

import pxbridge
from pxbridge.personaplex.stepper import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

TICK_BUCKETS_S: Final = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.12, 0.2, 0.5, 1.0)
"""At 80 ms the engine falls behind; below 20 ms more callers would fit."""
WAIT_BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.25, 0.5, 1.0)
"""For the times from a frame's last sample to its tick and to its answer: each 80 ms more is noticed."""

WHY_ENDED: Final = ("left", "drained", "fault", "refused")
WHY_REFUSED: Final = ("bad_request", "token", "origin", "full", "not_ready")


class Telemetry:
    """Counts events, and reads all other values when it is scraped.

    Attributes:
        counters: The stepper's counters, as of its last work.
        slots: Returns the number of slots in each state.
        line: Returns how many clients wait for a slot.
        backlog: Returns how many frames wait for a tick.
        dropped: Returns how many frames were dropped, by reason.
        memory: Returns bytes by purpose; empty if they are not known.
    """

    def __init__(self) -> None:
        # The times at which counters were made are not needed, and double the size of a scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.counters = Counters()
        self.slots: Callable[[], Mapping[str, int]] = dict
        self.line: Callable[[], int] = int
        self.backlog: Callable[[], int] = int
        self.dropped: Callable[[], Mapping[str, int]] = dict
        self.memory: Callable[[], Mapping[str, int]] = dict
        self._tick = Histogram(
            "pxbridge_engine_tick_seconds",
            "How long a tick took, for all slots that had a frame.",
            buckets=TICK_BUCKETS_S,
            registry=registry,
        )
        self._wait = Histogram(
            "pxbridge_engine_wait_seconds",
            "From a caller's complete frame to the tick that takes it.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._answer = Histogram(
            "pxbridge_engine_answer_seconds",
            "From a caller's complete frame to the end of the tick that answers it.",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._frames = Counter(
            "pxbridge_engine_frames", "Frames of 80 ms that were answered.", registry=registry
        )
        self._prefill = Counter(
            "pxbridge_engine_prefill_seconds", "Time that reading prompts took.", registry=registry
        )
        self._sessions = Counter(
            "pxbridge_engine_sessions", "Sessions that have ended, by reason.", ["why"], registry=registry
        )
        self._refused = Counter(
            "pxbridge_engine_refused",
            "Clients refused before the upgrade, by reason.",
            ["why"],
            registry=registry,
        )
        for why in WHY_ENDED:
            self._sessions.labels(why)
        for why in WHY_REFUSED:
            self._refused.labels(why)
        registry.register(_Now(self))

    def ticked(self, began_s: float, ended_s: float, came_s: Sequence[float]) -> None:
        """A tick was run, over frames that came at these times."""
        self._tick.observe(ended_s - began_s)
        self._frames.inc(len(came_s))
        for at_s in came_s:
            self._wait.observe(max(0.0, began_s - at_s))
            self._answer.observe(max(0.0, ended_s - at_s))

    def read(self, took_s: float) -> None:
        """A part of a prompt was read."""
        self._prefill.inc(took_s)

    def ended(self, why: str) -> None:
        """A session has ended; one of `WHY_ENDED`."""
        self._sessions.labels(why).inc()

    def refused(self, why: str) -> None:
        """A client was refused; one of `WHY_REFUSED`."""
        self._refused.labels(why).inc()

    def scrape(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Now:
    """Metrics that are read when they are scraped."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        told = self._telemetry
        info = GaugeMetricFamily("pxbridge_engine_info", "Which pxbridge this is.", labels=["version"])
        info.add_metric([pxbridge.__version__], 1)
        yield info
        yield _by("state", "slots", "Slots, by state.", told.slots())
        yield GaugeMetricFamily("pxbridge_engine_line", "Clients that wait for a slot.", value=told.line())
        yield GaugeMetricFamily(
            "pxbridge_engine_backlog_frames", "Frames of 80 ms that wait for a tick.", value=told.backlog()
        )
        dropped = CounterMetricFamily(
            "pxbridge_engine_dropped_frames", "Frames dropped because a session was late.", labels=["why"]
        )
        for why, count in told.dropped().items():
            dropped.add_metric([why], count)
        yield dropped
        yield _by("what", "memory_bytes", "Memory of the device, by purpose.", told.memory())
        counters = told.counters
        prompts = CounterMetricFamily(
            "pxbridge_engine_prompts", "Prompts, by how much of them was cached.", labels=["prefix"]
        )
        for prefix, count in (
            ("hit", counters.prefix_hits),
            ("partial", counters.prefix_partial_hits),
            ("miss", counters.prefix_misses),
        ):
            prompts.add_metric([prefix], count)
        yield prompts
        positions = CounterMetricFamily(
            "pxbridge_engine_prompt_positions", "Positions of prompts: computed, or copied.", labels=["how"]
        )
        positions.add_metric(["computed"], counters.prefilled_positions)
        positions.add_metric(["copied"], counters.copied_positions)
        yield positions
        yield GaugeMetricFamily(
            "pxbridge_engine_prefixes", "Prompts that are kept for the next call.", value=counters.prefixes
        )
        yield GaugeMetricFamily(
            "pxbridge_engine_prefix_bytes", "Memory of the kept prompts.", value=counters.prefix_bytes
        )


def _by(label: str, name: str, about: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"pxbridge_engine_{name}", about, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family
