"""The report and the plot of a call say what happened in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.simulated import VECTORS, Bridge, EchoBridge, SayingBridge, media, play, tone

from pxbridge.calls.delay import PUT_IN, TAKEN_OUT
from pxbridge.commands.call_telemetry import Counters
from pxbridge.commands.plot import (
    _changes,
    _name_troubles,
    _shade,
    _troubles,
    draw_call,
    require_matplotlib,
)
from pxbridge.commands.report import Report, make_report
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
    return report, dict(report.rows())


def test_an_undisturbed_echo_is_reported_as_one() -> None:
    report, rows = report_of(EchoBridge(delay_s=0.126), chunk_ms=100)
    assert rows["your words"] == "mouth to ear 226 ms (p95 226, p99 226); correlation 1.00, level +0.0 dB"
    assert rows["of the delay"] == (
        "filling a chunk 100, waiting at the carrier 0, bridge, engine and networks 126 ms"
    )
    assert rows["holes"] == "none after the first second"
    assert rows["you heard"].endswith("first audio after 0.23 s")
    assert rows["Exotel's rules"].startswith("kept in ")
    assert "8 kHz in 100 ms chunks; the caller hung up" in rows["call"]
    assert report.hearing.speed == pytest.approx(1.0, abs=0.001)


def test_a_stall_is_reported_with_its_hole_and_no_word_is_missing() -> None:
    report, rows = report_of(EchoBridge(), "stall 1.5s at 3s", chunk_ms=20)
    assert rows["holes"].startswith("1 after the first second, 1")
    assert rows["your words"].startswith("mouth to ear 20 ms (p95 1520, p99 1520)")
    assert "missing" not in rows["your words"]
    assert len(report.holes) == 1


def test_words_repeated_later_are_reported_as_such() -> None:
    bridge = EchoBridge(delay_s=5.9)
    _, rows = report_of(bridge)
    assert rows["your words"].startswith("came back after 6.00 s; correlation 1.00")


def test_silence_is_reported_as_nothing() -> None:
    _, rows = report_of(SayingBridge())
    assert rows["you heard"] == "nothing"
    assert rows["your words"] == "did not come back"
    assert "holes" not in rows


def test_a_flush_and_broken_rules_are_reported() -> None:
    bridge = SayingBridge(
        (1.0, media(tone(1.01))), (1.5, {"event": "clear"}), (4.0, media(tone(0.1))), (5.0, "?")
    )
    report, rows = report_of(bridge)
    assert "cleared 1 ×, 0.5 s dropped" in rows["queued at the carrier"]
    assert rows["Exotel's rules"] == (
        "broken: 1 payloads that are no multiple of 320 bytes, 1 messages that are no JSON object"
    )
    assert report.holes == []  # the silence after a clear was asked for


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
    assert "the bridge hung up (1013, no engine is free)" in dict(report.rows())["call"]
