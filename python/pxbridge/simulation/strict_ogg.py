"""Ogg Opus as an engine reads and writes it: as strictly as `sphn` 0.1, which NVIDIA pins.

The rehearsal engine must be as strict as a real one, and must share no code with the bridge that it tests. So
this is not `pxbridge.audio.OggOpusReader`, which tolerates everything. It is an independent implementation of
RFC 3533 and RFC 7845 §5, page by page.

After some errors a real engine hears nothing more from its caller: it goes deaf. This was compared with sphn
0.1.12. A stream without header pages, a wrong checksum (for example of a truncated page) and a second header
with the same serial number make it deaf. Garbage, lost pages and a new stream do not.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINE_RATE_HZ: Final = 24_000

_CAPTURE: Final = b"OggS"
_PAGE_HEADER: Final = struct.Struct("<4sBBqIIIB")  # RFC 3533 §6, up to the segment table
_CRC_OFFSET: Final = 22
_BEGINS_STREAM: Final = 0x02
_CONTINUES_PACKET: Final = 0x01
_FULL_SEGMENT: Final = 255
# sphn 0.1 writes this pre-skip and counts granules at 24 kHz, which violates RFC 7845. So does this module,
# to test readers with it.
_PRE_SKIP: Final = 3840
_OPUS_HEAD: Final = struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, _PRE_SKIP, ENGINE_RATE_HZ, 0, 0)

_MIRRORED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def page_crc(page: bytes) -> int:
    """The checksum of a page whose checksum field is zero (RFC 3533 §6).

    It is the CRC-32 with polynomial 0x04C11DB7, not reflected, starting at 0. zlib has only the reflected
    CRC-32. On mirrored bytes it gives this one, mirrored.
    """
    reflected = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_MIRRORED), "big")


class PageWriter:
    """Writes a stream as sphn 0.1 does: two header pages, then one packet in each page, without an end."""

    __slots__ = ("_granule", "_sequence", "_serial")

    def __init__(self, serial: int) -> None:
        self._serial = serial
        self._sequence = 0
        self._granule = 0

    def headers(self) -> list[bytes]:
        """The two header pages. The engine sends each in a message of its own."""
        vendor = b"pxbridge rehearsal"
        tags = b"OpusTags" + struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", 0)
        return [self._page(_OPUS_HEAD, _BEGINS_STREAM), self._page(tags, 0)]

    def page(self, packet: bytes, samples: int) -> bytes:
        """The page of one audio packet with a duration of `samples` at 24 kHz."""
        self._granule += samples
        return self._page(packet, 0)

    def _page(self, packet: bytes, kind: int) -> bytes:
        full, rest = divmod(len(packet), _FULL_SEGMENT)
        header = _PAGE_HEADER.pack(
            _CAPTURE, 0, kind, self._granule, self._serial, self._sequence, 0, full + 1
        )
        page = bytearray(header + bytes([_FULL_SEGMENT] * full + [rest]) + packet)
        struct.pack_into("<I", page, _CRC_OFFSET, page_crc(bytes(page)))
        self._sequence += 1
        return bytes(page)


@dataclass
class PageReader:
    """Reads a caller's stream as sphn 0.1 does, and goes deaf on the same errors.

    Attributes:
        deaf_because: Why nothing more is heard from this caller; None without an error.
        pages: The number of audio pages.
    """

    deaf_because: str | None = None
    pages: int = 0
    _bytes: bytearray = field(default_factory=bytearray)
    _packet: bytearray = field(default_factory=bytearray)
    _serial: int | None = None
    _headers_left: int = 2

    def read(self, data: bytes) -> list[bytes]:
        """The Opus packets that `data` completes. `data` is the next part of the stream, of any length."""
        packets: list[bytes] = []
        self._bytes += data
        while self.deaf_because is None:
            page = self._next_page()
            if page is None:
                break
            self._read_page(page, packets)
        return packets

    def _next_page(self) -> bytes | None:
        start = self._bytes.find(_CAPTURE)
        if start < 0:
            del self._bytes[: -(len(_CAPTURE) - 1)]  # the end may be the beginning of a capture pattern
            return None
        del self._bytes[:start]
        if len(self._bytes) < _PAGE_HEADER.size:
            return None
        body = _PAGE_HEADER.size + self._bytes[_PAGE_HEADER.size - 1]
        if len(self._bytes) < body:
            return None
        end = body + sum(self._bytes[_PAGE_HEADER.size : body])
        if len(self._bytes) < end:
            return None
        page = bytes(self._bytes[:end])
        del self._bytes[:end]
        return page

    def _read_page(self, page: bytes, packets: list[bytes]) -> None:
        _, _, kind, _, serial, _, crc, segments = _PAGE_HEADER.unpack_from(page)
        if page_crc(page[:_CRC_OFFSET] + bytes(4) + page[_CRC_OFFSET + 4 :]) != crc:
            self.deaf_because = "a page with a wrong checksum"
            return
        if kind & _BEGINS_STREAM:
            if serial == self._serial:
                self.deaf_because = "a second header with the same serial number"
                return
            self._serial = serial
            self._headers_left = 2
            self._packet.clear()
        elif serial != self._serial:
            self.deaf_because = "audio without header pages before it"
            return
        if not kind & _CONTINUES_PACKET:
            self._packet.clear()
        self.pages += self._headers_left == 0
        at = _PAGE_HEADER.size + segments
        for length in page[_PAGE_HEADER.size : at]:
            self._packet += page[at : at + length]
            at += length
            if length < _FULL_SEGMENT:
                self._take(bytes(self._packet), packets)
                self._packet.clear()

    def _take(self, packet: bytes, packets: list[bytes]) -> None:
        if self._headers_left:
            expected = b"OpusHead" if self._headers_left == 2 else b"OpusTags"
            if not packet.startswith(expected):
                self.deaf_because = f"no {expected.decode()} in the header"
            self._headers_left -= 1
        elif not packet:
            self.deaf_because = "an empty packet, which a real engine hears as ten seconds of noise"
        else:
            packets.append(packet)


# Frame sizes of SILK, hybrid and CELT, in samples at 24 kHz (RFC 6716 §3.1, table 2).
_FRAME_SAMPLES: Final = (240, 480, 960, 1440) * 3 + (240, 480) * 2 + (60, 120, 240, 480) * 4


def packet_samples(packet: bytes) -> int:
    """The duration of an Opus packet, in samples at 24 kHz (RFC 6716 §3.1 and §3.2)."""
    if not packet:
        return 0
    frame = _FRAME_SAMPLES[packet[0] >> 3]
    match packet[0] & 0x03:
        case 0:
            return frame
        case 1 | 2:
            return 2 * frame
        case _:
            return frame * (packet[1] & 0x3F) if len(packet) > 1 else 0


_ONE_FRAME = 0  # the last two bits of a packet's first byte (RFC 6716 §3.1)
_ANY_FRAMES = 3
_FRAMES_DIFFER_IN_LENGTH = 0x80
_SHORT_LENGTH_LIMIT = 252
_MAX_JOINED_SAMPLES = ENGINE_RATE_HZ * 120 // 1000


def join_packets(packets: Sequence[bytes]) -> bytes | None:
    """Joins packets into one with the same sound (RFC 6716 §3.2.5); None if they cannot be joined.

    They can be joined if each has one frame, all have the same mode, and they last at most 120 ms together.
    """
    first = packets[0][0]
    if (
        first & 0x03 != _ONE_FRAME
        or any(packet[0] != first for packet in packets)
        or sum(map(packet_samples, packets)) > _MAX_JOINED_SAMPLES
    ):
        return None
    frames = [packet[1:] for packet in packets]
    head = bytes([first | _ANY_FRAMES, _FRAMES_DIFFER_IN_LENGTH | len(frames)])
    return head + b"".join(_frame_length(len(frame)) for frame in frames[:-1]) + b"".join(frames)


def _frame_length(length: int) -> bytes:
    """A frame's length in bytes, encoded as in RFC 6716 §3.2.1."""
    if length < _SHORT_LENGTH_LIMIT:
        return bytes([length])
    low = _SHORT_LENGTH_LIMIT + length % 4
    return bytes([low, (length - low) // 4])
