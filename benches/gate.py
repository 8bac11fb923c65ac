"""The gate on speed: runs the benches that have limits and judges their figures.

    python benches/gate.py                           exit status 1 if something is slower than it may be, and
                                                     3 if the machine was too busy to judge live calls
    python benches/gate.py --baseline before.json    the same, and compares with a run of this machine
    python benches/gate.py --benches benches/bench_delay.py

Each limit is a ratio: our figure over that of something else which did the same work in the same run. The
speed of the machine cancels out. A benchmark is one side (`ours`, `plain`, ...) of a group, and a limit names
the group.

A baseline is the file that an earlier run of the gate wrote, on the same machine (`.benchmarks/gate.json`
unless `--json` says otherwise). pytest-benchmark compares with it: what has become slower than
`SLOWER_THAN_BASELINE` fails. If the plain side has become slower too, it is the machine that has changed.
PXBRIDGE_BENCH_BASELINE names the file as `--baseline` does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from bridges import LATE_MS
from pxbridge.commands import terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

ROOT = Path(__file__).parents[1]
STORED = ROOT / ".benchmarks" / "gate.json"
BASELINE = "PXBRIDGE_BENCH_BASELINE"
SLOWER_THAN_BASELINE = "min:20%"
"""50 ms more of delay are 21 % or more. The quickest rounds of two runs differ by a few per cent."""
REGRESSION = "PerformanceRegression"
"""What pytest-benchmark raises then."""

ATTEMPTS = 3
"""Another process can fill the caches for as long as a measurement takes. Slow code is slow each time."""

CPU_OF_LIBOPUS = 2.0
"""The most that a call-second may cost, as a multiple of libopus alone at real time."""

Benchmark = dict[str, Any]
"""One entry of pytest-benchmark's JSON."""


@dataclass(frozen=True)
class Limit:
    """The most that our figure may be of another side's.

    Attributes:
        group: Which benchmarks.
        most: Ours divided by the other's; None only reports it.
        other: The other side.
        figure: `min`, `median` or `mean` of the rounds, or the name of an `extra_info`.
    """

    group: str
    most: float | None
    other: str = "plain"
    figure: str = "min"


LIMITS = {
    # What was measured and half as much again; `.ci/instructions` sees what is smaller. soxr's resampler is
    # cheaper than ours and later by 15 to 70 ms: its limits keep ours from growing, no more.
    "bench_messages.py": (
        Limit("media frame, 100 ms", 0.29),
        Limit("numpy border, 1 MiB", 1.5),
        Limit("uplink, 100 ms", 0.08),
        Limit("downlink, 80 ms", 1.3),
        Limit("Opus encode, 20 ms", 0.13),
        Limit("Opus decode, 80 ms", 1.3),
        Limit("resample 8 to 24 kHz, 100 ms", 5.5),
        Limit("resample 24 to 8 kHz, 80 ms", 3.2),
    ),
    # Measured: 0.60 to 0.66, 0.53 to 0.55, 0.13 and 0.09. With 50 ms more they are 0.74 or more, 0.71, 0.15
    # and 0.11.
    "bench_delay.py": (
        Limit("delay: 100 ms chunks, quiet", 0.71, figure="median"),
        Limit("delay: 20 ms chunks, quiet", 0.63, figure="median"),
        Limit("delay: 100 ms chunks, after a stall", 0.145, figure="median"),
        Limit("delay: 20 ms chunks, after a stall", 0.105, figure="median"),
    ),
    # Measured: 0.19 to 0.25 of plain's CPU, 0.29 to 0.47 of its memory, 1.84 to 2.0 times libopus.
    "bench_cpu.py": (
        Limit("CPU of a second of a call", 0.25, figure="median"),
        # Both are measured in the same seconds, and the machine is not equally fast in each. The ratio of the
        # means differs less between runs than that of the medians, which are of different seconds.
        Limit("CPU of a second of a call", CPU_OF_LIBOPUS, "libopus", figure="mean"),
        Limit("CPU of a second of a call", None, "libopus flat out", figure="median"),
        Limit("CPU of a second of a call", None, "sockets", figure="median"),
        Limit("CPU of setting up a call", None, "sockets", figure="median"),
        Limit("CPU of a second of a call", 0.8, figure="KiB of a call"),
    ),
}

MOST_LATE_MS = 10.0
"""If a machine was later than this once in 100 wake-ups (`bridges.Lateness`), its live calls are not judged.

Our bridge holds sound back for as long as messages are late, so a busy machine makes its calls later. And a
bridge that gets no processor looks cheap. Where the bench may go first it is 2 to 4 ms.
"""


EXIT_SLOWER = 1
EXIT_NOT_JUDGED = 3
"""Not a failure, since nothing may depend on a machine's speed, and not a success either."""


class Verdict(Enum):
    """What a limit says."""

    KEPT = "ok"
    REPORTED = ""
    OVER = "OVER"
    MISSING = "NOT MEASURED"
    TOO_BUSY = "not judged"


PASSED = {Verdict.KEPT, Verdict.REPORTED}
FAILED = {Verdict.OVER, Verdict.MISSING}


@dataclass(frozen=True)
class Judged:
    """One limit, and what was measured; figures are None where they were not."""

    limit: Limit
    ours: float | None
    other: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        return None if self.ours is None or not self.other else self.ours / self.other


def find(benchmarks: Iterable[Benchmark], group: str, side: str) -> Benchmark | None:
    """The benchmark of one side of a group."""
    for benchmark in benchmarks:
        if benchmark["group"] == group and (benchmark["params"] or {}).get("side") == side:
            return benchmark
    return None


def figure(benchmark: Benchmark | None, name: str) -> float | None:
    """One of a benchmark's figures."""
    if benchmark is None:
        return None
    found = benchmark["stats"].get(name, benchmark["extra_info"].get(name))
    return None if found is None else float(found)


def judge(benchmarks: Iterable[Benchmark], limits: Iterable[Limit]) -> list[Judged]:
    """What each limit says of a run."""
    benchmarks = list(benchmarks)
    judged = []
    for limit in limits:
        sides = [find(benchmarks, limit.group, side) for side in ("ours", limit.other)]
        ours, other = (figure(side, limit.figure) for side in sides)
        late_ms = max(figure(side, LATE_MS) or 0.0 for side in sides)
        if ours is None or other is None:
            verdict = Verdict.MISSING
        elif limit.most is None:
            verdict = Verdict.REPORTED
        elif late_ms > MOST_LATE_MS:
            verdict = Verdict.TOO_BUSY
        else:
            verdict = Verdict.KEPT if ours <= limit.most * other else Verdict.OVER
        judged.append(Judged(limit, ours, other, verdict))
    return judged


def exit_status(benches_failed: bool, judged: Iterable[Judged]) -> int:
    """What the gate as a whole says."""
    verdicts = {row.verdict for row in judged}
    if benches_failed or verdicts & FAILED:
        return EXIT_SLOWER
    return EXIT_NOT_JUDGED if Verdict.TOO_BUSY in verdicts else 0


def shown(judged: Iterable[Judged]) -> Table:
    table = Table("what", "figure", "ours", "beside", "", "ratio", "limit", "")
    for row in judged:
        limit = row.limit
        ours, other = (
            "–" if value is None
            else f"{value * 1000:.4g} ms" if limit.figure in ("min", "median", "mean")
            else f"{value:.4g}"
            for value in (row.ours, row.other)
        )  # fmt: skip
        ratio = "–" if row.ratio is None else f"{row.ratio:.3f}"
        most = "" if limit.most is None else f"{limit.most:g}"
        table.add_row(limit.group, limit.figure, ours, limit.other, other, ratio, most, row.verdict.value)
    return table


class Run(NamedTuple):
    """What came of the benches.

    Attributes:
        failed: A bench failed, or was slower than in the baseline.
        report: pytest-benchmark's JSON; empty if it wrote none.
    """

    failed: bool
    report: dict[str, Any]


def run_benches(tests: Sequence[str], baseline: Path | None) -> Run:
    """Runs pytest on files or single tests; it prints what it has to say."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "run.json"
        command = [sys.executable, "-m", "pytest", *tests, f"--benchmark-json={written}"]
        command += ["--benchmark-columns=min,median,max", "--benchmark-sort=name", "-p", "no:cacheprovider"]
        # A bench that failed has no figures. Its own error says why; warnings about that would hide it.
        command += ["-W", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning"]
        if baseline is None:
            command += ["--benchmark-quiet"]
        else:
            command += [f"--benchmark-compare={baseline.resolve()}"]
            command += [f"--benchmark-compare-fail={SLOWER_THAN_BASELINE}"]
        done = subprocess.run(command, cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True)
        # pytest-benchmark lists what became slower, then raises an error. Its traceback says nothing more.
        complaint = done.stderr.partition("Traceback")[0] if REGRESSION in done.stderr else done.stderr
        sys.stderr.write(complaint)
        report = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
        return Run(done.returncode != 0, report)


def gate(
    benches: Sequence[Path], baseline: Path | None, stored: Path, attempts: int, console: Console
) -> int:
    """Runs the benches, those that did not pass up to `attempts` times; returns the exit status."""
    limits = [limit for bench in benches for limit in LIMITS.get(bench.name, ())]
    tests = [str(bench.resolve()) for bench in benches]
    report: dict[str, Any] = {}
    measured: dict[str, Benchmark] = {}
    for attempt in range(1, attempts + 1):
        run = run_benches(tests, baseline)
        report = run.report or report
        measured |= {benchmark["fullname"]: benchmark for benchmark in run.report.get("benchmarks", ())}
        judged = judge(measured.values(), limits)
        console.print(shown(judged))
        to_repeat = {row.limit.group for row in judged if row.verdict not in PASSED}
        if not run.failed and not to_repeat:
            break
        why = "the benches failed" if run.failed else ", ".join(sorted(to_repeat))
        console.print(f"attempt {attempt} of {attempts}: {why}")
        if not run.failed:
            tests = [name for name, benchmark in measured.items() if benchmark["group"] in to_repeat] or tests
    stored.parent.mkdir(parents=True, exist_ok=True)
    report["benchmarks"] = list(measured.values())
    stored.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if any(row.verdict is Verdict.TOO_BUSY for row in judged):
        console.print(f"not judged: too busy for live calls (later than {MOST_LATE_MS:g} ms once in 100)")
    return exit_status(run.failed, judged)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [ROOT / "benches" / name for name in LIMITS]
    given = os.environ.get(BASELINE)
    parser.add_argument("--benches", type=Path, nargs="+", metavar="FILE", default=every)
    parser.add_argument("--baseline", type=Path, metavar="FILE", default=Path(given) if given else None)
    parser.add_argument("--json", type=Path, metavar="FILE", default=STORED, help="where the run is stored")
    parser.add_argument("--attempts", type=int, metavar="N", default=ATTEMPTS, help="(%(default)s)")
    args = parser.parse_args()
    if args.baseline is not None and not args.baseline.is_file():
        parser.error(f"--baseline {args.baseline}: there is no such file")
    console = terminal.console()
    return gate(args.benches, args.baseline, args.json, args.attempts, console)


if __name__ == "__main__":
    sys.exit(main())
