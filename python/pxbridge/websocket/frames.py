"""The fast path: writes messages and reads single frames without the library's objects (RFC 6455 §5).

Nearly every message in a call is one frame that arrives in one read. In a paced call the code is never in the
CPU's caches, and each function call costs more than its work. Going through the library's objects cost a
third of the total CPU time (benches/websocket_cpu.py). So Rust does it, in one call.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from websockets.streams import StreamReader

from pxbridge import _native
from pxbridge._native import lone_frame, unmasked_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.protocol import Protocol as WireProtocol

__all__ = ["BINARY", "PING", "PONG", "TEXT", "is_between_frames", "lone_frame", "whole_frame", "whole_frames"]

TEXT: Final = 0x81  # first byte of a frame that is a whole text message
BINARY: Final = 0x82
PING: Final = 0x89
PONG: Final = 0x8A


def whole_frame(first_byte: int, payload: bytes, *, masked: bool) -> bytes:
    """The bytes of one frame that is a whole message (RFC 6455 §5.2)."""
    return _native.whole_frame(first_byte, payload, os.urandom(4) if masked else None)


def whole_frames(messages: Sequence[tuple[bytes, bool]], *, masked: bool) -> bytes:
    """The bytes of messages, each with a flag that is true for a text message, in a frame each."""
    if not masked:
        return unmasked_frames(messages)
    return b"".join(whole_frame(TEXT if text else BINARY, data, masked=True) for data, text in messages)


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
