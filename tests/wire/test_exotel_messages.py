"""Exotel's messages: every spelling seen in the wild is understood, and nothing a peer sends raises."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge.telephony.exotel import messages
from pxbridge.telephony.exotel.messages import (
    Clear,
    Connected,
    Dtmf,
    Malformed,
    Mark,
    Media,
    PayloadEncoding,
    Start,
    Stop,
    StopReason,
    Unknown,
    line_rate,
    other_tracks,
    parse,
    parse_rate,
    payload_encoding,
)
from pxbridge.telephony.exotel.spelling import Exotel, Spelling

NESTED_START = {
    "event": "start",
    "sequence_number": "1",
    "stream_sid": "MZ1",
    "start": {
        "stream_sid": "MZ1",
        "call_sid": "CA1",
        "account_sid": "acme",
        "from": "+911112223334",
        "to": "08012345678",
        "custom_parameters": {"persona": "nurse"},
        "media_format": {"encoding": "raw/slin", "sample_rate": "16000", "bit_rate": "256kbps"},
    },
}
CAMEL_START: dict[str, Any] = {
    "event": "start",
    "sequenceNumber": 1,
    "streamSid": "MZ1",
    "start": {
        "streamSid": "MZ1",
        "callSid": "CA1",
        "accountSid": "acme",
        "from": "+911112223334",
        "to": "08012345678",
        "customParameters": {"persona": "nurse"},
        "mediaFormat": {"encoding": "raw/slin", "sampleRate": 16000, "bitRate": "256kbps"},
    },
}
FLAT_START = {
    "event": "start",
    "sequence_number": 1,
    "stream_sid": "MZ1",
    "call_sid": "CA1",
    "account_sid": "acme",
    "from": "+911112223334",
    "to": "08012345678",
    "custom_parameters": {"persona": "nurse"},
    "encoding": "raw/slin",
    "sample_rate": "16000",
    "bit_rate": "256kbps",
}


@pytest.mark.parametrize("sent", [NESTED_START, CAMEL_START, FLAT_START], ids=["nested", "camel", "flat"])
def test_start_says_the_same_in_every_spelling(sent: dict[str, Any]) -> None:
    start = parse(json.dumps(sent))
    assert start == Start(
        stream_sid="MZ1",
        call_sid="CA1",
        account_sid="acme",
        caller="+911112223334",
        called="08012345678",
        custom={"persona": "nurse"},
        encoding="raw/slin",
        sample_rate="16000",
        bit_rate="256kbps",
        sequence=1,
    )


def started(**fields: Any) -> Start:
    event = parse(json.dumps({"event": "start", "stream_sid": "MZ1", "start": fields}))
    assert isinstance(event, Start)
    return event


def test_a_call_is_known_by_its_sid_or_its_legs_or_its_streams() -> None:
    assert started(call_sid="CA1", leg_sid="L1").call_id == "CA1"
    assert started(leg_sid="L1").call_id == "L1"
    assert started().call_id == "MZ1"
    assert started(call_sid="", leg_sid=None).call_id == "MZ1"


@pytest.mark.parametrize(
    "none", [None, {}, {"key": ""}, "", [], 7, {"a": None}, {"": "x"}, {"a": {"b": "c"}}]
)
def test_no_custom_parameters_can_be_said_in_many_ways(none: object) -> None:
    assert started(custom_parameters=none).custom == {}
    assert started().custom == {}


@pytest.mark.parametrize(
    "sent",
    [
        {"a": "1", "b": "two words"},
        {"a": 1, "b": "two words"},
        '{"a":"1","b":"two words"}',
        "a=1&b=two+words",
    ],
)
def test_custom_parameters_may_be_numbers_or_come_as_text(sent: object) -> None:
    assert started(custom_parameters=sent).custom == {"a": "1", "b": "two words"}


def test_custom_parameters_cannot_be_changed_afterwards() -> None:
    custom: Any = started(custom_parameters={"a": "1"}).custom
    with pytest.raises(TypeError):
        custom["a"] = "2"


PCM_NAMES = ["raw", "raw/slin", "audio/x-raw", "audio/x-l16", "base64", "", "PCM", "pcm-audio", "linear16"]
PCM_NAMES += ["pcm_s16le", "s16le", "PCM 8000", "pcm8k", "L16;rate=8000", "slin8", "raw/slin24"]


@pytest.mark.parametrize("encoding", PCM_NAMES)
def test_exotels_names_for_linear_pcm_are_known(encoding: str) -> None:
    assert payload_encoding(encoding) == PayloadEncoding("pcm16")


@pytest.mark.parametrize("encoding", ["wav", "media", "slow", "Ünknown"])
def test_any_other_word_means_pcm_and_is_told(encoding: str) -> None:
    read = payload_encoding(encoding)
    assert read.encoding == "pcm16" and not read.refusal
    assert len(read.notes) == 1 and repr(encoding) in read.notes[0]


@pytest.mark.parametrize(
    "encoding",
    [
        *("audio/x-alaw", "ALAW", "a-law", "PCMA", "audio/PCMA", "pcma/8000", "G711_alaw"),
        *("G711A", "G.711a", "g711-a", "pcm_alaw", "PCMALAW"),
    ],
)
def test_a_law_is_recognised(encoding: str) -> None:
    assert payload_encoding(encoding) == PayloadEncoding("alaw")


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("audio/G722", "G.722"),
        ("g.722", "G.722"),
        ("G729A", "G.729"),
        ("audio/opus", "Opus"),
        ("AMR-WB", "AMR"),
        ("audio/gsm", "GSM"),
        ("speex", "Speex"),
        ("audio/mpeg", "MP3"),
        ("audio/flac", "FLAC"),
        ("ADPCM", "ADPCM"),
        ("adpcm_ima_wav", "ADPCM"),
        ("G.711", "G.711 without its law"),
        ("pcm_u8", "PCM that has not 16 bits"),
        ("audio/L24", "PCM that has not 16 bits"),
        ("pcm_f32le", "PCM that has not 16 bits"),
        ("pcm_s16be", "big-endian PCM"),
    ],
)
def test_a_known_codec_that_is_not_read_is_refused_by_its_name(encoding: str, name: str) -> None:
    assert f"the phone sends {name} (encoding {encoding!r})" in payload_encoding(encoding).refusal


@given(st.text(max_size=40))
def test_any_encoding_is_read_refused_or_told(encoding: str) -> None:
    read = payload_encoding(encoding)
    assert read.encoding in ("pcm16", "mulaw", "alaw")
    assert not (read.refusal and read.notes)


def test_tracks_beside_the_callers_are_told() -> None:
    assert other_tracks(started(tracks=["inbound"]).tracks) == ()
    assert other_tracks(started().tracks) == ()
    assert (
        "also carries the track outbound" in other_tracks(started(tracks=["inbound", "outbound"]).tracks)[0]
    )
    assert "only the track outbound" in other_tracks(started(tracks="outbound").tracks)[0]


@pytest.mark.parametrize(
    "encoding",
    [
        *("audio/x-mulaw", "MULAW", "ulaw", "PCMU", "audio/pcmu", "mu-law", "G711_ulaw"),
        *("G711U", "G.711µ", "g711-mu", "pcm_mulaw", "audio/basic"),
    ],
)
def test_mu_law_is_recognised(encoding: str) -> None:
    assert payload_encoding(started(media_format={"encoding": encoding}).encoding).encoding == "mulaw"
    assert payload_encoding(started(encoding=encoding).encoding).encoding == "mulaw"


@pytest.mark.parametrize(
    ("sent", "rate_hz"),
    [
        (8000, 8000),
        ("8000", 8000),
        ("8000Hz", 8000),
        ("16kHz", 16000),
        ("16 kHz", 16000),
        ("24k", 24000),
        (" 24000 hz ", 24000),
        (8000.0, 8000),
        ("44100", 44100),
        ("fast", None),
        ("", None),
        (None, None),
        (True, None),
        ([8000], None),
        ("-8000", None),
        ("٨٠٠٠", None),
        (float("inf"), None),
    ],
)
def test_a_rate_is_read_as_people_write_it(sent: object, rate_hz: int | None) -> None:
    assert parse_rate(sent) == rate_hz


def test_the_urls_rate_comes_first_then_the_starts_then_a_custom_parameters() -> None:
    start = started(media_format={"sample_rate": "16000"}, custom_parameters={"sample-rate": "24000"})
    assert (line_rate("8000", start).rate_hz, line_rate("8000", start).source) == (8000, "url")
    assert (line_rate(None, start).rate_hz, line_rate(None, start).source) == (16000, "media_format")
    only_custom = started(custom_parameters={"sampleRate": "24kHz"})
    assert (line_rate(None, only_custom).rate_hz, line_rate(None, only_custom).source) == (
        24000,
        "custom_parameters",
    )
    assert (line_rate(None, Start()).rate_hz, line_rate(None, Start()).source) == (8000, "default")


def test_a_rate_that_does_not_exist_falls_to_the_next_with_a_note() -> None:
    chosen = line_rate(
        11025, started(media_format={"sample_rate": "fast"}, custom_parameters={"sample_rate": "16k"})
    )
    assert chosen.rate_hz == 16000
    assert len(chosen.notes) == 2
    assert "11025" in chosen.notes[0]
    assert "fast" in chosen.notes[1]
    assert line_rate(11025, Start()).rate_hz == 8000


TEXT_NUMBERS = {"chunk": "2", "timestamp": "20", "payload": "AQIDBA=="}
PLAIN_NUMBERS = {"chunk": 2, "timestamp": 20.0, "Payload": "AQIDBA", "track": "inbound"}


@pytest.mark.parametrize(
    "sent",
    [
        {"sequence_number": "3", "stream_sid": "S", "media": TEXT_NUMBERS},
        {"sequenceNumber": 3, "streamSid": "S", "media": PLAIN_NUMBERS},
        {"sequence_number": 3, "stream_sid": "S", **TEXT_NUMBERS},
        {"sequence_number": 3.0, "stream_sid": "S", "chunk": 2, "timestamp": " 20", "payload": " AQIDBA==\n"},
    ],
    ids=["text numbers", "camel, unpadded", "flat", "flat, with blanks"],
)
def test_media_says_the_same_in_every_spelling(sent: dict[str, Any]) -> None:
    assert parse(json.dumps({"event": "media", **sent})) == Media(
        stream_sid="S", sequence=3, chunk=2, timestamp_ms=20, payload=b"\x01\x02\x03\x04"
    )


@pytest.mark.parametrize(
    ("payload", "decoded", "malformed"),
    [
        ("AQID", b"\x01\x02\x03", False),  # an odd length is the reader's business
        ("AQIDBA==!junk", b"\x01\x02\x03\x04", True),
        ("AQIDBA==AQID", b"\x01\x02\x03\x04", True),
        ("AQIDB", b"\x01\x02\x03", True),
        ("", b"", True),
        (None, b"", True),
        (7, b"", True),
    ],
)
def test_a_damaged_payload_is_decoded_as_far_as_it_goes(
    payload: object, decoded: bytes, malformed: bool
) -> None:
    media = parse(json.dumps({"event": "media", "media": {"payload": payload}}))
    assert isinstance(media, Media)
    assert (media.payload, media.malformed) == (decoded, malformed)


@pytest.mark.parametrize("value", ["x", "-1", -1, 2**70, "9" * 19, "9" * 30, 1e400, None, True, [1], "1.5"])
def test_a_number_that_counts_nothing_is_none(value: object) -> None:
    media = parse(json.dumps({"event": "media", "sequence_number": value, "media": {"payload": "AAAA"}}))
    assert isinstance(media, Media)
    assert media.sequence is None


@pytest.mark.parametrize(
    ("sent", "digit"),
    [
        ({"dtmf": {"digit": "5", "duration": "120"}}, "5"),
        ({"dtmf": {"digit": 5, "finished": True}}, "5"),
        ({"digit": "5"}, "5"),
        ({"dtmf": "5"}, "5"),
        ({"dtmf": {"digit": "#"}}, "#"),
        ({"dtmf": {"digit": "*"}}, "*"),
        ({"dtmf": {"digit": "a"}}, "A"),
    ],
)
def test_a_key_is_read_nested_or_flat(sent: dict[str, Any], digit: str) -> None:
    event = parse(json.dumps({"event": "dtmf", **sent}))
    assert isinstance(event, Dtmf)
    assert event.digit == digit


@pytest.mark.parametrize("sent", [{}, {"digit": ""}, {"digit": "55"}, {"digit": "x"}, {"dtmf": None}])
def test_a_dtmf_event_without_one_key_is_malformed(sent: dict[str, Any]) -> None:
    assert isinstance(parse(json.dumps({"event": "dtmf", **sent})), Malformed)


@pytest.mark.parametrize(
    "sent", [{"mark": {"name": "e1-7", "timestamp": 3}}, {"name": "e1-7"}, {"mark": "e1-7"}]
)
def test_a_mark_is_read_nested_or_flat(sent: dict[str, Any]) -> None:
    assert parse(json.dumps({"event": "mark", "streamSid": "S", **sent})) == Mark("e1-7", stream_sid="S")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"stop": {"reason": "stopped", "call_sid": "C"}}, StopReason.MOVED_ON),
        ({"stop": {"reason": "callended", "callSid": "C"}}, StopReason.HUNG_UP),
        ({"reason": "callEnd", "call_sid": "C"}, StopReason.HUNG_UP),
        ({"reason": "call_ended", "call_sid": "C"}, StopReason.HUNG_UP),
        ({"stop": {"reason": "closed", "leg_sid": "C"}}, StopReason.UNKNOWN),
        ({"stop": {"call_sid": "C"}}, StopReason.UNKNOWN),
    ],
)
def test_a_stop_tells_why(sent: dict[str, Any], reason: StopReason) -> None:
    stop = parse(json.dumps({"event": "stop", **sent}))
    assert isinstance(stop, Stop)
    assert (stop.reason, stop.call_sid) == (reason, "C")


def test_a_stop_may_say_nothing() -> None:
    assert parse('{"event":"stop"}') == Stop()
    assert parse('{"event":"stop","stop":null}') == Stop()


def test_the_small_events() -> None:
    assert parse('{"event":"connected"}') == Connected()
    assert parse('{"event":"connected","protocol":"Call","version":"1.0.0","timestamp":1}') == Connected(
        "Call", "1.0.0"
    )
    assert parse('{"event":"clear","stream_sid":"S"}') == Clear("S")
    assert parse('{"event":"Start","start":{}}') == Start()


def test_an_event_nobody_told_us_about_is_unknown() -> None:
    assert parse('{"event":"transcript","text":"hello"}') == Unknown("transcript")


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "hello",
        "[]",
        "null",
        '"start"',
        "{}",
        '{"event":null}',
        '{"event":7}',
        '{"event":""}',
        "[" * 100_000,
        '{"a":' * 40_000,
        '{"event":' + "9" * 5000 + "}",
        " " * (messages.MAX_MESSAGE_BYTES + 1),
        b"\xff\xfe\x00",
        b"\x00",
    ],
    ids=lambda junk: repr(junk[:12]),
)
def test_junk_is_malformed_with_a_reason(junk: bytes | str) -> None:
    event = parse(junk)
    assert isinstance(event, Malformed)
    assert event.reason


def test_a_bad_byte_in_a_name_does_not_cost_the_call() -> None:
    start = parse(b'\xef\xbb\xbf{"event":"start","start":{"call_sid":"C1","from":"caf\xe9"}}')
    assert isinstance(start, Start)
    assert start.call_id == "C1"


def test_what_a_peer_writes_can_stand_in_a_log_line() -> None:
    start = started(call_sid="CA1\r\nERROR forged \x1b[31m\ud800", **{"from": "x" * 10_000})
    assert start.call_sid.isprintable()
    assert start.call_sid.encode()
    assert len(start.caller) <= 128


SPELLINGS = st.builds(
    Spelling,
    camel_case=st.booleans(),
    flat=st.booleans(),
    text_numbers=st.booleans(),
    leg_sid=st.booleans(),
    rate=st.sampled_from(["{hz}", "{hz}Hz", "{khz}kHz", "{khz} kHz"]),
    encoding=st.sampled_from(["raw", "raw/slin", "audio/x-raw", "audio/x-l16", "base64", "audio/x-mulaw"]),
    empty_custom=st.sampled_from(["missing", "null", "key"]),
)
SIDS = st.text("abcdef0123456789", min_size=1, max_size=40)
CUSTOM = st.dictionaries(st.sampled_from(["persona", "user_name", "leg_sid", "from"]), SIDS, max_size=3)


@given(
    SPELLINGS, SIDS, SIDS, CUSTOM, st.sampled_from(messages.LINE_RATES_HZ), st.binary(min_size=1, max_size=64)
)
def test_what_a_simulated_exotel_says_is_understood_in_every_spelling(
    spelling: Spelling, stream_sid: str, call_sid: str, custom: dict[str, str], rate_hz: int, payload: bytes
) -> None:
    exotel = Exotel(stream_sid, spelling)
    assert parse(exotel.connected()) == Connected()
    start = parse(exotel.start(call_sid=call_sid, caller="+91", called="080", custom=custom, rate_hz=rate_hz))
    assert isinstance(start, Start)
    assert (start.stream_sid, start.call_id, start.caller, start.called) == (
        stream_sid,
        call_sid,
        "+91",
        "080",
    )
    assert start.custom == custom
    assert line_rate(None, start).rate_hz == rate_hz
    assert (payload_encoding(start.encoding).encoding == "mulaw") == ("mulaw" in spelling.encoding)
    assert start.sequence == 1
    assert parse(exotel.media(payload, 40)) == Media(stream_sid, 2, 1, 40, payload)
    assert parse(exotel.media(payload, 60)) == Media(stream_sid, 3, 2, 60, payload)
    assert parse(exotel.dtmf("#")) == Dtmf("#", 100, stream_sid)
    assert parse(exotel.mark("e0-1")) == Mark("e0-1", stream_sid)
    assert parse(exotel.clear()) == Clear(stream_sid)
    stop = parse(exotel.stop(call_sid=call_sid, reason="stopped"))
    assert stop == Stop(StopReason.MOVED_ON, "stopped", call_sid, "exotel", stream_sid)


@given(st.binary(max_size=700), st.integers(0, 10**9))
def test_what_we_say_is_what_exotel_reads(payload: bytes, count: int) -> None:
    sent = messages.media("S", payload, sequence=count, chunk=count, timestamp_ms=count)
    assert base64.b64decode(json.loads(sent)["media"]["payload"]) == payload
    assert parse(sent) == Media("S", count, count, count, payload, malformed=not payload)
    assert parse(messages.mark("S", "e1-2")) == Mark("e1-2", "S")
    assert parse(messages.clear("S")) == Clear("S")


FIELD_NAMES = st.sampled_from(
    sorted({*NESTED_START, *CAMEL_START["start"], *FLAT_START, "payload", "digit", "name"})
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | FIELD_NAMES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=20,
)
EVENTS = st.sampled_from(["connected", "start", "media", "dtmf", "mark", "clear", "stop", "other"])


@given(EVENTS, st.dictionaries(FIELD_NAMES, JSON, max_size=8), JSON)
def test_any_json_under_any_event_is_read_without_raising(
    event: str, fields: dict[str, Any], nested: object
) -> None:
    read = parse(json.dumps({**fields, event: nested, "event": event}))
    assert not isinstance(read, Malformed) or event == "dtmf"
    repr(read).encode()  # no lone surrogate got through


@given(st.text() | st.binary())
def test_any_text_or_bytes_are_read_without_raising(message: str | bytes) -> None:
    parse(message)
