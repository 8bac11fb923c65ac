"""Fuzzes the reader of Exotel's messages with atheris (libFuzzer); not part of the suite.

Run it for ten minutes, from the repository's root::

    pip install --group fuzz
    python tests/fuzz/fuzz_events.py -max_total_time=600 -max_len=4096 CORPUS tests/fuzz/seeds/events

CORPUS is an empty folder of yours, where libFuzzer keeps what it finds; the seeds are only read.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["pxbridge.telephony.exotel.messages"]):
    from pxbridge.telephony.exotel import messages

from pxbridge.records.recording_files import file_name

EVENTS = ["connected", "start", "media", "dtmf", "mark", "clear", "stop", "Start", "other"]
# fmt: off
NAMES = [
    "event", "start", "media", "dtmf", "mark", "clear", "stop", "stream_sid", "streamSid", "call_sid",
    "callSid", "leg_sid", "account_sid", "from", "to", "custom_parameters", "customParameters",
    "media_format", "mediaFormat", "encoding", "sample_rate", "sampleRate", "sample-rate", "bit_rate",
    "payload", "Payload", "chunk", "timestamp", "sequence_number", "digit", "duration", "name", "reason",
    "protocol", "version", "key",
]
# fmt: on


def read_both(data: bytes) -> None:
    """Reads the input as bytes off the wire, and as instructions to build a message that is JSON."""
    read(data)
    choices = atheris.FuzzedDataProvider(data)
    top = dict(field(choices, 0) for _ in range(choices.ConsumeIntInRange(0, 8)))
    top["event"] = choices.PickValueInList(EVENTS)
    read(json.dumps(top).encode())


def field(choices: Any, depth: int) -> tuple[str, Any]:
    """One field, its name one of Exotel's or made up."""
    name = choices.PickValueInList(NAMES) if choices.ConsumeBool() else choices.ConsumeUnicode(8)
    return name, value_of(choices, depth)


def value_of(choices: Any, depth: int) -> Any:
    """Any JSON value, objects up to four deep."""
    kind = choices.ConsumeIntInRange(0, 8)
    if kind == 0:
        return None
    if kind == 1:
        return choices.ConsumeBool()
    if kind == 2:
        return choices.ConsumeInt(9)
    if kind == 3:
        return choices.ConsumeFloat()
    if kind == 4 and depth < 4:
        return [value_of(choices, depth + 1) for _ in range(choices.ConsumeIntInRange(0, 3))]
    if kind in (5, 6) and depth < 4:
        return dict(field(choices, depth + 1) for _ in range(choices.ConsumeIntInRange(0, 6)))
    if kind == 7:
        return choices.ConsumeString(24)
    return choices.ConsumeUnicode(24)  # lone surrogates included


def read(data: bytes) -> None:
    """Whatever arrives, `parse` answers with an event that a log, a file name and a rate can be made from."""
    event = messages.parse(data)
    assert event == messages.parse(data.decode("utf-8-sig", errors="replace"))
    repr(event).encode()
    if isinstance(event, messages.Start):
        name = file_name(event.call_id)
        assert name.isascii()
        assert 0 < len(name) <= 64
        assert event.call_id.isprintable()
        assert messages.line_rate(None, event).rate_hz in messages.LINE_RATES_HZ
        assert all(key and value for key, value in event.custom.items())
    elif isinstance(event, messages.Media):
        # Read as it was decoded: what we build from it is understood the same way.
        again = messages.parse(messages.media("S", event.payload, sequence=1, chunk=1, timestamp_ms=0))
        assert isinstance(again, messages.Media)
        assert again.payload == event.payload


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_both)
    atheris.Fuzz()
