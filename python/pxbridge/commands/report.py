"""The report on a simulated call: the table at the end of `pxbridge call`.

All figures come from a finished `Phone`, from the comparison of what was said and heard (`listen`), and from
what the bridge reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from pxbridge.commands.call_telemetry import CallTelemetry
from pxbridge.simulation.mouth_to_ear import Hearing, listen
from pxbridge.simulation.phone import Ended

if TYPE_CHECKING:
    from pxbridge.simulation.phone import Phone
    from pxbridge.simulation.player import Hole

SETTLING_S = 1.0
"""Holes in the first second of audio are not counted: the queue is still settling."""
SLOW_PPM = 1500
"""A larger deviation of the speed is reported. The measurement is accurate to about 0.1 %."""


@dataclass(frozen=True)
class Report:
    """A finished call.

    Attributes:
        phone: The phone's side of the call.
        hearing: What the caller heard of what was said.
        telemetry: What the bridge reported; empty if it is not pxbridge.
    """

    phone: Phone
    hearing: Hearing
    telemetry: CallTelemetry

    @property
    def holes(self) -> list[Hole]:
        """Holes that a caller notices: after the first second of audio, and not caused by `clear`."""
        player = self.phone.player
        since_s = (player.first_audio_s or 0.0) + SETTLING_S
        return [hole for hole in player.holes if hole.at_s >= since_s and not hole.after_clear]

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the report: (title, text)."""
        rows = [("call", self._call()), ("you said", self._said()), ("you heard", self._heard())]
        rows += [("your words", self._words())]
        if self.hearing.came_back and not self.hearing.repeated:
            rows += [("of the delay", self._parts())]
        if self.phone.player.first_audio_s is not None:
            rows += [("holes", self._holes()), ("queued at the carrier", self._queued())]
        return [*rows, *self.telemetry.rows(), ("Exotel's rules", self._faults())]

    def _call(self) -> str:
        phone = self.phone
        rate_khz, chunk_ms = phone.line.rate_hz / 1000, phone.line.chunk_ms
        line = f"{phone.duration_s:.1f} s, {rate_khz:g} kHz in {chunk_ms:g} ms chunks"
        ended = phone.ended.value if phone.ended else "still live"
        if phone.ended is Ended.BY_BRIDGE:
            ended += f" ({phone.close_code}{', ' if phone.close_reason else ''}{phone.close_reason})"
        return f"{line}; {ended}"

    def _said(self) -> str:
        caller = self.phone.caller
        if caller.spoke_at_s is None:
            return "nothing: the call ended before"
        return f"{self.hearing.said_voice_s:.1f} s of speech, from {caller.spoke_at_s:.1f} s on"

    def _heard(self) -> str:
        player = self.phone.player
        if player.first_audio_s is None:
            return "nothing"
        text = f"first audio after {player.first_audio_s:.2f} s"
        if self.hearing.first_voice_s is None:
            return f"{text}, but no voice"
        voice_s, from_s = self.hearing.heard_voice_s, self.hearing.first_voice_s
        return f"{voice_s:.1f} s of speech, from {from_s:.2f} s on; {text}"

    def _words(self) -> str:
        hearing = self.hearing
        if hearing.windows == 0:
            return "too little was said to be found again"
        if not hearing.came_back:
            return "did not come back"
        middle, slow, slowest = (hearing.delay_s(quantile) or 0.0 for quantile in (0.5, 0.95, 0.99))
        if hearing.repeated:
            text = f"came back after {middle:.2f} s"
        else:
            text = f"mouth to ear {middle * 1e3:.0f} ms (p95 {slow * 1e3:.0f}, p99 {slowest * 1e3:.0f})"
        text += f"; correlation {hearing.correlation:.2f}, level {hearing.gain_db:+.1f} dB"
        if hearing.speed is not None and abs(hearing.speed - 1) * 1e6 > SLOW_PPM:
            text += f", at {hearing.speed:.3f} times the speed and pitch"
        if len(hearing.delays) < hearing.windows:
            text += f"; {hearing.windows - len(hearing.delays)} of {hearing.windows} pieces did not come back"
        if hearing.dropouts:
            text += f"; {sum(gap.duration_s for gap in hearing.dropouts):.2f} s of words missing"
        return text

    def _parts(self) -> str:
        """The parts of the delay that the bridge reports, or those that can be measured from outside."""
        if known := self.telemetry.parts():
            rest = "networks and codecs"
        else:
            waits_s = [depth.wait_s for depth in self.phone.player.depth_trace if depth.wait_s is not None]
            known = [
                ("filling a chunk", self.phone.line.chunk_ms / 1e3),
                ("waiting at the carrier", float(np.median(waits_s))),
            ]
            rest = "bridge, engine and networks"
        rest_s = (self.hearing.delay_s() or 0.0) - sum(part for _, part in known)
        return ", ".join(f"{place} {1e3 * part:.0f}" for place, part in [*known, (rest, rest_s)]) + " ms"

    def _holes(self) -> str:
        holes = self.holes
        if not holes:
            return "none after the first second"
        longest = max(holes, key=lambda hole: hole.duration_s)
        total_s = sum(hole.duration_s for hole in holes)
        return (
            f"{len(holes)} after the first second, {total_s * 1e3:.0f} ms in all; "
            f"the longest {longest.duration_s * 1e3:.0f} ms at {longest.at_s:.1f} s"
        )

    def _queued(self) -> str:
        depths_ms = 1e3 * np.array([depth.depth_s for depth in self.phone.player.depth_trace])
        text = f"{np.median(depths_ms):.0f} ms (median as audio arrives), at most {depths_ms.max():.0f} ms"
        if self.phone.clears_received:
            dropped_s = self.phone.player.samples_cleared / self.phone.line.rate_hz
            text += f"; cleared {self.phone.clears_received} ×, {dropped_s:.1f} s dropped"
        return text

    def _faults(self) -> str:
        faults = self.phone.faults
        if not faults:
            return f"kept in {self.phone.media_received} messages"
        return "broken: " + ", ".join(f"{count} {fault.value}" for fault, count in faults.most_common())


def make_report(phone: Phone, telemetry: CallTelemetry | None = None) -> Report:
    """Measures a finished call; `telemetry` is what the bridge reported."""
    hearing = listen(phone.said, phone.player.heard, phone.line.rate_hz)
    return Report(phone, hearing, telemetry or CallTelemetry(phone.line.rate_hz))


def table(report: Report) -> Table:
    """The report as a table."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, text in report.rows():
        grid.add_row(title, text)
    return grid
