"""A carrier's name stays at the edge: calls, settings, records and the core know no carrier.

Only names in code count: identifiers, modules and imports. Comments and strings may name Exotel, and so may
the files of `ALLOWED`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from tests import python_source, rust_source

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = ROOT / "python" / "pxbridge"
RUST: Final = ROOT / "rust"
CARRIERS: Final = ("exotel", "browser")

ALLOWED: Final = {
    PYTHON / "telephony" / "exotel",
    PYTHON / "console",  # it serves browsers, and takes their calls in
    PYTHON / "simulation",
    PYTHON / "app",
    PYTHON / "commands",
    PYTHON / "telephony" / "browser.py",
    RUST / "core" / "src" / "carrier",
}


def sources() -> list[Path]:
    python = PYTHON.rglob("*.py*")
    rust = (file for part in ("core", "bindings") for file in (RUST / part / "src").rglob("*.rs"))
    return [
        file
        for file in sorted([*python, *rust])
        if file.suffix in (".py", ".pyi", ".rs") and not ALLOWED & {file, *file.parents}
    ]


def carrier_names(file: Path) -> set[str]:
    reader = rust_source if file.suffix == ".rs" else python_source
    found = {*reader.names(file.read_text(encoding="utf-8")), file.stem}
    return {name for name in found if any(carrier in name.lower() for carrier in CARRIERS)}


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_carrier_is_named_outside_of_its_place(file: Path) -> None:
    assert carrier_names(file) == set()


def test_the_carriers_own_files_would_be_found() -> None:
    assert carrier_names(PYTHON / "telephony" / "exotel" / "carrier.py")
    assert carrier_names(RUST / "core" / "src" / "carrier" / "exotel.rs")
