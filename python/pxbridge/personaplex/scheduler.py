"""When each slot is stepped: the policy of the engine's one thread. The time is passed in.

The one idea: no frame waits for a fixed clock. A tick starts as soon as a conversation has a frame, and steps
every conversation that has one. Ticks start at least 20 ms apart, so that callers whose frames come a little
later share a tick. A fixed tick of 80 ms would make each answer up to 80 ms later for the same work.

Prompts are read in chunks between ticks. A chunk delays the next tick, so it may take a third of the slack.
The slack is the part of a frame's 80 ms that a tick does not need. While nobody talks, no tick is delayed,
and prompts are read at full speed.

Prompts are read in the order in which callers come. While somebody talks, a prompt can take seconds, so each
newcomer is looked at once, out of turn: a prompt that was read before is only copied, and need not wait.

The caller of `next` does the work that it returns, and then calls `done`. Nothing here touches a model, a
thread or a clock. All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from pxbridge.personaplex.config import FRAME_S

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray

    from pxbridge.personaplex.prompt import Prompt
    from pxbridge.personaplex.stepper import Sampling

    Frame = NDArray[np.float32]
    """float32 [1920] at 24 kHz: 80 ms of a caller."""

TICK_EVERY_S: Final = 0.02
"""The least time from one tick's start to the next one's. In a simulation with 32 callers, 40 ms added as
much delay as they saved work. Without a limit, a fast model would run one tick for each frame."""

LATE_FRAMES: Final = 3
"""With more frames waiting, a conversation is late: its oldest quiet frames are dropped."""
MOST_FRAMES: Final = 12
"""About 1 s. Beyond that the oldest frames are cut, even those with speech: nobody talks with an agent that
answers a second late."""
QUIET_DBFS: Final = -45.0
"""Speech on a phone line is at −30 to −15 dBFS, the line's noise at −60 to −45."""

PREFILL_SHARE: Final = 1 / 3
LEAST_PREFILL_S: Final = 0.002
"""The time for prompts in each 80 ms even if ticks leave none: a new caller must not wait for ever."""
UNHURRIED_CHUNK_S: Final = 0.05
"""The longest chunk while nobody talks. The first frame of a caller who begins to talk waits at most this
long."""
ACTIVE_S: Final = 1.0
"""A conversation that got no frame for this long does not talk, such as a session that was prompted ahead of
its call."""
SMALLEST_CHUNK: Final = 8
"""Even a short chunk has a fixed cost. Fewer positions would delay a tick hardly less, and a prompt would
take minutes if ticks leave little time."""
LARGEST_CHUNK: Final = 256
TICKS_REMEMBERED: Final = 15
HEADROOM: Final = 0.9
"""A chunk aims at this share of its allowed time, because the next one may be slower."""


@dataclass(eq=False)
class Conversation:
    """One client's stay in a slot.

    Attributes:
        slot: The slot's number.
        prompt: Makes its prompt, in parts. Called in the engine's thread, once.
        making: Makes its prompt, once it has begun.
        sampling: How its tokens are drawn.
        left: Positions of its prompt that are not read yet. None before that is known; 0 when it is live.
        waiting: Frames that no tick has taken, each with the time it came at.
        looked_at: Whether it was asked if its prompt is known already.
        heard_s: When its last frame came.
        stepped: Frames that ticks took.
        dropped_quiet: Frames dropped because it was late and they were quiet.
        cut: Frames dropped because it was more than a second late.
    """

    slot: int
    prompt: Callable[[], Generator[None, None, Prompt]]
    sampling: Sampling
    making: Generator[None, None, Prompt] | None = None
    left: int | None = None
    looked_at: bool = False
    waiting: deque[tuple[Frame, float]] = field(default_factory=deque)
    heard_s: float = -math.inf
    stepped: int = 0
    dropped_quiet: int = 0
    cut: int = 0

    @property
    def is_live(self) -> bool:
        """Whether its prompt is read."""
        return self.left == 0


@dataclass(frozen=True, eq=False)
class Open:
    """Begin a conversation: read its voice for at most `at_most_s`, and then look for its prefix.

    Attributes:
        conversation: Which.
        at_most_s: How long to read its voice. The next `Open` goes on with it. 0: one part.
        if_known: Begin only if its whole prompt is in a prefix. Otherwise its turn comes later.
    """

    conversation: Conversation
    at_most_s: float
    if_known: bool = False


@dataclass(frozen=True, eq=False)
class Prefill:
    """Read this many positions of a conversation's prompt."""

    conversation: Conversation
    positions: int


@dataclass(frozen=True, eq=False)
class Tick:
    """Step these conversations by one frame each: the caller's frame, and the time at which it came."""

    frames: dict[Conversation, tuple[Frame, float]]


@dataclass(frozen=True, eq=False)
class Close:
    """Give a conversation's slot back."""

    conversation: Conversation


Work = Open | Prefill | Tick | Close


class Scheduler:
    """See the module.

    Attributes:
        conversations: The conversations by slot.
        dropped: Frames dropped since the start, by why: ``quiet`` or ``cut``, as in `Conversation`.
    """

    def __init__(self) -> None:
        self.conversations: dict[int, Conversation] = {}
        self.dropped = {"quiet": 0, "cut": 0}
        self._closing: deque[Conversation] = deque()
        self._prompting: deque[Conversation] = deque()  # in the order they came; the first is being read
        self._last_tick_s = -math.inf
        self._tick_costs: deque[float] = deque(maxlen=TICKS_REMEMBERED)
        self._budget = _PrefillBudget()
        self._looked = False  # whether the last turn was a newcomer's: however many come, the first goes on

    # Events.

    def open(self, conversation: Conversation) -> None:
        """A conversation begins. An earlier one in the same slot is closed first."""
        before = self.conversations.get(conversation.slot)
        if before is not None:
            self.close(before)
        self.conversations[conversation.slot] = conversation
        self._prompting.append(conversation)

    def hear(self, conversation: Conversation, frame: Frame, now_s: float) -> None:
        """A frame of the caller came. A backlog is cut here: near full load it does not go away by itself."""
        if self.conversations.get(conversation.slot) is not conversation:
            return
        conversation.heard_s = now_s
        waiting = conversation.waiting
        waiting.append((frame, now_s))
        while len(waiting) > MOST_FRAMES:
            waiting.popleft()
            conversation.cut += 1
            self.dropped["cut"] += 1
        if len(waiting) > LATE_FRAMES:
            self.dropped["quiet"] += _drop_quiet(conversation)

    def close(self, conversation: Conversation) -> None:
        """A conversation ends."""
        if self.conversations.get(conversation.slot) is not conversation:
            return
        del self.conversations[conversation.slot]
        if conversation in self._prompting:
            self._prompting.remove(conversation)
        conversation.waiting.clear()
        self._closing.append(conversation)

    # Questions.

    @property
    def tick_s(self) -> float:
        """How long a tick takes: the median of the last ones, so that a single slow tick does not count.

        May be read from any thread.
        """
        costs = list(self._tick_costs)
        return statistics.median(costs) if costs else 0.0

    @property
    def slack_s(self) -> float:
        """The part of a frame's 80 ms that a tick does not need."""
        return max(0.0, FRAME_S - self.tick_s)

    @property
    def backlog(self) -> int:
        """Frames that wait for a tick. May be read from any thread."""
        return sum(len(each.waiting) for each in list(self.conversations.values()))

    def next(self, now_s: float) -> Work | float:
        """The work to do now, or else the time at which to ask again (infinity: after the next event)."""
        if self._closing:
            return Close(self._closing[0])
        ready = [each for each in self.conversations.values() if each.waiting and each.is_live]
        tick_due_s = self._last_tick_s + TICK_EVERY_S if ready else math.inf
        tick_is_due = now_s >= tick_due_s
        read_due_s = math.inf
        if self._prompting:
            allowed_s = self._allowed_s(now_s)
            read_due_s = self._budget.due_s(allowed_s, now_s)
            # Prompts are read between two ticks, where that delays nobody. If there has been no such moment
            # for too long, a chunk is read although a tick is due.
            if now_s >= read_due_s and (not tick_is_due or self._budget.is_overdue(allowed_s, now_s)):
                return self._read(allowed_s)
        if tick_is_due:
            return Tick({each: each.waiting[0] for each in ready})
        return min(tick_due_s, read_due_s)

    def done(self, work: Work, began_s: float, ended_s: float, left: int | None = 0) -> None:
        """Something that `next` returned was done.

        Args:
            work: The work.
            began_s: When it began.
            ended_s: When it was over.
            left: After `Open` and `Prefill`: positions of the prompt that are not read yet; None while its
                voice is not read yet.
        """
        match work:
            case Close(conversation):
                self._closing.remove(conversation)
            case Tick(frames):
                self._last_tick_s = began_s
                self._tick_costs.append(ended_s - began_s)
                for conversation in frames:
                    if conversation.waiting:  # it may be gone by now
                        conversation.waiting.popleft()
                        conversation.stepped += 1
            case Open(conversation=conversation) | Prefill(conversation=conversation):
                positions = work.positions if isinstance(work, Prefill) else 0
                self._budget.spend(positions, ended_s - began_s, ended_s)
                conversation.left = left
                if left == 0 and conversation in self._prompting:
                    self._prompting.remove(conversation)

    def _allowed_s(self, now_s: float) -> float | None:
        """How much of each 80 ms prompts may take; None: all of it, because nobody talks."""
        talking = any(
            now_s - each.heard_s < ACTIVE_S and each.is_live for each in self.conversations.values()
        )
        return max(LEAST_PREFILL_S, self.slack_s * PREFILL_SHARE) if talking else None

    def _read(self, allowed_s: float | None) -> Work:
        conversation = self._prompting[0]
        conversation.looked_at = True
        newcomer = None
        if allowed_s is not None and not self._looked:
            newcomer = next((each for each in self._prompting if not each.looked_at), None)
        self._looked = newcomer is not None
        if newcomer is not None:
            newcomer.looked_at = True
            return Open(newcomer, 0.0, if_known=True)
        if conversation.left is None:
            at_most_s = UNHURRIED_CHUNK_S if allowed_s is None else min(allowed_s, UNHURRIED_CHUNK_S)
            return Open(conversation, at_most_s)
        return Prefill(conversation, min(conversation.left, self._budget.chunk(allowed_s)))


class _PrefillBudget:
    """How much time prompts may take, and how many positions that is.

    The budget fills within 80 ms. When it is full, one chunk may be read, and its time is subtracted. A chunk
    that took longer than the budget makes the next one wait longer.
    """

    def __init__(self) -> None:
        self._spent_s = 0.0
        self._spent_at_s = -math.inf
        # Two sizes: one that was learnt while nobody talked would take too long when somebody does.
        self._hurried, self._unhurried = _Chunk(), _Chunk()
        self._last = self._unhurried

    def due_s(self, allowed_s: float | None, now_s: float) -> float:
        """When the budget is full."""
        if allowed_s is None:
            return now_s
        return self._spent_at_s + FRAME_S * self._spent_s / allowed_s

    def is_overdue(self, allowed_s: float | None, now_s: float) -> bool:
        """Whether it has been full for longer than the time between two ticks."""
        return allowed_s is None or now_s >= self.due_s(allowed_s, now_s) + TICK_EVERY_S

    def chunk(self, allowed_s: float | None) -> int:
        """How many positions to read at once."""
        if allowed_s is None:
            self._last = self._unhurried
            return self._last.size_for(UNHURRIED_CHUNK_S)
        self._last = self._hurried
        return self._last.size_for(min(allowed_s, UNHURRIED_CHUNK_S))

    def spend(self, positions: int, took_s: float, now_s: float) -> None:
        """A chunk was read, or a conversation opened (no positions)."""
        if positions:
            self._last.took(positions, took_s)
        self._spent_s = took_s
        self._spent_at_s = now_s


class _Chunk:
    """The number of positions that take a given time.

    A chunk has a fixed cost, and a cost for each position. The size starts small and is scaled by allowed
    time / measured time. Because of the fixed cost, a larger chunk takes less than in proportion, so it stays
    within its time.
    """

    def __init__(self) -> None:
        self._size = SMALLEST_CHUNK
        self._took_s: float | None = None

    def size_for(self, target_s: float) -> int:
        """How many positions take about `target_s`."""
        if self._took_s is not None:
            ratio = HEADROOM * target_s / max(self._took_s, 1e-6)
            # Downwards by the square, because the fixed cost does not become smaller.
            scale = min(ratio, 2.0) if ratio >= 1 else ratio * ratio
            self._size = max(SMALLEST_CHUNK, min(int(self._size * scale), LARGEST_CHUNK))
            self._took_s = None
        return self._size

    def took(self, positions: int, took_s: float) -> None:
        """A chunk took `took_s`. One that ended with its prompt was shorter, and is not used."""
        if positions >= self._size:
            self._took_s = took_s


def _drop_quiet(conversation: Conversation) -> int:
    """Drops the oldest quiet frames while the conversation is late. Returns how many."""
    kept: deque[tuple[Frame, float]] = deque()
    excess = len(conversation.waiting) - LATE_FRAMES
    dropped = 0
    for item in conversation.waiting:
        if dropped < excess and level_dbfs(item[0]) < QUIET_DBFS:
            dropped += 1
        else:
            kept.append(item)
    conversation.waiting = kept
    conversation.dropped_quiet += dropped
    return dropped


def level_dbfs(frame: Frame) -> float:
    """The level of a frame: its RMS, against full scale."""
    power = float(np.dot(frame, frame)) / len(frame)
    return 10 * math.log10(power) if power > 0 else -math.inf
