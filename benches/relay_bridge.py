"""A bridge without sound: it only receives and sends messages of the sizes that a bridge does.

What its process takes is what the sockets of a call cost by themselves: the kernel, the event loop and
`pxbridge.websocket`. For each chunk of the phone's the engine gets the next five pages of a stream that was
made beforehand; for each page of the engine's the phone gets the next 80 ms of media. Nothing is parsed,
decoded, encoded or kept in time. (That the prepared stream says what the callers say is for the engine, which
steps only with a stream that it can read.)

    python benches/relay_bridge.py --port 5061 --engine ws://127.0.0.1:8998/api/chat
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
from typing import NamedTuple

import numpy as np

from call_sound import FRAME_MS, STEP_MS, frames
from pxbridge import chat_wire, websocket
from pxbridge.audio import OggOpusWriter
from pxbridge.commands.load_callers import RATE_HZ

STREAM_SID = "0123456789abcdef0123456789abcdef"
CHUNK_MS = 100
SMALLEST_MEDIA_BYTES = 400
"""What is shorter is an event, not a chunk of 20 ms or more."""


class Prepared(NamedTuple):
    """Whole messages, sent over and over."""

    headers: bytes
    to_engine: list[bytes]
    to_phone: list[bytes]


def prepare() -> Prepared:
    writer = OggOpusWriter(RATE_HZ)
    headers = chat_wire.audio(writer.headers())
    said = frames()
    pages = [writer.write(frame) for frame in said]
    per_chunk, per_step = CHUNK_MS // FRAME_MS, STEP_MS // FRAME_MS
    to_engine = [
        chat_wire.audio(b"".join(pages[at : at + per_chunk])) for at in range(0, len(pages), per_chunk)
    ]
    to_phone = []
    for at in range(0, len(said), per_step):
        payload = base64.b64encode(np.concatenate(said[at : at + per_step]).tobytes()).decode()
        message = {"event": "media", "stream_sid": STREAM_SID, "media": {"payload": payload}}
        to_phone.append(json.dumps(message, separators=(",", ":")).encode())
    return Prepared(headers, to_engine, to_phone)


class Call:
    """One phone and one engine."""

    def __init__(self, phone: websocket.WebSocket, engine_url: str, prepared: Prepared) -> None:
        self._phone = phone
        self._prepared = prepared
        self._engine: websocket.WebSocket | None = None
        self._ready = False
        self._chunks = self._steps = 0
        phone.on_message = self._from_phone
        phone.on_close = self._over
        self._joining = asyncio.create_task(self._join(engine_url))

    async def _join(self, url: str) -> None:
        self._engine = await websocket.connect(chat_wire.chat_url(url, "NATF0.pt", "a relay"))
        self._engine.on_message = self._from_engine

    def _from_phone(self, message: bytes, _is_text: bool) -> None:
        if self._ready and self._engine is not None and len(message) >= SMALLEST_MEDIA_BYTES:
            self._engine.send(self._prepared.to_engine[self._chunks % len(self._prepared.to_engine)])
            self._chunks += 1

    def _from_engine(self, message: bytes, _is_text: bool) -> None:
        if message[0] == chat_wire.Kind.HANDSHAKE and self._engine is not None:
            self._engine.send(self._prepared.headers)
            self._ready = True
        elif message[0] == chat_wire.Kind.AUDIO:
            self._phone.send(self._prepared.to_phone[self._steps % len(self._prepared.to_phone)], text=True)
            self._steps += 1

    def _over(self, _closed: websocket.Closed) -> None:
        self._joining.cancel()
        if self._engine is not None:
            self._engine.close()


async def main(port: int, engine_url: str) -> None:
    prepared = prepare()

    def take_call(phone: websocket.WebSocket) -> None:
        Call(phone, engine_url, prepared)  # its socket holds it

    await websocket.serve(lambda _request: take_call, "127.0.0.1", port)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=5061)
    parser.add_argument("--engine", required=True)
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(args.port, args.engine))
