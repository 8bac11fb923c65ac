"""The picture of a call: what was loud when, how late the words came back, what was queued, and what the
bridge put in and took out.

matplotlib draws it; it is an extra (`pip install "pxbridge[plot]"`), imported only when a picture is
wanted. Colours are Okabe and Ito's, which stay apart for colour-blind eyes; and each also differs by place
or shape.
"""

from __future__ import annotations

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

CALLER, AGENT, HOLE, STALL, INK = "#0072B2", "#E69F00", "#D55E00", "#BBBBBB", "#333333"
BRIDGE = "#009E73"
STEP_S = 0.05
FLOOR_DBFS = -60.0
WIDTH_IN, DPI = 11.0, 130
LEAST_CHANGE_MS = 100.0
"""Smaller changes than this are to look small."""
MARGIN = 0.15
"""Of a panel's height, free above and below a curve."""
TEETH_SHOWN_S = 40.0
"""In longer calls single arrivals would blacken the queue's panel: it shows its least and most instead."""


def draw_call(report: Report, file: Path) -> None:
    """Draws a finished call to `file`; its suffix says how (.png, .svg, .pdf).

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written as such a picture.
    """
    figure_class = require_matplotlib()
    panels = [(_loudness, 3), (_delay, 3), (_queue, 2)]
    if report.inside.counters:
        panels.append((_changes, 2))
    heights = [height for _, height in panels]
    figure = figure_class(figsize=(WIDTH_IN, 0.8 * sum(heights)), dpi=DPI, layout="constrained")
    every_axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights)
    for (draw, _), axes in zip(panels, every_axes, strict=True):
        draw(axes, report)
        _shade(axes, report.phone.network)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.align_ylabels()
    for stall in report.phone.network.stalls:
        every_axes[1].annotate(
            "stall", (stall.at_s, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
            va="top", fontsize=8, color=INK,
        )  # fmt: skip
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
        InputError: It is not installed; says how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("a picture needs matplotlib: pip install 'pxbridge[plot]'") from error
    return Figure


def require_drawable(file: Path) -> None:
    """Returns if a picture can be drawn to a file of this name.

    Raises:
        InputError: matplotlib is not installed, or cannot draw what the suffix says.
    """
    kinds = require_matplotlib()().canvas.get_supported_filetypes()
    if file.suffix.removeprefix(".").lower() not in kinds:
        raise InputError(f"{file}: a picture's name ends in .png, .svg or .pdf")


def _title(report: Report) -> str:
    phone = report.phone
    parts = [f"{phone.line.rate_hz / 1000:g} kHz, {phone.line.chunk_ms:g} ms chunks"]
    if phone.network.text:
        parts.append(phone.network.text)
    return "   ·   ".join(parts)


def _loudness(axes: Axes, report: Report) -> None:
    """Both sides mirrored about a line: the caller above, the agent below; silence is a line."""
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
    """How late each second of words was heard, at the time it was heard."""
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
    """What Exotel has of our audio and has not played: up as audio arrives, down as it is played."""
    times, depths = _saw_tooth(report.phone.player.depth_trace, report.phone.duration_s)
    if report.phone.duration_s <= TEETH_SHOWN_S:
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
    if report.inside.counters:
        at, kept = report.inside.times_s, report.inside.series("downlink", "queued_us") / 1e3
        held = report.inside.series("downlink", "target_us") / 1e3
        axes.plot(at, kept, color=BRIDGE, linewidth=1.0)
        axes.plot(at, held, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        highest_ms = max(highest_ms, float(kept.max()), float(held.max()))
        _label(axes, 0.86, "- - held back\nfor lateness", INK)
        _label(axes, 0.5, "at Exotel", AGENT)
        _label(axes, 0.22, "in the\nbridge", BRIDGE)
    else:
        _label(axes, 0.5, "at Exotel,\nnot yet\nheard", AGENT)
    axes.set_ylim(0, max(100.0, 1.15 * highest_ms))
    axes.set_ylabel("queued, ms", color=INK)


def _changes(axes: Axes, report: Report) -> None:
    """What was put in and not taken out again: a stall's hill, and the way down from it."""
    inside = report.inside
    sides: tuple[tuple[Direction, str, float, str], ...] = (
        ("uplink", CALLER, 0.75, "towards\nthe agent"),
        ("downlink", AGENT, 0.25, "towards\nthe caller"),
    )
    least_ms, most_ms = -MARGIN * LEAST_CHANGE_MS, LEAST_CHANGE_MS
    for direction, colour, height, title in sides:
        samples = inside.series(direction, *PUT_IN[direction]) - inside.series(
            direction, *TAKEN_OUT[direction]
        )
        net_ms = 1e3 * samples / inside.rate_hz
        axes.plot(inside.times_s, net_ms, color=colour, linewidth=1.3)
        axes.fill_between(inside.times_s, 0, net_ms, color=colour, alpha=0.3, linewidth=0)
        least_ms, most_ms = min(least_ms, float(net_ms.min())), max(most_ms, float(net_ms.max()))
        _label(axes, height, title, colour)
    axes.axhline(0, color=INK, linewidth=0.6)
    margin_ms = MARGIN * (most_ms - least_ms)
    axes.set_ylim(least_ms - margin_ms, most_ms + margin_ms)
    axes.set_ylabel("put in, less\ntaken out, ms", color=INK)


def _saw_tooth(trace: Sequence[Depth], until_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The depth between arrivals: it falls by a second a second, down to nothing."""
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


def _shade(axes: Axes, network: Network) -> None:
    for stall in network.stalls:
        axes.axvspan(
            stall.at_s, stall.at_s + stall.duration_s, color=STALL, alpha=0.45, linewidth=0, zorder=0
        )


def _label(axes: Axes, height: float, text: str, colour: str) -> None:
    axes.text(
        1.01, height, text, transform=axes.transAxes, va="center", fontsize=9, color=colour, weight="bold"
    )
