"""All calls of a process. Each socket that the telephony server accepts becomes one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pxbridge.calls.call import Call
from pxbridge.calls.call_state import Outcome
from pxbridge.calls.events import CURRENT_CALL, Kind
from pxbridge.calls.notices import Notices
from pxbridge.calls.observer import Observer
from pxbridge.calls.playout_options import PlayoutOptions
from pxbridge.calls.stats_sampler import StatsSampler
from pxbridge.calls.unknown_names import NameCheck
from pxbridge.calls.wakeup_timer import WakeupTimer
from pxbridge.chat_wire import FRAME_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pxbridge.calls.call_state import CallRecord
    from pxbridge.calls.conversation import CallLimits
    from pxbridge.calls.events import Event, Subscriber
    from pxbridge.calls.handover import HandOvers
    from pxbridge.calls.persona import Personas
    from pxbridge.engines.pool import EnginePool
    from pxbridge.telephony.server import Arrival

log = logging.getLogger("pxbridge.registry")

SERVICE_RESTART = 1012
"""Of RFC 6455's registry of close codes: the service restarts, and a new call will be answered."""

LONGEST_SENTENCE_S = 8.0
"""An agent that speaks for longer than this when its call has to end is cut off."""

PAUSE_POLL_S = FRAME_S
"""How often to check whether the agent pauses: once per frame of the model."""


class CallRegistry:
    """Runs the calls of a process, and lets each phone call have one connection.

    Args:
        engines: Where calls lease their engines.
        personas: Whom callers can speak with. `personas` may be replaced; new calls use the new ones.
        subscribers: Get every event of every call.
        call_subscribers: Each makes a subscriber for one call. It gets the call's events before the others.
        handovers: Where calls note that they go on to a person.
        limits: How long things may take in a call.
        playout: How calls' sound is kept in time. `playout` may be replaced; new calls use the new one.
        names: Decides about calls that name a persona or a voice that does not exist.
    """

    def __init__(
        self,
        engines: EnginePool,
        personas: Personas,
        subscribers: Iterable[Subscriber] = (),
        call_subscribers: Iterable[Callable[[Call], Subscriber]] = (),
        handovers: HandOvers | None = None,
        limits: CallLimits | None = None,
        playout: PlayoutOptions | None = None,
        names: NameCheck | None = None,
    ) -> None:
        self._engines = engines
        self._handovers = handovers
        self._limits = limits
        self._names = names or NameCheck()
        self.personas = personas
        self.playout = playout or PlayoutOptions()
        self._subscribers = tuple(subscribers)
        self._call_subscribers = tuple(call_subscribers)
        self._wakeups = WakeupTimer()
        self._calls: dict[Call, None] = {}  # in the order in which they came
        self._by_id: dict[tuple[str, str], Call] = {}  # by the carrier's name and its id of the call
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def live(self) -> int:
        """The number of calls."""
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        """All calls, in the order in which they came."""
        return iter(tuple(self._calls))

    def subscribe(self, subscriber: Subscriber) -> None:
        """Gives a subscriber every event of every later call."""
        self._subscribers += (subscriber,)

    async def handle(self, arrival: Arrival) -> None:
        """Runs one call, from its accepted socket to its end."""
        subscribers: list[Subscriber] = []

        def emit(record: CallRecord, event: Event) -> None:
            if event.kind is Kind.PERSONA:  # the call is let in: not before may it end another one
                self._on_admitted(arrival.carrier.name, call)
            for subscriber in subscribers:
                try:
                    subscriber(record, event)
                except Exception:
                    log.exception("a subscriber failed at %r", event.kind.value)

        call = Call(
            arrival,
            engines=self._engines,
            personas=self.personas,
            emit=emit,
            wakeups=self._wakeups,
            handovers=self._handovers,
            limits=self._limits,
            playout=self.playout,
            names=self._names,
        )
        CURRENT_CALL.set(call.record)
        subscribers += [
            StatsSampler(call.stats, emit, self._wakeups),
            *(subscribe(call) for subscribe in self._call_subscribers),
            *self._subscribers,
        ]
        if arrival.carrier.behaviour.takes_notices:
            subscribers.append(Notices(arrival, lambda: call.place_in_line))
        if Observer.wanted(arrival.socket):
            subscribers.append(Observer(arrival.socket, call.stats))
        self._calls[call] = None
        self._empty.clear()
        try:
            await call.run()
        finally:
            self._calls.pop(call, None)
            key = arrival.carrier.name, call.record.call_id
            if self._by_id.get(key) is call:
                del self._by_id[key]
            if not self._calls:
                self._empty.set()
            subscribers.clear()  # they hold the call

    def _on_admitted(self, carrier: str, call: Call) -> None:
        """Ends an older connection for the same call.

        A carrier repeats a handshake that it thinks has failed. It listens to the newer connection.
        """
        key = carrier, call.record.call_id
        if not call.record.call_id:
            return
        if (older := self._by_id.get(key)) is not None:
            log.warning("the carrier connected a second time; the newer connection goes on")
            call.take_over(older)
            older.end("replaced by a second connection for the same call", outcome=Outcome.REPLACED)
        self._by_id[key] = call

    async def close(self, code: int = SERVICE_RESTART) -> None:
        """Ends every call after the agent's sentence, and waits until all have ended."""
        async with asyncio.TaskGroup() as tasks:
            for call in tuple(self._calls):
                tasks.create_task(self._end_with_sentence(call, code))
        await self._empty.wait()

    async def _end_with_sentence(self, call: Call, code: int) -> None:
        for _ in range(round(LONGEST_SENTENCE_S / PAUSE_POLL_S)):
            if call not in self._calls or not call.agent_speaking:
                break
            await asyncio.sleep(PAUSE_POLL_S)
        call.end("the bridge is stopping", code, last_words=True)
