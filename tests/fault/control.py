"""What the machine does to any call: a bridge and an engine to which nothing ever happens.

Whatever stalls processes stalls a scenario's neighbour and this bridge's caller alike. So a scenario asks not
how well its neighbour fared, which a busy machine decides, but how much worse than a call that the fault
could not reach. Started when it is first needed, and used by all scenarios of a run.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fault.processes import LIMIT_S, QUIET, ROOT

from pxbridge.commands.processes import free_port


class Control:
    """The two processes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._running: list[subprocess.Popen[bytes]] = []
        self.url = ""

    def start(self) -> str:
        """Starts them; the URL to call."""
        engine, port = free_port(), free_port()
        self._start("engine", "pxbridge.simulation.rehearsal", "--port", str(engine), "--mode", "echo",
                    "--slots", "8", "--prompt-s", "0")  # fmt: skip
        settings = {
            **QUIET,
            "PXBRIDGE_PORT": str(port),
            "PXBRIDGE_STATE_DIR": self._folder.name,
            "PXBRIDGE_ENGINES": f"ws://127.0.0.1:{engine}/api/chat",
            "PXBRIDGE_ENGINE_CAPACITY": "8",
            "PXBRIDGE_WARM_SESSIONS": "0",
        }
        self._await("engine", "rehearsal engine")
        self._start("bridge", "pxbridge", environ=settings)
        self._await("bridge", " takes calls at ")
        self.url = f"ws://127.0.0.1:{port}/exotel"
        return self.url

    def stop(self) -> None:
        """Ends them."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()
        self._folder.cleanup()

    def _start(self, name: str, *arguments: str, environ: dict[str, str] | None = None) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PXBRIDGE_")}
        with self._log(name).open("wb") as log:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    cwd=ROOT,
                    env={**inherited, "PYTHONUNBUFFERED": "1", **(environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def _log(self, name: str) -> Path:
        return Path(self._folder.name) / f"{name}.log"

    def _await(self, name: str, text: str) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while text not in self._log(name).read_text(errors="replace"):
            assert time.monotonic() < deadline_s, self._log(name).read_text(errors="replace")
            time.sleep(0.05)


_control: Control | None = None


def control_url() -> str:
    """Where a call goes to which nothing happens."""
    global _control
    if _control is None:
        _control = Control()
        atexit.register(_control.stop)
        _control.start()
    return _control.url
