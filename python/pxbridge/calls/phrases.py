"""The agent's own words, watched for the phrases that mean something: "goodbye", "I will put you through".

An engine sends its words in pieces that break anywhere ("good", "bye"), with its own idea of capitals and
punctuation. So only letters and digits count, spaces within a phrase do not, and a phrase must begin and end
where words do: "goodbye" is found in "Good-bye!", and not in "goodbyes".
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

APOSTROPHES = frozenset("'’ʼ＇`´")
"""Within a word: they neither count nor part it, so that "I'll" is one word however it is typed."""


@dataclass(frozen=True, slots=True)
class End:
    """The call ends, once the agent's words have been heard."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The call goes to a person.

    Args:
        numbers: Whom to ring, in E.164 form (``+91...``), at the same time or in turn as the flow has it.
    """

    numbers: tuple[str, ...]


Action = End | HandOver
"""What a phrase of the agent's or a key of the caller's sets off."""


def letters(text: str) -> str:
    """What of a text counts in a comparison: its letters and digits, in one case."""
    return "".join(_folded(text)).replace(" ", "")


class PhraseSpotter:
    """Finds phrases in words that come piece by piece.

    Args:
        phrases: What to look for, and what each sets off. The longest that matches wins.
    """

    def __init__(self, phrases: Mapping[str, Action]) -> None:
        folded = ((letters(phrase), action) for phrase, action in phrases.items())
        self._phrases = sorted(
            ((phrase, action) for phrase, action in folded if phrase), key=lambda each: -len(each[0])
        )
        self._longest = len(self._phrases[0][0]) if self._phrases else 0
        self._heard = ""
        self._begins: list[bool] = []
        """For each letter of `_heard`, whether a word begins with it."""
        self._in_word = False

    def feed(self, piece: str) -> Action | None:
        """Hears another piece of the agent's words.

        A phrase counts when it is known that its last word is over: with the space, the full stop or the
        new word after it, or with `pause`.

        Returns:
            What the first phrase that was completed sets off.
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
        """The agent has stopped speaking, so its last word is over, whatever came after it or did not."""
        return self._word_ended() if self._in_word else None

    def _word_ended(self) -> Action | None:
        self._in_word = False
        for phrase, action in self._phrases:
            if self._heard.endswith(phrase) and self._begins[-len(phrase)]:
                self._heard, self._begins = "", []
                return action
        return None


def _folded(text: str) -> Iterator[str]:
    """Letter by letter, wherever a text is cut; a space for all that parts words."""
    for written in text:
        if written in APOSTROPHES:
            continue
        for character in unicodedata.normalize("NFKD", written).casefold():
            if unicodedata.category(character)[0] in "LMN":  # letters, marks on them, numbers
                yield character
            else:
                yield " "
