from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pxbridge
from pxbridge import _native

# Stands in for an extension module that was built without `--release`.
IMPORT_UNOPTIMISED = """
import sys, types
native = types.ModuleType("pxbridge._native")
native.__version__, native.OPTIMISED = "0", False
sys.modules["pxbridge._native"] = native
import pxbridge
"""


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60, check=False)


def test_importing_an_unoptimised_build_warns() -> None:
    result = run_python("-c", IMPORT_UNOPTIMISED)
    assert result.returncode == 0
    assert "RuntimeWarning: this pxbridge was built without optimisation" in result.stderr
    assert "--release" in result.stderr


def test_importing_an_optimised_build_warns_of_nothing() -> None:
    assert _native.OPTIMISED
    result = run_python("-W", "error", "-c", "import pxbridge")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_package_the_extension_and_the_metadata_agree_on_the_version() -> None:
    assert pxbridge.__version__ == _native.__version__ == metadata.version("pxbridge")


def test_python_dash_m_is_the_same_as_the_script() -> None:
    result = run_python("-m", "pxbridge", "--version")
    assert result.stdout == f"pxbridge {pxbridge.__version__}\n"
    (script,) = metadata.entry_points(group="console_scripts", name="pxbridge")
    assert script.value == "pxbridge.cli:main"
