"""What a caller in a real browser hears: how late, and how whole. Needs `make client` and Debian's chromium.

    python -m benches.web_delay              20 s each: straight with an engine that echoes at once, and
                                             through the bridge
    python -m benches.web_delay --seconds 60

The microphone is a file of speech. The delay is measured in the talk's own recording: from the sound that
comes into the audio worklet to the same sound that leaves it. The sound card's own times come on top (a
microphone's 10 ms, and what the page shows as "Browser and loudspeaker").
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.table import Table
from tests.call.rig import speech
from tests.web.browser import RATE_HZ, tab, write_microphone
from tests.web.test_sound import bridge_and_echo, gaps, hearing, wear_headphones

from pxbridge.commands import terminal

PAUSE_S = 0.7
LONGEST_DELAY_S = 2.0
"""The microphone's file repeats, and a match that is later than this is one of its next turn."""


async def _measured(url: str, microphone: Path, seconds: float, folder: Path) -> list[str]:
    async with tab(microphone) as t:
        await wear_headphones(t, url)
        clicked_s = time.monotonic()
        await t.press("Talk")
        await t.see("listening")
        listening_s = time.monotonic() - clicked_s
        await t.page.locator("summary", has_text="Connection").click()
        await asyncio.sleep(seconds)
        heard = await hearing(t, folder / "heard.wav", last_s=seconds)
        delays_ms = [1000 * each.delay_s for each in heard.delays if each.delay_s < LONGEST_DELAY_S]
        figures = await t.figures()
        return [
            f"{1000 * listening_s:.0f}",
            *(f"{np.percentile(delays_ms, share):.1f}" for share in (50, 95)),
            figures["target"],
            str(await gaps(t)),
            figures["dropped"],
        ]


async def _main(seconds: float) -> None:
    table = Table("talk", "to listening, ms", "p50, ms", "p95, ms", "held back", "gaps", "taken out, put in")
    said = np.repeat(speech(24_000).astype(np.float64) / 32768, RATE_HZ // 24_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pause = np.zeros(round(PAUSE_S * RATE_HZ))
        microphone = write_microphone(folder / "voice.wav", np.append(0.7 * said, pause))
        async with bridge_and_echo() as (page, engine):
            for title, url in (("straight", f"{page}/talk?engine={engine}"), ("bridge", f"{page}/talk")):
                table.add_row(title, *await _measured(url, microphone, seconds, folder))
    terminal.console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each talk (default: %(default)s)")
    asyncio.run(_main(parser.parse_args().seconds))
