"""What a soak prints of a run."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table

from pxbridge.commands.terminal import say
from pxbridge.wording import counted, lasted
from soak_troubles import HOLD_S, Troubles
from soak_verdict import STARVED_MS, Soak, listed

if TYPE_CHECKING:
    from rich.console import Console


def report(result: Soak, console: Console) -> None:
    callers, length = counted(result.calls, "caller"), lasted(60 * result.minutes)
    say(console, f"\n{callers} for {length}, {counted(len(result.kills), 'engine')} killed")
    ended = Counter(outcome.ended for outcome in result.outcomes)
    say(console, f"how calls ended: {listed(ended)}; by the bridge's count: {listed(result.counted)}")
    firsts = [outcome.first_s for outcome in result.outcomes if outcome.first_s is not None]
    never = counted(len(result.outcomes) - len(firsts), "call")
    say(console, f"agent first heard after: {_spread(firsts)}; never: {never}")
    table = Table(
        "the next engine was", "kills", "conversations", "gaps", "median s", "p95 s", "longest s",
        box=box.SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    for room in ("prompted ahead", "to be prompted", "none for all"):
        kills = [kill for kill in result.kills if kill.room == room]
        lost_s = [lost for kill in kills for lost in kill.lost_s]
        figures = [f"{q:.2f}" for q in np.quantile(lost_s, (0.5, 0.95, 1.0))] if lost_s else ["–"] * 3
        live = sum(kill.live for kill in kills)
        table.add_row(room, str(len(kills)), str(live), str(len(lost_s)), *figures)
    other_s = [gap.duration_s for gap in result.gaps_without_a_kill]
    figures = [f"{q:.2f}" for q in np.quantile(other_s, (0.5, 0.95, 1.0))] if other_s else ["–"] * 3
    table.add_row("(no engine died)", "–", "–", str(len(other_s)), *figures)
    console.print(table)
    if result.troubles is not None:
        _report_troubles(result, result.troubles, console)
    course = Table(
        "minute", "in a call", "memory MB", "descriptors", "threads", box=box.SIMPLE_HEAD, padding=0
    )
    every = max(1, math.ceil(len(result.samples) / 10))
    shown = [result.idle, *result.samples[every - 1 :: every], result.after]
    for sample in shown:
        if sample is not None:
            course.add_row(f"{sample.at_s / 60:.1f}", str(sample.live), f"{sample.memory_bytes / 1e6:.1f}",
                           str(sample.descriptors), str(sample.threads))  # fmt: skip
    console.print(course)
    if (grew := result.memory()) is not None:
        say(
            console,
            f"memory in minute 3: {grew[0] / 1e6:.1f} MB, in the last two: {grew[1] / 1e6:.1f} MB "
            f"({grew[1] / grew[0] - 1:+.1%})",
        )
    slots = listed(result.slots_after)
    say(console, f"CPU: {result.cpu_of_a_core:.2f} of a core; slots afterwards: {slots}")
    late = ", ".join(f"{share:.2%} over {1000 * bound_s:g} ms" for bound_s, share in result.lag.items())
    slowest = lasted(result.slowest_answer_s)
    say(console, f"the bridge's event loop was late: {late}; slowest answer: {slowest}")
    for promise in result.broken_promises():
        say(console, promise, "BROKEN: ")


def _report_troubles(result: Soak, troubles: Troubles, console: Console) -> None:
    table = Table(
        "the other callers", "call\nminutes", "gaps", "agent\nmissed", "median s", "p95 s", "longest s",
        "first sound\np95 s", box=box.SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    for name, troubled in (("before the troubles", False), ("beside them", True)):
        heard = result.neighbours(troubled=troubled)
        gaps = (
            [f"{q:.2f}" for q in np.quantile(heard.gaps_s, (0.5, 0.95, 1.0))] if heard.gaps_s else ["–"] * 3
        )
        first = f"{np.quantile(heard.firsts_s, 0.95):.2f}" if heard.firsts_s else "–"
        table.add_row(
            name, f"{heard.talked_s / 60:.1f}", str(len(heard.gaps_s)), f"{heard.share:.3%}", *gaps, first
        )
    console.print(table)
    say(
        console,
        f"floods: {troubles.floods}, closed as such by the bridge: {result.floods_closed}; "
        f"times the store came back with an older memory: {len(troubles.restarts)}",
    )
    if (holder := result.holder) is not None:
        say(
            console,
            f"the phone that holds for {HOLD_S:g} s: "
            f"{holder.heard_s:.1f} s of its {holder.said_s:.1f} s came back",
        )
    busy = ": too busy to judge what callers heard" if result.too_busy else ""
    if result.late_ms > STARVED_MS:
        busy = ": too busy to judge anything"
    say(console, f"of a hundred wake-ups here one was {result.late_ms:.1f} ms late{busy}")


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return "median {:.2f} s, p95 {:.2f} s, longest {:.2f} s".format(*np.quantile(values, (0.5, 0.95, 1.0)))
