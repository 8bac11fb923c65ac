"""Engines and their slots: what is known of each, and the states that a slot can be in.

NVIDIA's server takes one conversation and keeps a second one waiting without a word, so a slot is leased from
before anybody connects until its session has closed. It is in one state at a time, and a state has what
belongs to it and nothing else::

    Idle ──▶ Asking ──┬──▶ Preparing ──▶ Warm ──▶ Live ──▶ Cooling ──▶ Releasing ──▶ Idle
     │ ▲        │     │     │     ▲        │       ▲
     ▼ │        │     │     ▼     │        │       │
    Elsewhere ◀─┘     └──▶ Opening ◀───────┘       │
                              └────────────────────┘

*Preparing* and *Warm* are ahead of any call: connected and prompted before it comes, so that the agent speaks
at once instead of after seconds of prompts. Such a session needs nothing to stay so: an engine steps only on
the caller's audio, and nothing is sent before the call begins, not even the Ogg header. *Opening* and *Live*
are a call's. Every state from *Preparing* to *Cooling* holds the slot's lease.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from pxbridge.engines.breaker import Breaker
from pxbridge.engines.leases import Use

if TYPE_CHECKING:
    import asyncio

    from pxbridge.engines.client import EngineAddress, Session
    from pxbridge.engines.leases import Grant, Refusal

PROBES_TO_FAIL: Final = 2
"""One lost answer is a busy event loop."""


class Prompts(NamedTuple):
    """What an engine is told before a conversation; sessions with the same are interchangeable."""

    voice_prompt: str
    text_prompt: str


class SlotState(StrEnum):
    """A slot's state as it is shown.

    *Elsewhere* is what another bridge has; *unhealthy* is a slot that nobody here has and whose engine is not
    to be used.
    """

    IDLE = "idle"
    CONNECTING = "connecting"
    PROMPTING = "prompting"
    WARM = "warm"
    LIVE = "live"
    COOLING = "cooling"
    ELSEWHERE = "elsewhere"
    UNHEALTHY = "unhealthy"


class Stage(StrEnum):
    """When an engine failed."""

    AHEAD = "ahead"
    """Before any call: while a session was made ready, or while it waited."""
    SETUP = "setup"
    """While it was opened for a call."""
    CALL = "call"
    """In a call."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A session in the making.

    Attributes:
        address: Whom it is opened with, as it was trusted then.
        prompts: What the engine is told.
        connected: Whether it has accepted the upgrade, and reads its prompts.
        task: Makes it.
    """

    address: EngineAddress
    prompts: Prompts
    connected: bool = False
    task: asyncio.Task[Session] = field(init=False)


@dataclass(eq=False, frozen=True, slots=True)
class Idle:
    """Nobody here has it."""


@dataclass(eq=False, frozen=True, slots=True)
class Elsewhere:
    """Another bridge has it, as far as is known."""

    refusal: Refusal


@dataclass(eq=False, frozen=True, slots=True)
class Asking:
    """The store is being asked for its lease."""


@dataclass(eq=False, frozen=True, slots=True)
class Preparing:
    """A session is made ahead of any call."""

    grant: Grant
    attempt: Attempt
    since_s: float


@dataclass(eq=False, frozen=True, slots=True)
class Warm:
    """A session waits for its call."""

    grant: Grant
    prompts: Prompts
    session: Session
    since_s: float


@dataclass(eq=False, frozen=True, slots=True)
class Opening:
    """A session is made for a call."""

    grant: Grant
    attempt: Attempt


@dataclass(eq=False, frozen=True, slots=True)
class Live:
    """A call has its session."""

    grant: Grant
    session: Session
    since_s: float


@dataclass(eq=False, frozen=True, slots=True)
class Cooling:
    """Its session closes.

    Attributes:
        grant: None if the lease is another bridge's by now.
    """

    grant: Grant | None


@dataclass(eq=False, frozen=True, slots=True)
class Releasing:
    """Its lease is on its way back, and is nobody's here."""


Ahead = Preparing | Warm
State = Idle | Elsewhere | Asking | Preparing | Warm | Opening | Live | Cooling | Releasing


@dataclass(eq=False, slots=True)
class Slot:
    """Room for one conversation.

    Attributes:
        engine: Whose it is.
        key: Its name in the store of leases.
        state: See the module.
    """

    engine: Engine
    key: str
    state: State = field(default_factory=Idle)

    @property
    def grant(self) -> Grant | None:
        """Its lease, if it is held here."""
        match self.state:
            case Preparing() | Warm() | Opening() | Live() | Cooling():
                return self.state.grant
            case _:
                return None

    @property
    def use(self) -> Use:
        """What its lease is used for."""
        return Use.WARM if isinstance(self.state, Preparing | Warm) else Use.CALL

    @property
    def ahead(self) -> Prompts | None:
        """What its session was or is being told, if that is ahead of any call."""
        match self.state:
            case Preparing(attempt=attempt):
                return attempt.prompts
            case Warm(prompts=prompts):
                return prompts
            case _:
                return None

    @property
    def attempt(self) -> Attempt | None:
        """The session that is in the making, for whomever."""
        match self.state:
            case Preparing() | Opening():
                return self.state.attempt
            case _:
                return None

    def shown(self, now_s: float) -> SlotState:
        """Its state, as it is shown."""
        match self.state:
            case Idle() | Elsewhere() if not self.engine.is_healthy(now_s):
                return SlotState.UNHEALTHY
            case Idle():
                return SlotState.IDLE
            case Elsewhere():
                return SlotState.ELSEWHERE
            case Asking():
                return SlotState.CONNECTING
            case Preparing(attempt=attempt) | Opening(attempt=attempt):
                return SlotState.PROMPTING if attempt.connected else SlotState.CONNECTING
            case Warm():
                return SlotState.WARM
            case Live():
                return SlotState.LIVE
            case Cooling() | Releasing():
                return SlotState.COOLING


@dataclass(eq=False, slots=True)
class Engine:
    """What is known of an engine.

    Attributes:
        address: Where it is and how it is trusted now.
        breaker: Its failures.
        probes_failed: In a row.
        loaded: What it was told last: its voice may still be in its memory.
        turn: When it was last leased, so that equals take turns.
        retired: It is not to be used any more, but for what it was begun with.
        slots: Its room.
    """

    address: EngineAddress
    breaker: Breaker = field(default_factory=Breaker)
    probes_failed: int = 0
    loaded: Prompts | None = None
    turn: int = 0
    retired: bool = False
    slots: list[Slot] = field(default_factory=list)

    def is_healthy(self, now_s: float) -> bool:
        """Whether a session may be tried."""
        return not self.retired and self.probes_failed < PROBES_TO_FAIL and self.breaker.allows(now_s)

    @property
    def awaits_verdict(self) -> bool:
        """It is on trial, and whether a session comes up at all is just being found out."""
        states = [slot.state for slot in self.slots]
        opening = any(isinstance(state, Asking | Preparing | Opening) for state in states)
        return self.breaker.on_trial and opening and not any(isinstance(s, Warm | Live) for s in states)

    @property
    def busy(self) -> int:
        """Slots that this bridge has."""
        return sum(not isinstance(slot.state, Idle | Elsewhere) for slot in self.slots)


def rank(slot: Slot, prompts: Prompts, now_s: float) -> tuple[float, ...] | None:
    """How well a slot suits a call that wants these prompts: lower is better; None: it is not to be had.

    Ready sessions first, then the engine that knows the persona, then the one that failed least.
    """
    engine = slot.engine
    match slot.state:
        case Warm(session=session) if session.is_live:
            kind = 0 if slot.ahead == prompts else 3
        case Preparing() if slot.ahead == prompts:
            kind = 1  # sooner there than a new one
        case Idle() if engine.is_healthy(now_s) and not engine.awaits_verdict:
            kind = 2
        case _:
            return None
    failures = engine.breaker.failures
    return (kind, failures > 0, engine.loaded != prompts, failures, engine.busy, engine.turn)
