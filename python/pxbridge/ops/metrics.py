"""Metrics for Prometheus: counters and histograms of calls, and the present state of the engines.

Names, units and labels follow the conventions of Prometheus: base units, ``_total`` for counters, and only
labels with few values that are known in advance. Call ids, phone numbers and text from peers are never
labels. The name of an engine is one, because the settings list the engines.

Counters of sound grow during a call (`Kind.COUNTERS`), not only at its end: a bad call of an hour must show
within its first minute.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

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
from pxbridge.calls import delay
from pxbridge.calls.call_state import Outcome
from pxbridge.calls.events import Kind
from pxbridge.calls.start_times import START_TIMES, start_times_s
from pxbridge.calls.summary import outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.calls.start_times import StartTime

SETUP_BUCKETS_S = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0)
"""300 ms with a warm session, some seconds of prompting without, up to the timeout of the handshake."""

DELAY_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0)
"""ITU-T G.114, for one way: up to 0.15 s is good, and 0.4 s is the limit."""

STEP_BUCKETS_S = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.16, 0.24, 0.5, 1.0)
"""The model has 80 ms for a step. If it needs more, it falls behind."""

LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Lag above 20 ms, the length of a packet, begins to affect calls."""

DURATION_BUCKETS_S = (5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)

DRIFT_BUCKETS_PPM = (-1000, -200, -100, -50, -20, -5, 5, 20, 50, 100, 200, 1000)
"""Quartz clocks stay within 100 ppm. If all calls drift by the same, our own clock is wrong."""

_HOW = {"inserted": "noise", "dropped": "no_engine"}

DIRECTIONS = {"uplink": "to_engine", "downlink": "to_phone"}


class Engines(Protocol):
    """What metrics need of the engine pool."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a free engine."""
        ...

    def snapshot(self) -> Mapping[str, Mapping[str, int]]:
        """For each engine, by name: how many of its slots are in which state."""
        ...

    def failures(self) -> Mapping[str, Mapping[str, int]]:
        """For each engine, by name: how often it failed in each phase."""
        ...

    @property
    def store_gone_s(self) -> float | None:
        """For how long the lease store has not answered; None while it answers."""
        ...

    @property
    def store_failures(self) -> int | None:
        """How often the lease store did not answer; None without a shared store."""
        ...


class _Calls:
    """Metrics of whole calls: how many, and how long their phases took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "pxbridge_calls", "Calls that have ended, by outcome.", ["outcome"], registry=registry
        )
        self.start_times = {
            each.figure: Histogram(each.metric, each.about, buckets=SETUP_BUCKETS_S, registry=registry)
            for each in START_TIMES
        }
        self.failover = Histogram(
            "pxbridge_call_failover_seconds",
            "From the loss of an engine that the caller heard to the next one's first audio at the caller's "
            "ear.",
            buckets=SETUP_BUCKETS_S,
            registry=registry,
        )
        self.duration = Histogram(
            "pxbridge_call_duration_seconds",
            "How long calls lasted, from the accepted connection to the end.",
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        for each in Outcome:
            if each is not Outcome.LIVE:
                self.calls.labels(each.value)


class _Sound:
    """Metrics of the sound of calls: its delay, gaps, and what was inserted and removed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.mouth_to_ear = Histogram(
            "pxbridge_call_mouth_to_ear_seconds",
            "From the caller's mouth to the answer at the caller's ear, without the networks. One sample for "
            "each second of a call in which the engine answers.",
            buckets=DELAY_BUCKETS_S,
            registry=registry,
        )
        self.delay = Histogram(
            "pxbridge_call_delay_seconds",
            "The parts of call_mouth_to_ear_seconds, from the same seconds.",
            ["part"],
            buckets=DELAY_BUCKETS_S,
            registry=registry,
        )
        self.step = Histogram(
            "pxbridge_engine_step_seconds",
            "From the last sample of a frame sent to an engine to its answer, the network to the engine "
            "included, from the same seconds.",
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self.holes = Counter(
            "pxbridge_holes",
            "How often the engine's audio was missing when it should have been played.",
            registry=registry,
        )
        self.stalls = Counter("pxbridge_stalls", "How often a phone's audio was missing.", registry=registry)
        self.inserted = Counter(
            "pxbridge_inserted_seconds",
            "Audio that one side did not send and the other received.",
            ["direction", "how"],
            registry=registry,
        )
        self.removed = Counter(
            "pxbridge_removed_seconds",
            "Audio that one side sent and the other did not receive.",
            ["direction", "how"],
            registry=registry,
        )
        self.drift = Histogram(
            "pxbridge_phone_clock_drift_ppm",
            "How much faster the phone's clock ran than ours, for each call of a minute or more.",
            buckets=DRIFT_BUCKETS_PPM,
            registry=registry,
        )
        self.messages = Counter("pxbridge_media_messages", "Media messages from phones.", registry=registry)
        self.malformed = Counter(
            "pxbridge_malformed_messages", "Damaged messages from phones.", registry=registry
        )
        # Labels are looked up once, because these are used every second of each call.
        self.parts = [(part.name, self.delay.labels(part.name)) for part in delay.PARTS]
        self.line_counters = self._line_counters()

    def _line_counters(self) -> dict[delay.Direction, list[tuple[Counter, str, bool]]]:
        """Metrics that add up lines' counters: the metric, the counter, and whether it counts samples."""
        found: dict[delay.Direction, list[tuple[Counter, str, bool]]] = {
            "uplink": [
                (self.stalls, "stalls", False),
                (self.messages, "messages", False),
                (self.malformed, "malformed", False),
            ],
            "downlink": [(self.holes, "holes", False)],
        }
        for metric, table in (
            (self.inserted, delay.PUT_IN),
            (self.removed, delay.TAKEN_OUT),
            (self.removed, delay.UNHEARD),
        ):
            for direction, names in table.items():
                found[direction] += [
                    (metric.labels(DIRECTIONS[direction], _how(name)), name, True) for name in names
                ]
        return found


class Metrics:
    """The metrics of a process. It is a subscriber to the events of all calls.

    Args:
        engines: The pool, read at each scrape.
        waiting: How many calls wait for an engine, read at each scrape.
    """

    def __init__(self, engines: Engines | None = None, waiting: Callable[[], int] = lambda: 0) -> None:
        # The creation times of counters are not needed, and would double the size of a scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._engines = engines
        self._waiting = waiting
        self._totals: list[tuple[str, str, Callable[[], float]]] = []
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._totals_by: list[tuple[str, str, str, Callable[[], Mapping[str, float]]]] = []
        self._live = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._counted: dict[int, dict[str, dict[str, float]]] = {}
        """The counters of each live call when they were last added, by the identity of its record."""
        self._not_happened: dict[int, list[StartTime]] = {}
        """The times of the start that are not known yet, by the identity of the call's record."""
        self._heard: set[int] = set()
        """Calls that have heard an agent."""
        self._without_engine: set[int] = set()
        """Calls that lost the engine that they heard, and have not heard the next one yet."""
        registry = self.registry
        ProcessCollector(registry=registry)
        self._calls = _Calls(registry)
        self._sound = _Sound(registry)
        self._lag = Histogram(
            "pxbridge_event_loop_lag_seconds",
            "How late the event loop runs due callbacks.",
            buckets=LAG_BUCKETS_S,
            registry=registry,
        )
        registry.register(_CurrentState(self))

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Counts an event."""
        match event.kind:
            case Kind.STARTED:
                self._live += 1
                self._counted[id(record)] = {}
                self._not_happened[id(record)] = list(START_TIMES)
            case Kind.COUNTERS:
                self._count(record)
                self._sample(record)
                self._note_start(record)
            case Kind.ENGINE_LOST if id(record) in self._heard:
                self._without_engine.add(id(record))
            case Kind.HEARD:
                self._heard.add(id(record))
                if id(record) in self._without_engine:
                    self._without_engine.discard(id(record))
                    self._calls.failover.observe(event.detail["after_s"])
            case Kind.ENDED:
                self._end(record)

    def count(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Adds a counter ``NAME_total`` whose value is read at each scrape."""
        self._totals.append((name, help_text, value))

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Adds a gauge whose value is read at each scrape."""
        self._gauges.append((name, help_text, value))

    def count_by(
        self, label: str, name: str, help_text: str, values: Callable[[], Mapping[str, float]]
    ) -> None:
        """Adds a counter with one label; `values` maps each value of the label, few and fixed, to a count."""
        self._totals_by.append((label, name, help_text, values))

    def scrape(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Counts the tasks of this loop from now on."""
        self._loop = loop

    def lag(self, lag_s: float) -> None:
        """Counts one measurement of the event loop's lag."""
        self._lag.observe(lag_s)

    def _sample(self, record: CallRecord) -> None:
        newest_s = record.delay.newest_s
        if not newest_s:
            return
        self._sound.step.observe(newest_s["engine"])
        self._sound.mouth_to_ear.observe(newest_s["mouth_to_ear"])
        for name, histogram in self._sound.parts:
            histogram.observe(newest_s[name])

    def _note_start(self, record: CallRecord) -> None:
        """Observes the times of the call's start that have become known."""
        pending = self._not_happened.get(id(record))
        if not pending:
            return
        times_s = start_times_s(record)
        for each in pending:
            if (time_s := times_s[each.figure]) is not None:
                self._calls.start_times[each.figure].observe(time_s)
        self._not_happened[id(record)] = [each for each in pending if times_s[each.figure] is None]

    def _count(self, record: CallRecord) -> None:
        """Adds the growth of the call's counters since the last time."""
        before, now = self._counted.get(id(record)), record.stats
        if before is None:
            return
        for direction, counters in self._sound.line_counters.items():
            earlier, later = before.get(direction) or {}, now.get(direction) or {}
            for counter, name, is_sound in counters:
                value, value_before = later.get(name), earlier.get(name)
                if value and value != value_before:  # few of them have changed
                    grown = value - (value_before or 0.0)
                    if grown > 0.0:
                        counter.inc(grown / record.rate_hz if is_sound else grown)
        self._counted[id(record)] = now

    def _end(self, record: CallRecord) -> None:
        self._calls.calls.labels(outcome(record).value).inc()
        self._calls.duration.observe(record.ended_s - record.opened_s)
        if id(record) not in self._counted:
            return  # the call never started
        self._count(record)
        del self._counted[id(record)]
        self._note_start(record)
        del self._not_happened[id(record)]
        self._heard.discard(id(record))
        self._without_engine.discard(id(record))
        self._live -= 1
        self._sound.malformed.inc(record.malformed)
        drift_ppm = record.stats.get("uplink", {}).get("drift_ppm")
        if drift_ppm is not None:
            self._sound.drift.observe(drift_ppm)


def _how(counter: str) -> str:
    """The value of the label ``how`` for a counter of the line."""
    return _HOW.get(counter, counter.removeprefix("removed_in_"))


class _CurrentState:
    """Gauges, and counters kept elsewhere, which are read at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        info = GaugeMetricFamily("pxbridge_info", "The version of pxbridge.", labels=["version"])
        info.add_metric([pxbridge.__version__], 1)
        yield info
        yield GaugeMetricFamily("pxbridge_live_calls", "Live calls.", value=metrics._live)
        if metrics._loop is not None:
            yield GaugeMetricFamily(
                "pxbridge_event_loop_tasks",
                "Tasks of the event loop. After a call there are as many as before it.",
                value=len(asyncio.all_tasks(metrics._loop)),
            )
        yield GaugeMetricFamily(
            "pxbridge_waiting_calls", "Calls that wait for a free engine.", value=metrics._waiting()
        )
        if metrics._engines is not None:
            slots = GaugeMetricFamily(
                "pxbridge_engine_slots", "Slots of the engines, by state.", labels=["engine", "state"]
            )
            for engine, states in metrics._engines.snapshot().items():
                for state, count in states.items():
                    slots.add_metric([engine, state], count)
            yield slots
            failures = CounterMetricFamily(
                "pxbridge_engine_failures",
                "Sessions that failed or were lost, by when; busy: the engine said so.",
                labels=["engine", "phase"],
            )
            for engine, phases in metrics._engines.failures().items():
                for phase, count in phases.items():
                    failures.add_metric([engine, phase], count)
            yield failures
            if metrics._engines.store_failures is not None:
                yield GaugeMetricFamily(
                    "pxbridge_lease_store_up",
                    "Whether the lease store answers: 1 or 0.",
                    value=metrics._engines.store_gone_s is None,
                )
                yield CounterMetricFamily(
                    "pxbridge_lease_store_failures",
                    "How often the lease store did not answer.",
                    value=metrics._engines.store_failures,
                )
        for name, help_text, value in metrics._gauges:
            yield GaugeMetricFamily(name, help_text, value=value())
        for name, help_text, value in metrics._totals:
            yield CounterMetricFamily(name, help_text, value=value())
        for label, name, help_text, values in metrics._totals_by:
            family = CounterMetricFamily(name, help_text, labels=[label])
            for each, number in values().items():
                family.add_metric([each], number)
            yield family
