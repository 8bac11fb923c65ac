"""The names that others rely on are those of commit 2a4ded3: dashboards and scripts were written for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.call.rig import VECTORS
from tests.public_names import collect

if TYPE_CHECKING:
    from pathlib import Path

OLD = json.loads((VECTORS / "public-names-2a4ded3.json").read_text(encoding="utf-8"))

DELAY = "pxbridge_call_delay_seconds"
RENAMED = ("exotel", "carrier")
"""The one label value that changed: the part of the delay that sound waits at the carrier."""


def expected() -> dict[str, Any]:
    names: dict[str, Any] = json.loads(json.dumps(OLD))
    for metrics in (names["metrics"], names["metrics with a store"]):
        for suffix in ("_bucket", "_count", "_sum"):
            parts = metrics[DELAY + suffix]["part"]
            parts.remove(RENAMED[0])
            parts[:] = sorted([*parts, RENAMED[1]])
    return names


def flat(names: Any, where: str = "") -> set[str]:
    """Each name with the place where it appears."""
    match names:
        case dict():
            return {each for key, inner in names.items() for each in flat(inner, f"{where} / {key}")} or {
                where
            }
        case list():
            return {each for inner in names for each in flat(inner, where)}
        case name:
            return {f"{where} / {name}"}


async def test_public_names_stay(tmp_path: Path) -> None:
    old, new = flat(expected()), flat(await collect(tmp_path))
    assert sorted(old - new) == [], "gone"
    assert sorted(new - old) == [], "new: add to the file what is to stay from now on"
