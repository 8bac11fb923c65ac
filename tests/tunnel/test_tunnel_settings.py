"""A tunnel beside a bridge reads the settings again, and no call of that bridge waits for the disk."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from tests.fault.processes import until
from tests.tunnel.conftest import LOGIN
from tests.tunnel.test_programs import LIMIT_S

from pxbridge import settings
from pxbridge.app import lifecycle
from pxbridge.commands import tunnel
from pxbridge.errors import ConfigError, TunnelFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.tunnel.conftest import Environment

    from pxbridge.settings import Loaded

AT_ONCE_S = 0.01


def loaded() -> Loaded:
    return settings.load({}, {"PXBRIDGE_CREDENTIALS": LOGIN})


class Disk:
    """Holds the settings; it answers when told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0
        self.fault: Exception | None = None

    def read(self) -> Loaded:
        self.asked += 1
        assert self.answers.wait(LIMIT_S)
        if self.fault is not None:
            raise self.fault
        return loaded()


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.answers.set()


async def test_the_event_loop_goes_on_while_the_settings_are_read_for_a_tunnel(
    disk: Disk, around: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", around.variables["PATH"])

    async def bridge(_loaded: object, _console: object, ready: Callable[[str], None], *_: object) -> int:
        ready("ws://127.0.0.1:9")
        await until(lambda: disk.asked, "the settings are read")
        disk.answers.set()  # by the event loop, which a reading on the event loop would hold up
        await until(lambda: "no tunnel: nothing listens at port 9" in caplog.text, "the settings were used")
        return 0

    monkeypatch.setattr(lifecycle, "run", bridge)
    async with asyncio.timeout(LIMIT_S):
        assert await tunnel.serve(loaded(), "cloudflared", Console(file=io.StringIO()), disk.read) == 0


async def test_a_disk_without_an_answer_is_told_and_one_thread_waits_for_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_to = tunnel.SettingsReader(disk.read).lead_to(5050)
    with monkeypatch.context() as patched:
        patched.setattr(tunnel, "READ_TIMEOUT_S", AT_ONCE_S)
        for _ in range(3):
            with pytest.raises(TunnelFailed, match="reading the settings took longer than"):
                await lead_to()
    disk.answers.set()
    assert (await lead_to()).login == LOGIN
    assert disk.asked == 1
    assert (await lead_to()).port == 5050
    assert disk.asked == 2, "each start reads them again"


async def test_settings_that_are_wrong_are_told_and_read_again(disk: Disk) -> None:
    lead_to = tunnel.SettingsReader(disk.read).lead_to(5050)
    disk.answers.set()
    disk.fault = ConfigError("port", "pxbridge.toml", "half written")
    with pytest.raises(ConfigError, match="half written"):
        await lead_to()
    disk.fault = None
    assert (await lead_to()).login == LOGIN
