"""The data with which a conversation continues with another engine, or on another connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pxbridge.engines.pool import Prompts

if TYPE_CHECKING:
    import asyncio

    from pxbridge.calls.persona import Persona
    from pxbridge.engines.lease import Place

MAX_SAID_CHARS: Final = 600
"""How much of what the agent has said the next engine is told: some 150 tokens, 12 s of its 240 s."""

CONTINUE_PROMPT: Final = (
    " The line was interrupted in the middle of this call. Do not greet again; go on from where you were. "
    "The last that you said was: {words}"
)


@dataclass
class Continuation:
    """Where a phone call stands, on whichever of its connections. A second one takes over from the first.

    Attributes:
        place: The call's place among those that want an engine.
        said: The agent's words on earlier connections.
        engaged: Whether the earlier connection had an engine, or was getting one.
        released: Set as soon as the earlier connection has let go of it; None if there was no such
            connection.
    """

    place: Place
    said: str = ""
    engaged: bool = False
    released: asyncio.Event | None = None


def continue_prompts(persona: Persona, words: str) -> Prompts:
    """The prompts for an engine that goes on with a conversation.

    Args:
        persona: Whom the engine plays.
        words: The agent's words so far.
    """
    said = " ".join(words.split())
    if len(said) > MAX_SAID_CHARS:
        said = "... " + said[-MAX_SAID_CHARS:].partition(" ")[2]
    if not said:
        return Prompts(persona.voice_prompt, persona.text_prompt, persona.sampling)
    informed = persona.text_prompt + CONTINUE_PROMPT.format(words=said)
    return Prompts(persona.voice_prompt, informed, persona.sampling)
