"""Prompts that were computed before, kept for the next call of the same persona, within a memory budget.

The keys of a position depend only on the tokens up to it. So a prompt can use the beginning of another one.
If both prompts are equal, that is all of it. Else it is the voice, the silence after it, and the text as far
as both texts agree.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pxbridge.personaplex.prompt import SILENT_FRAMES

if TYPE_CHECKING:
    from pxbridge.personaplex.lm_slots import Prefix
    from pxbridge.personaplex.prompt import Prompt


class PrefixCache:
    """Prefixes, the one least recently used first to go.

    Args:
        budget_bytes: The most memory that they take together; 0 keeps none.

    Attributes:
        size_bytes: Memory that they take.
        evictions: How many had to go.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.size_bytes = 0
        self.evictions = 0
        self._prefixes: OrderedDict[tuple[str, tuple[int, ...]], Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prefixes)

    def has(self, prompt: Prompt) -> bool:
        """Whether it has all of a prompt."""
        return (prompt.voice.key, prompt.text) in self._prefixes

    def longest(self, prompt: Prompt) -> tuple[Prefix, int] | None:
        """The prefix that has most of a prompt, and how many positions of it; None if none has any."""
        found = max(
            ((common_positions(prefix.prompt, prompt), key) for key, prefix in self._prefixes.items()),
            default=(0, None),
            key=lambda item: item[0],
        )
        positions, key = found
        if key is None or positions == 0:
            return None
        self._prefixes.move_to_end(key)
        return self._prefixes[key], positions

    def add(self, prefix: Prefix) -> None:
        """Keeps a prefix, unless it alone is over the budget. Others go as long as the budget is exceeded."""
        if prefix.size_bytes > self.budget_bytes:
            return
        key = (prefix.prompt.voice.key, prefix.prompt.text)
        if (old := self._prefixes.pop(key, None)) is not None:
            self.size_bytes -= old.size_bytes
        self._prefixes[key] = prefix
        self.size_bytes += prefix.size_bytes
        while self.size_bytes > self.budget_bytes:
            _, gone = self._prefixes.popitem(last=False)
            self.size_bytes -= gone.size_bytes
            self.evictions += 1


def common_positions(one: Prompt, other: Prompt) -> int:
    """Positions from the first on that are the same in both prompts."""
    if one.voice.key != other.voice.key:
        return 0
    if one.text == other.text:
        return one.positions
    agreed = 0
    for left, right in zip(one.text, other.text, strict=False):
        if left != right:
            break
        agreed += 1
    return one.voice.positions + SILENT_FRAMES + agreed
