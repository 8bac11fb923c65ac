"""Who the caller speaks with: the voice and the text prompt an engine is opened with.

The settings give the default; a call's own custom parameters may name another voice or prompt. They come
from whoever wrote the flow's URL, through the telephone network, so they are checked as strangers' input:
a voice is a plain file name, a prompt is printable and bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.(?:pt|wav)")
"""What a voice prompt may be called: NVIDIA's server joins it to a folder, so no separators and no dots."""

TEXT_PROMPT_LIMIT = 2000
"""Characters. Each token costs 80 ms of prompting and of the model's window of 3000 steps; NVIDIA's longest
example has some 600 characters."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A voice and a text prompt, as `/api/chat` takes them.

    Args:
        voice_prompt: File name of a voice the engine has (``NATF0.pt``).
        text_prompt: What the agent is told about itself; the engine wraps it in ``<system>`` marks.
    """

    voice_prompt: str
    text_prompt: str

    def for_call(self, custom: Mapping[str, str]) -> tuple[Persona, list[str]]:
        """This persona with what a call's custom parameters change in it.

        Args:
            custom: ``start.custom_parameters``; ``voice_prompt`` and ``text_prompt`` are looked at.

        Returns:
            The persona, and a note for the log for each parameter that was refused.
        """
        persona, notes = self, []
        if voice := custom.get("voice_prompt"):
            if VOICE_NAME.fullmatch(voice):
                persona = replace(persona, voice_prompt=voice)
            else:
                notes.append(
                    f"voice_prompt {voice[:80]!r} is not a voice's file name such as NATF0.pt: ignored"
                )
        if text := custom.get("text_prompt"):
            clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
            if len(clean) > TEXT_PROMPT_LIMIT:
                notes.append(f"text_prompt has {len(clean)} characters: cut at {TEXT_PROMPT_LIMIT}")
            if clean:
                persona = replace(persona, text_prompt=clean[:TEXT_PROMPT_LIMIT])
        return persona, notes
