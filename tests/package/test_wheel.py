"""The wheel, as a machine without cargo gets it: built once, installed into an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What every glibc system has. libopus is not among them: it must be inside.
ALLOWED_LIBRARIES = {
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
}

# Ample: what is in it is some hundred kB of code and the rehearsal engine's greeting.
MAX_WHEEL_BYTES = 3 * 1024 * 1024


MAX_SDIST_BYTES = MAX_WHEEL_BYTES


def finished(*args: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(arg) for arg in args],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environ},
    )


def run(*args: str | Path, **environ: str) -> str:
    result = finished(*args, **environ)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    maturin = Path(sys.executable).with_name("maturin")
    out = tmp_path_factory.mktemp("dist")
    run(maturin, "build", "--release", "--locked", "--out", out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel in it, made with nothing of Rust on the PATH."""
    path = tmp_path_factory.mktemp("clean")
    venv.create(path, with_pip=True)
    without_rust = os.pathsep.join(
        entry for entry in os.environ["PATH"].split(os.pathsep) if not (Path(entry) / "cargo").exists()
    )
    assert shutil.which("cargo", path=without_rust) is None
    python = path / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, PATH=without_rust)
    return path / "bin"


def test_one_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    assert re.fullmatch(r"pxbridge-[\w.]+-cp311-abi3-\w+\.whl", wheel.name)


def test_the_wheel_is_small_and_holds_what_it_should(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "pxbridge/py.typed",
        "pxbridge/_native.pyi",
        "pxbridge/_native.abi3.so",
        "pxbridge/settings/fields.py",
    ):
        assert name in names
    assert any(name.endswith("/LICENSE") for name in names)
    ours = [*(ROOT / "python").rglob("*.py"), *(ROOT / "python").rglob("assets/*")]
    shipped = {path.relative_to(ROOT / "python").as_posix() for path in ours}
    assert shipped <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "rust/", "client/"))]
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


CLIENT = re.compile(r"(?:^|/)pxbridge/console/static/(.+)$")


def client_in(names: list[str]) -> set[str]:
    """The files of the web client among an archive's."""
    return {found[1] for name in names if (found := CLIENT.search(name)) and not name.endswith("/")}


def built_client() -> set[str]:
    folder = ROOT / "python/pxbridge/console/static"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_brings_the_web_client_without_its_sources(wheel: Path) -> None:
    client = client_in(zipfile.ZipFile(wheel).namelist())
    assert client == built_client()
    assert "index.html" in client
    assert any(re.fullmatch(r"assets/engine\.worker-[\w-]+\.js", name) for name in client)
    assert not [name for name in client if name.endswith((".map", ".ts", ".tsx"))]


def test_the_extension_links_no_system_libopus(wheel: Path, tmp_path: Path) -> None:
    extension = zipfile.ZipFile(wheel).extract("pxbridge/_native.abi3.so", tmp_path)
    linked = {line.split()[0].rpartition("/")[2] for line in run("ldd", extension).splitlines()}
    assert {name for name in linked if not name.startswith("linux-vdso")} <= ALLOWED_LIBRARIES


def test_the_wheel_works_where_there_is_no_rust(installed: Path) -> None:
    assert run(
        installed / "python", "-W", "error", "-c", "import pxbridge; print(pxbridge.__file__)"
    ).startswith(str(installed.parent))
    assert run(installed / "pxbridge", "--version").startswith("pxbridge ")
    assert "examples:" in run(installed / "python", "-m", "pxbridge", "--help")


def test_the_wheel_brings_no_torch_and_says_what_the_engine_needs(installed: Path) -> None:
    find = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
    extra = ("torch", "safetensors", "sentencepiece", "huggingface_hub", "cryptography")
    assert run(installed / "python", "-c", find, *extra) == "\n"
    assert "offline" in run(installed / "pxbridge", "engine", "--help")
    refused = finished(installed / "pxbridge", "engine", "bench", "--random-weights")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("pxbridge: the engine needs torch, safetensors, sentencepiece, ")
    assert "`pip install 'pxbridge[engine]'` brings it" in refused.stderr


def test_the_source_distribution_leaves_the_tests_data_out(tmp_path: Path) -> None:
    run(Path(sys.executable).with_name("maturin"), "sdist", "--out", tmp_path)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = archive.getnames()
    assert any(name.endswith("/python/pxbridge/personaplex/model.py") for name in names)
    assert not [name for name in names if "vectors" in name or name.endswith((".safetensors", ".npz"))]
    assert client_in(names) == built_client()  # who builds from it needs no Node
    assert not [name for name in names if "node_modules" in name]
    assert built.stat().st_size < MAX_SDIST_BYTES
