"""Prompts are wrapped as PersonaPlex was trained with, and text comes out in whole characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.tiny import LM, TOKENIZER_FILE

from pxbridge.errors import InputError
from pxbridge.personaplex.text import Detokenizer, Tokenizer, wrap

if TYPE_CHECKING:
    from pathlib import Path

TOKENIZER = Tokenizer(TOKENIZER_FILE, LM.text_card)
INPUTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=40)


@pytest.mark.parametrize("text", ["Be kind.", "  Be kind. ", "<system> Be kind. <system>"])
def test_a_prompt_stands_between_two_equal_tags(text: str) -> None:
    assert wrap(text) == "<system> Be kind. <system>"


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_prompt_of_nothing_stays_nothing(text: str) -> None:
    assert TOKENIZER.encode_prompt(text) == ()


def test_a_lone_tag_is_wrapped_like_any_text() -> None:
    assert wrap("<system>") == "<system> <system> <system>"


@given(INPUTS)
def test_pieces_together_are_the_text_and_none_breaks_a_character(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.feed(token) for token in TOKENIZER._pieces.encode(text)]
    assert detokenizer.finish() == ""
    assert "".join(pieces).strip() == TOKENIZER._pieces.decode(TOKENIZER._pieces.encode(text)).strip()
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@given(st.lists(st.integers(-5, LM.text_card + 5), max_size=50))
def test_any_tokens_make_valid_text(tokens: list[int]) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    text = "".join(map(detokenizer.feed, tokens)) + detokenizer.finish()
    assert text.encode() == b"".join(map(TOKENIZER.bytes_of, tokens)).decode(errors="replace").encode()


def test_a_character_is_held_back_until_its_last_byte() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    tokens = [TOKENIZER._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in "🎉".encode()]
    assert [detokenizer.feed(token) for token in tokens] == ["", "", "", "🎉"]


def test_a_character_that_is_never_finished_is_told_at_the_end() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.feed(TOKENIZER._pieces.piece_to_id("<0xE2>")) == ""
    assert detokenizer.finish() == "\ufffd"


@pytest.mark.parametrize("token", [0, 1, 2, 3])
def test_tokens_that_say_nothing_add_nothing(token: int) -> None:
    assert Detokenizer(TOKENIZER).feed(token) == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "no SentencePiece model, or cut short"),
        (TOKENIZER_FILE.read_bytes()[:5000], "no SentencePiece model, or cut short"),
    ],
)
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "t.model"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"t\.model: {problem}"):
        Tokenizer(file, LM.text_card)


def test_another_models_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="has 1000 pieces, but the language model knows 32000"):
        Tokenizer(TOKENIZER_FILE, 32_000)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.model: No such file"):
        Tokenizer(tmp_path / "none.model", 1000)
