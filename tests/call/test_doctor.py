"""`pxbridge doctor` and `pxbridge check-config`: each misconfiguration is found, with its fix."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trustme
from tests.call.rig import VECTORS
from tests.fault.processes import bridge_process, engine_process

from pxbridge import cli
from pxbridge.chat_wire import ENGINE_HZ
from pxbridge.commands import doctor as command
from pxbridge.commands.processes import free_port
from pxbridge.doctor import Finding, Verdict, codec, examine, machine
from pxbridge.simulation import faults
from pxbridge.simulation.rehearsal import Mode, Rehearsal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parents[2]
CERTIFICATE, KEY = VECTORS / "engine-cert.pem", VECTORS / "engine-key.pem"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a bridge without problems."""
    return {
        "PXBRIDGE_PORT": str(free_port()),
        "PXBRIDGE_CONSOLE_PORT": "0",
        "PXBRIDGE_STATE_DIR": str(tmp_path / "state"),
        "PXBRIDGE_CREDENTIALS": "exotel:0123456789abcdef",
    }


async def findings(environ: dict[str, str]) -> list[Finding]:
    async with asyncio.timeout(30):
        return [finding async for finding in examine({}, environ)]


async def wrongs(environ: dict[str, str]) -> list[Finding]:
    return [finding for finding in await findings(environ) if finding.verdict is Verdict.WRONG]


async def the_wrong(environ: dict[str, str]) -> Finding:
    """The only thing that is wrong; it has a fix and shows no secret."""
    (found,) = await wrongs(environ)
    assert found.fix and "\n" not in found.what + found.fix
    assert "0123456789abcdef" not in found.what + found.fix
    return found


@contextlib.asynccontextmanager
async def engine(**options: object) -> AsyncIterator[str]:
    async with Rehearsal(**{"mode": Mode.ECHO, "prompt_s": 0.0, "step_ms": 20, **options}) as made:  # type: ignore[arg-type]
        yield made.url


def serving(certificate: Path = CERTIFICATE, key: Path = KEY) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def issue(folder: Path, *names: str, days: float = 90.0) -> tuple[Path, Path]:
    """A certificate for `names`, good for so many days, and its key."""
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    made = trustme.CA().issue_cert(*names, not_before=until - datetime.timedelta(days=365), not_after=until)
    certificate, key = folder / f"{names[0]}.pem", folder / f"{names[0]}.key"
    certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(made.private_key_pem.bytes())
    return certificate, key


# -- nothing wrong -------------------------------------------------------------------------------------


async def test_a_healthy_bridge_is_found_healthy(environ: dict[str, str], tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "voice.example.com")
    environ |= {
        "PXBRIDGE_TLS_CERT_FILE": str(certificate),
        "PXBRIDGE_TLS_KEY_FILE": str(key),
        "PXBRIDGE_PUBLIC_URL": "wss://voice.example.com",
    }
    async with engine() as url:
        found = await findings(environ | {"PXBRIDGE_ENGINES": url})
    assert not [each for each in found if each.verdict is Verdict.WRONG]
    checks = {each.check for each in found if each.verdict is Verdict.GOOD}
    assert checks >= {"settings", "personas", "port", "tls", "engine", "codec", "disk", "descriptors"}
    spoken = next(each.what for each in found if each.check == "engine")
    assert "ms for each 80 ms of audio" in spoken


async def test_an_engine_that_a_running_bridge_has_is_left_alone() -> None:
    async with engine_process() as url, bridge_process(engines=url) as bridge:
        phone = await bridge.call()
        found = await findings(
            {
                "PXBRIDGE_PORT": str(bridge.port),
                "PXBRIDGE_CONSOLE_PORT": "0",
                "PXBRIDGE_ENGINES": url,
                "PXBRIDGE_ALLOW_ANONYMOUS": "true",
            }
        )
        assert not [each for each in found if each.verdict is Verdict.WRONG]
        assert any("a bridge runs there" in each.what for each in found)
        assert any("no conversation is tried" in each.what for each in found)
        assert phone.close_code is None and not bridge.said("engine failed")


@pytest.mark.parametrize("proxied", [False, True])
async def test_a_running_bridge_that_serves_tls_is_found_healthy(*, proxied: bool, tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "voice.example.com")
    tls = {"PXBRIDGE_TLS_CERT_FILE": str(certificate), "PXBRIDGE_TLS_KEY_FILE": str(key)}
    if proxied:  # by a proxy on the same machine
        tls |= {"PXBRIDGE_PROXY_PROTOCOL": "true", "PXBRIDGE_TRUSTED_PROXIES": "127.0.0.1"}
    ports = {"PXBRIDGE_CONSOLE_PORT": str(free_port())}
    async with bridge_process(environ=tls | ports) as bridge:
        running = {"PXBRIDGE_PORT": str(bridge.port), "PXBRIDGE_STATE_DIR": str(tmp_path)}
        found = await findings(tls | ports | running)
    assert not [each for each in found if each.verdict is Verdict.WRONG]
    assert sum("a bridge runs there" in each.what for each in found) == 2


@pytest.mark.parametrize("lines_too", [False, True])
async def test_a_running_bridge_whose_console_serves_tls_is_found_healthy(
    *, lines_too: bool, tmp_path: Path
) -> None:
    certificate, key = issue(tmp_path, "voice.example.com")
    pair = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    environ = {f"PXBRIDGE_CONSOLE_{name}": path for name, path in pair.items()}
    if lines_too:
        environ |= {f"PXBRIDGE_{name}": path for name, path in pair.items()}
    environ["PXBRIDGE_CONSOLE_PORT"] = str(free_port())
    async with bridge_process(environ=environ) as bridge:
        running = {"PXBRIDGE_PORT": str(bridge.port), "PXBRIDGE_STATE_DIR": str(tmp_path)}
        found = await findings(environ | running)
    assert not [each for each in found if each.verdict is Verdict.WRONG]
    assert sum("a bridge runs there" in each.what for each in found) == 2


# -- planted -------------------------------------------------------------------------------------------


async def test_a_setting_that_does_not_exist(environ: dict[str, str]) -> None:
    found = await the_wrong(environ | {"PXBRIDGE_ENGINE": "ws://gpu"})
    assert (found.check, found.what) == ("settings", "PXBRIDGE_ENGINE (environment) is wrong")
    assert "did you mean PXBRIDGE_ENGINES?" in found.fix


async def test_an_open_door_before_a_real_engine(environ: dict[str, str]) -> None:
    del environ["PXBRIDGE_CREDENTIALS"]
    async with engine() as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url})
    assert found.check == "settings" and "set PXBRIDGE_CREDENTIALS" in found.fix


async def test_a_persona_without_its_greeting(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pxbridge.toml").write_text('[personas.a]\ngreeting = "absent.wav"')
    found = await the_wrong(environ | {"PXBRIDGE_CONFIG": str(tmp_path / "pxbridge.toml")})
    assert "personas.a.greeting" in found.what and "absent.wav: No such file" in found.fix


async def test_a_port_that_another_program_has(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(environ["PXBRIDGE_PORT"]))) as other:
        other.settimeout(0)
        found = await the_wrong(environ)
    assert found.check == "port" and "is taken by another program" in found.what
    assert f"ss -ltnp sport = :{environ['PXBRIDGE_PORT']}" in found.fix


async def test_an_address_of_another_machine(environ: dict[str, str]) -> None:
    found = await the_wrong(environ | {"PXBRIDGE_HOST": "192.0.2.1"})
    assert found.check == "port" and "set --host to an address of this machine" in found.fix


async def test_a_key_that_belongs_to_another_certificate(environ: dict[str, str], tmp_path: Path) -> None:
    certificate, _ = issue(tmp_path, "voice.example.com")
    _, key = issue(tmp_path, "other.example.com")
    found = await the_wrong(
        environ | {"PXBRIDGE_TLS_CERT_FILE": str(certificate), "PXBRIDGE_TLS_KEY_FILE": str(key)}
    )
    assert found.check == "tls" and "belong together" in found.fix


async def test_a_key_that_others_can_read(environ: dict[str, str], tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "voice.example.com")
    key.chmod(0o644)
    found = await the_wrong(
        environ | {"PXBRIDGE_TLS_CERT_FILE": str(certificate), "PXBRIDGE_TLS_KEY_FILE": str(key)}
    )
    assert found.fix == f"`chmod 640 {key}`"


async def test_a_key_that_a_group_may_read_is_nothing_wrong(environ: dict[str, str], tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "voice.example.com")
    key.chmod(0o640)
    environ |= {"PXBRIDGE_TLS_CERT_FILE": str(certificate), "PXBRIDGE_TLS_KEY_FILE": str(key)}
    assert await wrongs(environ) == []


async def test_a_certificate_that_has_expired(environ: dict[str, str], tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "voice.example.com", days=-1)
    found = await the_wrong(
        environ | {"PXBRIDGE_TLS_CERT_FILE": str(certificate), "PXBRIDGE_TLS_KEY_FILE": str(key)}
    )
    assert found.what == f"{certificate} has expired" and found.fix.startswith("renew it")


async def test_a_certificate_that_soon_expires_is_noted(environ: dict[str, str], tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "voice.example.com", days=5.5)
    environ |= {"PXBRIDGE_TLS_CERT_FILE": str(certificate), "PXBRIDGE_TLS_KEY_FILE": str(key)}
    notes = [found for found in await findings(environ) if found.verdict is Verdict.NOTE]
    assert any("5 days" in found.what or "6 days" in found.what for found in notes)
    assert any("such as Exotel" in found.what and "public authority" in found.fix for found in notes)


async def test_a_certificate_for_another_name(environ: dict[str, str], tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "voice.example.com")
    found = await the_wrong(
        environ
        | {
            "PXBRIDGE_TLS_CERT_FILE": str(certificate),
            "PXBRIDGE_TLS_KEY_FILE": str(key),
            "PXBRIDGE_PUBLIC_URL": "wss://calls.example.com",
        }
    )
    assert "is for voice.example.com" in found.what
    assert "get a certificate for calls.example.com" in found.fix


async def test_an_engine_that_is_not_there(environ: dict[str, str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": f"ws://127.0.0.1:{port}"})
    assert "Connection refused" in found.what
    assert "start PersonaPlex there" in found.fix and f"correct port {port}" in found.fix


async def test_an_engine_whose_name_does_not_exist(environ: dict[str, str]) -> None:
    found = await the_wrong(environ | {"PXBRIDGE_ENGINES": "ws://user:0123456789abcdef@gpu.invalid"})
    assert "no such host" in found.what and "the DNS of this machine" in found.fix


async def test_tls_towards_an_engine_without_it(environ: dict[str, str]) -> None:
    async with engine() as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url.replace("ws:", "wss:")})
    assert "speaks no TLS" in found.what and "write ws:// instead of wss://" in found.fix


async def test_no_tls_towards_an_engine_with_it(environ: dict[str, str]) -> None:
    async with engine(ssl=serving()) as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url.replace("wss:", "ws:")})
    assert "speaks TLS" in found.what and "write wss:// instead of ws://" in found.fix


async def test_a_self_signed_certificate_that_nobody_pinned(environ: dict[str, str]) -> None:
    async with engine(ssl=serving()) as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url})
        assert "not trusted" in found.what
        pin = found.fix.split()[1]
        assert f"if {pin} is the engine's SHA-256 fingerprint, set PXBRIDGE_ENGINE_FINGERPRINT" in found.fix
        assert not await wrongs(environ | {"PXBRIDGE_ENGINES": url, "PXBRIDGE_ENGINE_FINGERPRINT": pin})


async def test_a_pin_of_another_certificate(environ: dict[str, str]) -> None:
    async with engine(ssl=serving()) as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url, "PXBRIDGE_ENGINE_FINGERPRINT": "ab" * 32})
    assert "is pinned" in found.what and "set PXBRIDGE_ENGINE_FINGERPRINT" in found.fix


async def test_an_engine_that_is_slower_than_speech(environ: dict[str, str]) -> None:
    async with engine(step_ms=120) as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url})
    assert "slower than speech" in found.what and "free the GPU" in found.fix


async def test_an_engine_that_somebody_else_has(environ: dict[str, str]) -> None:
    async with engine(faults=[faults.StaysSilent()]) as url:
        found = await the_wrong(
            environ | {"PXBRIDGE_ENGINES": url, "PXBRIDGE_ENGINE_HANDSHAKE_TIMEOUT_S": "0.3"}
        )
    assert "another conversation" in found.what and "end its other conversation" in found.fix


async def test_a_lease_store_that_does_not_answer(environ: dict[str, str]) -> None:
    async with engine() as url:
        environ |= {"PXBRIDGE_ENGINES": url, "PXBRIDGE_LEASE_STORE": "redis://:0123456789abcdef@127.0.0.1:9"}
        found = await the_wrong(environ)
    assert "the lease store does not answer" in found.what and "correct PXBRIDGE_LEASE_STORE" in found.fix


async def test_a_lease_store_that_does_not_answer_without_an_engine(environ: dict[str, str]) -> None:
    found = await the_wrong(environ | {"PXBRIDGE_LEASE_STORE": "redis://127.0.0.1:9"})
    assert "the lease store does not answer" in found.what


async def test_a_voice_that_the_engine_does_not_have(environ: dict[str, str]) -> None:
    async with engine() as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url, "PXBRIDGE_VOICE_PROMPT": "NATF9.pt"})
    assert "NATF9.pt" in found.what and "set PXBRIDGE_VOICE_PROMPT" in found.fix


async def test_a_voice_of_another_persona_that_the_engine_does_not_have(
    environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "pxbridge.toml"
    file.write_text('[personas.books]\ntext_prompt = "You sell books."\nvoice_prompt = "NATX9.pt"\n')
    async with engine() as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url, "PXBRIDGE_CONFIG": str(file)})
    assert "NATX9.pt" in found.what and "the persona books" in found.fix


async def test_an_engine_that_takes_fewer_calls_than_it_is_given(environ: dict[str, str]) -> None:
    async with engine(slots=2) as url:
        settings = {
            "PXBRIDGE_ENGINES": url,
            "PXBRIDGE_ENGINE_CAPACITY": "3",
            "PXBRIDGE_ENGINE_HANDSHAKE_TIMEOUT_S": "0.5",
        }
        found = await the_wrong(environ | settings)
    assert (
        "took 2 of 3 conversations at the same time" in found.what
        and "PXBRIDGE_ENGINE_CAPACITY=2" in found.fix
    )


async def test_an_engine_that_takes_as_many_calls_as_it_is_given(environ: dict[str, str]) -> None:
    async with engine(slots=3) as url:
        found = await wrongs(environ | {"PXBRIDGE_ENGINES": url, "PXBRIDGE_ENGINE_CAPACITY": "3"})
    assert found == []


async def test_one_engine_under_two_names(environ: dict[str, str]) -> None:
    async with engine() as url:
        other = url.replace("127.0.0.1", "localhost")
        found = await wrongs(environ | {"PXBRIDGE_ENGINES": f"{url} {other}"})
    assert any("are the same engine" in each.what for each in found)


async def test_a_wrong_path_to_an_engine(environ: dict[str, str]) -> None:
    async with engine() as url:
        found = await the_wrong(environ | {"PXBRIDGE_ENGINES": url.replace("/api/chat", "/api/chats")})
    assert "correct the path in PXBRIDGE_ENGINES: it is /api/chat" in found.fix


async def test_more_calls_than_descriptors(environ: dict[str, str]) -> None:
    found = await the_wrong(environ | {"PXBRIDGE_MAX_CALLS": "100000"})
    assert found.check == "descriptors" and "300100" in found.what
    assert "LimitNOFILE=300100" in found.fix and "PXBRIDGE_MAX_CALLS=" in found.fix


async def test_a_state_folder_that_cannot_be(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = await the_wrong(environ | {"PXBRIDGE_STATE_DIR": str(tmp_path / "file" / "state")})
    assert found.check == "disk" and "set PXBRIDGE_STATE_DIR" in found.fix


# -- the commands --------------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    yield monkeypatch


def test_the_command_says_what_is_wrong_and_exits_with_1(
    alone: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor"]) == 0
    assert "no problems found" in capsys.readouterr().out
    alone.setenv("PXBRIDGE_ENGINES", "ws://gpu.invalid")
    assert cli.main(["doctor"]) == command.EXIT_WRONG
    told = capsys.readouterr().out
    assert "→ correct PXBRIDGE_ENGINES" in told and "1 problem found" in told


def test_the_command_speaks_json(environ: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pxbridge", "doctor", "--json", "--host", "192.0.2.1"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == command.EXIT_WRONG and ran.stderr == ""
    assert {"check", "verdict", "what", "mend"} == set(told[0])
    assert [each["check"] for each in told if each["verdict"] == "wrong"] == ["port"]


def test_check_config_shows_each_setting_with_its_origin_and_no_secret(
    alone: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pxbridge.toml").write_text('max_calls = 7\n[personas.books]\nvoice_prompt = "NATM1.pt"')
    alone.setenv("PXBRIDGE_CONFIG", str(tmp_path / "pxbridge.toml"))
    alone.setenv("PXBRIDGE_ENGINES", "wss://user:s3cret@gpu/api/chat?token=s3cret")
    assert cli.main(["check-config", "--log-level", "debug"]) == 0
    told = capsys.readouterr().out
    assert f"max_calls = 7  (max_calls ({tmp_path}/pxbridge.toml))" in told
    assert "log_level = debug  (--log-level (command line))" in told
    assert "engines = wss://***@gpu/api/chat?token=***  (PXBRIDGE_ENGINES (environment))" in told
    assert "credentials = ***  (PXBRIDGE_CREDENTIALS (environment))" in told
    assert "drain_s = 60  (default)" in told
    assert "persona books: voice_prompt NATM1.pt" in told
    assert "s3cret" not in told and "0123456789abcdef" not in told

    assert cli.main(["check-config", "--json"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told)["settings"]["max_calls"]["value"] == 7
    assert "s3cret" not in told and "0123456789abcdef" not in told


def test_check_config_gives_its_verdict_first_and_shows_what_is_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "pxbridge.toml"
    file.write_text(
        "max_calls = 7\nport = 5050\nwarm_sessions = 2\n[personas.default]\nrecord = true\n"
        '[personas.books]\nvoice_prompt = "NATM1.pt"\nwarm = 0\n[personas.same]'
    )
    monkeypatch.setenv("PXBRIDGE_CONFIG", str(file))
    assert cli.main(["check-config", "--changed"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "good: the bridge can start with these settings",
        f"warm_sessions = 2  (warm_sessions ({file}); default: 1)",
        f"max_calls = 7  (max_calls ({file}); default: 100)",
        f"persona default: record true  ({file})",
        f"persona books: voice_prompt NATM1.pt, warm 0  ({file})",
        f"persona same: as the default  ({file})",
    ]
    assert cli.main(["check-config", "--changed", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["settings"]) == ["warm_sessions", "max_calls"]
    assert told["personas"]["books"] == {"voice_prompt": "NATM1.pt", "warm": 0}
    monkeypatch.setenv("PXBRIDGE_HOST", "0.0.0.0")
    monkeypatch.setenv("PXBRIDGE_ALLOW_ANONYMOUS", "true")
    assert cli.main(["check-config"]) == 0
    verdict, note, *_ = capsys.readouterr().out.splitlines()
    assert verdict == "good, with 1 note: the bridge can start with these settings"
    assert note == "note: anyone who reaches the telephony port may call (allow_anonymous)"


def test_check_config_of_nothing_says_that_all_is_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["check-config", "--changed"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "good: the bridge can start with these settings",
        "every setting has its default",
    ]


def test_check_config_stops_at_what_would_stop_the_start(
    alone: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone.setenv("PXBRIDGE_TLS_CERT_FILE", "/nowhere.pem")
    assert cli.main(["check-config"]) == cli.EXIT_UNUSABLE
    assert "PXBRIDGE_TLS_CERT_FILE (environment): cannot read '/nowhere.pem'" in capsys.readouterr().err
    alone.delenv("PXBRIDGE_TLS_CERT_FILE")
    alone.setenv("PXBRIDGE_CONSOLE_HOST", "0.0.0.0")
    alone.setenv("PXBRIDGE_CONSOLE_PORT", "5051")
    assert cli.main(["check-config"]) == cli.EXIT_UNUSABLE
    assert "the console asks for no login" in capsys.readouterr().err


# -- what cannot be planted for real -------------------------------------------------------------------


def test_a_clock_that_is_years_behind() -> None:
    found = machine.clock(now_s=0.0)
    assert found.verdict is Verdict.WRONG
    assert "1970-01-01" in found.what and "timedatectl set-ntp true" in found.fix


@pytest.mark.parametrize(
    ("free", "verdict"), [(10 << 20, Verdict.WRONG), (500 << 20, Verdict.NOTE), (9 << 30, Verdict.GOOD)]
)
def test_a_disk_that_is_nearly_full(
    free: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    (found,) = machine.disk(tmp_path / "not yet" / "made")
    assert found.verdict is verdict
    assert not list(tmp_path.iterdir()), "it changes nothing"


def test_a_codec_that_brings_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 5 * ENGINE_HZ).astype(np.float32)
    monkeypatch.setattr(codec, "_towards_engine", lambda _: noise)
    found = codec.round_trip()
    assert found.verdict is Verdict.WRONG and "install pxbridge again" in found.fix
