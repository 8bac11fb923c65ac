"""The bridge as one writes it in an afternoon: `websockets`, `sphn`, `soxr`, and nothing else.

The baseline of the benches. It is built with care: stateful resamplers, tasks that do not block each other,
header pages after the handshake. It has no notion of time: audio that queued up while the engine read its
prompts, or during a stall, stays in the call as delay.

    python benches/plain_bridge.py --port 5060 --engine ws://127.0.0.1:8998/api/chat
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import urllib.parse
from typing import Any

import numpy as np
import soxr
import sphn
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

PHONE_HZ = 8_000
ENGINE_HZ = 24_000
ENGINE_FRAME = 480
PAYLOAD_UNIT = 320
HANDSHAKE, AUDIO = 0, 1
PROMPTS = {"voice_prompt": "NATF0.pt", "text_prompt": "You are a friendly assistant on the telephone."}


class Call:
    def __init__(self, phone: ServerConnection) -> None:
        self.phone = phone
        self.stream_sid = ""
        self.up = soxr.ResampleStream(PHONE_HZ, ENGINE_HZ, 1, dtype="int16")
        self.down = soxr.ResampleStream(ENGINE_HZ, PHONE_HZ, 1, dtype="int16")
        self.writer = sphn.OpusStreamWriter(ENGINE_HZ)
        self.reader = sphn.OpusStreamReader(ENGINE_HZ)
        self.heard = np.zeros(0, np.float32)
        self.payload = b""
        self.caller: asyncio.Queue[bytes] = asyncio.Queue()

    async def from_phone(self) -> None:
        async for message in self.phone:
            event: dict[str, Any] = json.loads(message)
            if event["event"] == "start":
                self.stream_sid = event.get("stream_sid") or event["start"]["stream_sid"]
            elif event["event"] == "media":
                pcm = np.frombuffer(base64.b64decode(event["media"]["payload"]), np.int16)
                samples = self.up.resample_chunk(pcm).astype(np.float32) / 32768
                self.heard = np.concatenate([self.heard, samples])
                whole = len(self.heard) // ENGINE_FRAME * ENGINE_FRAME
                pages = b"".join(map(self.writer.append_pcm, self.heard[:whole].reshape(-1, ENGINE_FRAME)))
                self.heard = self.heard[whole:]
                if pages:
                    self.caller.put_nowait(pages)
            elif event["event"] == "stop":
                return

    async def to_phone(self, ogg: bytes) -> None:
        pcm = np.clip(self.reader.append_bytes(ogg) * 32768, -32768, 32767).astype(np.int16)
        self.payload += self.down.resample_chunk(pcm).tobytes()
        whole = len(self.payload) // PAYLOAD_UNIT * PAYLOAD_UNIT
        if whole and self.stream_sid:
            media = {"payload": base64.b64encode(self.payload[:whole]).decode()}
            self.payload = self.payload[whole:]
            await self.phone.send(
                json.dumps({"event": "media", "stream_sid": self.stream_sid, "media": media})
            )

    async def converse(self, url: str) -> None:
        async with connect(url, compression=None, max_size=None) as engine:
            if (await engine.recv(decode=False))[0] != HANDSHAKE:
                raise RuntimeError("the engine did not begin with its handshake")

            async def to_engine() -> None:
                while True:
                    await engine.send(bytes([AUDIO]) + await self.caller.get())

            sending = asyncio.create_task(to_engine())
            try:
                while message := await engine.recv(decode=False):
                    if message[0] == AUDIO:
                        await self.to_phone(message[1:])
            finally:
                sending.cancel()


async def main(host: str, port: int, engine: str) -> None:
    url = f"{engine}?{urllib.parse.urlencode(PROMPTS)}"

    async def answer(phone: ServerConnection) -> None:
        call = Call(phone)
        tasks = {asyncio.create_task(call.from_phone()), asyncio.create_task(call.converse(url))}
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        with contextlib.suppress(ConnectionClosed):
            await asyncio.gather(*tasks, return_exceptions=True)

    async with serve(answer, host, port, compression=None, max_size=None) as server:
        print(f"listening on ws://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5060)
    parser.add_argument("--engine", required=True)
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(args.host, args.port, args.engine))
