"""Finds phrases with an action in the agent's words, such as "goodbye" or "I will put you through".

An engine sends its words in pieces that break anywhere ("good", "bye"), with its own capitals and
punctuation. So only letters and digits are compared, and spaces within a phrase are ignored. A phrase must
begin and end at the boundary of a word: "goodbye" is found in "Good-bye!", and not in "goodbyes".
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

APOSTROPHES = frozenset("'’ʼ＇`´")
"""Ignored within a word, so that "I'll" is one word whichever apostrophe is used."""


@dataclass(frozen=True, slots=True)
class End:
    """The call ends after the caller has heard the agent's words."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The call goes to a person.

    Args:
        numbers: The numbers to dial, in E.164 form (``+91...``). The carrier's call flow decides whether they
            ring together or in turn.
    """

    numbers: tuple[str, ...]


Action = End | HandOver
"""What a phrase of the agent or a key of the caller sets off."""


def letters(text: str) -> str:
    """The letters and digits of a text, in one case: what is compared."""
    return "".join(_folded(text)).replace(" ", "")


class PhraseSpotter:
    """Finds phrases in words that arrive piece by piece.

    Args:
        phrases: The phrases, and what each sets off. If several match, the longest wins.
    """

    def __init__(self, phrases: Mapping[str, Action]) -> None:
        folded = ((letters(phrase), action) for phrase, action in phrases.items())
        self._phrases = sorted(
            ((phrase, action) for phrase, action in folded if phrase), key=lambda each: -len(each[0])
        )
        self._longest = len(self._phrases[0][0]) if self._phrases else 0
        self._heard = ""
        self._begins: list[bool] = []
        """For each letter of `_heard`: whether a word begins with it."""
        self._in_word = False

    def feed(self, piece: str) -> Action | None:
        """Takes another piece of the agent's words.

        A phrase is complete when its last word is over: at the space, the full stop or the new word after it,
        or at `pause`.

        Returns:
            What the first phrase that was completed sets off; None if none was.
        """
        action: Action | None = None
        if not self._phrases:
            return None
        for character in _folded(piece):
            if character != " ":
                self._heard = (self._heard + character)[-self._longest :]
                self._begins = [*self._begins, not self._in_word][-self._longest :]
                self._in_word = True
            elif self._in_word:
                action = action or self._word_ended()
        return action

    def pause(self) -> Action | None:
        """The agent has stopped speaking, so its last word is over. Returns what that sets off."""
        return self._word_ended() if self._in_word else None

    def _word_ended(self) -> Action | None:
        self._in_word = False
        for phrase, action in self._phrases:
            if self._heard.endswith(phrase) and self._begins[-len(phrase)]:
                self._heard, self._begins = "", []
                return action
        return None


def _folded(text: str) -> Iterator[str]:
    """The letters of a text, one by one, with a space for each character that separates words."""
    for written in text:
        if written in APOSTROPHES:
            continue
        for character in unicodedata.normalize("NFKD", written).casefold():
            if unicodedata.category(character)[0] in "LMN":  # letters, marks on them, numbers
                yield character
            else:
                yield " "
