"""An engine's report on itself: its slots, its model, and how long its ticks take.

`pxbridge engine` reports it at `/readyz` and `/metrics`. NVIDIA's server reports nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families

from pxbridge.chat_wire import FRAME_S
from pxbridge.doctor.finding import Finding, good, note, wrong
from pxbridge.engines.http_get import get
from pxbridge.errors import EngineUntrusted
from pxbridge.wording import counted, lasted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.metrics_core import Metric

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.probe import Told

METRICS: Final = "/metrics"
TIMEOUT_S: Final = 5.0
MOST: Final = 0.99
MAX_SLOW_SHARE: Final = 0.01
"""Share of ticks that may take longer than `FRAME_S`: a single slow one is caught up with."""


@dataclass(frozen=True)
class Durations:
    """A histogram of durations.

    Attributes:
        count: How many there were.
        total_s: Their sum.
        buckets: For each bound in seconds, ascending: how many were within it.
    """

    count: float
    total_s: float
    buckets: tuple[tuple[float, float], ...]

    @property
    def mean_s(self) -> float:
        """Their mean."""
        return self.total_s / self.count

    @property
    def most_within_s(self) -> float:
        """The lowest bound that `MOST` of them are within; infinity if the highest is too low."""
        return next((bound for bound, within in self.buckets if within >= MOST * self.count), math.inf)

    def share_above(self, bound_s: float) -> float:
        """The share of those that took longer than one of the bounds."""
        return 1 - max(within for bound, within in self.buckets if bound <= bound_s) / self.count


@dataclass(frozen=True)
class Figures:
    """An engine's metrics. A histogram is None while nothing is in it.

    Attributes:
        ticks: What ticks took.
        answers: From a caller's complete frame to the end of the tick that answers it.
        dropped: Frames dropped because a conversation was late.
    """

    ticks: Durations | None
    answers: Durations | None
    dropped: float


async def figures(engine: EngineAddress) -> Figures | None:
    """Reads an engine's metrics. Returns None if it does not tell them."""
    try:
        answer = await get(engine, METRICS, TIMEOUT_S)
    except (OSError, TimeoutError, EngineUntrusted, UnicodeError):
        return None
    if answer is None or answer.status != 200:
        return None
    try:
        families = {each.name: each for each in text_string_to_metric_families(answer.body.decode())}
        dropped = families.get("pxbridge_engine_dropped_frames")
        return Figures(
            _durations(families, "pxbridge_engine_tick_seconds"),
            _durations(families, "pxbridge_engine_answer_seconds"),
            sum(sample.value for sample in dropped.samples) if dropped is not None else 0.0,
        )
    except ValueError:  # no text, or not in Prometheus' format
        return None


def _durations(families: Mapping[str, Metric], name: str) -> Durations | None:
    samples = families[name].samples if name in families else []
    values = {sample.name: sample.value for sample in samples if "le" not in sample.labels}
    count, total_s = values.get(f"{name}_count", 0.0), values.get(f"{name}_sum", 0.0)
    buckets = sorted((float(each.labels["le"]), each.value) for each in samples if "le" in each.labels)
    return Durations(count, total_s, tuple(buckets)) if count > 0 and buckets else None


def judge(engine: EngineAddress, told: Told, found: Figures | None) -> Finding:
    """The finding about an engine's report."""
    ticks = None if found is None else found.ticks
    what = f"{engine}: {', '.join(_parts(told, found))}"
    if told.closed is not None:
        fix = "wait until it is ready; its log says more"
        return wrong("engine", f"{what}; it takes no calls: {told.closed}", fix)
    if ticks is not None and ticks.mean_s > FRAME_S:
        return wrong("engine", f"{what}; it is slower than speech", _FEWER)
    if ticks is not None and (share := ticks.share_above(FRAME_S)) > MAX_SLOW_SHARE:
        return note("engine", f"{what}; {share:.0%} of its ticks took longer than 80 ms", _FEWER)
    return good("engine", what)


def _parts(told: Told, found: Figures | None) -> list[str]:
    parts = [told.model] if told.model else []
    parts.append(f"{told.free} of {counted(told.slots, 'slot')} free")
    if told.warm_up_s is not None:
        parts.append(f"warmed up in {told.warm_up_s:.1f} s")
    if found is not None and (ticks := found.ticks) is not None:
        parts.append(
            f"{counted(ticks.count, 'tick')} of {lasted(ticks.mean_s)} on average, 99 % {_within(ticks)}"
        )
    if found is not None and found.answers is not None:
        parts.append(f"frames answered: 99 % {_within(found.answers)}")
    if found is not None and found.dropped:
        parts.append(f"{counted(found.dropped, 'frame')} dropped")
    return parts


_FEWER: Final = "start it with fewer --slots, or free the GPU of other work (`nvidia-smi` lists it)"


def _within(durations: Durations) -> str:
    bound_s = durations.most_within_s
    if bound_s < math.inf:
        return f"within {lasted(bound_s)}"
    return f"not within {lasted(max(bound for bound, _ in durations.buckets if bound < math.inf))}"
