"""The present state of all calls and engines, for the live page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal, Protocol

from pxbridge.calls.call_state import Phase
from pxbridge.calls.events import Kind
from pxbridge.console.models import LiveCall, LiveEngine, Snapshot
from pxbridge.engines.slots import SlotState, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.calls.numbers import Numbers

_ACTIONS: Mapping[str, Literal["end", "hand over"]] = {"end": "end", "hand over": "hand over"}

_OPEN = (SlotState.CONNECTING, SlotState.PROMPTING, SlotState.WARM, SlotState.LIVE)


class ShownCall(Protocol):
    """The part of a call that is shown."""

    record: CallRecord

    @property
    def spoken_s(self) -> tuple[float, float]:
        """How long the caller has spoken, and the agent."""
        ...


class Engines(Protocol):
    """The part of the pool that is shown."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        ...

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Each engine's number of slots in each state."""
        ...

    def failures(self) -> dict[str, dict[str, int]]:
        """Each engine's failures, by stage."""
        ...


@dataclass
class _Noted:
    """What events told of a live call, and what the last snapshot showed of it."""

    recorded: bool = False
    asked: Literal["end", "hand over"] | None = None
    spoken_s: tuple[float, float] = (0.0, 0.0)


class LiveView:
    """Makes snapshots. It is a subscriber to the events of all calls.

    Args:
        calls: The live calls.
        engines: The pool.
        not_ready: Reasons why no call can be taken.
        numbers: How phone numbers are written.
        rehearsal: Whether the engine is the rehearsal engine.
        clock: The clock of the calls, in seconds.
        wall: The wall clock, in seconds since 1970.
    """

    def __init__(
        self,
        calls: Iterable[ShownCall],
        engines: Engines,
        not_ready: Callable[[], Sequence[str]],
        numbers: Numbers,
        *,
        rehearsal: bool,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._calls = calls
        self._engines = engines
        self._not_ready = not_ready
        self._numbers = numbers
        self._rehearsal = rehearsal
        self._clock = clock
        self._wall = wall
        self._noted: dict[str, _Noted] = {}

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Notes what a snapshot cannot read off a call."""
        match event.kind:
            case Kind.PERSONA:
                self._note(record).recorded = bool(event.detail["record"])
            case Kind.ACTION:
                self._note(record).asked = _ACTIONS.get(event.detail["action"])
            case Kind.ENDED:
                self._noted.pop(record.key, None)
            case _:
                pass

    def _note(self, record: CallRecord) -> _Noted:
        return self._noted.setdefault(record.key, _Noted())

    def snapshot(self) -> Snapshot:
        """How everything stands now."""
        reasons = list(self._not_ready())
        calls = [
            call
            for call in self._calls
            if call.record.started_s is not None and call.record.phase is not Phase.ENDED
        ]
        return Snapshot(
            at=round(self._wall(), 3),
            calls=[self._call(call) for call in sorted(calls, key=lambda call: call.record.opened_s)],
            engines=self._all_engines(calls),
            waiting=self._engines.waiting,
            ready=not reasons,
            reasons=reasons,
            rehearsal=self._rehearsal,
        )

    def _call(self, call: ShownCall) -> LiveCall:
        record, now_s = call.record, self._clock()
        noted = self._note(record)
        before, noted.spoken_s = noted.spoken_s, call.spoken_s
        caller_s, agent_s = noted.spoken_s
        delay_s = record.delay.newest_s.get("mouth_to_ear")
        talked_s = 0.0 if record.live_s is None else now_s - record.live_s
        return LiveCall(
            key=record.key,
            id=record.call_id,
            carrier=record.carrier,
            caller=self._numbers(record.caller),
            called=self._numbers(record.called),
            persona=record.persona,
            phase=record.phase.value,
            began_at=round(self._wall() - (now_s - record.opened_s), 3),
            engine=record.engine or None,
            delay_ms=None if delay_s is None else round(1000 * delay_s, 1),
            caller_speaks=caller_s > before[0],
            agent_speaks=agent_s > before[1],
            caller_share=_share(caller_s - record.said_before_s, talked_s),
            agent_share=_share(agent_s, talked_s),
            recorded=noted.recorded,
            operator_asked=noted.asked,
        )

    def _all_engines(self, calls: Iterable[ShownCall]) -> list[LiveEngine]:
        failures = self._engines.failures()
        steps_s: dict[str, list[float]] = {}
        for call in calls:
            if (step_s := call.record.delay.newest_s.get("engine")) is not None:
                steps_s.setdefault(call.record.engine, []).append(step_s)
        return [
            _engine(name, slots, _faults(failures.get(name, {})), steps_s.get(name))
            for name, slots in self._engines.snapshot().items()
        ]


def _faults(failures: Mapping[str, int]) -> int:
    """How often an engine failed. One that says that it is full or restarts has not failed."""
    return sum(count for stage, count in failures.items() if stage != Stage.BUSY)


def _engine(name: str, slots: Mapping[str, int], failures: int, steps_s: list[float] | None) -> LiveEngine:
    count = {state: slots.get(state.value, 0) for state in SlotState}
    total = sum(count.values())
    usable = count[SlotState.IDLE] + count[SlotState.WARM]
    return LiveEngine(
        name=name,
        state=_state(count, total, usable),
        slots=total,
        taken=total - usable - count[SlotState.UNHEALTHY],
        warm=count[SlotState.WARM],
        idle=count[SlotState.IDLE],
        sessions=sum(count[state] for state in _OPEN),
        failures=failures,
        reason="it does not answer, or sessions with it fail"
        if count[SlotState.UNHEALTHY] == total
        else None,
        step_ms=None if steps_s is None else round(1000 * median(steps_s), 1),
    )


def _state(
    count: Mapping[SlotState, int], total: int, usable: int
) -> Literal["ready", "busy", "elsewhere", "unhealthy"]:
    if total and count[SlotState.UNHEALTHY] == total:
        return "unhealthy"
    if usable:
        return "ready"
    return "elsewhere" if total and count[SlotState.ELSEWHERE] == total else "busy"


def _share(spoken_s: float, talked_s: float) -> float:
    return 0.0 if talked_s <= 0 else round(min(1.0, spoken_s / talked_s), 3)
