"""Personas of clients: a voice by its name, and a text that becomes tokens."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.errors import BadQuery, InputError
from pxbridge.personaplex.prompt import SILENT_FRAMES, Prompt
from pxbridge.personaplex.stepper import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pxbridge.personaplex.prompt import Voice

log = logging.getLogger(__name__)

SUFFIXES: Final = (".pt", ".wav")
_SHOWN_CHARS: Final = 60


class Voices(Protocol):
    """What this module needs of `pxbridge.personaplex.voices.Voices`."""

    def names(self) -> list[str]:
        """The files' names; from any thread."""
        ...

    def problem(self, file: str) -> str | None:
        """Why a file cannot be used, once that has been found; from any thread."""
        ...

    def read(self, name: str) -> Generator[None, None, Voice]:
        """Reads a voice by its name, in parts; from the engine's thread."""
        ...


class Tokenizer(Protocol):
    """What this module needs of `pxbridge.personaplex.text.Tokenizer`."""

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """The tokens of a prompt's text, wrapped as PersonaPlex expects."""
        ...


class FilePersonas:
    """The voices of a folder or an archive, and a checkpoint's tokenizer.

    Args:
        voices: Looked up by name.
        tokenizer: The checkpoint's.
        longest_prompt: Positions that a prompt may take.
    """

    def __init__(self, voices: Voices, tokenizer: Tokenizer, longest_prompt: int) -> None:
        self._voices = voices
        self._tokenizer = tokenizer
        self._longest_prompt = longest_prompt
        self._positions: dict[str, int] = {}

    def voices(self) -> list[str]:
        """The names of those that can be used, as far as that is known, with their suffix."""
        return [name for name in self._names() if self._voices.problem(name) is None]

    def _names(self) -> list[str]:
        try:
            return self._voices.names()
        except InputError as error:
            log.warning("the voices cannot be listed: %s", error)
            return []

    def read_all(self) -> None:
        """Reads every voice, in the engine's thread before it is ready: so no caller waits for a file."""
        for name in self.voices():
            try:
                self._positions[name] = finished(self._voices.read(name)).positions
            except (InputError, ValueError) as error:
                log.warning("voice %s cannot be used: %s", name, error)

    def prompt(self, voice: str, text: str) -> Callable[[], Generator[None, None, Prompt]]:
        """Checks a persona. Returns a function that makes its prompt in parts, in the engine's thread.

        Raises:
            BadQuery: There is no such voice, or the text is too long for the model.
        """
        file = self._file(voice)
        tokens = self._tokenizer.encode_prompt(text)
        needed = self._positions.get(file, 0) + len(tokens) + 2 * SILENT_FRAMES
        if needed > self._longest_prompt:
            most = self._longest_prompt - needed + len(tokens)
            raise BadQuery("text_prompt", f"is {len(tokens)} tokens long; with this voice {most} fit")
        return functools.partial(self._make, file, tokens)

    def _make(self, file: str, tokens: tuple[int, ...]) -> Generator[None, None, Prompt]:
        voice = yield from self._voices.read(file)
        self._positions[file] = voice.positions
        return Prompt(voice, tokens)

    def _file(self, voice: str) -> str:
        """The file of a voice. A name is looked up, so nothing but what is listed can be reached."""
        names = self._names()
        for file in (voice, *(f"{voice}{suffix}" for suffix in SUFFIXES)):
            if file in names:
                if (problem := self._voices.problem(file)) is not None:
                    raise BadQuery("voice_prompt", f"cannot be used: {problem}")
                return file
        names = self.voices()
        shown = voice if len(voice) <= _SHOWN_CHARS else f"{voice[:_SHOWN_CHARS]}…"
        there = f"there are {', '.join(names)}" if names else "there is none here"
        raise BadQuery("voice_prompt", f"there is no voice {shown!r}; {there}")
