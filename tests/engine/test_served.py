"""`pxbridge engine` on the tiny checkpoint: as a process, and against the suite of the wire."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from tests.engine import tiny
from tests.engine.test_calls import CHECKPOINT, served
from tests.virtual_time import run

from pxbridge import cli
from pxbridge.doctor import Verdict
from pxbridge.doctor.conformance import Target, examine_wire
from pxbridge.engines.address import EngineAddress, Pinned
from pxbridge.engines.client import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_S = 120.0


def test_the_engine_conforms_with_its_model(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as serving:
            url = f"ws://127.0.0.1:{serving.server.port}/api/chat"
            found = [finding async for finding in examine_wire(Target(EngineAddress(url)))]
            assert [each.what for each in found if each.verdict is not Verdict.GOOD] == []

    run(main(), 600.0)


class Process:
    """`pxbridge engine` with the tiny checkpoint, started and ready."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        voices = folder / "voices"
        voices.mkdir()
        shutil.copy(tiny.FOLDER / "voice-0.pt", voices / "NATF0.pt")
        self.lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pxbridge", "engine", "--port=0", "--log-format=json"),
                *(f"--voice-prompt-dir={voices}", *CHECKPOINT, *arguments),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.ready = self.line("ready after")
        self.url = self.ready["event"].rpartition(" at ")[2]

    def line(self, beginning: str) -> dict[str, Any]:
        """The next line of the log that begins so."""
        assert self._process.stderr is not None
        for written in self._process.stderr:
            assert written.startswith("{"), written
            self.lines.append(json.loads(written))
            if self.lines[-1]["event"].startswith(beginning):
                return self.lines[-1]
        raise AssertionError(f"it ended with {self._process.wait()}: {self.lines}")

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        base = self.url.replace("ws", "http", 1).removesuffix("/api/chat")
        request = urllib.request.Request(base + path, headers=headers)
        unchecked = ssl._create_unverified_context() if base.startswith("https") else None
        try:
            with urllib.request.urlopen(request, timeout=10, context=unchecked) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(START_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        processes.append(Process(tmp_path, *arguments, **environment))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


async def test_it_serves_over_tls_tells_of_itself_and_ends_with_status_0(
    started: Callable[..., Process], tmp_path: Path
) -> None:
    engine = started("--slots=2", f"--ssl={tmp_path / 'certs'}")
    events = [line["event"] for line in engine.lines]
    (fingerprint,) = [each.rpartition("=")[2] for each in events if "PXBRIDGE_ENGINE_FINGERPRINT=" in each]
    assert any(each.startswith("slots: cpu: ") and each.endswith("serving 2") for each in events)
    status, body = engine.get("/readyz")
    told = json.loads(body)
    assert (status, told["slots"], told["free"], told["warm_up"]["done"]) == (200, 2, 2, True)
    session = await open_session(EngineAddress(engine.url, Pinned(fingerprint)), "NATF0", "You are kind.")
    assert json.loads(engine.get("/readyz")[1])["free"] == 1
    session.close()
    await session.wait_closed()
    assert json.loads(engine.get("/voices")[1])["voices"] == ["NATF0.pt"]
    assert b'pxbridge_engine_prompts_total{prefix="miss"} 1.0' in engine.get("/metrics")[1]
    assert engine.stop() == 0


def test_it_asks_for_the_token_of_its_environment(started: Callable[..., Process]) -> None:
    engine = started("--slots=1", PXBRIDGE_ENGINE_TOKEN="a-long-secret")
    assert engine.get("/voices")[0] == 401
    assert engine.get("/voices", Authorization="Bearer a-long-secret")[0] == 200
    assert engine.get("/livez") == (200, b"alive\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host=0.0.0.0"], "PXBRIDGE_ENGINE_TOKEN"),
        (["--cpu-offload"], "it cannot keep real time"),
        (["--gradio-tunnel"], "PXBRIDGE_ENGINE_TOKEN (environment): is not set; a tunnel lets"),
        (["--tunnel=bore"], "PXBRIDGE_ENGINE_TOKEN (environment): is not set; a tunnel lets"),
        (["--tunnel", "--ssl=/tmp"], "--ssl (command line): does not go with --tunnel"),
        (["--gradio-tunnel-token=x"], "--tunnel opens a tunnel"),
        (["--slots=none"], "--slots none: a number from 1 on, or auto, is needed"),
        (["--port=70000"], "70000 is not a port"),
        (["--queue=-1"], "--queue (command line): -1 is not a number from 0 on"),
        (["--drain-s=nan"], "argument --drain-s: 'nan' is not a number"),
        (["--drain-s=-1"], "--drain-s (command line): -1.0 is not a number from 0 on"),
        (["--prefix-gb=nan"], "argument --prefix-gb: 'nan' is not a number"),
        (["--prefix-gb=-1"], "--prefix-gb (command line): -1.0 is not a number from 0 on"),
        (["--prefix-gb=inf"], "argument --prefix-gb: 'inf' is not a number"),
        (
            ["--allow-origin=other.server"],
            "--allow-origin (command line): 'other.server' is not an origin; use https://",
        ),
        (["--allow-origin=https://a/page"], "'https://a/page' is not an origin"),
        (["--voice-prompt-dir=/tmp/nothing-here"], "nothing-here"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_with_status_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PXBRIDGE_ENGINE_TOKEN", raising=False)
    assert cli.main(["engine", "--port=0", *CHECKPOINT, *arguments]) == 2
    written = capsys.readouterr().err
    assert told in written
    assert "Traceback" not in written


def test_a_token_that_can_be_guessed_is_told_and_not_quoted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("", "elevenchars", "two words of it", "ünicode-token"):
        monkeypatch.setenv("PXBRIDGE_ENGINE_TOKEN", token)
        assert cli.main(["engine", "--port=0", *CHECKPOINT]) == 2
        written = capsys.readouterr().err
        assert "PXBRIDGE_ENGINE_TOKEN (environment): a token is at least 12 ASCII characters" in written
        assert not token or token not in written
