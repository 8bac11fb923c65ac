"""Makes the pictures of the web client that the documentation shows: `python -m tests.web.pictures`.

They are of the real pages, in front of the rehearsal engine. Look at them before they are committed.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image
from tests.call.rig import speech
from tests.web.browser import RATE_HZ, console, tab, write_microphone

from pxbridge.calls.persona import Persona, Personas
from pxbridge.simulation.phone import Line, Phone, Script, place_call
from pxbridge.simulation.rehearsal import Mode

if TYPE_CHECKING:
    from playwright.async_api import Page, ViewportSize

FOLDER = Path(__file__).parents[2] / "docs/pictures"
LOOKED_AT = Path(tempfile.gettempdir())
COLOURS = 64
"""Enough for flat pages, and a quarter of the bytes."""

PERSONAS = Personas(
    Persona("NATF2.pt", "You are a wise and friendly teacher. Answer questions in a clear and engaging way."),
    {
        "bookings": Persona(
            "NATM1.pt", "You work for a clinic, and you make appointments.", name="bookings", record=True
        )
    },
)
DESK: ViewportSize = {"width": 1180, "height": 760}
PHONE: ViewportSize = {"width": 375, "height": 760}


SHOWN = frozenset({"talk-light", "call-dark", "live-light", "talk-phone", "call-phone", "live-phone"})
"""Those that the documentation shows. The others are to be looked at, in the folder for temporary files."""


async def _keep(page: Page, name: str) -> None:
    folder = FOLDER if name in SHOWN else LOOKED_AT
    picture = await page.screenshot()
    Image.open(io.BytesIO(picture)).quantize(COLOURS).save(folder / f"{name}.png", optimize=True)


async def _pictures(
    scheme: Literal["light", "dark"], size: ViewportSize, name: str, microphone: Path
) -> None:
    async with (
        console((), (), mode=Mode.PARROT, slots=4, personas=PERSONAS) as s,
        tab(microphone, color_scheme=scheme, viewport=size) as t,
        tab(microphone) as other,
    ):
        await t.page.goto(f"{s.url}/talk")
        await t.page.get_by_label("Who the agent is").wait_for()
        await _keep(t.page, f"talk-{name}")
        script = Script(speech(), speak_at_s=1.0, hang_up_at_s=60.0)
        phone = asyncio.create_task(place_call(s.bridge.url(), Phone(script, Line())))
        await other.talk(f"{s.url}/talk")
        await t.press("Talk")
        await t.see("listening")
        await asyncio.sleep(6.0)
        await _keep(t.page, f"call-{name}")
        await t.page.goto(f"{s.url}/live")
        await t.page.locator("[data-call]").nth(1).wait_for()
        await asyncio.sleep(1.0)
        await _keep(t.page, f"live-{name}")
        phone.cancel()


async def main() -> None:
    """Makes all of them."""
    FOLDER.mkdir(exist_ok=True)
    said = np.repeat(speech(24_000).astype(np.float64) / 32768, RATE_HZ // 24_000)
    with tempfile.TemporaryDirectory() as folder:
        microphone = write_microphone(Path(folder) / "voice.wav", 0.5 * said)
        await _pictures("light", DESK, "light", microphone)
        await _pictures("dark", DESK, "dark", microphone)
        await _pictures("light", PHONE, "phone", microphone)


if __name__ == "__main__":
    asyncio.run(main())
