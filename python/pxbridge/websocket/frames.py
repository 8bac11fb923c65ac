"""The fast path: writes messages and reads single frames without the library's objects (RFC 6455 §5).

Nearly every message in a call is one frame that arrives in one read. In a paced call the code is never in the
CPU's caches, and going through the library's objects cost a third of the total CPU time
(benches/websocket_cpu.py).
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, Final

from websockets.streams import StreamReader

try:
    from websockets.speedups import apply_mask
except ImportError:  # websockets has no wheel for this platform
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from websockets.protocol import Protocol as WireProtocol

TEXT: Final = 0x81  # first byte of a frame that is a whole text message
BINARY: Final = 0x82
PING: Final = 0x89
PONG: Final = 0x8A
_LONE: Final = frozenset({TEXT, BINARY, PONG})
_HEAD_7 = struct.Struct("!BB")
_HEAD_16 = struct.Struct("!BBH")
_HEAD_64 = struct.Struct("!BBQ")


def whole_frame(first_byte: int, payload: bytes, *, masked: bool) -> bytes:
    """The bytes of one frame that is a whole message (RFC 6455 §5.2)."""
    length = len(payload)
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head = _HEAD_7.pack(first_byte, mask_bit | length)
    elif length < 65_536:
        head = _HEAD_16.pack(first_byte, mask_bit | 126, length)
    else:
        head = _HEAD_64.pack(first_byte, mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + apply_mask(payload, mask)


def lone_frame(data: bytes, *, masked: bool) -> bytes | None:
    """The payload of `data` if it is exactly one frame: a message below 64 KiB, or a pong. Else ``None``."""
    size = len(data)
    if size < 6 or data[0] not in _LONE:
        return None
    length = data[1] - 0x80 if masked else data[1]  # out of range if the mask bit is wrong
    begin = 2
    if length == 126 and data[0] != PONG:
        length = data[2] << 8 | data[3]
        begin = 4
    elif not 0 <= length < 126:
        return None
    if not masked:
        return data[begin:] if begin + length == size else None
    if begin + 4 + length != size:
        return None
    return apply_mask(data[begin + 4 :], data[begin : begin + 4])


def is_between_frames(protocol: WireProtocol) -> bool:
    """Whether the protocol has consumed all its input, and no frame or message is incomplete.

    Its parser is a chain of generators. The innermost generator waits in ``at_eof`` only between two frames.
    """
    if protocol.reader.buffer or protocol.current_size is not None:
        return False
    waiting: Any = protocol.parser
    while waiting.gi_yieldfrom is not None:
        waiting = waiting.gi_yieldfrom
    return waiting.gi_code is StreamReader.at_eof.__code__
