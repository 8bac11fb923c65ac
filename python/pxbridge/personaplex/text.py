"""Text for the model and from it: SentencePiece, the prompt's frame, and pieces as they come.

A piece may be one byte of a character. Such bytes are held back until the character is whole, so what is
given out is always valid text.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from sentencepiece import SentencePieceProcessor

from pxbridge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

SYSTEM = "<system>"
"""This tag stands before and after the prompt, as in PersonaPlex's training."""
_WORD_START = "▁"
_LFS_POINTER = b"version https://git-lfs"


class Tokenizer:
    """A checkpoint's SentencePiece model.

    Args:
        path: The model file.
        text_card: Text tokens that the language model knows: the tokenizer must have the same number.

    Raises:
        InputError: The file cannot be read, is no SentencePiece model, or belongs to another language model.
    """

    def __init__(self, path: Path, text_card: int) -> None:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        if raw.startswith(_LFS_POINTER):
            raise InputError(f"{path}: a Git LFS pointer, not the file it stands for; run `git lfs pull`")
        self._pieces = SentencePieceProcessor()
        try:
            self._pieces.load_from_serialized_proto(raw)
        except RuntimeError as error:
            raise InputError(f"{path}: no SentencePiece model, or cut short") from error
        if (pieces := self._pieces.vocab_size()) != text_card:
            raise InputError(f"{path}: has {pieces} pieces, but the language model knows {text_card}")

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """The tokens of a prompt's text, wrapped as PersonaPlex expects; none for an empty text."""
        wrapped = wrap(text)
        return tuple(self._pieces.encode(wrapped)) if wrapped else ()

    def bytes_of(self, token: int) -> bytes:
        """The UTF-8 bytes that a token adds to the text: maybe a part of a character, maybe none."""
        pieces = self._pieces
        if not 0 <= token < pieces.vocab_size() or pieces.is_control(token) or pieces.is_unknown(token):
            return b""
        piece = pieces.id_to_piece(token)
        if pieces.is_byte(token):
            return bytes([int(piece[1:-1], 16)])  # <0xE2>
        return piece.replace(_WORD_START, " ").encode()


def wrap(text: str) -> str:
    """A prompt's text between its two tags, unless it is already, or is empty."""
    text = text.strip()
    if not text or (text.startswith(SYSTEM) and text.endswith(SYSTEM) and len(text) > len(SYSTEM)):
        return text
    return f"{SYSTEM} {text} {SYSTEM}"


class Detokenizer:
    """One conversation's text, token by token.

    Args:
        tokenizer: The checkpoint's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that is complete now. Invalid UTF-8 becomes U+FFFD. At most 3 bytes are held back."""
        return self._decoder.decode(self._tokenizer.bytes_of(token))

    def finish(self) -> str:
        """The end: U+FFFD if a character was never finished, else nothing."""
        return self._decoder.decode(b"", final=True)
