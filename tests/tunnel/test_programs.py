"""cloudflared, ngrok and bore as processes: each failure that they are known for, and what is told of it.

The programs of the first two are stand-ins (`stand_in.py`) that tunnel on loopback. bore is the real one,
where it is built (`make bore`). The port behind them is a bridge's, with access control.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fault.processes import until
from tests.tunnel.conftest import LOGIN

from pxbridge.errors import InputError
from pxbridge.telephony.access import AccessControl
from pxbridge.telephony.exotel.routes import ExotelRoutes
from pxbridge.telephony.server import listen
from pxbridge.telephony.tokens import Signer
from pxbridge.tunnel import child, target
from pxbridge.tunnel.bore import Bore
from pxbridge.tunnel.checks import RealChecks
from pxbridge.tunnel.cloudflared import Cloudflared
from pxbridge.tunnel.ngrok import Ngrok
from pxbridge.tunnel.supervisor import Schedule, Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.tunnel.conftest import Environment

    from pxbridge.telephony.server import Arrival
    from pxbridge.tunnel.program import Program, Programs
    from pxbridge.tunnel.target import Target

BUILT_BORE = Path(__file__).parents[2] / "target" / "tools" / "bin" / "bore"
LIMIT_S = 60.0
"""Far more than anything here takes: a busy machine is no failure."""

QUICK = Schedule(poll_s=0.02, redial_s=0.02, dial_s=0.2, check_s=0.02, first_pause_s=0.01)


@contextlib.asynccontextmanager
async def bridge_port(login: str = LOGIN) -> AsyncIterator[Target]:
    """A bridge's port that asks for a login; calls end at once."""

    async def owner(arrival: Arrival) -> None:
        arrival.socket.on_message = lambda _data, _is_text: None
        await arrival.socket.wait_closed()

    control = AccessControl(
        Signer([b"k" * 32], lambda: 0.0), asyncio.get_running_loop().time, credentials=[LOGIN]
    )
    async with listen(owner, "127.0.0.1", 0, carriers=[ExotelRoutes()], access=control) as server:
        yield target.bridge("127.0.0.1", server.port, path="/exotel", login=login)


@dataclass
class Told:
    """What a supervisor tells, for a test to wait for."""

    opened_at: list[str] = field(default_factory=list)
    befores: list[str | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def opened(self, target: Target, address: str, before: str | None) -> None:
        self.opened_at.append(address)
        self.befores.append(before)
        self.news.set()

    def failed(self, why: str, again_in_s: float) -> None:
        self.failures.append(why)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def kept_open(
    programs: Programs,
    leads_to: Target,
    environ: dict[str, str],
    schedule: Schedule = QUICK,
) -> AsyncIterator[Told]:
    told = Told()

    async def start(program: Program) -> child.Child:
        return await child.start(program.command, environ, program.read, programs.install)

    async def found() -> Target:
        return leads_to

    supervisor = Supervisor(programs, start, found, RealChecks, told, schedule)
    task = asyncio.create_task(supervisor.run())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("programs", [Cloudflared(), Ngrok()], ids=lambda each: each.name)
async def test_a_tunnel_opens_and_its_program_ends_with_it(programs: Programs, around: Environment) -> None:
    async with bridge_port() as leads_to, kept_open(programs, leads_to, around.variables) as told:
        await told.until(lambda: bool(told.opened_at))
        assert told.opened_at[0].startswith("wss://localhost:")
        assert told.failures == []
        (started,) = around.starts()
        assert is_running(started["pid"])
    assert not is_running(started["pid"])
    assert not [name for name in started["environ"] if name.startswith("PXBRIDGE_")], "no secret of ours"
    assert LOGIN not in json.dumps(started)


@pytest.mark.parametrize("programs", [Cloudflared(), Ngrok()], ids=lambda each: each.name)
async def test_a_killed_program_is_started_again_and_its_new_address_is_told(
    programs: Programs, around: Environment
) -> None:
    async with bridge_port() as leads_to, kept_open(programs, leads_to, around.variables) as told:
        await told.until(lambda: bool(told.opened_at))
        os.kill(around.starts()[0]["pid"], signal.SIGKILL)
        await told.until(lambda: len(told.opened_at) == 2)
        assert told.failures == [f"{programs.name}: ended with status -9"]
        assert told.befores == [None, told.opened_at[0]]
        assert told.opened_at[0] != told.opened_at[1]


@pytest.mark.parametrize(
    ("programs", "mode", "words"),
    [
        (Cloudflared(), "429", "429 Too Many Requests"),
        (Cloudflared(), "port taken", "address already in use"),
        (Cloudflared(), "no address", "no address within 2 s"),
        (Ngrok(), "429", "ERR_NGROK_108"),
        (Ngrok(), "wrong token", "Your authtoken: ***"),
        (Ngrok(), "no address", "no address within 2 s"),
        (Ngrok(), "unreachable", "lookup connect.ngrok-agent.com: no such host"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
async def test_a_program_that_gets_no_tunnel_says_why_and_is_tried_again(
    programs: Programs, mode: str, words: str, around: Environment
) -> None:
    environ = {**around.variables, "STAND_IN": mode}
    # Programs that end say so at once, however long one may wait for an address.
    waits = mode in ("no address", "unreachable")
    schedule = replace(QUICK, address_s=2.0) if waits else QUICK

    def is_told(told: Told) -> bool:
        return any(words in each for each in told.failures)

    async with bridge_port() as leads_to, kept_open(programs, leads_to, environ, schedule) as told:
        await told.until(lambda: is_told(told) and (waits or len(told.failures) >= 2))
        assert told.opened_at == []
    assert "2abcNGROKSECRET" not in " ".join(told.failures), "its secret is in no log"
    assert not any(is_running(each["pid"]) for each in around.starts())


async def test_an_edge_that_udp_does_not_reach_is_tried_over_tcp(around: Environment) -> None:
    environ = {**around.variables, "STAND_IN": "unreachable"}
    async with bridge_port() as leads_to, kept_open(Cloudflared(), leads_to, environ) as told:
        await told.until(lambda: bool(told.opened_at))
    assert told.failures[0].startswith("cloudflared reaches no server of its network; wss://localhost:9")
    assert ["--protocol" in each["arguments"] for each in around.starts()][:2] == [False, True]


async def test_a_program_that_is_not_installed_is_told_with_where_to_get_it(tmp_path: Path) -> None:
    command = Cloudflared().new("127.0.0.1", 5050).command
    with pytest.raises(InputError, match=r"cloudflared is not installed: https://"):
        await child.start(command, {"PATH": str(tmp_path)}, lambda _: None, Cloudflared.install)


async def test_a_program_ends_when_we_are_killed(around: Environment, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, os, sys\n"
        "from pxbridge.tunnel import child\n"
        "async def main():\n"
        "    await child.start(sys.argv[1:], os.environ, lambda line: None, '')\n"
        "    print('started', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    words = ("cloudflared", "--url", "http://127.0.0.1:9", "--metrics", "127.0.0.1:0")
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *words, env=around.variables, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"started\n"
    await until(around.starts, "the program has started")
    parent.kill()
    await parent.wait()
    await until(lambda: not is_running(around.starts()[0]["pid"]), "the program has ended")


def test_the_words_of_a_program_are_kept_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    lines = [
        "Your authtoken: 2abcDEF",
        'lvl=eror err="bad" authtoken=2abcDEF',
        '{"err":"token: 2abcDEF, \\"secret\\": \\"2abcDEF\\""}',
        "\x1b[31mError\x1b[0m: invalid secret=2abcDEF",
        "x 2abcDEF y",
        'ERR error="Unable to reach it" dest=https://a.trycloudflare.com/exotel/t/d.1..2abcDEF?x=1 type=http',
        'GET "/exotel/t/d.1.books.2abcDEF/url" 502',
        "x" * (child.MAX_LINE_CHARS - 4) + "2abcDEF",
    ]

    async def scene() -> list[str]:
        environ = {**os.environ, "BORE_SECRET": "2abcDEF"}
        command = (sys.executable, "-c", "import sys; print(*sys.argv[1:], sep='\\n')", *lines)
        told: list[str] = []
        started = await child.start(command, environ, told.append, "")
        await started.wait(LIMIT_S)
        assert started.status == 0
        assert list(started.lines) == told
        return told

    told = asyncio.run(scene())
    assert len(told) == len(lines)
    assert not any("2abc" in line for line in [*told, *caplog.messages])
    assert told[5].endswith("/exotel/t/***?x=1 type=http") and told[6].endswith('/t/***/url" 502')
    assert not any("\x1b" in line for line in told)


# -- bore, the real program


@pytest.fixture
def bore(tmp_path: Path) -> str:
    """The folder of the built program."""
    found = shutil.which("bore") or (str(BUILT_BORE) if BUILT_BORE.exists() else None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("bore is not built: `make bore`")
        pytest.skip("bore is not built: `make bore`")
    return str(Path(found).parent)


@contextlib.asynccontextmanager
async def bore_server(folder: str, host: str, *words: str) -> AsyncIterator[None]:
    """A bore server on an address of loopback of its own: its control port is always 7835."""
    process = await asyncio.create_subprocess_exec(
        f"{folder}/bore", "server", "--bind-addr", host, *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(host, 7835)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_bore_opens_a_real_tunnel_and_finds_its_server_again(bore: str) -> None:
    host = "127.77.1.1"
    environ = {**os.environ, "PATH": bore, "BORE_SERVER": host}
    async with bridge_port() as leads_to, contextlib.AsyncExitStack() as stack:
        async with bore_server(bore, host):
            keeping = kept_open(Bore(environ), leads_to, environ, replace(QUICK, longest_pause_s=0.05))
            told = await stack.enter_async_context(keeping)
            await told.until(lambda: bool(told.opened_at))
            assert told.opened_at[0].startswith(f"ws://{host}:")
        await told.until(lambda: any("could not connect" in each for each in told.failures))
        async with bore_server(bore, host):
            await told.until(lambda: len(told.opened_at) == 2)


async def test_bore_with_a_wrong_secret_says_so_without_the_secret(bore: str) -> None:
    host = "127.77.1.2"
    environ = {**os.environ, "PATH": bore, "BORE_SERVER": host, "BORE_SECRET": "wrong-one-2abcDEF"}
    async with (
        bore_server(bore, host, "--secret", "right-one"),
        bridge_port() as leads_to,
        kept_open(Bore(environ), leads_to, environ) as told,
    ):
        await told.until(lambda: bool(told.failures))
    assert "invalid secret" in told.failures[0]
    assert "2abcDEF" not in told.failures[0]
