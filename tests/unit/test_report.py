"""The report and the plot of a call say what happened in it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console
from tests.simulated import VECTORS, Bridge, EchoBridge, SayingBridge, media, play, tone

from pxbridge.calls.delay import PUT_IN, TAKEN_OUT
from pxbridge.commands import terminal
from pxbridge.commands.call_telemetry import Counters
from pxbridge.commands.plot import (
    _changes,
    _name_troubles,
    _shade,
    _troubles,
    draw_call,
    require_matplotlib,
)
from pxbridge.commands.report import EXIT_BAD, EXIT_BROKEN, EXIT_SILENT, Report, make_report, print_report
from pxbridge.errors import InputError
from pxbridge.simulation.network import parse_network
from pxbridge.simulation.phone import Line, Phone, Script
from pxbridge.wav import read_wav, to_pcm

if TYPE_CHECKING:
    from pathlib import Path

SPEECH = to_pcm(read_wav(VECTORS / "speech_8k.wav").samples)


def report_of(bridge: Bridge, network: str = "", **line: Any) -> tuple[Report, dict[str, str]]:
    phone = Phone(Script(SPEECH, speak_at_s=0.0), Line(**line), parse_network(network))
    play(phone, bridge)
    report = make_report(phone)
    return report, dict(report.rows() + report.details())


def test_an_undisturbed_echo_is_reported_as_one() -> None:
    report, rows = report_of(EchoBridge(delay_s=0.126), chunk_ms=100)
    assert report.verdict == "a good call: 226 ms from mouth to ear, no gaps"
    assert report.status == 0
    assert rows["delay"] == "226 ms from mouth to ear (p95 226 ms), measured in the sound"
    assert rows["of the delay"] == (
        "filling a chunk 100 ms, waiting at the carrier 0 ms, bridge, engine and networks 126 ms"
    )
    assert rows["your words"].endswith("from 0.0 s on; echoed")
    assert rows["gaps"] == "none of 60 ms or more"
    assert rows["what came back"].endswith(
        "windows of speech; correlation 1.00, level +0.0 dB; the slowest hundredth 226 ms late"
    )
    assert rows["holes"] == "none at the phone after the first second"
    assert rows["Exotel's rules"].startswith("kept in ")
    assert "8 kHz in 100 ms chunks; the caller hung up" in rows["call"]
    assert report.hearing.speed == pytest.approx(1.0, abs=0.001)


def test_every_figure_has_one_definition_and_none_is_told_twice() -> None:
    report, rows = report_of(EchoBridge(delay_s=0.5), chunk_ms=20)
    voice_s = report.phone.player.voice_from_s
    assert voice_s is not None
    assert rows["first voice"] == f"{voice_s:.2f} s after the call was answered"
    assert report.as_json()["first_voice_s"] == round(voice_s, 3)
    told = [text for title, text in report.rows() if "after the call was answered" in text]
    assert len(told) == 1


def test_a_stall_is_reported_with_its_gap_and_no_word_is_missing() -> None:
    report, rows = report_of(EchoBridge(), "stall 1.5s at 3s", chunk_ms=20)
    assert report.verdict == "a bad call: a gap of 1.5 s at 3.0 s"
    assert report.status == EXIT_BAD
    assert rows["holes"].startswith("1 at the phone after the first second, 1")
    assert rows["delay"].startswith("20 ms from mouth to ear (p95 1.52 s)")
    assert "missing" not in rows["your words"]
    assert len(report.holes) == len(report.gaps) == 1


def test_a_short_gap_is_told_and_is_not_what_makes_a_call_a_bad_one() -> None:
    report, _ = report_of(EchoBridge(), "stall 0.13s at 3s", chunk_ms=20)
    assert re.fullmatch(r"a good call: \d+ ms from mouth to ear, a gap of 1\d\d ms at 3\.0 s", report.verdict)
    assert report.status == 0


def test_words_that_the_end_of_the_call_cuts_off_are_not_said_to_be_lost() -> None:
    phone = Phone(Script(SPEECH, speak_at_s=0.0, hang_up_at_s=5.0))
    play(phone, EchoBridge(delay_s=0.9))
    report = make_report(phone)
    assert len(report.hearing.delays) == report.hearing.windows
    assert report.hearing.unfound_s == 0
    assert report.verdict == "a bad call: 1 s from mouth to ear"
    assert "not found" not in dict(report.rows())["your words"]


def test_words_repeated_later_are_reported_as_such() -> None:
    bridge = EchoBridge(delay_s=5.9)
    _, rows = report_of(bridge)
    assert rows["your words"].endswith("repeated 6.0 s later")
    assert "delay" not in rows, "a repetition is no delay"


def test_an_answer_is_measured_from_the_last_word() -> None:
    phone = Phone(Script(tone(1.0), speak_at_s=1.0))
    play(phone, SayingBridge((2.75, media(tone(1.0)))))
    assert make_report(phone).answer_s == pytest.approx(0.75, abs=0.03)


def test_silence_is_reported_as_nothing() -> None:
    report, rows = report_of(SayingBridge())
    assert report.verdict == "a bad call: no voice was heard"
    assert report.status == EXIT_SILENT
    assert rows["first voice"] == "never: nothing was heard"
    assert rows["your words"].endswith("the agent did not repeat them")
    assert "gaps" not in rows and "holes" not in rows


def test_an_agent_that_greets_and_does_not_answer_makes_a_bad_call() -> None:
    phone = Phone(Script(tone(1.0)))
    play(phone, SayingBridge((0.5, media(tone(1.0)))))
    report = make_report(phone)
    assert report.verdict == "a bad call: the agent did not answer"
    assert report.status == EXIT_BAD


def test_a_flush_and_broken_rules_are_reported() -> None:
    bridge = SayingBridge(
        (1.0, media(tone(1.01))), (1.5, {"event": "clear"}), (4.0, media(tone(0.1))), (5.0, "?")
    )
    report, rows = report_of(bridge)
    assert "cleared 1 time, 490 ms dropped" in rows["queued at the carrier"]
    broken = "payloads that are no multiple of 320 bytes (1 time), messages that are no JSON object (1 time)"
    assert rows["Exotel's rules"] == f"broken: {broken}"
    assert f"the bridge broke Exotel's rules: {broken}" in report.verdict
    assert report.status == EXIT_BAD
    assert report.holes == []  # the silence after a clear was asked for


def test_a_cut_line_and_a_lost_bridge_are_told_and_nothing_that_follows_from_them() -> None:
    report, _ = report_of(EchoBridge(), "cut at 2s")
    assert (report.verdict, report.status) == ("a bad call: the line was cut at 2.0 s", EXIT_BROKEN)
    phone = Phone(Script(SPEECH, speak_at_s=0.0))
    phone.due(1.0)
    phone.closed(1.5, 1006)
    report = make_report(phone)
    assert report.verdict == "a bad call: the connection to the bridge broke off at 1.5 s"
    assert report.status == EXIT_BROKEN


def test_the_normal_report_has_no_long_ids_and_no_raw_floats() -> None:
    report, rows = report_of(EchoBridge(delay_s=0.1234567), "jitter 80ms; drift +100ppm", chunk_ms=33.3)
    normal = "\n".join([report.verdict, *(text for _, text in report.rows())])
    assert not re.search(r"[0-9a-f]{32}|\d\.\d{3}", normal)
    assert report.phone.line.call_sid in rows["call"], "the details name the call"


@pytest.mark.parametrize("width", [80, 120])
def test_a_pipe_gets_one_line_for_each_figure_and_a_terminal_breaks_between_words(width: int) -> None:
    report, _ = report_of(EchoBridge(), "stall 1.5s at 3s")
    pipe = io.StringIO()
    print_report(report, terminal.console(file=pipe), details=True)
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_report(report, screen, details=True)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert len(pipe.getvalue().splitlines()) == 3 + len(report.rows() + report.details())
    assert not any(line.endswith(" ") for line in pipe.getvalue().splitlines())
    assert max(map(len, shown.splitlines())) <= width
    assert shown.split() == pipe.getvalue().split(), "no word is broken"
    assert not re.search(r"\d\n *(ms|s|dB)\b", shown), "a number and its unit stay together"


@pytest.mark.parametrize("bridge", [EchoBridge(), SayingBridge(), EchoBridge(delay_s=6.0)])
def test_every_call_can_be_drawn(tmp_path: Path, bridge: Bridge) -> None:
    report, _ = report_of(bridge, "stall 1s at 2s; drift +50ppm")
    draw_call(report, tmp_path / "call.png")
    assert (tmp_path / "call.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("net_ms", [-8600.0, -40.0, 0.0, 25.0, 9800.0])
def test_the_plot_holds_all_that_was_inserted_or_removed(net_ms: float) -> None:
    report, _ = report_of(SayingBridge())
    for at_s in range(5):
        told = dict.fromkeys([*PUT_IN["downlink"], *TAKEN_OUT["downlink"]], 0.0)
        told["noise" if net_ms > 0 else "cut"] = abs(net_ms) * 8 * at_s / 4
        uplink = dict.fromkeys([*PUT_IN["uplink"], *TAKEN_OUT["uplink"]], 0.0)
        report.telemetry.counters.append(Counters(at_s, uplink, told))
    axes = require_matplotlib()().subplots()
    _changes(axes, report)
    low_ms, high_ms = axes.get_ylim()
    assert low_ms < min(net_ms, 0.0) and max(net_ms, 0.0) < high_ms
    assert high_ms - low_ms > 100, "a small change is to look small"


@pytest.mark.parametrize(
    ("text", "shaded"),
    [
        ("stall 1.5s at 3s up; jitter 40ms from 8s to 12s", [(8.0, 12.0), (3.0, 4.5)]),
        ("jitter 40ms", [(0.0, 15.0)]),
        ("lose 5s at 12s", [(12.0, 15.0)]),
        ("jitter 40ms from 20s to 30s; delay 100ms", []),
    ],
)
def test_a_plot_shades_the_times_in_which_the_network_was_bad(
    text: str, shaded: list[tuple[float, float]]
) -> None:
    axes = require_matplotlib()().subplots()
    troubles = _troubles(parse_network(text), until_s=15.0)
    _shade(axes, troubles)
    _name_troubles(axes, troubles)
    spans = [patch.get_window_extent().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert [(round(span.x0, 6), round(span.x1, 6)) for span in spans] == shaded
    assert [note.get_text() for note in axes.texts] == [trouble.name for trouble in troubles]


def test_a_plot_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    report, _ = report_of(SayingBridge())
    with pytest.raises(InputError, match=r"call\.sing: cannot be drawn"):
        draw_call(report, tmp_path / "call.sing")


def test_a_call_of_no_length_is_reported_and_drawn(tmp_path: Path) -> None:
    phone = Phone(Script(np.zeros(0, np.int16)))
    phone.due(0.0)
    phone.closed(0.0, 1013, "no engine is free")
    report = make_report(phone)
    draw_call(report, tmp_path / "call.svg")
    assert "the bridge hung up (1013: no engine is free)" in dict(report.details())["call"]
    assert report.verdict == ("a bad call: the bridge ended the call with an error (1013: no engine is free)")
    assert report.status == EXIT_BROKEN
