"""Kyutai's client of the wire, without its microphone: run with `sphn` 0.1 or 0.2, whichever is there.

``URL SECONDS`` reads float32 samples at 24 kHz from standard input and says them in real time, from the
connection on, as that client does: it waits for no handshake. What it hears goes to standard output, text
and kinds of messages to standard error, as JSON.
"""

import asyncio
import json
import sys
from collections import Counter

import aiohttp
import numpy as np
import sphn

RATE_HZ = 24_000
FRAME = 1920


async def main(url: str, seconds: float) -> None:
    pcm = np.frombuffer(sys.stdin.buffer.read(), np.float32)
    writer, reader = sphn.OpusStreamWriter(RATE_HZ), sphn.OpusStreamReader(RATE_HZ)
    reads_at_once = not hasattr(reader, "read_pcm")
    kinds: Counter[int] = Counter()
    heard: list[np.ndarray] = []
    text = ""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:

        async def say() -> None:
            began = asyncio.get_running_loop().time()
            for start in range(0, len(pcm) - FRAME + 1, FRAME):
                due = began + (start + FRAME) / RATE_HZ
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                written = writer.append_pcm(pcm[start : start + FRAME])
                message = written if reads_at_once else writer.read_bytes()
                if message:
                    await socket.send_bytes(b"\x01" + message)
            while not reads_at_once and (message := writer.read_bytes()):
                await socket.send_bytes(b"\x01" + message)

        async def hear() -> None:
            nonlocal text
            async for message in socket:
                assert message.type is aiohttp.WSMsgType.BINARY, message
                kind, payload = message.data[0], message.data[1:]
                kinds[kind] += 1
                if kind == 1:
                    decoded = reader.append_bytes(payload)
                    if reads_at_once:
                        heard.append(decoded)
                elif kind == 2:
                    text += payload.decode()
            raise SystemExit(f"closed: {socket.close_code}")

        async def decode() -> None:
            # The reader of 0.1 is a thread, and gives what it has when it is asked.
            while not reads_at_once:
                await asyncio.sleep(0.001)
                decoded = reader.read_pcm()
                if decoded is not None and len(decoded):
                    heard.append(decoded)

        tasks = [asyncio.create_task(work()) for work in (say, hear, decode)]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        for task in tasks:
            task.cancel()
    sys.stderr.write(json.dumps({"kinds": kinds, "text": text}))
    sys.stdout.buffer.write(np.concatenate(heard).astype(np.float32).tobytes() if heard else b"")


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
