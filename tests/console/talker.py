"""A client of `/api/chat` without a microphone: says what it is given, and keeps what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from pxbridge import chat_wire
from pxbridge.audio import OggOpusReader, OggOpusWriter
from pxbridge.chat_wire import FrameReader, Kind
from pxbridge.simulation.player import Player

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

RATE_HZ = 24_000
PACKET_S = 0.02


class Talker:
    """One talk.

    Args:
        said: What is said from the handshake on, at 24 kHz.
        query: The query of the URL.
        origin: The page that it pretends to be; None for a program.
    """

    def __init__(
        self, said: NDArray[np.int16], query: Mapping[str, str] | None = None, origin: str | None = None
    ) -> None:
        self.said = said
        self._query = dict(query or {})
        self._origin = origin
        self._began_s = 0.0
        self.player = Player(RATE_HZ)
        self.text = ""
        self.kinds: list[Kind] = []
        self.metadata: list[dict[str, Any]] = []
        self.metadata_at_s: list[float] = []
        self.errors: list[str] = []
        self.listened_at_s: float | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.ready = asyncio.Event()
        self.stalls: dict[float, float] = {}
        """When the socket stalls towards the bridge, and for how long; seconds since the handshake."""
        self._reader = OggOpusReader(RATE_HZ)
        self._frames = FrameReader()

    @property
    def counts(self) -> Counter[Kind]:
        return Counter(self.kinds)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    async def talk(
        self,
        port: int,
        *,
        path: str = chat_wire.CHAT_PATH,
        headers: Mapping[str, str] | None = None,
        stays_s: float = 0.0,
    ) -> None:
        """Talks until everything is said, or until the bridge ends it."""
        url = f"ws://127.0.0.1:{port}{path}?{urlencode(self._query)}"
        self._began_s = asyncio.get_running_loop().time()
        async with connect(
            url,
            compression=None,
            ping_interval=None,
            origin=self._origin,  # type: ignore[arg-type]
            additional_headers=dict(headers or {}),
        ) as socket:
            talking = asyncio.create_task(self._say(socket, stays_s))
            try:
                with contextlib.suppress(ConnectionClosedError):  # of any code but 1000 and 1001
                    async for message in socket:
                        assert isinstance(message, bytes)
                        self._take(message)
            finally:
                talking.cancel()
                await asyncio.gather(talking, return_exceptions=True)
                self.close_code, self.close_reason = socket.close_code, socket.close_reason or ""
        self.player.advance(self._now_s())

    async def _say(self, socket: Any, stays_s: float) -> None:
        await self.ready.wait()
        writer = OggOpusWriter(RATE_HZ)
        await socket.send(chat_wire.audio(writer.headers()))
        begin_s = self._now_s()
        packet = round(PACKET_S * RATE_HZ)
        stalls = dict(self.stalls)
        for n in range(len(self.said) // packet):
            due_s = begin_s + (n + 1) * PACKET_S
            for at_s, for_s in stalls.items():
                if at_s <= n * PACKET_S < at_s + for_s:
                    due_s = begin_s + at_s + for_s
            await asyncio.sleep(max(0.0, due_s - self._now_s()))
            page = writer.write(self.said[n * packet : (n + 1) * packet])
            await socket.send(chat_wire.audio(page))
        await asyncio.sleep(stays_s)
        await socket.close(1000)

    def _take(self, message: bytes) -> None:
        frame = self._frames.read(message)
        assert frame is not None
        self.kinds.append(frame.kind)
        match frame.kind:
            case Kind.HANDSHAKE:
                self.listened_at_s = self._now_s()
                self.ready.set()
            case Kind.AUDIO:
                pcm = np.clip(np.rint(self._reader.read(frame.payload) * 32768), -32768, 32767)
                self.player.push(pcm.astype(np.int16), self._now_s())
            case Kind.TEXT:
                self.text += frame.payload.decode()
            case Kind.METADATA:
                self.metadata.append(json.loads(frame.payload))
                self.metadata_at_s.append(self._now_s())
            case Kind.ERROR:
                self.errors.append(frame.payload.decode())
            case _:
                pass
