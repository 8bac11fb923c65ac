"""The process as an operator has it: started, told what to try, and stopped by a signal."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from pxbridge import settings
from pxbridge.app import lifecycle
from pxbridge.commands.processes import free_port
from pxbridge.errors import ConfigError
from pxbridge.ops.systemd import in_journal

ROOT = Path(__file__).parents[2]


async def serve_until_signalled(number: signal.Signals, **flags: object) -> tuple[int, str, str]:
    """Run the bridge in this process until it is ready, then signal it; status, URL, what it printed."""
    loop = asyncio.get_running_loop()
    urls: list[str] = []

    def ready(url: str) -> None:
        urls.append(url)
        loop.call_soon(os.kill, os.getpid(), number)

    printed = io.StringIO()
    async with asyncio.timeout(20):
        status = await lifecycle.run(
            settings.load({"port": 0, **flags}, {}), Console(file=printed, width=200), ready
        )
    return status, urls[0], printed.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    status, _, _ = await serve_until_signalled(number)
    assert status == 0
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_it_says_where_it_listens_and_what_to_try_next() -> None:
    _, url, printed = await serve_until_signalled(signal.SIGTERM)
    assert f"takes calls at {url}" in printed
    assert "rehearsal engine: no model" in printed
    assert f"pxbridge call --url {url} --wav " in printed
    assert "PXBRIDGE_ENGINES=wss://" in printed


async def test_it_names_the_engines_it_was_given_without_their_passwords() -> None:
    _, _, printed = await serve_until_signalled(
        signal.SIGTERM, engines="ws://user:s3cret@gpu1 ws://gpu2", allow_anonymous=True
    )
    assert "ws://gpu1/api/chat" in printed and "ws://gpu2/api/chat" in printed
    assert "s3cret" not in printed and "rehearsal" not in printed


async def test_a_port_that_is_taken_stops_the_start_and_says_which_setting_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            await lifecycle.run(settings.load({}, {"PXBRIDGE_PORT": str(port)}), Console(file=io.StringIO()))
    assert (caught.value.setting, caught.value.source) == ("PXBRIDGE_PORT", "environment")
    assert f"{port} on 127.0.0.1 is taken" in caught.value.problem


async def test_an_address_of_another_machine_stops_the_start() -> None:
    with pytest.raises(ConfigError) as caught:
        await lifecycle.run(
            settings.load({"host": "192.0.2.1", "port": 0, "allow_anonymous": True}, {}),
            Console(file=io.StringIO()),
        )
    assert caught.value.setting == "--host"


async def test_the_console_is_on_a_port_of_its_own_and_says_so() -> None:
    port = free_port()
    asked: list[bytes] = []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        asked.append(await reader.read())
        writer.close()
        os.kill(os.getpid(), signal.SIGTERM)

    tasks: list[asyncio.Task[None]] = []
    printed = io.StringIO()
    async with asyncio.timeout(20):
        await lifecycle.run(
            settings.load({"port": 0, "console_port": port}, {}),
            Console(file=printed, width=200),
            lambda _url: tasks.append(asyncio.ensure_future(ask())),
        )
    assert f"http://127.0.0.1:{port}/live, /metrics and /api/calls" in printed.getvalue()
    assert b'pxbridge_engine_slots{engine="ws://127.0.0.1:' in asked[0]
    assert b"pxbridge_event_loop_lag_seconds_bucket" in asked[0]


async def test_the_consoles_url_can_be_opened_where_it_listens_on_ipv6() -> None:
    port = free_port()
    _, _, printed = await serve_until_signalled(signal.SIGTERM, console_host="::1", console_port=port)
    assert f"http://[::1]:{port}/live, /metrics and /api/calls" in printed


async def test_a_console_port_that_was_asked_for_and_is_taken_stops_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=r"PXBRIDGE_CONSOLE_PORT .environment.: cannot listen on 127.0.0.1"
        ):
            await lifecycle.run(
                settings.load({"port": 0}, {"PXBRIDGE_CONSOLE_PORT": str(port)}), Console(file=io.StringIO())
            )


async def test_a_console_that_the_network_could_reach_without_a_login_stops_the_start() -> None:
    loaded = settings.load({"port": 0, "console_host": "0.0.0.0"}, {})
    with pytest.raises(ConfigError, match=r"--console-host .command line.: 0.0.0.0 is open to the network"):
        await lifecycle.run(loaded, Console(file=io.StringIO()))


async def test_a_state_folder_that_was_asked_for_and_cannot_be_written_stops_the_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    loaded = settings.load({"port": 0, "console_port": 0, "state_dir": str(tmp_path / "file" / "state")}, {})
    with pytest.raises(ConfigError, match=r"--state-dir .command line.: cannot write to .*/file/state"):
        await lifecycle.run(loaded, Console(file=io.StringIO()))


def test_the_command_serves_until_it_is_interrupted() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PXBRIDGE_")}
    with subprocess.Popen(
        [sys.executable, "-m", "pxbridge", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        url = next(line for line in process.stdout if " takes calls at " in line).split()[-1]
        with urllib.request.urlopen(
            url.replace("ws:", "http:").replace("/exotel", "/readyz"), timeout=10
        ) as ready:
            assert ready.status == 200
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "Traceback" not in log


@pytest.mark.parametrize(("inherited", "banner"), [(False, False), (True, True)])
def test_the_journal_gets_lines_of_the_log_and_no_banner(*, inherited: bool, banner: bool) -> None:
    """A shell inherits JOURNAL_STREAM from whatever started it; then it names another stream."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PXBRIDGE_")}
    reader, writer = os.pipe()
    status = os.fstat(writer)
    environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino + inherited}"
    command = [sys.executable, "-m", "pxbridge", "--port", "0"]
    with subprocess.Popen(command, stdout=writer, stderr=writer, cwd=ROOT, env=environ) as process:
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as journal:
            lines = []
            for line in journal:
                lines.append(line)
                if " takes calls at ws://" in line:
                    process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert any(not line.startswith("{") for line in lines) is banner
    assert any(" takes calls at ws://" in line for line in lines)


def test_a_closed_stream_is_not_the_journal() -> None:
    assert not in_journal({"JOURNAL_STREAM": ""})
    assert not in_journal({"JOURNAL_STREAM": "8:1"}, (10_000,))
