"""`pxbridge tunnel` and `pxbridge --tunnel` as processes: what they print, what they refuse, how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from tests.fault.processes import ROOT, free_port, program, until
from tests.personaplex.test_engine_process import running
from tests.tunnel.conftest import LOGIN
from tests.tunnel.test_programs import QUICK, bridge_port, is_running, kept_open

from pxbridge import cli
from pxbridge.personaplex.serve import Options
from pxbridge.simulation.phone import Phone, Script, place_call
from pxbridge.tunnel import target
from pxbridge.tunnel.cloudflared import Cloudflared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.tunnel.conftest import Environment

PASSWORD = LOGIN.partition(":")[2]


@contextlib.asynccontextmanager
async def on_a_terminal(
    *words: str, environ: dict[str, str]
) -> AsyncIterator[tuple[int, list[str], list[str]]]:
    """Runs `python -m pxbridge` on a terminal: its process id, what it prints and what it logs."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    inherited = {name: value for name, value in environ.items() if not name.startswith("PXBRIDGE_")}
    given = {name: value for name, value in environ.items() if name in ("PXBRIDGE_CREDENTIALS",)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pxbridge", *words),
        cwd=ROOT,
        env={**inherited, **given},
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    printed: list[str] = []
    logged: list[str] = []

    def read() -> None:
        try:
            printed.append(os.read(ours, 65536).decode())
        except OSError:  # the other end is closed
            loop.remove_reader(ours)

    async def read_log() -> None:
        assert process.stderr is not None
        logged.extend([line.decode() async for line in process.stderr])

    loop = asyncio.get_running_loop()
    loop.add_reader(ours, read)
    logs = asyncio.create_task(read_log())
    try:
        yield process.pid, printed, logged
        async with asyncio.timeout(60.0):
            assert await process.wait() == 0, "".join(logged)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await logs
        loop.remove_reader(ours)
        os.close(ours)


async def test_a_bridge_with_a_tunnel_prints_its_url_and_takes_calls_through_it(around: Environment) -> None:
    words = ("--port", "0", "--console-port", "0", "--tunnel", "cloudflared")
    async with on_a_terminal(*words, environ=around.variables) as (pid, printed, logged):
        await until(lambda: "the URL for the carrier's applet" in "".join(printed), "the URL is printed")
        found = re.search(r"wss://\S+", "".join(printed).partition("applet")[2])
        assert found is not None
        assert found[0].startswith(f"wss://exotel:{PASSWORD}@localhost:")
        phone = Phone(Script(hang_up_at_s=1.5))
        await place_call(found[0], phone)
        assert phone.player.heard.any(), "the agent was heard through the tunnel"
        (started,) = around.starts()
        os.kill(pid, signal.SIGTERM)
    assert not is_running(started["pid"])
    assert "the tunnel is open: wss://USER:PASSWORD@localhost:" in "".join(logged)
    assert PASSWORD not in "".join(logged), "no secret in the log"


async def test_without_a_terminal_the_secret_is_not_printed(around: Environment) -> None:
    async with bridge_port() as leads_to:
        environ = {**around.variables, "PXBRIDGE_PORT": str(leads_to.port)}
        async with program("pxbridge", "tunnel", "cloudflared", environ=environ) as tunnel:
            await until(lambda: tunnel.said("the secret is in the settings"), "the URL is printed")
            assert tunnel.said("  wss://USER:PASSWORD@localhost:")
            tunnel.signal(signal.SIGTERM)
            assert await tunnel.ends() == 0
        assert PASSWORD not in tunnel.log


async def test_ctrl_c_does_not_end_the_tunnel_before_the_bridge(around: Environment) -> None:
    words = ("--port", "0", "--console-port", "0", "--tunnel", "cloudflared")
    async with on_a_terminal(*words, environ=around.variables) as (pid, printed, _):
        await until(lambda: "applet" in "".join(printed), "the URL is printed")
        assert os.getpgid(around.starts()[0]["pid"]) != os.getpgid(pid)
        os.kill(pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "PXBRIDGE_CREDENTIALS (default): a tunnel lets the whole internet call"),
        ({"PXBRIDGE_ALLOW_ANONYMOUS": "true"}, "PXBRIDGE_ALLOW_ANONYMOUS (environment): a tunnel lets"),
        ({"PXBRIDGE_ALLOWED_NETWORKS": "10.0.0.0/8"}, "a tunnel lets the whole internet call"),
        ({"PXBRIDGE_CREDENTIALS": "a:0123456789abcdef", "PXBRIDGE_TLS_CERT_FILE": "/x"}, "leave it out"),
    ],
)
@pytest.mark.parametrize("words", [["--tunnel"], ["tunnel"]])
def test_no_tunnel_without_access_control(
    words: list[str],
    environ: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"PXBRIDGE_PORT": str(free_port()), **environ}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(words) == cli.EXIT_UNUSABLE
    written = capsys.readouterr().err
    assert told in written and written.count("\n") == 1


async def test_a_port_that_does_not_ask_for_the_secret_of_the_settings_is_refused(
    around: Environment,
) -> None:
    port = str(free_port())
    open_to_all = {"PXBRIDGE_PORT": port, "PXBRIDGE_ALLOW_ANONYMOUS": "true", "PXBRIDGE_CONSOLE_PORT": "0"}
    async with program("pxbridge", environ=open_to_all) as bridge:
        await until(lambda: bridge.said(" takes calls at "), "the bridge has started")
        environ = {**around.variables, "PXBRIDGE_PORT": port}
        async with program("pxbridge", "tunnel", "cloudflared", environ=environ) as tunnel:
            assert await tunnel.ends() == cli.EXIT_UNUSABLE
        assert "lets in whoever comes, so no tunnel is opened" in tunnel.log
    assert around.starts() == []


async def test_a_port_with_another_secret_is_told(around: Environment) -> None:
    async with bridge_port() as leads_to:
        environ = {
            **around.variables,
            "PXBRIDGE_PORT": str(leads_to.port),
            "PXBRIDGE_CREDENTIALS": "exotel:another-password-0123",
        }
        async with program("pxbridge", "tunnel", "cloudflared", environ=environ) as tunnel:
            assert await tunnel.ends() == cli.EXIT_FAILED
        assert "the server answered 401" in tunnel.log
        assert "another-password" not in tunnel.log


async def test_an_engine_is_dialled_with_its_token(around: Environment) -> None:
    async with running(Options(port=0, token="s3cret")) as engine:
        leads_to = target.engine("127.0.0.1", engine.port, path="/api/chat", token="s3cret")
        async with kept_open(Cloudflared(), leads_to, around.variables, QUICK) as told:
            await told.until(lambda: bool(told.opened_at))
        assert told.failures == []


async def test_an_engines_port_is_found_out_and_needs_its_token(around: Environment) -> None:
    async with running(Options(port=0, token="s3cret")) as engine:
        environ = {**around.variables, "PXBRIDGE_PORT": str(engine.port), "PXBRIDGE_ENGINE_TOKEN": "s3cret"}
        async with program("pxbridge", "tunnel", environ=environ) as tunnel:
            await until(lambda: tunnel.said("the engine's URL for a bridge"), "the URL is printed")
            assert tunnel.said("/api/chat")
            tunnel.signal(signal.SIGTERM)
            assert await tunnel.ends() == 0
        assert "s3cret" not in tunnel.log
        del environ["PXBRIDGE_ENGINE_TOKEN"]
        async with program("pxbridge", "tunnel", environ=environ) as tunnel:
            assert await tunnel.ends() == cli.EXIT_UNUSABLE
        assert "PXBRIDGE_ENGINE_TOKEN (environment): is not set" in tunnel.log
