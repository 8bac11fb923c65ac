"""A debug build of the extension says that it is one, and the package warns of it: the real thing, in CI."""

import importlib.machinery
import importlib.util
import sys
import warnings
from pathlib import Path

DEBUG_BUILD = Path(__file__).parents[1] / "target" / "debug" / "lib_native.so"

loader = importlib.machinery.ExtensionFileLoader("pxbridge._native", str(DEBUG_BUILD))
spec = importlib.util.spec_from_loader(loader.name, loader)
if spec is None:
    raise SystemExit(f"{DEBUG_BUILD} cannot be loaded")
native = importlib.util.module_from_spec(spec)
loader.exec_module(native)
sys.modules[loader.name] = native

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import pxbridge  # noqa: F401

if not any("built without optimisation" in str(warning.message) for warning in caught):
    raise SystemExit("importing an unoptimised build did not warn")
