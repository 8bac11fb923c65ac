"""Engines and their slots: the data kept about each, and the states of a slot.

NVIDIA's server takes one conversation at a time. It accepts a second connection and never answers it. So a
slot's lease is acquired before connecting, and kept until the session has closed. A slot is in one state at a
time, and each state carries its own data::

    Idle ──▶ Asking ──┬──▶ Preparing ──▶ Warm ──▶ Live ──▶ Cooling ──▶ Releasing ──▶ Idle
     │ ▲        │     │     │     ▲        │       ▲
     ▼ │        │     │     ▼     │        │       │
    Elsewhere ◀─┘     └──▶ Opening ◀───────┘       │
    Taken                     └────────────────────┘

*Preparing* and *Warm* are ahead of any call: the session is connected and prompted before a call comes. Then
the agent speaks at once, instead of after seconds of prompts. A warm session needs no upkeep: an engine steps
only on the caller's audio, and nothing is sent before the call begins, not even the Ogg header. *Opening* and
*Live* belong to a call. Every state from *Preparing* to *Cooling* holds the slot's lease.

An engine that reports how many conversations it takes has this many slots. If it has conversations of clients
that neither this bridge nor the lease store knows, as many slots are *Taken*. If it says that it is full, all
of its idle slots are *Taken*.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from pxbridge.engines.breaker import Breaker
from pxbridge.engines.leases import Use

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pxbridge.engines.address import EngineAddress
    from pxbridge.engines.leases import Grant, Refusal
    from pxbridge.engines.probe import Told
    from pxbridge.engines.session import Session
    from pxbridge.engines.slot_directory import SlotDirectory

PROBES_TO_FAIL: Final = 2
"""A single lost answer may only mean that the engine's event loop is busy."""


class Prompts(NamedTuple):
    """The prompts that start a conversation. Sessions with equal prompts are interchangeable."""

    voice_prompt: str
    text_prompt: str
    sampling: str = ""
    """How tokens are drawn (`chat_wire.sampling_query`); empty: as the engine does. Only an engine that tells
    of itself gets it: others ignore it, or crash."""


class SlotState(StrEnum):
    """A slot's state as metrics and the console show it.

    *Elsewhere*: another bridge, or another client of the engine, holds the slot. *Unhealthy*: this bridge
    does not hold the slot, and its engine must not be used.
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
    """At which stage an engine failed."""

    AHEAD = "ahead"
    """Before any call: while a session was prompted ahead, or while it was warm."""
    SETUP = "setup"
    """While a session was opened for a call."""
    CALL = "call"
    """During a call."""
    BUSY = "busy"
    """It said that it is full or restarting. The engine is not at fault."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A session that is being opened.

    Attributes:
        address: The engine's address and trust setting when the attempt began.
        prompts: The prompts for the engine.
        moved: Called with its place in the engine's line. None: it does not stand in line.
        after: The slot's previous session, which has to close first; None if there is none.
        session: Once the engine has accepted the upgrade and reads the prompts; None before.
        task: The task that opens the session.
    """

    address: EngineAddress
    prompts: Prompts
    moved: Callable[[int], None] | None = None
    after: Session | None = None
    session: Session | None = None
    task: asyncio.Task[Session] = field(init=False)


@dataclass(eq=False, frozen=True, slots=True)
class Idle:
    """This bridge does not hold the slot. As far as it knows, no other bridge does."""


@dataclass(eq=False, frozen=True, slots=True)
class Elsewhere:
    """Another bridge holds the slot, as far as this bridge knows."""

    refusal: Refusal


@dataclass(eq=False, frozen=True, slots=True)
class Taken:
    """The engine says that it has a conversation here that neither this bridge nor the lease store knows."""


@dataclass(eq=False, frozen=True, slots=True)
class Asking:
    """The store is being asked for the slot's lease."""


@dataclass(eq=False, frozen=True, slots=True)
class Preparing:
    """A session is being opened ahead of any call."""

    grant: Grant
    attempt: Attempt
    since_s: float


@dataclass(eq=False, frozen=True, slots=True)
class Warm:
    """A prompted session is ready for a call."""

    grant: Grant
    prompts: Prompts
    session: Session
    since_s: float


@dataclass(eq=False, frozen=True, slots=True)
class Opening:
    """A session is being opened for a call."""

    grant: Grant
    attempt: Attempt


@dataclass(eq=False, frozen=True, slots=True)
class Live:
    """A call uses the session."""

    grant: Grant
    session: Session
    since_s: float


@dataclass(eq=False, frozen=True, slots=True)
class Cooling:
    """The session is closing.

    Attributes:
        grant: The lease; None if another bridge has taken it over.
    """

    grant: Grant | None


@dataclass(eq=False, frozen=True, slots=True)
class Releasing:
    """The lease is being released. It must not be used or renewed any more."""


State = Idle | Elsewhere | Taken | Asking | Preparing | Warm | Opening | Live | Cooling | Releasing


class Slot:
    """Room for one conversation.

    Attributes:
        engine: The engine that the slot belongs to.
        key: The slot's name in the lease store.
    """

    __slots__ = ("_state", "engine", "key")

    def __init__(self, engine: Engine, key: str) -> None:
        self.engine = engine
        self.key = key
        self._state: State = Idle()

    @property
    def state(self) -> State:
        """See the module's docstring."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        before, self._state = self._state, state
        self.engine.moved(self, before)

    @property
    def grant(self) -> Grant | None:
        """The slot's lease, if this bridge holds it."""
        match self.state:
            case Preparing() | Warm() | Opening() | Live() | Cooling():
                return self.state.grant
            case _:
                return None

    @property
    def use(self) -> Use:
        """The use that the slot's lease is recorded with."""
        return Use.WARM if self.ahead is not None and not self.in_line else Use.CALL

    @property
    def in_line(self) -> bool:
        """Whether its session waits in the engine's line, for a call that waits here."""
        match self.state:
            case Preparing(attempt=attempt):
                return attempt.moved is not None
            case _:
                return False

    @property
    def ahead(self) -> Prompts | None:
        """The prompts of a session that is made ahead of any call; None in other states."""
        match self.state:
            case Preparing(attempt=attempt):
                return attempt.prompts
            case Warm(prompts=prompts):
                return prompts
            case _:
                return None

    @property
    def attempt(self) -> Attempt | None:
        """The session that is being opened, for a call or ahead of calls."""
        match self.state:
            case Preparing() | Opening():
                return self.state.attempt
            case _:
                return None

    def shown(self, now_s: float) -> SlotState:
        """The slot's state as it is shown."""
        match self.state:
            case Idle() | Elsewhere() | Taken() if not self.engine.is_healthy(now_s):
                return SlotState.UNHEALTHY
            case Idle():
                return SlotState.IDLE
            case Elsewhere() | Taken():
                return SlotState.ELSEWHERE
            case Asking():
                return SlotState.CONNECTING
            case Preparing(attempt=attempt) | Opening(attempt=attempt):
                return SlotState.PROMPTING if attempt.session is not None else SlotState.CONNECTING
            case Warm():
                return SlotState.WARM
            case Live():
                return SlotState.LIVE
            case Cooling() | Releasing():
                return SlotState.COOLING


class Engine:
    """An engine, and the data kept about it.

    Attributes:
        address: Its URL and its current trust setting.
        slots: Its slots.
        idle: The idle slots, in the order in which they became idle.
        elsewhere: The slots that another bridge holds.
        taken: The slots in which the engine has conversations of other clients.
        used: The others: those that this bridge uses.
        breaker: Its failures.
        probes_failed: Failed probes in a row.
        loaded: The last prompts that it read. It may still have their voice in memory.
        turn: Sequence number of its last lease. Otherwise equal engines take turns by it.
        told: What it reports of itself; None if it reports nothing.
        is_full: It has said so, and nothing else since.
        probe_at_s: When its next probe is due.
        probe_pause_s: The least pause before it.
        retired: It was removed from the settings. Only sessions that have begun may still use it.
    """

    def __init__(self, address: EngineAddress, directory: SlotDirectory) -> None:
        self.address = address
        self.slots: list[Slot] = []
        self.idle: OrderedDict[Slot, None] = OrderedDict()
        self.elsewhere: dict[Slot, None] = {}
        self.taken: dict[Slot, None] = {}
        self.used: dict[Slot, None] = {}
        self.breaker = Breaker()
        self.probes_failed = 0
        self.loaded: Prompts | None = None
        self.turn = 0
        self.told: Told | None = None
        self.is_full = False
        self.probe_at_s = -math.inf
        self.probe_pause_s = 0.0
        self.retired = False
        self._directory = directory

    def resize(self, count: int) -> None:
        """Adds idle slots, or removes the last ones as far as this bridge does not use them."""
        while len(self.slots) < count:
            slot = Slot(self, f"{self.address}#{len(self.slots)}")
            self.slots.append(slot)
            self.idle[slot] = None
        while len(self.slots) > count and self.slots[-1] not in self.used:
            slot = self.slots.pop()
            del self._group(slot.state)[slot]
            slot._state = (
                Idle()
            )  # another one: nobody who waits for an answer about the slot takes it for unchanged
            self._directory.slot_removed(slot)
        self._directory.engine_changed(self)

    def _group(self, state: State) -> dict[Slot, None]:
        match state:
            case Idle():
                return self.idle
            case Elsewhere():
                return self.elsewhere
            case Taken():
                return self.taken
            case _:
                return self.used

    def moved(self, slot: Slot, before: State) -> None:
        """A slot has changed its state."""
        old, new = self._group(before), self._group(slot.state)
        if old is not new:
            del old[slot]
            new[slot] = None
        self._directory.slot_moved(slot)

    # -- health: each change tells the directory -------------------------------------------------------

    def failed(self, now_s: float) -> None:
        """A session could not be opened, or was lost."""
        self.breaker.failed(now_s)
        self._directory.engine_changed(self)

    def worked(self) -> None:
        """A session was opened and stayed up."""
        self.breaker.worked()
        self._directory.engine_changed(self)

    def probe_failed(self) -> None:
        """It did not answer a probe."""
        self.probes_failed += 1
        self._directory.engine_changed(self)

    def probe_answered(self) -> None:
        """It answered a probe. If it had not answered before, it may be tried at once."""
        if self.probes_failed >= PROBES_TO_FAIL:
            self.breaker.retry_soon()
        if self.probes_failed:
            self.probes_failed = 0
            self._directory.engine_changed(self)

    def leased(self, turn: int) -> None:
        """A call has leased a slot of it."""
        self.turn = turn
        self._directory.engine_changed(self)

    def has_read(self, prompts: Prompts) -> None:
        """A session with these prompts was opened."""
        self.loaded = prompts
        self._directory.engine_changed(self)

    def tells(self, told: Told | None) -> None:
        """It tells this of itself; None: nothing, or no more."""
        self.told = told
        self._directory.engine_changed(self)

    def retire(self, retired: bool) -> None:
        """It was removed from the settings, or is in them again."""
        self.retired = retired
        self._directory.engine_changed(self)

    @property
    def closed(self) -> str | None:
        """Why it takes no new conversation although it has room, as it says itself; None if it takes them."""
        return None if self.told is None else self.told.closed

    @property
    def _works(self) -> bool:
        return not self.retired and self.closed is None and self.probes_failed < PROBES_TO_FAIL

    @property
    def is_sound(self) -> bool:
        """Whether it is healthy whatever the time, and may open several sessions at once."""
        return self._works and not self.breaker.on_trial

    def is_healthy(self, now_s: float) -> bool:
        """Whether a session may be opened with it now."""
        return self._works and self.breaker.allows(now_s)

    @property
    def awaits_verdict(self) -> bool:
        """Whether its trial session is being opened right now, so that no second one may start."""
        if not self.breaker.on_trial:
            return False
        states = [slot.state for slot in self.used]
        opening = any(isinstance(state, Asking | Preparing | Opening) for state in states)
        return opening and not any(isinstance(state, Warm | Live) for state in states)

    @property
    def busy(self) -> int:
        """Number of its slots that this bridge uses."""
        return len(self.used)

    @property
    def conversations(self) -> int:
        """Number of conversations that this bridge has with it, those that wait in its line excluded."""
        return self.busy - sum(slot.in_line for slot in self.used)

    def counts(self, now_s: float) -> dict[SlotState, int]:
        """Its number of slots in each state as they are shown, zeros included."""
        counts = dict.fromkeys(SlotState, 0)
        for slot in self.used:
            counts[slot.shown(now_s)] += 1
        healthy = self.is_healthy(now_s)
        counts[SlotState.IDLE if healthy else SlotState.UNHEALTHY] += len(self.idle)
        others = len(self.elsewhere) + len(self.taken)
        counts[SlotState.ELSEWHERE if healthy else SlotState.UNHEALTHY] += others
        return counts


def rank(slot: Slot, prompts: Prompts, now_s: float) -> tuple[float, ...] | None:
    """How well a slot suits a call with these prompts: lower is better. None: the slot is not available.

    Ready sessions come first, then engines that have the persona loaded, then those with fewest failures.
    `SlotDirectory` keeps idle slots in this order.
    """
    engine = slot.engine
    match slot.state:
        case Warm(session=session) if session.is_live:
            kind = 0 if slot.ahead == prompts else 3
        case Preparing() if slot.ahead == prompts and not slot.in_line:
            kind = 1  # ready sooner than a new session
        case Idle() if engine.is_healthy(now_s) and not engine.awaits_verdict:
            kind = 2
        case _:
            return None
    failures = engine.breaker.failures
    return (kind, failures > 0, engine.loaded != prompts, failures, engine.busy, engine.turn)
