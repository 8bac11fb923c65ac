"""A stranger at the door of a bridge as it is deployed: settings, gate, listener and engine together."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import signal
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from rich.console import Console
from tests.fault.processes import program, until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pxbridge import cli, settings
from pxbridge.app import lifecycle
from pxbridge.commands.processes import free_port
from pxbridge.telephony.exotel.spelling import Exotel
from pxbridge.telephony.tokens import Scope, Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PASSWORD = "correct-horse-battery"
NEW_PASSWORD = "staple-staple-staple"
KEY = "0123456789abcdef" * 4
ENVIRON = {
    "PXBRIDGE_PORT": "0",
    "PXBRIDGE_LOG_LEVEL": "debug",
    "PXBRIDGE_CREDENTIALS": f"asha:{PASSWORD} asha:{NEW_PASSWORD}",
    "PXBRIDGE_TOKEN_KEYS": KEY,
    "PXBRIDGE_PUBLIC_URL": "wss://voice.example.com",
    "PXBRIDGE_TRUSTED_PROXIES": "127.0.0.1",
    "PXBRIDGE_SHED_ABOVE_LAG_MS": "0",
}


@contextlib.asynccontextmanager
async def deployed(**environ: str) -> AsyncIterator[str]:
    """A bridge with its rehearsal engine; the part of its URL that tells where it is."""
    ready: asyncio.Queue[str] = asyncio.Queue()
    loaded = settings.load({}, {**ENVIRON, **environ})
    running = asyncio.create_task(lifecycle.run(loaded, Console(file=io.StringIO()), ready.put_nowait))
    try:
        yield urlsplit(await ready.get()).netloc
    finally:
        running.cancel()
        await asyncio.wait([running])


async def knock(where: str, path: str = "/exotel", *, user: str = "", forwarded: str = "203.0.113.7") -> int:
    """Dial as Exotel does; 101 when the call was let in and started."""
    headers = {"X-Forwarded-For": forwarded}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    try:
        async with connect(f"ws://{where}{path}", additional_headers=headers) as phone:
            exotel = Exotel("MZ1")
            await phone.send(exotel.connected())
            await phone.send(exotel.start(call_sid="CA1"))
            assert '"media"' in str(await phone.recv()), "a call that is let in is heard"
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def fetch(where: str, path: str, *, user: str = "", forwarded: str = "203.0.113.7") -> tuple[int, str]:
    """Ask a webhook."""
    host, _, port = where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", f"X-Forwarded-For: {forwarded}"]
    if user:
        lines.append("Authorization: Basic " + base64.b64encode(user.encode()).decode())
    writer.write("\r\n".join([*lines, "", ""]).encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


def token(*, key: str = KEY, scope: Scope = Scope.CALL, age_s: float = 0.0) -> str:
    return Signer([key.encode()], lambda: time.time() - age_s).make(scope, 60.0)


async def test_who_has_no_credentials_or_wrong_ones_is_not_let_in() -> None:
    async with deployed() as where:
        assert await knock(where) == 401
        assert await knock(where, "/") == 401
        assert await knock(where, "/exotel/nurse") == 401
        for wrong in (
            "asha:",
            "asha:guess",
            f"ravi:{PASSWORD}",
            PASSWORD,
            f"asha:{PASSWORD}\n",
            f"asha:{PASSWORD} asha",
        ):
            assert await knock(where, user=wrong) == 401


async def test_each_of_two_passwords_lets_in_while_they_are_rotated() -> None:
    async with deployed() as where:
        assert await knock(where, user=f"asha:{PASSWORD}") == 101
        assert await knock(where, user=f"asha:{NEW_PASSWORD}") == 101


async def test_expired_forged_and_foreign_tokens_do_not_let_in() -> None:
    async with deployed() as where:
        good = token()
        assert await knock(where, f"/exotel/t/{good}") == 101
        assert await knock(where, f"/exotel/t/{token(age_s=61.0)}") == 403
        assert await knock(where, f"/exotel/t/{token(key='f' * 64)}") == 403
        scope, expiry, *rest = good.split(".")
        later = ".".join([scope, f"{int(expiry, 16) + 3600:x}", *rest])
        assert await knock(where, f"/exotel/t/{later}") == 403
        widened = ".".join([Scope.PORT, expiry, *rest])
        assert await knock(where, f"/exotel/t/{widened}") == 403
        for nonsense in (
            "",
            ".",
            "....",
            good[:-1],
            good + "A",
            good.rpartition(".")[0] + ".",
            "%00",
            "a" * 4000,
        ):
            assert await knock(where, f"/exotel/t/{nonsense}") in (403, 404)


async def test_a_token_in_the_query_is_none() -> None:
    async with deployed() as where:
        assert await knock(where, f"/exotel?token={token()}") == 401
        assert await knock(where, f"/exotel?t={token()}&Authorization=Basic") == 401


async def test_webhooks_are_as_closed_as_the_socket_and_hand_out_calls_only() -> None:
    async with deployed() as where:
        for path in ("/exotel/url", "/exotel/passthru?CallSid=CA1", "/exotel/connect?CallSid=CA1"):
            assert (await fetch(where, path))[0] == 401
            inner = path.removeprefix("/exotel")
            assert (await fetch(where, f"/exotel/t/{token()}{inner}"))[0] == 403
            assert (await fetch(where, f"/exotel/t/{token(scope=Scope.PORT)}{inner}"))[0] in (200, 404)
        status, body = await fetch(where, "/exotel/url", user=f"asha:{PASSWORD}")
        assert status == 200
        path = urlsplit(body.split('"')[3]).path
        assert await knock(where, path) == 101
        assert (await fetch(where, f"{path}/url"))[0] == 403


async def test_an_address_may_not_be_made_up() -> None:
    async with deployed(PXBRIDGE_ALLOWED_NETWORKS="203.0.113.0/24") as where:
        user = f"asha:{PASSWORD}"
        assert await knock(where, user=user) == 101
        assert await knock(where, user=user, forwarded="198.51.100.1") == 403
        assert await knock(where, user=user, forwarded="203.0.113.7, 198.51.100.1") == 403
    async with deployed(
        PXBRIDGE_ALLOWED_NETWORKS="203.0.113.0/24", PXBRIDGE_TRUSTED_PROXIES="192.0.2.1"
    ) as where:
        assert await knock(where, user=user, forwarded="203.0.113.7") == 403


async def test_who_tries_passwords_is_soon_refused_without_a_look_and_nobody_else_is() -> None:
    async with deployed(PXBRIDGE_HANDSHAKES_PER_MINUTE="60") as where:
        guesser = [await knock(where, user=f"asha:guess{n}", forwarded="198.51.100.1") for n in range(15)]
        assert guesser[:10] == [401] * 10
        assert guesser[-1] == 429
        assert await knock(where, user=f"asha:{PASSWORD}", forwarded="198.51.100.1") == 429
        assert await knock(where, user=f"asha:{PASSWORD}") == 101


async def test_an_overloaded_bridge_says_so_everywhere_and_takes_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.asynccontextmanager
    async def measured(observe: Callable[[float, float], None]) -> AsyncIterator[None]:
        async def measure() -> None:
            while True:
                await asyncio.sleep(0.001)
                observe(0.06, asyncio.get_running_loop().time())

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(measure())
            yield
            task.cancel()

    monkeypatch.setattr("pxbridge.app.observability.measured", measured)
    monkeypatch.setattr("pxbridge.ops.loop_lag.WINDOW_S", 0.2)
    user, console_port = f"asha:{PASSWORD}", free_port()
    settings = {"PXBRIDGE_SHED_ABOVE_LAG_MS": "40", "PXBRIDGE_CONSOLE_PORT": str(console_port)}
    async with deployed(**settings) as where, asyncio.timeout(20):
        while (await fetch(where, "/readyz"))[0] == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        late = "overloaded: the event loop is 60 ms late"
        assert (await fetch(where, "/readyz")) == (503, f"{late}\n")
        assert await knock(where, user=user) == 503
        status, body = await fetch(where, "/exotel/url", user=user)
        assert (status, json.loads(body)) == (503, {"error": late})
        _, metrics = await fetch(f"127.0.0.1:{console_port}", "/metrics")
        assert "pxbridge_overloaded 1.0" in metrics
        assert "pxbridge_event_loop_lag_p95_seconds 0.06" in metrics
        assert 'pxbridge_door_refusals_total{reason="overloaded"} 1.0' in metrics
        assert late in (await fetch(f"127.0.0.1:{console_port}", "/readyz"))[1]


async def test_whoever_asks_for_urls_and_never_calls_keeps_no_call_out() -> None:
    user = f"asha:{PASSWORD}"
    async with deployed(PXBRIDGE_MAX_CALLS="1", PXBRIDGE_WARM_SESSIONS="0") as where:

        async def url(query: str) -> tuple[int, dict[str, str]]:
            status, body = await fetch(where, f"/exotel/url{query}", user=user)
            return status, json.loads(body)

        for _ in range(5):  # a monitor
            assert (await url(""))[0] == 200
            assert (await url("?reserve=no&CallSid=monitor"))[0] == 200
        for _ in range(5):  # a flow that tries again
            assert (await url("?CallSid=CA1"))[0] == 200
        taken = {"error": "every engine is taken, or reserved by 1 URL not used yet"}
        assert await url("?CallSid=CA2") == (503, taken)
        assert await url("") == (503, taken)


async def test_one_address_has_only_so_many_calls() -> None:
    async with deployed(PXBRIDGE_MAX_CALLS_PER_ADDRESS="1") as where:
        headers = {
            "X-Forwarded-For": "198.51.100.1",
            "Authorization": "Basic " + base64.b64encode(f"asha:{PASSWORD}".encode()).decode(),
        }
        async with connect(f"ws://{where}/exotel", additional_headers=headers):
            assert await knock(where, user=f"asha:{PASSWORD}", forwarded="198.51.100.1") == 429
            assert await knock(where, user=f"asha:{PASSWORD}") == 101


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/api/chat",
        "/console",
        "/exotel/../metrics",
        "/exotel/%2e%2e/%2e%2e/etc/passwd",
        "/exotel/..%5c..%5cwindows",
        "/exotel/nurse%00.toml",
        "/exotel/nurse/../../secrets",
        "/exotel/" + "n" * 65,
        "//voice.example.com/exotel",
        "/exotel//nurse",
        "/exotel;x=1",
        "http://127.0.0.1/exotel/../x",
        "/%65xotel",
        "/EXOTEL",
        "*",
    ],
)
async def test_nothing_but_calls_webhooks_and_health_is_there_whatever_the_path(path: str) -> None:
    async with deployed() as where:
        assert (await fetch(where, path, user=f"asha:{PASSWORD}"))[0] == 404


async def test_secrets_are_in_no_log_no_metric_and_no_answer_at_any_level() -> None:
    good, bad, stale = token(), token(key="f" * 64), token(age_s=100.0)
    port, console_port = free_port(), free_port()
    environ = {**ENVIRON, "PXBRIDGE_PORT": str(port), "PXBRIDGE_CONSOLE_PORT": str(console_port)}
    where, console = f"127.0.0.1:{port}", f"127.0.0.1:{console_port}"
    answers: list[str] = []
    async with program("pxbridge", environ=environ) as process:
        await until(lambda: process.said("takes calls at"), "the bridge is up")
        for user in (f"asha:{PASSWORD}", "asha:hunter2hunter2", ""):
            await knock(where, user=user)
            asked = ("/exotel/url", "/exotel/passthru?CallSid=CA1", "/nowhere", "/readyz")
            answers += [(await fetch(where, path, user=user))[1] for path in asked]
        for one in (good, bad, stale):
            await knock(where, f"/exotel/t/{one}")
            answers += [(await fetch(where, f"/exotel/t/{one}/url"))[1]]
        answers += [(await fetch(console, path))[1] for path in ("/metrics", "/api/calls", "/readyz")]
        process.signal(signal.SIGTERM)
        await process.ends()
    assert 'pxbridge_door_refusals_total{reason="wrong_credentials"} ' in "".join(answers)
    assert "telephony port: refused requests" in process.log, "the log was looked at"
    basic = base64.b64encode(f"asha:{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, NEW_PASSWORD, KEY, "hunter2", good, bad, stale, basic):
        assert secret not in process.log
        assert secret not in "".join(answers)


def test_the_token_that_an_operator_makes_opens_the_door(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXBRIDGE_TOKEN_KEYS", KEY)
    monkeypatch.setenv("PXBRIDGE_PUBLIC_URL", "wss://voice.example.com")
    assert cli.main(["token", "--days", "1", "--persona", "default"]) == 0
    told = capsys.readouterr()
    printed = told.out.strip()
    assert printed.startswith("wss://voice.example.com/exotel/t/d.")
    assert told.err.startswith("valid until 20"), "the output is the URL alone"
    assert KEY not in printed

    async def try_it() -> None:
        async with deployed() as where:
            path = urlsplit(printed).path
            assert await knock(where, path) == 101
            assert await knock(where, f"{path}/doctor") == 403
            assert (await fetch(where, f"{path}/url"))[0] == 200

    asyncio.run(try_it())


@pytest.mark.parametrize("words", [["--days", "0"], ["--days", "x"], ["--persona", "../x"], []])
def test_a_token_that_makes_no_sense_is_not_made(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXBRIDGE_PUBLIC_URL", "wss://voice.example.com")
    if words:
        monkeypatch.setenv("PXBRIDGE_TOKEN_KEYS", KEY)
    assert cli.main(["token", *words]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("missing", ["PXBRIDGE_TOKEN_KEYS", "PXBRIDGE_PUBLIC_URL"])
def test_without_a_url_that_a_carrier_can_dial_no_token_is_printed_and_the_setting_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXBRIDGE_TOKEN_KEYS", KEY)
    monkeypatch.setenv("PXBRIDGE_PUBLIC_URL", "wss://voice.example.com")
    monkeypatch.delenv(missing)
    assert cli.main(["token"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{missing} (default): is not set; set it to" in told.err
    assert told.err.count("\n") == 1


def test_a_token_for_a_persona_that_the_settings_do_not_have_is_made_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pxbridge.toml").write_text('[personas.books]\nvoice_prompt = "NATF1.pt"\n')
    monkeypatch.setenv("PXBRIDGE_TOKEN_KEYS", KEY)
    monkeypatch.setenv("PXBRIDGE_PUBLIC_URL", "wss://voice.example.com")
    for persona, warned in (("boks", True), ("books", False), ("default", False)):
        assert cli.main(["token", "--config", str(tmp_path / "pxbridge.toml"), "--persona", persona]) == 0
        told = capsys.readouterr()
        assert told.out.count("\n") == 1
        assert ("called 'boks': books, default" in told.err) is warned


def test_a_public_url_that_has_the_path_already_makes_no_url_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PXBRIDGE_TOKEN_KEYS", KEY)
    assert cli.main(["token", "--public-url", "wss://voice.example.com/exotel/"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "--public-url (command line): ends in /exotel; leave /exotel out" in told.err


async def test_a_password_that_is_taken_back_lets_nobody_in_from_the_next_sighup_on(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"asha:{PASSWORD}\n")
    port = free_port()
    environ = {
        "PXBRIDGE_PORT": str(port),
        "PXBRIDGE_CREDENTIALS_FILE": str(file),
        "PXBRIDGE_CONSOLE_PORT": "0",
        "PXBRIDGE_SHED_ABOVE_LAG_MS": "0",
    }
    where = f"127.0.0.1:{port}"
    async with program("pxbridge", environ=environ) as process:
        await until(lambda: process.said("takes calls at"), "the bridge is up")
        assert await knock(where, user=f"asha:{PASSWORD}") == 101
        file.write_text(f"asha:{PASSWORD} asha:{NEW_PASSWORD}\n")
        process.signal(signal.SIGHUP)
        await until(lambda: process.said("changed settings: credentials"), "it reloads")
        assert await knock(where, user=f"asha:{PASSWORD}") == 101
        assert await knock(where, user=f"asha:{NEW_PASSWORD}") == 101
        file.write_text(f"asha:{NEW_PASSWORD}\n")
        process.signal(signal.SIGHUP)
        await until(lambda: process.log.count("changed settings: credentials") == 2, "it reloads")
        assert await knock(where, user=f"asha:{PASSWORD}") == 401
        assert await knock(where, user=f"asha:{NEW_PASSWORD}") == 101
        file.write_text("asha:short")
        process.signal(signal.SIGHUP)
        await until(lambda: process.said("the settings stay as they were"), "it says what is wrong")
        assert await knock(where) == 401
    assert PASSWORD not in process.log and NEW_PASSWORD not in process.log


async def test_a_reload_never_opens_the_door_where_it_listens(tmp_path: Path) -> None:
    config, port = tmp_path / "pxbridge.toml", free_port()
    config.write_text(f'host = "0.0.0.0"\nport = {port}\nconsole_port = 0\ncredentials = "asha:{PASSWORD}"')
    async with program("pxbridge", environ={"PXBRIDGE_CONFIG": str(config)}) as process:
        await until(lambda: process.said("takes calls at"), "the bridge is up")
        config.write_text(f'host = "127.0.0.1"\nport = {port}\nconsole_port = 0')
        process.signal(signal.SIGHUP)
        await until(lambda: process.said("the settings stay as they were"), "it says what is wrong")
        assert await knock(f"127.0.0.1:{port}") == 401
