"""A flow from its first question to a person: dynamic URL, stream, the key pressed, Passthru, Connect."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console
from tests.fault.processes import fetch

from pxbridge import settings
from pxbridge.app import lifecycle
from pxbridge.simulation.phone import Line, Phone, Script, place_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FILE = """\
port = 0
console_port = 0
keep_records = false
public_url = "wss://voice.example.com"

[personas.nurse]
text_prompt = "You are a nurse."
keys = { "0" = { hand_over = ["+911", "+912"] }, "#" = "end" }
"""


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[str]:
    """A bridge; its address."""
    file = folder / "pxbridge.toml"
    file.write_text(FILE)
    ready: asyncio.Queue[str] = asyncio.Queue()
    loaded = settings.load({"config": str(file), "shed_above_lag_ms": 0}, {})
    running = asyncio.create_task(lifecycle.run(loaded, Console(file=io.StringIO()), ready.put_nowait))
    try:
        yield urlsplit(await ready.get()).netloc
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_key_sends_the_flow_to_a_person_and_another_ends_it(tmp_path: Path) -> None:
    async with served(tmp_path) as where:

        async def ask(path: str) -> tuple[int, str]:
            return await asyncio.to_thread(fetch, f"http://{where}{path}")

        async def call(key: str) -> Phone:
            status, body = await ask("/exotel/url/nurse?CallSid=not-known-yet")
            assert status == 200
            path = urlsplit(json.loads(body)["url"]).path
            phone = Phone(Script(hang_up_at_s=15.0), Line(dtmf=((1.0, key),)))
            await place_call(f"ws://{where}{path}", phone)
            assert phone.close_code == 1000 and phone.duration_s < 14.0, "the bridge ended it"
            return phone

        handed_over, ended = await asyncio.gather(call("0"), call("#"))
        sid = handed_over.line.call_sid
        assert (await ask(f"/exotel/passthru?CallSid={sid}"))[0] == 302
        status, body = await ask(f"/exotel/connect?CallSid={sid}")
        assert (status, json.loads(body)) == (200, {"destination": {"numbers": ["+911", "+912"]}})
        assert (await ask(f"/exotel/passthru?CallSid={ended.line.call_sid}"))[0] == 200
        assert (await ask(f"/exotel/connect?CallSid={ended.line.call_sid}"))[0] == 404
