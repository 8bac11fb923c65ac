"""The images, built from nothing and run: what is in them, who they run as, and calls through them."""

from __future__ import annotations

import asyncio
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from tests.deploy.image import Store, output
from tests.fault.processes import ROOT, fetch, until
from tests.web.browser import tab

from pxbridge.commands.processes import free_port
from pxbridge.simulation.phone import Ended, Phone, Script, place_call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.deploy.image import Image

DOCKER = ROOT / "deploy" / "docker"
STORE = ROOT / "target" / "deploy" / "store"
LARGEST_BRIDGE_BYTES = 250_000_000
LOGIN = "exotel:0123456789abcdef"
USER = (10001, 10001)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    shutil.rmtree(STORE, ignore_errors=True)
    found = Store(STORE)
    print(found.make_base().strip())  # noqa: T201 - CI shows the size
    yield found
    found.buildah("umount", "--all")


@pytest.fixture(scope="module")
def bridge(store: Store) -> Image:
    return store.build(DOCKER / "bridge.Dockerfile", "localhost/pxbridge")


@pytest.fixture(scope="module")
def engine(store: Store) -> Image:
    """Without torch, which is 5.5 GB."""
    return store.build(DOCKER / "engine.Dockerfile", "localhost/pxbridge-engine", EXTRA="")


def test_the_bridges_image_is_small(bridge: Image, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nbridge image: {bridge.size_bytes / 1e6:.0f} MB, built in {bridge.built_s:.0f} s")  # noqa: T201
    assert bridge.size_bytes <= LARGEST_BRIDGE_BYTES


@pytest.mark.parametrize("name", ["bridge", "engine"])
def test_an_images_configuration_is_what_runtimes_ask_for(name: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(name).config
    assert config["User"] == "10001:10001"
    assert isinstance(config["Entrypoint"], list) and config["Entrypoint"][0] == "pxbridge"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD", "exec form: no shell"
    assert list(config["Volumes"]) == ["/var/lib/pxbridge"]


@pytest.mark.parametrize("name", ["bridge", "engine"])
def test_no_tools_of_building_are_in_an_image(name: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(name).root
    for program in ("pip", "gcc", "cc", "cargo", "node", "npm"):
        for folder in ("opt/pxbridge/bin", "usr/bin", "usr/local/bin"):
            assert not (root / folder / program).exists()
    assert not (root / "opt" / "tools").exists()
    assert not list((root / "tmp").iterdir())


async def test_a_container_runs_as_nobody_on_a_root_that_cannot_be_written(bridge: Image) -> None:
    script = "id -u; touch /opt/pxbridge/x; touch /x; touch /var/lib/pxbridge/x && echo state; env"
    status, told = await output(bridge, "sh", "-c", script)
    assert (status, told.splitlines()[0]) == (0, "10001")
    assert told.count("Read-only file system") == 2 and "state" in told
    assert "PXBRIDGE_CREDENTIALS" not in told


async def test_without_access_control_it_says_what_is_missing_and_does_not_start(bridge: Image) -> None:
    async with bridge.runs() as container:
        assert await container.ends() == 2
    assert "no setting says who may call" in container.log
    assert len(container.lines) == 1


def settings(port: int, console_port: int = 0) -> dict[str, str]:
    return {
        "PXBRIDGE_CREDENTIALS": LOGIN,
        "PXBRIDGE_PORT": str(port),
        "PXBRIDGE_CONSOLE_PORT": str(console_port),
        "PXBRIDGE_LOG_FORMAT": "json",
        "PXBRIDGE_DRAIN_S": "60",
    }


async def phone_call(port: int) -> None:
    """A phone call from end to end: the agent's greeting is heard."""
    phone = Phone(Script(hang_up_at_s=3.0))
    await place_call(f"ws://{LOGIN}@127.0.0.1:{port}/exotel", phone)
    assert phone.player.voice_from_s is not None


async def browser_call(console_port: int) -> None:
    """A call from the page that the image's console serves, in a real browser: the agent's words are read."""
    async with tab() as page:
        await page.talk(f"http://127.0.0.1:{console_port}/")
        await page.page.wait_for_selector("[role=log] li")
        assert await page.captions()
        await page.press("Hang up")
        await page.see("ended")
        assert page.complaints == []


async def test_it_takes_calls_answers_health_and_drains(bridge: Image) -> None:
    port, console_port = free_port(), free_port()
    async with bridge.runs(environ=settings(port, console_port)) as container:
        await until(
            lambda: container.said(" takes calls at ") or container.process.returncode, "it has started"
        )
        assert container.user == USER
        assert await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/livez") == (200, "alive\n")
        assert await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/readyz") == (200, "ready\n")
        await phone_call(port)
        await browser_call(console_port)

        phone = Phone(Script(hang_up_at_s=6.0))
        calling = asyncio.create_task(place_call(f"ws://{LOGIN}@127.0.0.1:{port}/exotel", phone))
        live = '"call live"'
        await until(lambda: container.log.count(live) == 3, "the last call is live")
        container.tell(signal.SIGTERM)
        await until(lambda: container.said('"stopping: 1 call '), "it drains")
        status, told = await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/readyz")
        assert status == 503 and "draining" in told
        await calling
        assert phone.ended is Ended.BY_CALLER, "the live call went on to its end"
        assert await container.ends() == 0
    assert LOGIN.partition(":")[2] not in container.log


async def test_the_health_check_of_the_bridges_image_tells_a_live_one_from_none(bridge: Image) -> None:
    _, *check = bridge.config["Healthcheck"]["Test"]
    status, _ = await output(bridge, *check, network=False)
    assert status == 1, "nothing listens"
    port = free_port()
    async with bridge.runs(environ=settings(port)) as container:
        await until(lambda: container.said(" takes calls at "), "it has started")
        assert await output(bridge, "env", f"PXBRIDGE_PORT={port}", *check) == (0, "")


async def test_the_engines_image_starts_its_command_and_says_what_is_left_out(engine: Image) -> None:
    status, told = await output(engine, "pxbridge", "engine", "--help")
    assert status == 0 and "--slots" in told
    async with engine.runs() as container:
        assert await container.ends() == 2
    assert "the engine needs torch" in container.log
