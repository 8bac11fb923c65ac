"""Talks in a real browser, through the bridge and straight with an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fault.processes import until
from tests.personaplex.rig import serving
from tests.web.browser import STATIC, console, tab

from pxbridge.simulation.parrot import greeting
from pxbridge.simulation.rehearsal import Mode, Rehearsal

if TYPE_CHECKING:
    from pathlib import Path

GREETING = "".join(text for _, text in greeting().words).strip()


PACKETS_PER_S = 45
"""50 are sent; so many at least, for each second that the page itself has recorded."""


async def test_a_talk_through_the_bridge_from_the_first_click_to_the_last(tmp_path: Path) -> None:
    async with console(mode=Mode.PARROT, prompt_s=0.3) as s, tab() as t:
        await t.talk(f"{s.url}/")
        await t.page.locator("summary", has_text="Connection").click()
        sent_before, _ = await t.packets()
        before, _, rate_hz = await t.recording(tmp_path / "before.wav")
        await t.exchange(sent=150, received=100)
        await until(lambda: s.bridge.registry.live == 1, "the call is known")
        assert GREETING.startswith((await t.read(20))[:20])
        await t.press("Hang up")
        await t.see("ended")
        record = await s.bridge.record()
        whole, _, _ = await t.recording(tmp_path / "whole.wav")
        sent, _ = await t.packets()
        # By the clock of the sound, which a busy machine slows as well.
        assert sent - sent_before >= PACKETS_PER_S * (whole.size - before.size) / rate_hz
        assert (await t.figures())["lost"] == "0, 0"
        assert await t.page.evaluate("window.tracks.map(track => track.readyState)") == ["ended"]
        assert record.carrier == "browser"
        assert t.complaints == []
        assert t.origins() == {f"127.0.0.1:{s.port}"}


async def test_a_talk_straight_with_an_engine() -> None:
    async with console() as s, Rehearsal(mode=Mode.PARROT) as engine, tab() as t:
        await t.talk(f"{s.url}/talk?engine={engine.url}")
        await until(lambda: engine.conversing == 1, "the engine talks")
        assert GREETING.startswith((await t.read(20))[:20])
        await t.press("Hang up")
        await until(lambda: engine.clients == 0, "the socket is closed")
        assert await t.page.evaluate("window.tracks.map(track => track.readyState)") == ["ended"]
        assert t.complaints == []
        assert t.origins() == {f"127.0.0.1:{s.port}", f"127.0.0.1:{engine.port}"}


async def test_a_browser_without_webcodecs_talks_by_webassembly() -> None:
    async with console(mode=Mode.PARROT) as s, tab() as t:
        await t.talk(f"{s.url}/talk?codec=wasm")
        await t.page.locator("summary", has_text="Connection").click()
        await t.exchange(sent=100, received=100)
        assert (await t.figures())["codec"] == "libopus-wasm"
        assert GREETING.startswith((await t.read(10))[:10])
        assert t.complaints == []


async def test_our_own_engine_serves_the_client_itself() -> None:
    async with serving(static=STATIC) as engine, tab() as t:
        await t.talk(f"http://{engine.origin}/")
        (conversation,) = engine.server.sessions
        assert (conversation.asked.voice, conversation.asked.waits) == ("NATF0.pt", True)
        await t.page.get_by_text("né").first.wait_for()
        await t.press("Hang up")
        await until(lambda: not engine.server.sessions, "the slot is free")
        await t.press("Change the agent")
        assert (
            await t.page.get_by_role("radio", name="anna.wav")
            .or_(t.page.get_by_role("radio", name="anna"))
            .count()
        )
        assert not await t.page.get_by_role("link", name="Live").count()
        assert t.origins() == {engine.origin}
        missing = [each for each in t.complaints if "404" not in each]  # it has no session, and no bridge
        assert missing == []
