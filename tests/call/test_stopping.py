"""What a caller hears when the bridge stops."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.call.rig import Bridge, bridge, speech
from tests.virtual_time import run

from pxbridge.calls.exchange import LONGEST_SENTENCE_S
from pxbridge.exotel.phone import Phone, Script
from pxbridge.listening import loudness_dbfs
from pxbridge.personaplex.rehearsal import Mode

NEVER_S = 600.0


async def stop_at(b: Bridge, phone: asyncio.Task[Phone], at_s: float) -> tuple[Phone, float]:
    """Stops the bridge in mid-call; the phone, and how long the end took."""
    await asyncio.sleep(at_s)
    loop = asyncio.get_running_loop()
    told_s = loop.time()
    await b.exchange.close()
    return await phone, loop.time() - told_s


@pytest.mark.parametrize("at_s", [2.0, 4.5, 7.7, 9.0])
def test_the_agent_ends_its_sentence_and_it_is_heard(at_s: float) -> None:
    async def main() -> tuple[Phone, float]:
        async with bridge(mode=Mode.CANNED) as b:
            return await stop_at(b, asyncio.create_task(b.call(Script(hang_up_at_s=NEVER_S))), at_s)

    phone, took_s = run(main())
    assert phone.close_code == 1012
    assert phone.player.depth_s == 0.0, "words were cut"
    heard = phone.player.heard[: round(phone.duration_s * 8000)]
    spoken = loudness_dbfs(heard, 8000) > -45.0
    assert spoken.any() and not spoken[-10:].any(), "it ended within a word"
    assert took_s < LONGEST_SENTENCE_S + 3.0


def test_an_agent_that_never_pauses_is_cut_short() -> None:
    async def main() -> tuple[Phone, float]:
        async with bridge(mode=Mode.ECHO) as b:
            noise = np.tile(speech()[8000:12000], 200)
            call = b.call(Script(noise, speak_at_s=0.0, hang_up_at_s=NEVER_S))
            return await stop_at(b, asyncio.create_task(call), 5.0)

    phone, took_s = run(main())
    assert phone.close_code == 1012
    assert took_s < LONGEST_SENTENCE_S + 3.0


@pytest.mark.parametrize("at_s", [0.05, 5.0])
def test_a_call_whose_agent_is_silent_ends_at_once(at_s: float) -> None:
    async def main() -> tuple[Phone, float]:
        async with bridge(mode=Mode.ECHO) as b:
            return await stop_at(b, asyncio.create_task(b.call(Script(hang_up_at_s=NEVER_S))), at_s)

    phone, took_s = run(main())
    assert phone.close_code == 1012
    assert took_s < 1.5
