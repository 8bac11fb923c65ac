"""A phone that floods: it starts a call and then sends small frames without end.

    python -m tests.fault.flooder PORT KIND BYTES_PER_S

It is a process of its own, so that it takes no time from the phones that a test measures. It prints the code
with which the bridge closes the connection.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import sys
import time

MASK = bytes(4)  # which leaves the payload as it is


def frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    """A masked frame below 64 KiB (RFC 6455 §5.2)."""
    size = len(payload)
    head = bytes([(0x80 if last else 0) | opcode])
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return head + length + MASK + payload


def _text(**event: object) -> bytes:
    return frame(1, json.dumps(event).encode())


_MEDIA = base64.b64encode(bytes(3200)).decode()  # 200 ms

FLOODS = {
    "empty messages": frame(1, b""),
    "keys": _text(event="dtmf", dtmf={"digit": "5"}),
    "unknown events": _text(event="x"),
    "garbage": frame(1, b"{"),
    "empty fragments": frame(1, b"", last=False) + frame(0, b"", last=False) * 8 + frame(0, b""),
    "pings": frame(9, b""),
    "audio": _text(event="media", media={"payload": _MEDIA}),
}
"""Frames by kind. A masked frame has at least 6 bytes, so a megabyte holds up to 170,000."""

START = _text(event="start", start={"stream_sid": "MZflood", "call_sid": "CAflood"})


def upgrade(path: str = "/exotel") -> bytes:
    """A request for a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def close_code(received: bytearray) -> int | None:
    """The code of the close frame; None if it has not come. Whole frames before it are taken out."""
    while len(received) >= 2:
        opcode, size, begin = received[0] & 0x0F, received[1], 2
        if size == 126:
            size, begin = int.from_bytes(received[2:4], "big"), 4
        elif size == 127:
            size, begin = int.from_bytes(received[2:10], "big"), 10
        if len(received) < begin + size:
            return None
        if opcode == 8:
            return int.from_bytes(received[begin : begin + 2], "big")
        del received[: begin + size]
    return None


def main() -> None:
    """Floods until it is closed."""
    port, kind, rate = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    chunk = FLOODS[kind] * (1 + 20_000 // len(FLOODS[kind]))
    with socket.create_connection(("127.0.0.1", port)) as phone:
        phone.sendall(upgrade() + START)
        received = bytearray()
        while b"\r\n\r\n" not in received:
            received += phone.recv(1 << 16)
        del received[: received.index(b"\r\n\r\n") + 4]
        phone.setblocking(False)
        began_s, sent = time.monotonic(), 0
        unsent = memoryview(b"")
        while (code := close_code(received)) is None:
            time.sleep(max(0.001, began_s + sent / rate - time.monotonic()))
            with contextlib.suppress(BlockingIOError):
                received += phone.recv(1 << 16)
            try:
                unsent = unsent or memoryview(chunk)
                size = phone.send(unsent)
                sent, unsent = sent + size, unsent[size:]
            except BlockingIOError:
                pass
            except OSError:
                break
        code = code or close_code(received) or 1006
        print(f"closed with {code} after {sent} bytes in {time.monotonic() - began_s:.1f} s")  # noqa: T201


if __name__ == "__main__":
    main()
