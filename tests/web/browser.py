"""Debian's chromium, driven by Playwright through the built web client, with a file for a microphone.

Where there is no chromium, its tests are skipped; but not where a change is judged.
"""

from __future__ import annotations

import asyncio
import os
import wave
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.async_api import async_playwright
from tests.console.rig import Served, served

from pxbridge.console.static_files import read_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from numpy.typing import NDArray
    from playwright.async_api import Page

    from pxbridge.simulation.faults import Fault

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "python/pxbridge/console/static"
AXE = ROOT / "client/node_modules/axe-core/axe.min.js"
CHROMIUM = Path("/usr/bin/chromium")
HAS_CHROMIUM = CHROMIUM.exists()

RATE_HZ = 48_000
PATIENCE_MS = 20_000
"""Ample for a busy machine: nothing is measured by it."""

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FAKE_MICROPHONE = "--use-fake-device-for-media-stream"
ALLOW_MICROPHONE = "--use-fake-ui-for-media-stream"

# Notes each track and socket that the page opens, to look at them when the page believes to be done.
WITNESS = """
window.tracks = [];
const devices = navigator.mediaDevices;
if (devices) {
  const open = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (constraints) => {
    const stream = await open(constraints);
    window.tracks.push(...stream.getTracks());
    return stream;
  };
}
"""


@dataclass
class Tab:
    """A page of the client, and what went wrong in it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and exceptions."""
    requested: list[str] = field(default_factory=list)
    """The URLs of all requests."""

    def watch(self) -> None:
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("websocket", lambda socket: self.requested.append(socket.url))

    def origins(self) -> set[str]:
        """Whom the page has asked, without what it made itself (`blob:`)."""
        return {urlsplit(url).netloc for url in self.requested if not url.startswith(("blob:", "data:"))}

    async def see(self, state: str, timeout_ms: float = PATIENCE_MS) -> None:
        """Waits until the talk is in this state."""
        await self.page.wait_for_selector(f'[data-talk="{state}"]', timeout=timeout_ms)

    async def press(self, name: str) -> None:
        """Presses the button of this name."""
        await self.page.get_by_role("button", name=name, exact=True).click()

    async def figures(self) -> dict[str, str]:
        """What the page shows under "Connection"."""
        cells = await self.page.eval_on_selector_all(
            "[data-figure]", "cells => cells.map(cell => [cell.dataset.figure, cell.textContent])"
        )
        return dict(cells)

    async def packets(self) -> tuple[int, int]:
        """Sent and received so far, as the page shows it twice a second."""
        shown = (await self.figures())["packets"]
        if shown == "–":  # nothing was measured yet
            return 0, 0
        sent, received = map(int, shown.split(","))
        return sent, received

    async def exchange(self, sent: int, received: int) -> None:
        """Waits until so many packets more have gone each way, however long that takes here."""
        first = await self.packets()
        least = [before + more for before, more in zip(first, (sent, received), strict=True)]
        await self.page.wait_for_function(
            """(least) => {
              const shown = document.querySelector('[data-figure="packets"]').textContent;
              return shown.split(",").every((count, way) => Number(count) >= least[way]);
            }""",
            arg=least,
        )

    async def read(self, characters: int) -> str:
        """The agent's words, once there are so many characters of them."""
        await self.page.wait_for_function(
            """(characters) => {
              const words = [...document.querySelectorAll("[role=log] li :last-child")];
              return words.map((each) => each.textContent).join(" ").length >= characters;
            }""",
            arg=characters,
        )
        return await self.captions()

    async def captions(self) -> str:
        """The agent's words, without their times."""
        texts = await self.page.eval_on_selector_all(
            "[role=log] li", "items => items.map(item => item.lastElementChild.textContent)"
        )
        return " ".join(texts)

    async def talk(self, url: str) -> None:
        """Opens the page, presses Talk, and waits until the agent listens."""
        await self.page.goto(url)
        await self.press("Talk")
        await self.see("listening")

    async def recording(self, to: Path) -> tuple[NDArray[np.int16], NDArray[np.int16], int]:
        """Downloads the talk: what the caller said, what the caller heard, and their rate."""
        async with self.page.expect_download() as downloading:
            await self.press("Download")
        await (await downloading.value).save_as(to)
        with wave.open(str(to)) as file:
            assert (file.getnchannels(), file.getsampwidth()) == (2, 2)
            both = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, 2)
            return both[:, 0], both[:, 1], file.getframerate()

    async def record_until(
        self, seconds: float, to: Path
    ) -> tuple[NDArray[np.int16], NDArray[np.int16], int]:
        """The recording, once it is so long: a busy machine's audio may be slower than its clock."""
        async with asyncio.timeout(3 * PATIENCE_MS / 1000):
            while True:
                said, heard, rate_hz = await self.recording(to)
                if said.size >= seconds * rate_hz:
                    return said, heard, rate_hz
                await asyncio.sleep(0.2)


@asynccontextmanager
async def tab(
    microphone: Path | None = None,
    arguments: Sequence[str] = (FAKE_MICROPHONE, ALLOW_MICROPHONE),
    **context: Any,
) -> AsyncIterator[Tab]:
    """A fresh browser with one page.

    Args:
        microphone: A WAV file at 48 kHz, heard again and again; None: a beep each second.
        arguments: For chromium, about the microphone.
        context: Of Playwright's browser context.
    """
    if not HAS_CHROMIUM and not os.environ.get("CI"):
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    heard = () if microphone is None else (f"--use-file-for-fake-audio-capture={microphone}",)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*QUIET, *arguments, *heard]
        )
        try:
            opened = await browser.new_context(**context)
            page = await opened.new_page()
            page.set_default_timeout(PATIENCE_MS)
            await page.add_init_script(WITNESS)
            made = Tab(page)
            made.watch()
            yield made
        finally:
            await browser.close()


@asynccontextmanager
async def console(
    *faults: Sequence[Fault], logins: Sequence[str] = (), **options: Any
) -> AsyncIterator[Served]:
    """A bridge whose console serves the built client."""
    files = await asyncio.to_thread(read_files, STATIC)
    assert files, "run `make client` first"
    async with served(*faults, console={"files": files, "logins": logins}, **options) as s:
        yield s


def write_microphone(path: Path, pcm: NDArray[np.float64]) -> Path:
    """Writes sound for the fake microphone, at 48 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.clip(np.rint(pcm * 32767), -32768, 32767).astype("<i2").tobytes())
    return path
