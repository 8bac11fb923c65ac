"""`pxbridge tunnel` and `pxbridge --tunnel` as processes: what they print, what they refuse, how they end."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import signal
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from rich.console import Console
from tests.fault.processes import program, until
from tests.personaplex.fake_model import FakeStepper
from tests.personaplex.rig import PERSONA
from tests.personaplex.test_engine_process import loaded, running
from tests.tunnel.conftest import LOGIN
from tests.tunnel.terminal import on_a_terminal
from tests.tunnel.test_programs import QUICK, bridge_port, is_running, kept_open

from pxbridge import cli, websocket
from pxbridge.commands import engine_serve
from pxbridge.commands.processes import free_port
from pxbridge.commands.tunnel import View
from pxbridge.personaplex.serve import Options, prepare, serve
from pxbridge.simulation.phone import Phone, Script, place_call
from pxbridge.tunnel import target
from pxbridge.tunnel.cloudflared import Cloudflared

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tunnel.conftest import Environment

PASSWORD = LOGIN.partition(":")[2]
SERVE = f"{sys.executable} -m pxbridge --tunnel cloudflared"


def serving(variables: dict[str, str]) -> dict[str, str]:
    """The environment of a bridge on free ports that asks for `LOGIN`."""
    return {**variables, "PXBRIDGE_PORT": "0", "PXBRIDGE_CONSOLE_PORT": "0"}


async def test_a_bridge_with_a_tunnel_prints_its_url_and_takes_calls_through_it(
    around: Environment, tmp_path: Path
) -> None:
    async with on_a_terminal(SERVE, environ=serving(around.variables), folder=tmp_path) as bridge:
        await until(lambda: re.search(r"applet\s+wss://\S+\s", bridge.printed), "the URL is printed")
        (url,) = re.findall(r"applet\s+(wss://\S+)", bridge.printed)
        assert url.startswith(f"wss://exotel:{PASSWORD}@localhost:")
        phone = Phone(Script(hang_up_at_s=1.5))
        await place_call(url, phone)
        assert phone.player.heard.any(), "the agent was heard through the tunnel"
        (started,) = around.starts()
        bridge.signal(signal.SIGTERM)
        assert await bridge.ends() == 0
    assert not is_running(started["pid"])
    assert "the tunnel is open: wss://USER:PASSWORD@localhost:" in bridge.logged
    assert PASSWORD not in bridge.logged, "no secret in the log"


async def test_without_a_terminal_the_secret_is_not_printed(around: Environment) -> None:
    async with bridge_port() as leads_to:
        environ = {**around.variables, "PXBRIDGE_PORT": str(leads_to.port)}
        async with program("pxbridge", "tunnel", "cloudflared", environ=environ) as tunnel:
            await until(lambda: tunnel.said("the secret is in the settings"), "the URL is printed")
            assert tunnel.said("  wss://USER:PASSWORD@localhost:")
            tunnel.signal(signal.SIGTERM)
            assert await tunnel.ends() == 0
        assert PASSWORD not in tunnel.log


async def test_ctrl_c_in_the_terminal_does_not_reach_the_tunnel(around: Environment, tmp_path: Path) -> None:
    async with on_a_terminal(SERVE, environ=serving(around.variables), folder=tmp_path) as bridge:
        await until(lambda: "applet" in bridge.printed, "the URL is printed")
        assert os.getpgid(around.starts()[0]["pid"]) != os.getpgid(bridge.pid)
        bridge.signal(signal.SIGINT)
        assert await bridge.ends() == 0


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "PXBRIDGE_CREDENTIALS (default): a tunnel lets the whole internet call"),
        ({"PXBRIDGE_ALLOW_ANONYMOUS": "true"}, "PXBRIDGE_ALLOW_ANONYMOUS (environment): a tunnel lets"),
        ({"PXBRIDGE_ALLOWED_NETWORKS": "10.0.0.0/8"}, "a tunnel lets the whole internet call"),
        ({"PXBRIDGE_CREDENTIALS": "a:0123456789abcdef", "PXBRIDGE_TLS_CERT_FILE": "/x"}, "leave it out"),
        (
            {
                "PXBRIDGE_CREDENTIALS": "a:0123456789abcdef",
                "PXBRIDGE_PROXY_PROTOCOL": "true",
                "PXBRIDGE_TRUSTED_PROXIES": "127.0.0.1",
            },
            "sends no header from 127.0.0.1",
        ),
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
        assert "admits anybody, so no tunnel is opened" in tunnel.log
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
    async with running(Options(port=0, token="s3cret-of-the-engine")) as engine:
        leads_to = target.engine("127.0.0.1", engine.port, path="/api/chat", token="s3cret-of-the-engine")
        async with kept_open(Cloudflared(), leads_to, around.variables, QUICK) as told:
            await told.until(lambda: bool(told.opened_at))
        assert told.failures == []


async def test_an_engines_port_is_found_out_and_needs_its_token(around: Environment) -> None:
    async with running(Options(port=0, token="s3cret-of-the-engine")) as engine:
        environ = {
            **around.variables,
            "PXBRIDGE_PORT": str(engine.port),
            "PXBRIDGE_ENGINE_TOKEN": "s3cret-of-the-engine",
        }
        async with program("pxbridge", "tunnel", environ=environ) as tunnel:
            await until(lambda: tunnel.said("the engine's URL for a bridge"), "the URL is printed")
            assert tunnel.said("/api/chat")
            tunnel.signal(signal.SIGTERM)
            assert await tunnel.ends() == 0
        assert "s3cret-of-the-engine" not in tunnel.log
        del environ["PXBRIDGE_ENGINE_TOKEN"]
        async with program("pxbridge", "tunnel", environ=environ) as tunnel:
            assert await tunnel.ends() == cli.EXIT_UNUSABLE
        assert "PXBRIDGE_ENGINE_TOKEN (environment): is not set" in tunnel.log


def test_the_journal_gets_the_lines_of_the_log_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    printed = io.StringIO()
    opened = target.bridge("127.0.0.1", 5050, path="/exotel", login="ann:s3cret-of-the-engine")
    with caplog.at_level("INFO"):
        View("cloudflared", Console(file=printed)).opened(opened, "wss://x.example.com", None)
    assert printed.getvalue() == ""
    assert "wss://USER:PASSWORD@x.example.com/exotel was dialled from here" in caplog.text


async def test_an_engine_with_a_tunnel_of_its_own_is_reached_through_it(
    around: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in around.variables.items():
        if not name.startswith("PXBRIDGE_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("PXBRIDGE_ENGINE_TOKEN", "s3cret-of-the-engine")
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=True, width=200)
    asked = argparse.Namespace(tunnel="cloudflared", host="127.0.0.1", port=0)
    beside = engine_serve.tunnel_beside(asked, console)
    prepared = prepare(Options(port=0, token="s3cret-of-the-engine"))
    serving = asyncio.create_task(serve(loaded(FakeStepper(1)), prepared, beside.start))
    await until(lambda: "/api/chat" in printed.getvalue(), "the URL is printed")
    (url,) = re.findall(r"wss://bridge:s3cret-of-the-engine@localhost:\d+/api/chat", printed.getvalue())
    session = await websocket.connect(f"{url}?{urlencode(PERSONA)}")
    session.close(1000)
    await session.wait_closed()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await serving == 0
    await beside.stop()
    assert not is_running(around.starts()[0]["pid"])
