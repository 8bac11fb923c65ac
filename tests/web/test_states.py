"""What the page says: waiting, failing over, reconnecting, muted, without a microphone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.console.rig import served
from tests.fault.processes import until
from tests.web.browser import ALLOW_MICROPHONE, FAKE_MICROPHONE, STATIC, console, tab

from pxbridge.calls.conversation import CallLimits
from pxbridge.console.static_files import read_files
from pxbridge.simulation import faults
from pxbridge.simulation.rehearsal import Mode, Rehearsal

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Dialog


async def test_a_caller_sees_the_place_in_line_and_can_leave_it() -> None:
    async with console() as s, tab() as first, tab() as second:
        await first.talk(f"{s.url}/talk")
        await second.page.goto(f"{s.url}/talk")
        await second.press("Talk")
        await second.see("queued")
        assert await second.page.get_by_role("heading", name="You are next").is_visible()
        await second.press("Leave the line")
        await second.see("ended")
        await until(lambda: s.bridge.registry.live == 1, "the second has left")
        assert await second.page.evaluate("window.tracks.map(track => track.readyState)") == ["ended"]
        await second.press("Talk again")
        await second.see("queued")
        await first.press("Hang up")
        await second.see("listening")
        assert first.complaints == second.complaints == []


async def test_a_caller_is_told_that_the_engine_failed_and_that_another_goes_on() -> None:
    async with console((), (), prompt_s=0.5) as s, tab() as t:
        await t.talk(f"{s.url}/talk")
        await until(lambda: any(engine.conversing for engine in s.bridge.engines), "an engine talks")
        (engine,) = [each for each in s.bridge.engines if each.conversing]
        await engine.stop()
        await t.page.get_by_role("heading", name="One moment").wait_for()
        await t.page.get_by_role("heading", name="Listening").wait_for()
        assert t.complaints == []


async def test_a_lost_connection_is_told_and_made_anew() -> None:
    async with console() as s, Rehearsal() as engine, tab() as t:
        await t.talk(f"{s.url}/talk?engine={engine.url}")
        engine.drop_clients()
        await t.see("reconnecting")
        assert "does not remember" in await t.page.locator("[data-talk]").inner_text()
        await t.see("listening")
        assert engine.conversations == 2
        await engine.stop()
        await t.see("reconnecting")
        await t.press("Hang up")
        await t.see("ended")


async def test_a_muted_caller_sends_silence_and_the_talk_goes_on(tmp_path: Path) -> None:
    async with console(mode=Mode.ECHO) as s, tab() as t:
        await t.talk(f"{s.url}/talk")
        await t.press("Mute")
        await t.page.get_by_role("heading", name="You are muted").wait_for()
        before, _, rate_hz = await t.recording(tmp_path / "before.wav")
        muted_s = before.size / rate_hz + 0.5  # until the worker knows it too
        muted, _, _ = await t.record_until(muted_s + 2.0, tmp_path / "muted.wav")
        assert not np.any(muted[round(muted_s * rate_hz) :])
        # Space turns it the other way round while it is held, after the button was clicked as well.
        await t.page.keyboard.down("Space")
        await t.page.get_by_role("heading", name="Listening").wait_for()
        # The microphone beeps each second.
        heard, _, _ = await t.record_until(muted.size / rate_hz + 2.5, tmp_path / "held.wav")
        assert np.any(heard[muted.size :])
        await t.page.keyboard.up("Space")
        await t.page.get_by_role("heading", name="You are muted").wait_for()
        assert s.bridge.registry.live == 1
        assert t.complaints == []


async def test_a_microphone_that_is_unplugged_is_told_and_can_be_replaced() -> None:
    async with console() as s, tab() as t:
        await t.talk(f"{s.url}/talk")
        await t.page.evaluate("window.tracks[0].dispatchEvent(new Event('ended'))")
        await t.page.get_by_text("The microphone is gone").wait_for()
        await t.press("Try again")
        await t.page.get_by_text("The microphone is gone").wait_for(state="detached")
        assert s.bridge.registry.live == 1
        assert t.complaints == []


SLOW_MICROPHONE = """const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
devices.getUserMedia = async (constraints) => {
  const stream = await open(constraints);
  await new Promise((go) => setTimeout(go, 300));
  return stream;
};"""


async def test_devices_can_be_changed_in_mid_talk_however_fast() -> None:
    async with console() as s, tab() as t:
        await t.page.add_init_script(SLOW_MICROPHONE)
        await t.talk(f"{s.url}/talk")
        await t.page.get_by_label("Loudspeaker").select_option(index=1)
        await t.page.get_by_label("Microphone").select_option(index=1)
        headphones = t.page.get_by_role("switch", name="I wear headphones")
        for _ in range(3):
            await headphones.click()
        await t.page.wait_for_function(
            "() => window.tracks.filter((each) => each.readyState === 'live').length === 1"
        )
        await t.page.locator("summary", has_text="Connection").click()
        await t.exchange(sent=50, received=20)
        await t.press("Hang up")
        await t.see("ended")
        await t.page.wait_for_function("() => window.tracks.every((each) => each.readyState === 'ended')")
        assert t.complaints == []


async def test_leaving_the_page_in_mid_talk_asks_first() -> None:
    async with console() as s, tab() as t:
        await t.talk(f"{s.url}/talk")
        asked: list[str] = []

        async def stay(dialog: Dialog) -> None:
            asked.append(dialog.type)
            await dialog.dismiss()

        t.page.on("dialog", stay)
        await t.page.evaluate("location.reload()")
        await until(lambda: asked, "the browser asks")
        await t.press("Mute")
        assert s.bridge.registry.live == 1
        await t.press("Hang up")
        await t.see("ended")
        await t.page.reload()
        await t.page.get_by_role("button", name="Talk", exact=True).wait_for()
        assert asked == ["beforeunload"]


async def test_a_talk_goes_on_while_its_caller_looks_at_the_live_page() -> None:
    async with console() as s, tab() as t:
        await t.talk(f"{s.url}/talk")
        await t.page.get_by_role("link", name="Live").click()
        await t.page.locator("[data-call]").get_by_text("live", exact=True).wait_for()
        await t.page.get_by_role("link", name="Back to the talk").click()
        await t.see("listening")
        assert s.bridge.registry.live == 1
        await t.press("Hang up")
        await t.see("ended")
        assert t.complaints == []


async def test_a_refusal_is_told_in_the_bridges_words() -> None:
    limits = CallLimits(max_wait_s=1.0, failover_timeout_s=1.0)
    async with console([faults.RefusesUpgrade()], limits=limits) as s, tab() as t:
        await t.page.goto(f"{s.url}/talk")
        await t.press("Talk")
        await t.see("ended")
        assert await t.page.get_by_role("heading", name="could not go on").is_visible()
        assert await t.page.evaluate("window.tracks.map(track => track.readyState)") == ["ended"]


async def test_an_engine_that_is_not_there_is_told_without_trying_for_ever() -> None:
    async with console() as s, tab() as t:
        await t.page.goto(f"{s.url}/talk?engine=127.0.0.1:9")
        await t.press("Talk")
        await t.see("ended")
        assert "Nothing answers there" in await t.page.locator("[data-talk]").inner_text()


@pytest.mark.parametrize("part", ["duplex.worklet", "engine.worker"])
async def test_a_part_that_an_update_has_replaced_is_told_with_what_to_do(part: str) -> None:
    files = {path: file for path, file in read_files(STATIC).items() if part not in path}
    async with served(console={"files": files}) as s, tab() as t:
        await t.page.goto(f"{s.url}/talk")
        await t.press("Talk")
        await t.see("ended")
        assert "Load the page anew." in await t.page.locator("[data-talk]").inner_text()
        assert await t.page.evaluate("window.tracks.map(track => track.readyState)") == ["ended"]


NO_SUCH = """navigator.mediaDevices.getUserMedia = () =>
    Promise.reject(new DOMException("told by a test", "NAME"));"""


@pytest.mark.parametrize(
    ("problem", "arguments", "script"),
    [
        ("denied", [FAKE_MICROPHONE, "--deny-permission-prompts"], ""),
        ("missing", [ALLOW_MICROPHONE], ""),
        ("busy", [FAKE_MICROPHONE, ALLOW_MICROPHONE], NO_SUCH.replace("NAME", "NotReadableError")),
    ],
)
async def test_a_microphone_that_fails_has_help_of_its_own(
    problem: str, arguments: list[str], script: str
) -> None:
    async with console() as s, tab(arguments=arguments) as t:
        await t.page.add_init_script(script)
        await t.page.goto(f"{s.url}/talk")
        await t.press("Talk")
        await t.page.wait_for_selector(f'[data-microphone-problem="{problem}"] li')
        assert s.bridge.registry.live == 0
        assert await t.page.get_by_role("button", name="Talk", exact=True).is_enabled()
        assert t.complaints == []


async def test_a_page_without_https_says_what_to_do() -> None:
    # A name that leads to this machine, and which a browser does not trust as it trusts localhost.
    arguments = [FAKE_MICROPHONE, ALLOW_MICROPHONE, "--host-resolver-rules=MAP bridge.test 127.0.0.1"]
    async with console(logins=["asha:secret"]) as s, tab(arguments=arguments) as t:
        await t.page.goto(f"http://bridge.test:{s.port}/talk?engine=ws://bridge.test:1")
        await t.press("Talk")
        await t.page.wait_for_selector('[data-microphone-problem="insecure"] li')
