"""PersonaPlex's messages: what is built is read again, and nothing that comes makes the reader raise."""

from __future__ import annotations

import itertools
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge import chat_wire
from pxbridge.chat_wire import Frame, FrameReader, Kind, TextReader

# A lone surrogate cannot be said in UTF-8, so no prompt and no text holds one.
words = st.text(st.characters(exclude_categories=["Cs"]))
prompts = words.filter(lambda text: text.strip() != "")


@given(st.binary())
def test_audio_comes_through_unchanged(ogg: bytes) -> None:
    assert FrameReader().read(chat_wire.audio(ogg)) == Frame(Kind.AUDIO, ogg)


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (chat_wire.handshake(), Frame(Kind.HANDSHAKE, b"")),
        (b"\x00\x01\x00\x00\x00", Frame(Kind.HANDSHAKE, b"\x01\x00\x00\x00")),
        (chat_wire.text(" hi"), Frame(Kind.TEXT, b" hi")),
        (b"\x03\x01", Frame(Kind.CONTROL, b"\x01")),
        (chat_wire.metadata({"é": 1}), Frame(Kind.METADATA, '{"é":1}'.encode())),
        (chat_wire.error("no such voice"), Frame(Kind.ERROR, b"no such voice")),
        (chat_wire.ping(), Frame(Kind.PING, b"")),
    ],
)
def test_every_kind_is_recognised(message: bytes, frame: Frame) -> None:
    assert FrameReader().read(message) == frame


@given(st.lists(st.binary()))
def test_messages_that_are_none_are_counted_and_skipped(messages: list[bytes]) -> None:
    reader = FrameReader()
    frames = [reader.read(message) for message in messages]
    assert frames.count(None) == reader.unknown + reader.empty
    assert reader.empty == messages.count(b"")
    assert reader.unknown == sum(1 for message in messages if message and message[0] > Kind.PING)


@given(words)
def test_text_is_read_as_it_was_said_with_marks_as_spaces(said: str) -> None:
    frame = FrameReader().read(chat_wire.text(said))
    assert frame is not None
    if not said.startswith("<0x"):
        assert TextReader().read(frame.payload) == said.replace("▁", " ")


def test_a_mark_that_the_server_left_is_a_space() -> None:
    assert TextReader().read("▁Hello".encode()) == " Hello"


def test_a_character_spelled_in_bytes_comes_out_whole() -> None:
    reader = TextReader()
    pieces = [" caf", "<0xC3>", "<0xA9>", "."]
    assert [reader.read(piece.encode()) for piece in pieces] == [" caf", "", "é", "."]


def test_a_character_that_breaks_off_does_not_swallow_what_follows() -> None:
    reader = TextReader()
    assert reader.read(b"<0xC3>") == ""
    assert reader.read(b" yes") == "\N{REPLACEMENT CHARACTER} yes"
    assert reader.read(b" no") == " no"


def test_a_character_that_is_split_over_two_messages_comes_out_whole() -> None:
    reader = TextReader()
    said = "नमस्ते ▁जी".encode()
    halves = [said[:4], said[4:17], said[17:23], said[23:]]
    assert "".join(reader.read(half) for half in halves) == "नमस्ते  जी"


@given(words.filter(lambda said: "<0x" not in said), st.lists(st.integers(0, 200), max_size=8))
def test_text_is_the_same_however_it_is_split_into_messages(said: str, cuts: list[int]) -> None:
    reader = TextReader()
    whole = said.encode()
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    parts = [whole[begin:end] for begin, end in itertools.pairwise(bounds)]
    assert "".join(reader.read(part) for part in parts) == said.replace("▁", " ")


@given(st.lists(st.binary()))
def test_no_text_raises(payloads: list[bytes]) -> None:
    reader = TextReader()
    for payload in payloads:
        assert "▁" not in reader.read(payload)


@given(voice=prompts, text=prompts)
def test_prompts_arrive_as_they_were_written(voice: str, text: str) -> None:
    url = chat_wire.chat_url("ws://127.0.0.1:8998/api/chat", voice, text)
    assert url.isascii()
    assert parse_qs(urlsplit(url).query) == {"voice_prompt": [voice], "text_prompt": [text]}


def test_a_query_of_the_engine_is_kept() -> None:
    url = chat_wire.chat_url("wss://gpu/api/chat?token=x", "NATF0.pt", "You are Ada.")
    assert url == "wss://gpu/api/chat?token=x&voice_prompt=NATF0.pt&text_prompt=You+are+Ada."


@pytest.mark.parametrize("name", ["seed", "voice_prompt", "text_prompt"])
def test_a_url_cannot_set_what_a_session_sets_or_what_kills_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot set {name}"):
        chat_wire.chat_url(f"wss://gpu/api/chat?{name}=1", "NATF0.pt", "You are Ada.")


@pytest.mark.parametrize(("voice", "text", "says"), [("", "x", "voice_prompt"), ("x", " \n", "text_prompt")])
def test_an_empty_prompt_never_reaches_the_engine(voice: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        chat_wire.chat_url("ws://gpu", voice, text)
