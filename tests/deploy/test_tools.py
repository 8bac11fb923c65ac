"""What hadolint, Docker Compose, the Compose schema, Caddy and promtool make of `deploy/`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.deploy.queries import of_dashboards
from tests.deploy.test_metrics_named import a_bridges, an_engines
from tests.fault.processes import bridge_process, fetch, until

from pxbridge import cli
from pxbridge.commands.processes import free_port
from pxbridge.simulation.phone import Phone, Script, place_call

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".venv-deploy" / "bin"
COMPOSE_FILE = DEPLOY / "compose" / "compose.yaml"
PROFILES = ("", "gpu")
LOGIN = "exotel:0123456789abcdef"


def run(*words: str | Path, **environ: str) -> str:
    ran = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environ},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_hadolint_finds_nothing() -> None:
    run(
        TOOLS / "hadolint",
        "--config",
        DEPLOY / "docker" / "hadolint.yaml",
        *sorted((DEPLOY / "docker").glob("*.Dockerfile")),
    )


def health_check() -> list[str]:
    """The words of the health check of the bridge's image."""
    text = (DEPLOY / "docker" / "bridge.Dockerfile").read_text(encoding="utf-8")
    words: list[str] = json.loads(text.partition("HEALTHCHECK")[2].partition("CMD ")[2].partition("\n")[0])
    return words


@pytest.mark.parametrize("with_tls", [False, True])
async def test_the_health_check_asks_where_the_settings_say(with_tls: bool, tmp_path: Path) -> None:
    set_too = {}
    if with_tls:
        made = trustme.CA().issue_cert("voice.example.com")
        made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "tls.pem")
        set_too = {"PXBRIDGE_TLS_CERT_FILE": str(tmp_path / "tls.pem")}
    program, *words = health_check()
    assert program == "python"

    async def status(port: int) -> int | None:
        environ = {**os.environ, **set_too, "PXBRIDGE_PORT": str(port)}
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, *words), env=environ, stderr=asyncio.subprocess.DEVNULL
        )
        return await asking.wait()

    async with bridge_process(environ=set_too) as bridge:
        assert await status(bridge.port) == 0
    assert await status(bridge.port) == 1


# -- Compose


@pytest.fixture(params=PROFILES, ids=lambda profile: profile or "rehearsal")
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of `deploy/` for which `prepare` has run."""
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets", ".env"))
    run(copy / "compose" / "prepare", "voice.example.com", *([request.param] if request.param else []))
    return copy / "compose"


def configuration(prepared: Path) -> dict[str, Any]:
    """The compose file as Docker Compose reads it, with everything filled in."""
    written = run(TOOLS / "docker-compose", "-f", prepared / "compose.yaml", "config", "--format", "json")
    found: dict[str, Any] = json.loads(written)
    return found


def test_compose_reads_the_file_for_every_profile(prepared: Path) -> None:
    run(TOOLS / "docker-compose", "-f", prepared / "compose.yaml", "config", "-q")
    services = configuration(prepared)["services"]
    with_gpu = "COMPOSE_PROFILES=gpu" in (prepared / ".env").read_text()
    assert ("engine" in services) is with_gpu
    assert {"bridge", "valkey", "caddy", "prometheus", "grafana"} <= services.keys()


def test_the_file_keeps_to_the_compose_schema() -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE)


def test_without_secrets_it_says_what_to_run_first(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets", ".env"))
    with pytest.raises(AssertionError, match="run deploy/compose/prepare first"):
        run(TOOLS / "docker-compose", "-f", tmp_path / "deploy" / "compose" / "compose.yaml", "config", "-q")


def test_the_bridge_can_start_with_what_the_file_gives_it(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = configuration(prepared)
    for name in list(os.environ):
        if name.startswith("PXBRIDGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PXBRIDGE_HOST", "0.0.0.0")  # as the image sets it
    for name, value in found["services"]["bridge"]["environment"].items():
        value = value.replace("/run/secrets/", f"{prepared}/secrets/")
        monkeypatch.setenv(name, value.replace("/etc/pxbridge/", f"{prepared}/agents/"))
    assert cli.main(["check-config", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with_gpu = "engine" in found["services"]
    expected = ["ws://***@engine:8998/api/chat"] if with_gpu else []
    assert told["settings"]["engines"]["value"] == expected
    assert told["settings"]["public_url"]["value"] == "wss://voice.example.com"
    # Another PersonaPlex server has one conversation; ours tells how many it has.
    assert told["settings"]["engine_capacity"]["value"] == 1
    if with_gpu:
        token = found["services"]["engine"]["environment"]["PXBRIDGE_ENGINE_TOKEN"]
        assert f":{token}@" in (prepared / "secrets" / "engines").read_text()


def test_secrets_stay_when_prepare_runs_again(prepared: Path) -> None:
    before = {path.name: path.read_text() for path in (prepared / "secrets").iterdir()}
    run(prepared / "prepare", "voice.example.com", "gpu")
    after = {path.name: path.read_text() for path in (prepared / "secrets").iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"engines"}
    assert (prepared / "secrets").stat().st_mode & 0o777 == 0o700


def test_what_was_written_in_by_hand_stays_when_prepare_runs_again(prepared: Path) -> None:
    profile = "gpu" if "=gpu" in (prepared / ".env").read_text() else ""
    with (prepared / ".env").open("a") as file:
        file.write("ENGINE_SLOTS=8\n# ours\n")
    engines = prepared / "secrets" / "engines"
    engines.unlink()
    engines.write_text("wss://gpu9.example.com:8998/api/chat\n")
    run(prepared / "prepare", "other.example.com", *([profile] if profile else []))
    assert engines.read_text() == "wss://gpu9.example.com:8998/api/chat\n"
    assert (prepared / ".env").read_text().splitlines() == [
        "DOMAIN=other.example.com",
        f"COMPOSE_PROFILES={profile}",
        "ENGINE_SLOTS=8",
        "# ours",
    ]


def test_the_engine_beside_the_bridge_goes_with_its_profile(prepared: Path) -> None:
    engines = prepared / "secrets" / "engines"
    for profile in ("gpu", ""):
        run(prepared / "prepare", "voice.example.com", *([profile] if profile else []))
        assert ("@engine:8998/api/chat" in engines.read_text()) is bool(profile)
        assert engines.stat().st_mode & 0o777 == 0o644  # readable in containers, and for an editor to change


def test_only_caddy_is_public_and_it_ends_after_the_bridge(prepared: Path) -> None:
    services = configuration(prepared)["services"]
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        for port in service.get("ports", ()):
            assert name == "caddy" or port["host_ip"] == "127.0.0.1"
    assert "caddy" in services["bridge"]["depends_on"]
    assert "bridge" not in services["caddy"].get("depends_on", {})
    # The drain (60 s), then what the end of the last call takes, at most 38.5 s.
    assert services["bridge"]["stop_grace_period"] == "1m40s"


def test_the_bridge_reads_its_agents_from_a_folder(prepared: Path) -> None:
    """A file that is mounted alone stays the old one when an editor replaces it: SIGHUP changes nothing."""
    bridge = configuration(prepared)["services"]["bridge"]
    folder = Path(bridge["environment"]["PXBRIDGE_CONFIG"]).parent
    (mounted,) = (volume for volume in bridge["volumes"] if volume["target"] == str(folder))
    assert mounted["type"] == "bind" and mounted["read_only"]
    assert (Path(mounted["source"]) / "pxbridge.toml").is_file()
    assert not bridge.get("configs")


def test_the_store_without_a_password_is_in_a_network_with_the_bridge_alone(prepared: Path) -> None:
    found = configuration(prepared)
    assert list(found["services"]["valkey"]["networks"]) == ["store"]
    assert found["networks"]["store"]["internal"]
    in_it = {name for name, service in found["services"].items() if "store" in service["networks"]}
    assert in_it == {"bridge", "valkey"}


def test_what_stands_beside_the_bridge_cannot_take_the_machine(prepared: Path) -> None:
    services = configuration(prepared)["services"]
    for name, service in services.items():
        assert service["pids_limit"] and service["logging"]["options"]["max-size"]
        assert name in ("bridge", "engine") or int(service["mem_limit"]) <= 2**30
    assert "--storage.tsdb.retention.size=5GB" in services["prometheus"]["command"]


# -- Caddy


async def test_caddy_passes_calls_on_and_nothing_else(tmp_path: Path) -> None:
    public = free_port()
    async with bridge_process(
        credentials=LOGIN, allow_anonymous="", trusted_proxies="127.0.0.1", state_dir=str(tmp_path)
    ) as bridge:
        text = (DEPLOY / "compose" / "Caddyfile").read_text(encoding="utf-8")
        # Debian's Caddy is older than this option.
        text = text.replace("stream_close_delay 1h", "").replace("bridge:5050", f"127.0.0.1:{bridge.port}")
        file = tmp_path / "Caddyfile"
        file.write_text("{\n\tadmin off\n}\n" + text)
        caddy = await asyncio.create_subprocess_exec(
            *("caddy", "run", "--config", str(file), "--adapter", "caddyfile"),
            env={"DOMAIN": f"http://127.0.0.1:{public}", "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await until(lambda: status(public, "/exotel") == 401, "caddy passes on what a carrier asks for")
            for path in ("/metrics", "/livez", "/api/calls", "/exotelx"):
                assert status(public, path) == 404
            phone = Phone(Script(hang_up_at_s=2.0))
            await place_call(f"ws://{LOGIN}@127.0.0.1:{public}/exotel", phone)
            assert phone.player.voice_from_s is not None
        finally:
            caddy.kill()
            await caddy.wait()


def status(port: int, path: str) -> int:
    """The status of an answer; 0 if nothing answers."""
    try:
        return fetch(f"http://127.0.0.1:{port}{path}")[0]
    except OSError:
        return 0


# -- Prometheus


def test_promtool_accepts_configuration_and_rules() -> None:
    folder = DEPLOY / "prometheus"
    run("promtool", "check", "config", "--syntax-only", folder / "prometheus.yml")
    assert "SUCCESS" in run("promtool", "check", "rules", "--lint=all", folder / "rules.yml")


def test_each_alert_fires_and_clears() -> None:
    run("promtool", "test", "rules", DEPLOY / "prometheus" / "rules_test.yml")


def test_promtool_accepts_every_query_of_the_dashboards(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query{number}", "expr": query.plain}
        for number, query in enumerate(of_dashboards())
    ]
    file = tmp_path / "dashboards.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))  # JSON is YAML
    run("promtool", "check", "rules", file)


def test_promtool_accepts_what_is_scraped(tmp_path: Path) -> None:
    for text in (asyncio.run(a_bridges(tmp_path)), an_engines()):
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
