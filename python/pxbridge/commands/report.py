"""The report on a simulated call, at the end of `pxbridge call`: a verdict, the figures, details on demand.

All figures come from a finished `Phone`, from the comparison of what was said and heard (`listen`), and from
what the bridge reported. Each figure has one definition, and the report names it:

- first voice: from the call's start to the first packet at the phone that is louder than noise.
- delay: from a word said to the same word heard. If the agent echoes, it is measured in the sound. Otherwise
  it is the sum of the waits that the bridge measures, without the networks.
- answer: from the caller's last word to the agent's next one.
- gap: a silence, or what the bridge plays in place of missing audio, in the middle of the agent's speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from rich.text import Text

from pxbridge.commands.call_telemetry import CallTelemetry
from pxbridge.commands.terminal import say_fields, wrapped
from pxbridge.simulation.mouth_to_ear import FRAME_S, VOICE_DBFS, Hearing, listen, loudness_dbfs
from pxbridge.simulation.phone import BROKEN_OFF, Ended, Leaving, shown, without_secrets
from pxbridge.wording import counted, lasted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from pxbridge.simulation.phone import Phone
    from pxbridge.simulation.player import Hole

EXIT_BROKEN: Final = 5
EXIT_SILENT: Final = 6
EXIT_BAD: Final = 7

SETTLING_S = 1.0
"""Holes in the first second of audio are not counted: the queue is still settling."""
SLOW_PPM = 1500
"""A larger deviation of the speed is reported. The measurement is accurate to about 0.1 %."""
GAP_S = 0.06
"""From this length on, callers notice a gap: concealment has faded to silence (ITU-T G.711, appendix I)."""
ONE_GAP_S = 0.2
"""Gaps that are closer than this are heard as one."""
BAD_GAPS_S = 0.2
"""If gaps last this long together, they make a call a bad one: a syllable can be lost."""
SPEECH_BEFORE_S = 0.5
"""A gap interrupts speech if there was a voice this shortly before it."""
LATE_S = 0.8
"""A longer delay spoils a conversation: twice what ITU-T G.114 allows for one way (400 ms)."""
MISSING_S = 0.5
"""If this much of the caller's speech is missing or comes late, the call is a bad one: some words."""
MOST_SHOWN = 3
NORMAL_CLOSE = 1000


class Problem(NamedTuple):
    """Something that makes a call a bad one: for people, and the exit status that tells of it."""

    text: str
    status: int = EXIT_BAD


class Gap(NamedTuple):
    """A gap in the agent's speech, in seconds."""

    at_s: float
    duration_s: float


class Delay(NamedTuple):
    """The delay from mouth to ear, in seconds.

    Attributes:
        median_s: The median.
        p95_s: The 95th percentile.
        measured: Where: in the ``sound``, or by the ``bridge``.
    """

    median_s: float
    p95_s: float
    measured: Literal["sound", "bridge"]


@dataclass(frozen=True)
class Report:
    """A finished call.

    Attributes:
        phone: The phone's side of the call.
        hearing: What the caller heard of what was said.
        telemetry: What the bridge reported; empty if it is not pxbridge.
        url: The URL that was dialled.
    """

    phone: Phone
    hearing: Hearing
    telemetry: CallTelemetry
    url: str = ""

    # -- figures ----------------------------------------------------------------------------------------

    @property
    def first_voice_s(self) -> float | None:
        """When the caller first heard a voice; None if never."""
        return self.phone.player.voice_from_s

    @property
    def echoes(self) -> bool:
        """Whether the agent says what the caller says. A single window may be found by chance."""
        return 4 * len(self.hearing.delays) > self.hearing.windows

    @property
    def delay(self) -> Delay | None:
        """The delay from mouth to ear; None if it is not known."""
        if self.echoes and not self.hearing.repeated:
            median_s, p95_s = (self.hearing.delay_s(quantile) or 0.0 for quantile in (0.5, 0.95))
            return Delay(median_s, p95_s, "sound")
        if told := self.telemetry.delay():
            return Delay(*told, "bridge")
        return None

    @cached_property
    def answer_s(self) -> float | None:
        """From the caller's last word to the agent's next one; None if the agent spoke at that moment."""
        if self.phone.caller.spoke_until_s is None:
            return None
        said, heard = (self._voice(pcm) for pcm in (self.phone.said, self.phone.player.heard))
        if not said.any():
            return None
        last = int(np.flatnonzero(said)[-1]) + 1
        after = np.flatnonzero(heard[last:])
        before = heard[max(0, last - round(SPEECH_BEFORE_S / FRAME_S)) : last]
        return None if before.any() or not len(after) else float(after[0]) * FRAME_S

    @property
    def holes(self) -> list[Hole]:
        """Times without any audio at the phone: after the first second, and not caused by `clear`."""
        player = self.phone.player
        since_s = (player.first_audio_s or 0.0) + SETTLING_S
        return [hole for hole in player.holes if hole.at_s >= since_s and not hole.after_clear]

    @cached_property
    def gaps(self) -> list[Gap]:
        """Gaps in the agent's speech that a caller notices, in order; without those of lost engines."""
        found = [Gap(hole.at_s, hole.duration_s) for hole in self.holes]
        found += [Gap(*fill) for fill in self.telemetry.fills()]
        heard = self._voice(self.phone.player.heard)
        gaps: list[Gap] = []
        for gap in sorted(found):
            if gaps and gap.at_s - sum(gaps[-1]) < ONE_GAP_S:
                gaps[-1] = Gap(gaps[-1].at_s, gaps[-1].duration_s + gap.duration_s)
            elif self._interrupts(gap, heard):
                gaps.append(gap)
        return [gap for gap in gaps if gap.duration_s >= GAP_S]

    def _interrupts(self, gap: Gap, heard: np.ndarray[Any, Any]) -> bool:
        for loss in self.telemetry.losses:
            if loss.at_s - ONE_GAP_S <= gap.at_s and (loss.until_s is None or gap.at_s <= loss.until_s):
                return False
        since, until = (max(0, round(at_s / FRAME_S)) for at_s in (gap.at_s - SPEECH_BEFORE_S, gap.at_s))
        return bool(heard[since:until].any())

    def _voice(self, pcm: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Which frames hold a voice."""
        return loudness_dbfs(pcm, self.phone.line.rate_hz) > VOICE_DBFS

    # -- the verdict ------------------------------------------------------------------------------------

    @cached_property
    def problems(self) -> Sequence[Problem]:
        """What makes the call a bad one, the worst first. Empty for a good call.

        Of a call that broke off, or without an agent, only that is told: the rest follows from it.
        """
        return self._broken() or self._unheard() or [*self._unanswered(), *self._bad_sound()]

    @property
    def verdict(self) -> str:
        """The call in one line."""
        if self.problems:
            return "a bad call: " + "; ".join(problem.text for problem in self.problems)
        if self.delay is not None:
            figure = f"{lasted(self.delay.median_s)} from mouth to ear"
        else:
            figure = f"a voice after {self.first_voice_s or 0.0:.2f} s"
        return f"a good call: {figure}, {self._all_gaps() or 'no gaps'}"

    @property
    def status(self) -> int:
        """The exit status: 0 for a good call, otherwise that of the worst problem."""
        return self.problems[0].status if self.problems else 0

    def _broken(self) -> list[Problem]:
        phone, losses = self.phone, self.telemetry.losses
        found = []
        if losses and losses[-1].until_s is None:
            again = "" if len(losses) == 1 else f", the last of {len(losses)} times"
            found.append(f"the engine was lost at {losses[-1].at_s:.1f} s{again}, and no other one spoke")
        if phone.ended is Ended.BY_NETWORK:
            found.append(f"the line was cut at {phone.duration_s:.1f} s")
        elif phone.ended is Ended.BY_BRIDGE and phone.close_code == BROKEN_OFF:
            found.append(f"the connection to the bridge broke off at {phone.duration_s:.1f} s")
        elif phone.ended is Ended.BY_BRIDGE and phone.close_code != NORMAL_CLOSE:
            how = f"{phone.close_code}" if losses else self._close()
            found.append(f"the bridge ended the call with an error ({how})")
        return [Problem(text, EXIT_BROKEN) for text in found]

    def _unheard(self) -> list[Problem]:
        if self.telemetry.reports and not self.telemetry.was_live:
            because = self.telemetry.waited_because
            text = f"no agent was reached: {because}" if because else "no agent was reached"
            return [Problem(text, EXIT_SILENT)]
        if self.first_voice_s is None:
            return [Problem("no voice was heard", EXIT_SILENT)]
        return []

    def _unanswered(self) -> list[Problem]:
        caller = self.phone.caller
        found = []
        if losses := self.telemetry.losses:
            longest = lasted(max((loss.until_s or 0.0) - loss.at_s for loss in losses))
            if len(losses) == 1:
                found.append(
                    f"the engine was lost at {losses[0].at_s:.1f} s, and another one spoke {longest} later"
                )
            else:
                found.append(f"engines were lost {len(losses)} times, for {longest} at most")
        if caller.left is Leaving.UNANSWERED:
            found.append("the agent did not answer")
        if caller.left is Leaving.TIRED and caller.interrupted:
            found.append("the agent never paused")
        return [Problem(text) for text in found]

    def _bad_sound(self) -> list[Problem]:
        found, hearing = [], self.hearing
        if sum(gap.duration_s for gap in self.gaps) >= BAD_GAPS_S:
            found.append(self._all_gaps())
        if self.delay is not None and self.delay.median_s > LATE_S:
            found.append(f"{lasted(self.delay.median_s)} from mouth to ear")
        # What is missing is often not found again either: it must not count twice.
        missing_s = max(sum(gap.duration_s for gap in hearing.dropouts), hearing.unfound_s)
        if self.echoes and missing_s >= MISSING_S:
            found.append(f"{lasted(missing_s)} of your words came back damaged, or not at all")
        stall_s = self.telemetry.last("uplink", "longest_stall_us") * 1e-6
        if stall_s >= MISSING_S:
            found.append(f"the phone's audio stalled for {lasted(stall_s)} on its way to the bridge")
        withheld_s = self.telemetry.last("uplink", "withheld") / self.phone.line.rate_hz
        if withheld_s >= MISSING_S:
            found.append(f"the engine did not get {lasted(withheld_s)} of what you said")
        if self.telemetry.last("uplink", "slow"):
            found.append("the engine was too slow")
        if self.echoes and hearing.speed is not None and abs(hearing.speed - 1) * 1e6 > SLOW_PPM:
            found.append(f"voices at {hearing.speed:.3f} times their speed and pitch")
        if self.phone.faults:
            found.append(f"the bridge broke Exotel's rules: {self._faults()}")
        return [Problem(text) for text in found]

    def _all_gaps(self) -> str:
        if not self.gaps:
            return ""
        longest = max(self.gaps, key=lambda gap: gap.duration_s)
        where = f"{lasted(longest.duration_s)} at {longest.at_s:.1f} s"
        return f"a gap of {where}" if len(self.gaps) == 1 else f"{len(self.gaps)} gaps, the longest {where}"

    def _close(self) -> str:
        reason = without_secrets(self.phone.close_reason, self.url)
        return f"{self.phone.close_code}: {reason}" if reason else f"{self.phone.close_code}"

    # -- rows -------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[str, str]]:
        """The figures, as (title, text)."""
        rows = [("first voice", self._first_voice()), ("delay", self._delay()), ("answer", self._answer())]
        rows += [("your words", self._words()), ("gaps", self._gaps()), ("engines lost", self._losses())]
        return [(title, text) for title, text in rows if text]

    def details(self) -> list[tuple[str, str]]:
        """What explains the figures, as (title, text)."""
        rows = [("call", self._call()), ("first sound", self._first_sound())]
        if self.hearing.came_back:
            rows += [("what came back", self._came_back())]
        if self.delay is not None:
            rows += [("of the delay", self._parts(self.delay))]
        if self.phone.player.first_audio_s is not None:
            rows += [("holes", self._holes()), ("queued at the carrier", self._queued())]
        return [*rows, *self.telemetry.rows(), ("Exotel's rules", self._rules())]

    def _first_voice(self) -> str:
        if self.first_voice_s is None:
            return (
                "never: nothing was heard" if self.phone.player.first_audio_s is None else "never: only noise"
            )
        return f"{self.first_voice_s:.2f} s after the call was answered"

    def _delay(self) -> str:
        delay = self.delay
        if delay is None:
            return ""
        text = f"{lasted(delay.median_s)} from mouth to ear (p95 {lasted(delay.p95_s)})"
        return f"{text}, {_MEASURED[delay.measured]}"

    def _answer(self) -> str:
        if self.answer_s is None or (self.echoes and not self.hearing.repeated):
            return ""
        return f"{lasted(self.answer_s)} after your last word"

    def _words(self) -> str:
        caller, hearing = self.phone.caller, self.hearing
        if caller.spoke_at_s is None:
            return "nothing: the call ended before"
        text = f"{hearing.said_voice_s:.1f} s of speech, from {caller.spoke_at_s:.1f} s on"
        if hearing.windows == 0:
            return f"{text}; too little to be found again"
        if not self.echoes:
            return f"{text}; the agent did not repeat them"
        if hearing.repeated:
            text += f"; repeated {hearing.delay_s() or 0.0:.1f} s later"
        else:
            text += "; echoed"
        if hearing.dropouts:
            text += f", {lasted(sum(gap.duration_s for gap in hearing.dropouts))} missing"
        if hearing.unfound_s >= MISSING_S:
            text += f", {lasted(hearing.unfound_s)} not found again"
        return text

    def _gaps(self) -> str:
        if self.first_voice_s is None:
            return ""
        if not self.gaps:
            return f"none of {lasted(GAP_S)} or more"
        return _first_of([f"{lasted(gap.duration_s)} at {gap.at_s:.1f} s" for gap in self.gaps])

    def _losses(self) -> str:
        times = [
            f"at {loss.at_s:.1f} s"
            + (
                " (no other one spoke)"
                if loss.until_s is None
                else f" for {lasted(loss.until_s - loss.at_s)}"
            )
            for loss in self.telemetry.losses
        ]
        return _first_of(times)

    def _call(self) -> str:
        phone = self.phone
        line = f"{phone.duration_s:.1f} s"
        line += f", {phone.line.rate_hz / 1000:g} kHz in {phone.line.chunk_ms:g} ms chunks"
        ended = phone.ended.value if phone.ended else "still live"
        if phone.ended is Ended.BY_BRIDGE:
            ended += f" ({self._close()})"
        return f"{line}; {ended}; CallSid {phone.line.call_sid}"

    def _first_sound(self) -> str:
        player, of_engine_s = self.phone.player, self.telemetry.first_sound_s
        if player.first_audio_s is None:
            return "none"
        text = f"{player.first_audio_s:.2f} s after the call was answered: noise, silence or a voice"
        return text if of_engine_s is None else f"{text}; the engine's own {of_engine_s:.2f} s"

    def _came_back(self) -> str:
        hearing = self.hearing
        text = f"{len(hearing.delays)} of {counted(hearing.windows, 'window')} of speech"
        text += (
            f"; correlation {hearing.correlation:.2f}, level {round(hearing.gain_db or 0.0, 1) + 0.0:+.1f} dB"
        )
        if not hearing.repeated:
            text += f"; the slowest hundredth {lasted(hearing.delay_s(0.99) or 0.0)} late"
        return text

    def _parts(self, delay: Delay) -> str:
        """The parts of the delay that the bridge reports, or those that can be measured from outside."""
        known = list(self.telemetry.parts())
        if self.echoes and not self.hearing.repeated:
            rest = "networks and codecs"
            if not known:
                depths = self.phone.player.depth_trace
                waits_s = [depth.wait_s for depth in depths if depth.wait_s is not None]
                known = [
                    ("filling a chunk", self.phone.line.chunk_ms / 1e3),
                    ("waiting at the carrier", float(np.median(waits_s))),
                ]
                rest = "bridge, engine and networks"
            known.append((rest, delay.median_s - sum(part for _, part in known)))
        return ", ".join(f"{place} {1e3 * part:.0f} ms" for place, part in known)

    def _holes(self) -> str:
        holes = self.holes
        if not holes:
            return "none at the phone after the first second"
        longest = max(holes, key=lambda hole: hole.duration_s)
        total_s = sum(hole.duration_s for hole in holes)
        return (
            f"{len(holes)} at the phone after the first second, {lasted(total_s)} in all; "
            f"the longest {lasted(longest.duration_s)} at {longest.at_s:.1f} s"
        )

    def _queued(self) -> str:
        depths_s = np.array([depth.depth_s for depth in self.phone.player.depth_trace])
        median, most = lasted(float(np.median(depths_s))), lasted(float(depths_s.max()))
        text = f"{median} (median as audio arrives), at most {most}"
        if self.phone.clears_received:
            dropped_s = self.phone.player.samples_cleared / self.phone.line.rate_hz
            text += f"; cleared {counted(self.phone.clears_received, 'time')}, {lasted(dropped_s)} dropped"
        return text

    def _rules(self) -> str:
        if not self.phone.faults:
            return f"kept in {counted(self.phone.media_received, 'message')}"
        return f"broken: {self._faults()}"

    def _faults(self) -> str:
        faults = self.phone.faults.most_common()
        return ", ".join(f"{fault.value} ({counted(count, 'time')})" for fault, count in faults)

    # -- for programs -----------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """The verdict and the figures, for programs. Times are in seconds."""
        delay, phone = self.delay, self.phone
        return {
            "good": not self.problems,
            "verdict": self.verdict,
            "problems": [problem.text for problem in self.problems],
            "status": self.status,
            "url": shown(self.url),
            "call": phone.line.call_sid,
            "duration_s": _rounded(phone.duration_s),
            "ended": phone.ended.value if phone.ended else None,
            "close_code": phone.close_code,
            "first_voice_s": _rounded(self.first_voice_s),
            "delay_s": None if delay is None else _rounded(delay.median_s),
            "delay_p95_s": None if delay is None else _rounded(delay.p95_s),
            "delay_measured": None if delay is None else delay.measured,
            "answer_s": _rounded(self.answer_s),
            "gaps": [{name: _rounded(value) for name, value in gap._asdict().items()} for gap in self.gaps],
            "engines_lost": [
                {"at_s": _rounded(loss.at_s), "until_s": _rounded(loss.until_s), "reason": loss.reason}
                for loss in self.telemetry.losses
            ],
            "rules_broken": {fault.value: count for fault, count in phone.faults.items()},
            "agent_said": "".join(text for _, text in self.telemetry.words).strip(),
        }


_MEASURED: Final = {
    "sound": "measured in the sound",
    "bridge": "as the bridge measures it, without the networks",
}


def _first_of(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - MOST_SHOWN} more"] if len(texts) > MOST_SHOWN else []
    return ", ".join([*texts[:MOST_SHOWN], *more])


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def make_report(phone: Phone, telemetry: CallTelemetry | None = None, url: str = "") -> Report:
    """Measures a finished call; `telemetry` is what the bridge reported."""
    hearing = listen(phone.said, phone.player.heard, phone.line.rate_hz)
    return Report(phone, hearing, telemetry or CallTelemetry(phone.line.rate_hz), url)


def print_report(report: Report, console: Console, *, details: bool) -> None:
    """Prints the verdict, the figures, and what explains them."""
    console.print()
    lines = wrapped(report.verdict, console.width) if console.is_terminal else [report.verdict]
    console.print(Text("\n".join(lines), "bold red" if report.problems else "bold green"), soft_wrap=True)
    console.print()
    say_fields(console, [*report.rows(), *(report.details() if details else [])])
