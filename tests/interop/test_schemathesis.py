"""Schemathesis asks the console whatever its OpenAPI document allows and forbids, and finds nothing wrong."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.console.rig import served

from pxbridge.console.api import ENDPOINTS

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv-schemathesis" / "bin" / "schemathesis"
LOGIN = "asha:correct-horse-battery"
OPTIONS = (
    "--phases=coverage,fuzzing",
    "--max-examples=15",  # of each endpoint; the same ones each time
    "--seed=1",
    "--generation-database=none",
    "--no-color",
)
LIMIT_S = 300.0
"""It takes 12 s on a machine that others use as well."""


async def test_the_api_keeps_to_its_description_whatever_is_asked(tmp_path: Path) -> None:
    assert PROGRAM.exists(), "there is no environment with schemathesis; `make interop` makes it"
    recording = tmp_path / "call.wav"
    recording.write_bytes(bytes(2000))
    console = {
        "logins": [LOGIN],
        "find_recording": lambda _call: recording,
        # By this clock wrong logins are soon forgiven: answers do not depend on those before.
        "clock": lambda: 1000 * time.monotonic(),
    }
    async with served(console=console) as s:
        asking = await asyncio.create_subprocess_exec(
            *(PROGRAM, "run", f"{s.url}/api/openapi.json", f"--auth={LOGIN}", *OPTIONS),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(LIMIT_S):
            told, _ = await asking.communicate()
    assert asking.returncode == 0, told.decode()
    asked = len(ENDPOINTS) - 1  # all but the document itself
    assert f"Selected: {asked}/{asked}" in told.decode(), told.decode()
