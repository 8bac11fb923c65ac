"""PersonaPlex itself is an extra: nothing else imports it or what it needs, and without it that is said."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pxbridge import cli
from pxbridge.commands import engine

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "python" / "pxbridge"
EXTRA = {"torch", "safetensors", "sentencepiece", "huggingface_hub", "cryptography"}
IMPORT_ALL = """
import importlib, pkgutil, sys
import pxbridge
for module in pkgutil.walk_packages(pxbridge.__path__, "pxbridge."):
    if not module.name.startswith("pxbridge.personaplex.") and module.name != "pxbridge.__main__":
        importlib.import_module(module.name)
print(*sys.modules)
"""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


def test_only_personaplex_imports_what_the_extra_brings() -> None:
    for path in PACKAGE.rglob("*.py"):
        found = {name.partition(".")[0] for name in imports(path)} & EXTRA
        assert not found or path.parent == PACKAGE / "personaplex", f"{path} imports {found}"


def test_importing_all_else_imports_nothing_of_the_extra() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=120, check=True
    )
    modules = {name.partition(".")[0] for name in result.stdout.split()}
    assert "pxbridge" in modules
    assert not modules & EXTRA


@pytest.mark.parametrize("words", [[], ["bench"], ["offline"]])
def test_help_works_without_the_extra(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "_is_there", lambda _: False)
    with pytest.raises(SystemExit, match="0"):
        cli.main(["engine", *words, "--help"])
    assert "usage: pxbridge engine" in capsys.readouterr().out


def test_without_the_extra_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "_is_there", lambda name: name != "torch")
    assert cli.main(["engine", "bench", "--random-weights"]) == cli.EXIT_UNUSABLE
    assert capsys.readouterr().err == (
        "pxbridge: the engine needs torch, which is not installed: "
        "`pip install 'pxbridge[engine]'` brings it (5.5 GB with torch for CUDA)\n"
    )


def test_a_torch_that_is_too_old_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "_is_there", lambda _: True)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.9.1+cu128")
    assert cli.main(["engine", "bench", "--random-weights"]) == cli.EXIT_UNUSABLE
    assert (
        "torch 2.9.1+cu128 is too old for the engine: `pip install 'torch>=2.11'`" in capsys.readouterr().err
    )
