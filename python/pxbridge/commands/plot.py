"""The plot of a call: loudness, delay, the queue, and what the bridge inserted and removed.

matplotlib draws it. It is an extra (`pip install "pxbridge[plot]"`) and is imported only for a plot. The
colours are those of Okabe and Ito, which colour-blind readers can tell apart; curves also differ by place or
shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pxbridge.calls.delay import PUT_IN, TAKEN_OUT
from pxbridge.errors import InputError
from pxbridge.simulation.mouth_to_ear import loudness_dbfs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from pxbridge.calls.delay import Direction
    from pxbridge.commands.report import Report
    from pxbridge.simulation.network import Network
    from pxbridge.simulation.player import Depth

CALLER, AGENT, HOLE, INK = "#0072B2", "#E69F00", "#D55E00", "#333333"
BRIDGE = "#009E73"
STALL, JITTER, LOSS = "#DDDDDD", "#F1F1F1", "#E8DDE4"
"""Light enough for curves and grey grid lines to be seen on them."""
LABEL_POINTS = 11
"""The height of a line of small text."""
STEP_S = 0.05
FLOOR_DBFS = -60.0
WIDTH_IN, DPI = 11.0, 130
MIN_RANGE_MS = 100.0
"""The smallest range of the changes panel, so that small changes look small."""
MARGIN = 0.15
"""Free space above and below a curve, as a share of the panel's height."""
SINGLE_ARRIVALS_S = 40.0
"""In longer calls the queue panel shows the range of the depth, because single arrivals would fill it."""


def draw_call(report: Report, file: Path) -> None:
    """Draws a finished call to `file`. Its suffix chooses the format (.png, .svg, .pdf).

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written in that format.
    """
    figure_class = require_matplotlib()
    panels = [(_loudness, 3), (_delay, 3), (_queue, 2)]
    if report.telemetry.counters:
        panels.append((_changes, 2))
    heights = [height for _, height in panels]
    troubles = _troubles(report.phone.network, report.phone.duration_s)
    figure = figure_class(figsize=(WIDTH_IN, 0.8 * sum(heights)), dpi=DPI, layout="constrained")
    every_axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights)
    for (draw, _), axes in zip(panels, every_axes, strict=True):
        draw(axes, report)
        _shade(axes, troubles)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.align_ylabels()
    _name_troubles(every_axes[1], troubles)
    every_axes[-1].set_xlabel("seconds since the call began", color=INK)
    every_axes[-1].set_xlim(0, max(1.0, report.phone.duration_s))
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11, color=INK)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be drawn: {error}") from error


def require_matplotlib() -> type[Figure]:
    """Matplotlib's Figure, which needs no display.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("a plot needs matplotlib: pip install 'pxbridge[plot]'") from error
    return Figure


def require_drawable(file: Path) -> None:
    """Returns if a plot can be drawn to a file of this name.

    Raises:
        InputError: matplotlib is not installed, or does not know the suffix.
    """
    kinds = require_matplotlib()().canvas.get_supported_filetypes()
    if file.suffix.removeprefix(".").lower() not in kinds:
        raise InputError(f"{file}: the name of a plot ends in .png, .svg or .pdf")


def _title(report: Report) -> str:
    phone = report.phone
    parts = [f"{phone.line.rate_hz / 1000:g} kHz, {phone.line.chunk_ms:g} ms chunks"]
    if phone.network.text:
        parts.append(phone.network.text)
    return "   ·   ".join(parts)


def _loudness(axes: Axes, report: Report) -> None:
    """The loudness of both sides: the caller above the axis, the agent below."""
    phone = report.phone
    for pcm, sign, colour in ((phone.said, 1, CALLER), (phone.player.heard, -1, AGENT)):
        height = np.maximum(0.0, loudness_dbfs(pcm, phone.line.rate_hz, STEP_S) - FLOOR_DBFS)
        at = (np.arange(len(height)) + 0.5) * STEP_S
        axes.fill_between(at, 0, sign * height, color=colour, linewidth=0, step="mid")
    _label(axes, 0.75, "caller", CALLER)
    _label(axes, 0.25, "agent,\nas heard", AGENT)
    for hole in report.holes:
        axes.axvspan(
            hole.at_s, max(hole.end_s, hole.at_s + 0.03), ymax=0.5, color=HOLE, alpha=0.6, linewidth=0
        )
    if report.holes:
        _label(axes, 0.12, "hole" if len(report.holes) == 1 else f"{len(report.holes)} holes", HOLE)
    axes.axhline(0, color=INK, linewidth=0.6)
    ticks = np.array([-60, -40, -20, 20, 40, 60])
    axes.set_yticks(ticks, [f"{abs(tick) + FLOOR_DBFS:.0f}" for tick in ticks])
    axes.set_ylim(-62, 62)
    axes.set_ylabel("loudness, dBFS", color=INK)


def _delay(axes: Axes, report: Report) -> None:
    """The delay of each second of speech, at the time when it was heard."""
    hearing = report.hearing
    heard_at = [delay.at_s + delay.delay_s for delay in hearing.delays]
    if hearing.repeated:
        delays = [delay.delay_s for delay in hearing.delays]
        axes.set_ylabel("words repeated after, s", color=INK)
    else:
        delays = [delay.delay_s * 1e3 for delay in hearing.delays]
        axes.set_ylabel("mouth to ear, ms", color=INK)
    axes.plot(heard_at, delays, "o", color=CALLER, markersize=4.5, markeredgewidth=0)
    axes.set_ylim(0, 1.25 * max(delays, default=1.0))
    if delays:
        middle = float(np.median(delays))
        unit = "s" if hearing.repeated else "ms"
        axes.axhline(middle, color=CALLER, linewidth=0.8, linestyle=(0, (4, 3)))
        text = f"median {middle:.2f} {unit}" if hearing.repeated else f"median {middle:.0f} {unit}"
        axes.annotate(
            text, (1, middle), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", fontsize=9, color=CALLER,
        )  # fmt: skip
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "the words did not come back", transform=axes.transAxes, ha="center", color=INK)


def _queue(axes: Axes, report: Report) -> None:
    """The audio at the carrier that is not played yet: up as audio arrives, down as it plays."""
    times, depths = _saw_tooth(report.phone.player.depth_trace, report.phone.duration_s)
    if report.phone.duration_s <= SINGLE_ARRIVALS_S:
        axes.fill_between(times, 0, 1e3 * depths, color=AGENT, alpha=0.35, linewidth=0)
        axes.plot(times, 1e3 * depths, color=AGENT, linewidth=0.8)
    else:
        edges = np.linspace(0.0, report.phone.duration_s, 400)
        every_edge = np.interp(edges, times, depths)
        times, depths = np.concatenate([times, edges]), np.concatenate([depths, every_edge])
        of_bin = np.digitize(times, edges)
        bins = [depths[of_bin == n] for n in range(1, len(edges))]
        lows, highs = [1e3 * found.min() for found in bins], [1e3 * found.max() for found in bins]
        axes.fill_between(edges[:-1], lows, highs, color=AGENT, linewidth=0)
    highest_ms = 1e3 * float(depths.max(initial=0.0))
    if report.telemetry.counters:
        at, buffered = report.telemetry.times_s, report.telemetry.series("downlink", "queued_us") / 1e3
        target = report.telemetry.series("downlink", "target_us") / 1e3
        axes.plot(at, buffered, color=BRIDGE, linewidth=1.0)
        axes.plot(at, target, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        highest_ms = max(highest_ms, float(buffered.max()), float(target.max()))
        _label(axes, 0.86, "- - target\ndelay", INK)
        _label(axes, 0.5, "at the\ncarrier", AGENT)
        _label(axes, 0.22, "in the\nbridge", BRIDGE)
    else:
        _label(axes, 0.5, "at the\ncarrier, not\nyet heard", AGENT)
    axes.set_ylim(0, max(100.0, 1.15 * highest_ms))
    axes.set_ylabel("queued, ms", color=INK)


def _changes(axes: Axes, report: Report) -> None:
    """Inserted minus removed audio. A stall makes it rise, and catching up makes it fall again."""
    telemetry = report.telemetry
    sides: tuple[tuple[Direction, str, float, str], ...] = (
        ("uplink", CALLER, 0.75, "towards\nthe agent"),
        ("downlink", AGENT, 0.25, "towards\nthe caller"),
    )
    low_ms, high_ms = -MARGIN * MIN_RANGE_MS, MIN_RANGE_MS
    for direction, colour, height, title in sides:
        samples = telemetry.series(direction, *PUT_IN[direction]) - telemetry.series(
            direction, *TAKEN_OUT[direction]
        )
        net_ms = 1e3 * samples / telemetry.rate_hz
        axes.plot(telemetry.times_s, net_ms, color=colour, linewidth=1.3)
        axes.fill_between(telemetry.times_s, 0, net_ms, color=colour, alpha=0.3, linewidth=0)
        low_ms, high_ms = min(low_ms, float(net_ms.min())), max(high_ms, float(net_ms.max()))
        _label(axes, height, title, colour)
    axes.axhline(0, color=INK, linewidth=0.6)
    margin_ms = MARGIN * (high_ms - low_ms)
    axes.set_ylim(low_ms - margin_ms, high_ms + margin_ms)
    axes.set_ylabel("inserted minus\nremoved, ms", color=INK)


def _saw_tooth(trace: Sequence[Depth], until_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The depth over time. Between arrivals it falls by one second per second, down to zero."""
    times, depths = [0.0], [0.0]
    steps: list[tuple[float, float | None]] = [(at.at_s, at.depth_s) for at in trace]
    steps.append((until_s, None))
    for at_s, depth_s in steps:
        since_s = at_s - times[-1]
        left_s = max(0.0, depths[-1] - since_s)
        if left_s == 0.0 and depths[-1] > 0.0:
            times.append(times[-1] + depths[-1])
            depths.append(0.0)
        times.append(at_s)
        depths.append(left_s)
        if depth_s is not None:
            times.append(at_s)
            depths.append(depth_s)
    return np.array(times), np.array(depths)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A time in which the network was bad."""

    name: str
    colour: str
    at_s: float
    end_s: float


def _troubles(network: Network, until_s: float) -> list[_Trouble]:
    """The times of a call in which the network was bad, in the order in which they are drawn.

    Jitter may last for the whole call, so it comes first: a stall in it is drawn over it.
    """
    every = [_Trouble("jitter", JITTER, jitter.from_s, jitter.to_s) for jitter in network.jitters]
    every += [_Trouble("lost", LOSS, loss.at_s, loss.at_s + loss.duration_s) for loss in network.losses]
    every += [_Trouble("stall", STALL, stall.at_s, stall.at_s + stall.duration_s) for stall in network.stalls]
    return [replace(one, end_s=min(one.end_s, until_s)) for one in every if one.at_s < until_s]


def _shade(axes: Axes, troubles: Sequence[_Trouble]) -> None:
    for one in troubles:
        axes.axvspan(one.at_s, one.end_s, color=one.colour, linewidth=0, zorder=0)


def _name_troubles(axes: Axes, troubles: Sequence[_Trouble]) -> None:
    """Writes the name of each trouble where it begins, below the names that it would cover."""
    for index, one in enumerate(troubles):
        line = sum(other.at_s <= one.at_s < other.end_s for other in troubles[:index])
        axes.annotate(
            one.name, (one.at_s, 1), (3, -3 - line * LABEL_POINTS), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8, color=INK,
        )  # fmt: skip


def _label(axes: Axes, height: float, text: str, colour: str) -> None:
    axes.text(
        1.01, height, text, transform=axes.transAxes, va="center", fontsize=9, color=colour, weight="bold"
    )
