"""The gate on speed that any machine can keep: what a message costs us, as a share of plain Python's.

Both sides run in this process, by turns, so what the machine is and what else it does cancels out. The limits
are what was measured and half as much again; `.ci/instructions` sees what is smaller.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from sides import PAIRS, ratio

# soxr's resampler is cheaper than ours and later by 15 to 70 ms: its limits keep ours from growing, no more.
LIMITS = {
    "media frame, 100 ms": 0.29,
    "numpy border, 1 MiB": 1.5,
    "uplink, 100 ms": 0.08,
    "downlink, 80 ms": 1.3,
    "Opus encode, 20 ms": 0.13,
    "Opus decode, 80 ms": 1.3,
    "resample 8 to 24 kHz, 100 ms": 5.5,
    "resample 24 to 8 kHz, 80 ms": 3.2,
}

# A neighbour can fill the caches for longer than one measurement takes; code that is slow is so each time.
ATTEMPTS = 3


def main() -> int:
    table = Table("one message", "ours µs", "plain µs", "ratio", "limit", "")
    failed = False
    for name, limit in LIMITS.items():
        over = True
        for _ in range(ATTEMPTS):
            ours, plain, measured = ratio(PAIRS[name]())
            over = measured > limit
            if not over:
                break
        failed |= over
        table.add_row(
            name, f"{ours:.1f}", f"{plain:.1f}", f"{measured:.3f}", f"{limit:g}", "OVER" if over else ""
        )
    Console(width=100).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
