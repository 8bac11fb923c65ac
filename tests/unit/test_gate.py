"""The gate on speed: what its limits say of a run, and how it compares a run with a stored one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridges import LATE_MS
from gate import (
    EXIT_NOT_JUDGED,
    EXIT_SLOWER,
    LIMITS,
    MOST_LATE_MS,
    Judged,
    Limit,
    Verdict,
    exit_status,
    judge,
)

ROOT = Path(__file__).parents[2]


def measured(group: str, side: str, seconds: float, **extra: float) -> dict[str, Any]:
    """A benchmark as pytest-benchmark's JSON tells of it."""
    stats = {"min": 0.9 * seconds, "median": seconds, "mean": seconds}
    return {"group": group, "params": {"side": side}, "stats": stats, "extra_info": extra}


def verdict(limit: Limit, *benchmarks: dict[str, Any]) -> Judged:
    (judged,) = judge(benchmarks, [limit])
    return judged


@pytest.mark.parametrize(("ours_s", "expected"), [(0.6, Verdict.KEPT), (0.8, Verdict.OVER)])
def test_a_limit_holds_as_long_as_ours_is_at_most_its_share_of_the_other(
    ours_s: float, expected: Verdict
) -> None:
    limit = Limit("delay", 0.7, figure="median")
    judged = verdict(limit, measured("delay", "ours", ours_s), measured("delay", "plain", 1.0))
    assert judged.verdict is expected
    assert judged.ratio == pytest.approx(ours_s)


def test_a_machine_that_is_slower_as_a_whole_changes_no_verdict() -> None:
    limit = Limit("uplink", 0.7)
    for speed in (1.0, 50.0):
        sides = [measured("uplink", "ours", 0.6 * speed), measured("uplink", "plain", speed)]
        assert verdict(limit, *sides).verdict is Verdict.KEPT


def test_what_was_not_measured_is_no_pass() -> None:
    limit = Limit("uplink", 0.7)
    assert verdict(limit).verdict is Verdict.MISSING
    assert verdict(limit, measured("uplink", "ours", 0.1)).verdict is Verdict.MISSING


def test_a_limit_without_a_number_only_reports() -> None:
    limit = Limit("CPU", None, "libopus")
    sides = [measured("CPU", "ours", 5.0), measured("CPU", "libopus", 1.0)]
    assert verdict(limit, *sides).verdict is Verdict.REPORTED


def test_memory_is_judged_by_what_a_bench_tells_beside_its_times() -> None:
    limit = Limit("CPU", 0.8, figure="KiB of a call")
    light, heavy, plain = (
        measured("CPU", side, 1.0, **{"KiB of a call": kib})
        for side, kib in (("ours", 100), ("ours", 500), ("plain", 400))
    )
    assert verdict(limit, light, plain).verdict is Verdict.KEPT
    assert verdict(limit, heavy, plain).verdict is Verdict.OVER


def test_live_calls_are_not_judged_on_a_machine_that_had_no_time_for_them() -> None:
    limit = Limit("CPU", 0.25)
    for late_ms, expected in ((MOST_LATE_MS / 10, Verdict.OVER), (MOST_LATE_MS * 10, Verdict.TOO_BUSY)):
        sides = [measured("CPU", side, 1.0, **{LATE_MS: late_ms}) for side in ("ours", "plain")]
        assert verdict(limit, *sides).verdict is expected


def test_a_gate_that_could_not_judge_neither_fails_nor_passes() -> None:
    limit = Limit("CPU", 0.25)

    def judged(*verdicts: Verdict) -> list[Judged]:
        return [Judged(limit, 1.0, 1.0, each) for each in verdicts]

    assert exit_status(False, judged(Verdict.KEPT, Verdict.REPORTED)) == 0
    assert exit_status(False, judged(Verdict.KEPT, Verdict.TOO_BUSY)) == EXIT_NOT_JUDGED
    assert exit_status(False, judged(Verdict.OVER, Verdict.TOO_BUSY)) == EXIT_SLOWER
    assert exit_status(True, judged(Verdict.KEPT)) == EXIT_SLOWER


def test_fifty_milliseconds_more_are_over_the_limits_of_delays() -> None:
    usual_s = {  # ours and plain, as measured
        "delay: 100 ms chunks, quiet": (0.234, 0.361),
        "delay: 20 ms chunks, quiet": (0.153, 0.280),
        "delay: 100 ms chunks, after a stall": (0.234, 1.784),
        "delay: 20 ms chunks, after a stall": (0.153, 1.772),
    }
    for limit in LIMITS["bench_delay.py"]:
        ours_s, plain_s = usual_s[limit.group]
        plain = measured(limit.group, "plain", plain_s)
        assert verdict(limit, measured(limit.group, "ours", ours_s), plain).verdict is Verdict.KEPT
        assert verdict(limit, measured(limit.group, "ours", ours_s + 0.05), plain).verdict is Verdict.OVER


@pytest.mark.parametrize(("ours_s", "expected"), [(0.00398, Verdict.KEPT), (0.00402, Verdict.OVER)])
def test_a_call_second_may_cost_twice_what_libopus_alone_takes(ours_s: float, expected: Verdict) -> None:
    (limit,) = (limit for limit in LIMITS["bench_cpu.py"] if limit.other == "libopus")
    group = limit.group
    judged = verdict(limit, measured(group, "ours", ours_s), measured(group, "libopus", 0.002))
    assert judged.verdict is expected


BENCH = """
import os
import pytest
from replay import Replay

REPLAY = Replay()

@pytest.mark.benchmark(group="delay", timer=REPLAY.now_s)
@pytest.mark.parametrize("side", ["ours", "plain"])
def test_delay(benchmark, side):
    REPLAY.report(benchmark, [float(os.environ["DELAY_S"])] * 3)
"""


def run_gate(folder: Path, delay_s: float, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The gate over one bench, which measures `delay_s`."""
    bench = folder / "bench_delay_of_a_test.py"
    bench.write_text(BENCH)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PXBRIDGE_")}
    return subprocess.run(
        [sys.executable, "benches/gate.py", "--benches", str(bench), "--attempts", "1", *options],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": "benches", "DELAY_S": str(delay_s), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_is_compared_with_a_stored_one_of_the_machine(tmp_path: Path) -> None:
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    assert run_gate(tmp_path, 0.2, "--json", str(before)).returncode == 0
    equal = run_gate(tmp_path, 0.2, "--json", str(now), PXBRIDGE_BENCH_BASELINE=str(before))
    assert equal.returncode == 0, equal.stdout + equal.stderr
    worse = run_gate(tmp_path, 0.25, "--json", str(now), "--baseline", str(before))
    assert worse.returncode == 1
    assert "Performance has regressed" in worse.stderr
    assert "Traceback" not in worse.stderr


def test_a_baseline_that_is_not_there_is_told_before_the_run(tmp_path: Path) -> None:
    refused = run_gate(tmp_path, 0.2, "--baseline", str(tmp_path / "none.json"))
    assert refused.returncode == 2
    assert "there is no such file" in refused.stderr
