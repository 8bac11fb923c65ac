"""Imports inside the package point one way; see the table `MAY_IMPORT`.

Every import counts: at a module's top, inside a function, and under ``TYPE_CHECKING``. An import for types
alone counts too. A module that names a type of a package above it cannot be read, moved or tested without
that package. It declares a protocol instead, or the type moves down.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGE: Final = Path(__file__).parents[2] / "python" / "pxbridge"

LEAVES: Final = {
    *("errors", "event_loop", "file_identity", "host_lookups", "log_throttle"),
    *("periodic", "rate_limit", "redis_store", "wav", "wording"),
}
"""Modules that know nothing of the product. They may know each other."""

_LOW: Final = {"", "audio", "chat_wire", *LEAVES}
"""What everything may know; the empty name is the package itself, for its version."""
_WIRES: Final = {"websocket", *_LOW}
_CALLS: Final = {"engines", "telephony", *_WIRES}
_MIDDLE: Final = {"calls", *_CALLS}
_ROW: Final = {"console", "ops", "records", "settings"}
_TOP: Final = {"app", *_ROW, *_MIDDLE, "simulation"}

MAY_IMPORT: Final[dict[str, set[str]]] = {
    "__main__": {"cli"},
    "cli": {"", "commands", "app", "settings", "errors", "event_loop"},
    "commands": {"doctor", "personaplex", "tunnel", *_TOP},
    "doctor": _TOP,
    "app": _TOP - {"app"},
    # In one row: the console's client reads the settings; the others do not know each other.
    "console": {"settings", *_MIDDLE},
    "ops": _MIDDLE,
    "records": _MIDDLE,
    "settings": _MIDDLE,
    "calls": _CALLS,
    "engines": _WIRES,
    "telephony": _WIRES,
    "websocket": {"_native", "errors", "log_throttle", "rate_limit"},
    # It knows wires and codecs, which it speaks, and no part of the bridge that it tests.
    "simulation": {"telephony.exotel.spelling", *_WIRES},
    # PersonaPlex itself runs without a bridge. Only `commands` imports it: nothing else needs torch.
    "personaplex": {
        *("", "audio", "chat_wire", "errors", "log_throttle", "rate_limit", "wav", "websocket", "wording"),
        *("ops.logs", "ops.metrics"),
    },
    # A tunnel leads to a port, and knows nothing of the program behind it.
    "tunnel": {"websocket", "errors"},
    "audio": {"_native"},
    "chat_wire": set(),
    "": {"_native"},
    **dict.fromkeys(LEAVES, LEAVES),
}
"""What each package or top-level module may import beside itself. A dotted name allows one module."""


def modules() -> dict[str, Path]:
    """The package's modules by name, without ``pxbridge.``; the package itself has the empty name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = file
    return found


def imports(source: str, known: Iterable[str]) -> set[str]:
    """The modules of the package that a source imports, wherever in it, named as in `modules`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                written = [alias.name for alias in names]
            case ast.ImportFrom(str(module), names, 0):
                written = [f"{module}.{alias.name}" for alias in names]
            case ast.ImportFrom():
                raise AssertionError(f"line {node.lineno}: imports are written with the whole name")
            case _:
                continue
        for name in written:
            package, _, inner = name.partition(".")
            if package == "pxbridge":
                found.add(_module(inner, known))
    return found


def _module(name: str, known: Iterable[str]) -> str:
    """The module that holds a name; the extension module and the package itself are modules too."""
    while name and name not in known and name != "_native":
        name = name.rpartition(".")[0]
    return name


def is_allowed(importer: str, imported: str) -> bool:
    own, other = importer.partition(".")[0], imported.partition(".")[0]
    allowed = MAY_IMPORT.get(own, set())
    return other == own or other in allowed or imported in allowed


MODULES: Final = modules()


def test_every_package_has_its_place_in_the_order() -> None:
    assert {name.partition(".")[0] for name in MODULES} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "pxbridge")
def test_a_module_imports_only_what_is_below_it(name: str) -> None:
    wrong = [each for each in imports(MODULES[name].read_text(), MODULES) if not is_allowed(name, each)]
    assert not wrong, f"pxbridge.{name} may not import {', '.join(sorted(wrong))}"


def test_the_order_has_no_circle() -> None:
    """Peeling off packages that import none of the rest leaves nothing. Leaves count as one."""
    rest = {
        name: {each.partition(".")[0] for each in allowed} - {name} - LEAVES
        for name, allowed in MAY_IMPORT.items()
    }
    while free := [name for name, allowed in rest.items() if not allowed & rest.keys()]:
        for name in free:
            del rest[name]
    assert not rest


@pytest.mark.parametrize(
    "source",
    [
        "import pxbridge.app.assembly",
        "from pxbridge.app import assembly",
        "from pxbridge.app.assembly import run",
        "def late():\n    from pxbridge.app import assembly",
        "if TYPE_CHECKING:\n    from pxbridge.app.assembly import Bridge",
    ],
)
def test_an_import_is_found_wherever_it_stands(source: str) -> None:
    assert imports(source, MODULES) == {"app.assembly"}
    assert not is_allowed("calls.call", "app.assembly")


def test_the_order_is_the_one_of_the_design() -> None:
    allowed = [
        ("cli", "commands.call"),
        ("commands.doctor", "doctor"),
        ("commands.bench", "simulation.network"),
        ("commands.engine", "personaplex.server"),
        ("doctor.engines", "app.assembly"),
        ("app.assembly", "console.server"),
        ("app.assembly", "simulation.rehearsal"),
        ("records.writer", "calls.events"),
        ("calls.call", "engines.pool"),
        ("calls.call", "telephony.server"),
        ("telephony.server", "websocket"),
        ("engines.client", "chat_wire"),
        ("personaplex.server", "ops.logs"),
    ]
    refused = [
        ("commands.call", "cli"),
        ("doctor", "commands.doctor"),
        ("app.assembly", "doctor"),
        ("app.assembly", "personaplex.server"),
        ("console.server", "app.assembly"),
        ("records.writer", "ops.logs"),
        ("ops.metrics", "simulation.network"),
        ("calls.call", "settings"),
        ("calls.call", "records.writer"),
        ("calls.call", "simulation.network"),
        ("engines.pool", "calls.call"),
        ("engines.client", "telephony.server"),
        ("telephony.server", "engines.pool"),
        ("telephony.access", "settings.values"),
        ("websocket.serving", "telephony.server"),
        ("simulation.phone", "calls.call"),
        ("personaplex.server", "ops.health"),
        ("personaplex.server", "calls.call"),
        ("personaplex.server", "redis_store"),
        ("simulation.phone", "telephony.server"),
        ("calls.call", "_native"),
        ("cli", "engines.pool"),
        ("errors", "audio"),
    ]
    assert [pair for pair in allowed if not is_allowed(*pair)] == []
    assert [pair for pair in refused if is_allowed(*pair)] == []
