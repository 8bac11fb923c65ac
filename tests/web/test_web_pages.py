"""Every page: usable by everybody, on a phone as on a desk, and asking nobody but its own server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.call.rig import speech
from tests.fault.processes import until
from tests.web.browser import AXE, Tab, console, tab

from pxbridge.calls.call_state import Outcome
from pxbridge.calls.numbers import Form, Numbers
from pxbridge.calls.persona import Persona, Personas
from pxbridge.console import live
from pxbridge.simulation.phone import Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from playwright.async_api import ViewportSize
    from tests.console.rig import Served

PHONE: ViewportSize = {"width": 375, "height": 812}
DESK: ViewportSize = {"width": 1180, "height": 760}
LONG = "a-name-without-an-end-" * 3
LOGIN = "asha:a long password"


async def violations(t: Tab) -> list[Any]:
    """What axe finds wrong, of any weight."""
    # Through the debugger: the page's own policy allows no script from elsewhere.
    await t.page.evaluate(AXE.read_text())
    found = await t.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]]


async def overflow(t: Tab) -> int:
    """How many pixels the page is wider than its window."""
    return int(await t.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


async def show_talk(t: Tab, s: Served) -> None:
    await t.page.goto(f"{s.url}/talk")
    await (
        t.page.locator("summary", has_text="Sampling")
        .or_(t.page.get_by_label("Who the agent is"))
        .first.wait_for()
    )


async def show_call(t: Tab, s: Served) -> None:
    await t.talk(f"{s.url}/talk")
    await t.page.locator("summary", has_text="Connection").click()
    await t.page.wait_for_selector("[role=log] li")


async def show_end(t: Tab, s: Served) -> None:
    await show_call(t, s)
    await t.press("Hang up")
    await t.see("ended")


async def show_live(t: Tab, s: Served) -> None:
    await t.page.goto(f"{s.url}/live")
    await t.page.wait_for_selector("[data-engine]")


async def show_live_call(t: Tab, s: Served) -> None:
    line = Line(from_number="<b>" + "9" * 80, custom_parameters={"persona": LONG})
    talker = asyncio.create_task(place_call(s.bridge.url(), Phone(Script(speech(), hang_up_at_s=60.0), line)))
    await t.page.goto(f"{s.url}/live")
    await t.page.get_by_role("button", name="Hand over").wait_for()
    for size in (DESK, PHONE):  # what stands beside the dialog, too
        await t.page.set_viewport_size(size)
        assert await overflow(t) == 0
        table = t.page.get_by_role("table")
        assert await table.evaluate("table => table.scrollWidth - table.parentElement.clientWidth") <= 0
    await t.page.get_by_role("button", name="Hand over").click()
    await t.page.wait_for_selector("dialog[open]")
    talker.cancel()


async def show_login(t: Tab, s: Served) -> None:
    await t.page.goto(f"{s.url}/login")
    await t.page.get_by_label("Password").wait_for()


async def show_nothing(t: Tab, s: Served) -> None:
    await t.page.goto(f"{s.url}/no-such-page")
    await t.page.get_by_text("There is no such page").wait_for()


PAGES = [show_talk, show_call, show_end, show_live, show_live_call, show_login, show_nothing]
PERSONAS = Personas(
    Persona("NATF0.pt", "You are kind."),
    {
        "sales": Persona("NATM1.pt", "You sell <b>tea</b>.", name="sales", record=True),
        LONG: Persona("NATM1.pt", "Ha" * 500, name=LONG),
    },
)


@pytest.mark.parametrize("show", PAGES)
async def test_a_page_suits_everybody(show: Callable[[Tab, Served], Awaitable[None]]) -> None:
    options: dict[str, Any] = {"mode": Mode.PARROT, "slots": 2, "personas": PERSONAS}
    async with console(numbers=Numbers(Form.FULL), **options) as s, tab() as t:
        await show(t, s)
        for scheme in ("light", "dark"):
            await t.page.emulate_media(color_scheme=scheme)
            # Colours change over a moment, and axe reads what it sees.
            await t.page.wait_for_function("() => document.getAnimations().length === 0")
            assert await violations(t) == [], scheme
        await t.page.set_viewport_size(PHONE)
        assert await overflow(t) == 0
        assert await violations(t) == []
        assert t.origins() == {f"127.0.0.1:{s.port}"}
        complaints = [each for each in t.complaints if "404" not in each or show is not show_nothing]
        assert complaints == []


async def test_an_operator_logs_in_sees_a_call_and_ends_it() -> None:
    async with console(logins=[LOGIN]) as s, tab() as t:
        await t.page.goto(f"{s.url}/live")
        await t.page.get_by_label("User").fill("asha")
        await t.page.get_by_label("Password").fill("wrong")
        await t.press("Log in")
        await t.page.get_by_text("User or password is wrong.").wait_for()
        await t.page.get_by_label("Password").fill("a long password")
        await t.press("Log in")
        await t.page.get_by_text("Nobody is on the line.").wait_for()

        phone = Phone(Script(speech(), hang_up_at_s=60.0), Line())
        call = asyncio.create_task(place_call(s.bridge.url(), phone))
        row = t.page.locator("[data-call]")
        await row.get_by_text("live", exact=True).wait_for()
        assert "exotel" in await row.inner_text()
        await row.get_by_role("button", name="Hang up").click()
        dialog = t.page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Keep the call").click()
        assert s.bridge.registry.live == 1
        # The keyboard goes on where it was.
        await t.page.wait_for_function("() => document.activeElement.textContent === 'Hang up'")
        await t.page.keyboard.press("Enter")
        await dialog.wait_for()
        await t.page.keyboard.press("Escape")
        await dialog.wait_for(state="detached")
        await t.page.wait_for_function("() => document.activeElement.textContent === 'Hang up'")
        await row.get_by_role("button", name="Hang up").click()
        await dialog.get_by_role("button", name="Hang up").click()
        await t.page.get_by_text("Nobody is on the line.").wait_for()
        await call
        record = await s.bridge.record()
        assert record.ending is not None
        assert "asha" in record.ending.reason

        await t.press("Log out")
        await t.page.get_by_label("Password").wait_for()
        await t.page.goto(f"{s.url}/live")
        await t.page.get_by_label("Password").wait_for()
        wrong = [each for each in t.complaints if "401" not in each]  # chromium tells each of them
        assert wrong == []


async def test_an_operator_hands_a_call_over_to_a_number() -> None:
    async with console() as s, tab() as t:
        await t.page.goto(f"{s.url}/live")
        phone = Phone(Script(speech(), hang_up_at_s=60.0), Line())
        call = asyncio.create_task(place_call(s.bridge.url(), phone))
        row = t.page.locator("[data-call]")
        await row.get_by_text("live", exact=True).wait_for()
        await row.get_by_role("button", name="Hand over").click()
        dialog = t.page.get_by_role("dialog")
        await dialog.get_by_label("Numbers, separated by commas").fill("+91 80 1234 5678")
        await dialog.get_by_label("Your name").fill("ravi")
        await dialog.get_by_role("button", name="Hand over").click()
        await t.page.get_by_text("Nobody is on the line.").wait_for()
        await call
        record = await s.bridge.record()
        assert record.ending is not None
        assert record.ending.outcome is Outcome.HANDED_OVER
        assert "ravi" in record.ending.reason
        assert t.complaints == []


async def test_a_phone_and_a_browser_are_on_the_table_together() -> None:
    async with console(slots=2) as s, tab() as talker, tab() as operator:
        await talker.talk(f"{s.url}/talk")
        phone = asyncio.create_task(
            place_call(s.bridge.url(), Phone(Script(speech(), hang_up_at_s=60.0), Line()))
        )
        await operator.page.goto(f"{s.url}/live")
        rows = operator.page.locator("[data-call]")
        await rows.nth(1).get_by_text("live", exact=True).wait_for()
        told = " ".join(await rows.all_inner_texts())
        assert "exotel" in told
        assert "browser" in told
        await rows.filter(has_text="browser").get_by_role("button", name="Hang up").click()
        await operator.page.get_by_label("Your name").fill("ravi")
        await operator.page.get_by_role("dialog").get_by_role("button", name="Hang up").click()
        await talker.see("ended")
        assert "An operator ended the call." in await talker.page.locator("[data-talk]").inner_text()
        phone.cancel()
        assert talker.complaints == operator.complaints == []


async def test_a_session_that_is_over_leads_to_the_login_and_a_talk_goes_on() -> None:
    async with console(logins=[LOGIN]) as s, tab() as t:

        async def log_in() -> None:
            await t.page.get_by_label("User").fill("asha")
            await t.page.get_by_label("Password").fill("a long password")
            await t.press("Log in")

        await t.page.goto(f"{s.url}/talk")
        await log_in()
        await t.press("Talk")
        await t.see("listening")
        await t.page.get_by_role("link", name="Live").click()
        await t.page.locator("[data-call]").wait_for()
        # As after a restart: no session is known, and sockets broke off.
        s.console._access.sessions._sessions.clear()
        for subscriber in tuple(s.live._subscribers):
            subscriber.socket.abort("the bridge is gone")
        await t.page.get_by_label("Password").wait_for()
        await t.page.get_by_role("link", name="Back to the talk").click()
        await t.see("listening")
        assert await t.page.get_by_role("button", name="Hang up").is_visible()
        await t.page.get_by_role("link", name="Live").click()
        await log_in()
        await t.page.locator("[data-call]").get_by_text("live", exact=True).wait_for()
        assert s.bridge.registry.live == 1
        await t.page.get_by_role("link", name="Back to the talk").click()
        await t.press("Hang up")
        await t.see("ended")


async def test_a_page_that_was_replaced_by_an_update_asks_to_be_loaded_anew() -> None:
    async with console() as s, tab() as t:
        await show_talk(t, s)
        await t.page.route("**/assets/live-page-*.js", lambda route: route.fulfill(status=404))
        await t.page.get_by_role("link", name="Live").click()
        await t.page.get_by_text("could not be shown").wait_for()
        await t.page.unroute_all()
        await t.press("Load it anew")
        await t.page.wait_for_selector("[data-engine]")


async def test_a_page_that_breaks_leaves_the_way_back_to_a_talk() -> None:
    async with console() as s, tab() as t:
        await t.page.goto(f"{s.url}/talk")
        await t.press("Talk")
        await t.see("listening")
        await t.page.route("**/assets/live-page-*.js", lambda route: route.fulfill(status=404))
        await t.page.get_by_role("link", name="Live").click()
        await t.page.get_by_text("could not be shown").wait_for()
        await t.page.get_by_role("link", name="Back to the talk").click()
        await t.see("listening")
        await t.press("Hang up")
        await t.see("ended")


async def test_a_browser_that_stores_nothing_shows_each_page() -> None:
    async with console() as s, tab() as t:
        # As with all cookies blocked.
        await t.page.add_init_script(
            """Object.defineProperty(window, "localStorage", {
                 get() { throw new DOMException("told by a test", "SecurityError"); }
               });"""
        )
        phone = asyncio.create_task(
            place_call(s.bridge.url(), Phone(Script(speech(), hang_up_at_s=60.0), Line()))
        )
        await show_talk(t, s)
        await t.press("Theme: as the system")
        await t.page.goto(f"{s.url}/live")
        await t.page.get_by_role("button", name="Hand over").click()
        await t.page.get_by_label("Your name").fill("ravi")
        phone.cancel()
        assert t.complaints == []


async def test_a_live_page_too_many_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with console() as s, tab() as t:
        with monkeypatch.context() as m:
            m.setattr(live, "MAX_SUBSCRIBERS", 0)
            await t.page.goto(f"{s.url}/live")
            await t.page.get_by_text("too many pages watch this bridge").wait_for()
        await t.page.wait_for_selector("[data-engine]")
        assert t.complaints == []


async def test_the_live_page_says_when_the_bridge_is_gone() -> None:
    async with tab() as t:
        async with console() as s:
            await show_live(t, s)
        await t.page.get_by_text("The bridge does not answer.").wait_for()
        assert await t.page.get_by_text("What is shown here is old.").is_visible()


async def test_a_persona_is_shown_as_text_and_talked_to_by_its_name() -> None:
    async with console(personas=PERSONAS) as s, tab() as t:
        await show_talk(t, s)
        await t.page.get_by_role("radio", name="sales").click()
        assert await t.page.get_by_text("You sell <b>tea</b>.").is_visible()
        assert await t.page.get_by_text("The bridge records this call.").is_visible()
        await t.press("Talk")
        await t.see("listening")
        await until(lambda: bool(s.bridge.prompted), "an engine was prompted")
        assert s.bridge.prompted[-1].text_prompt == "You sell <b>tea</b>."
        assert await t.page.get_by_text("recorded by the bridge").is_visible()
        assert t.complaints == []
