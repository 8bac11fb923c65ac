"""The engine: a model, its scheduler, and the thread in which both run.

The one idea: one thread owns the model, and nothing else touches it. The event loop sends it events through a
queue: a conversation begins, a frame came, a conversation ends. After each piece of work the thread sends the
results to the event loop. So a tick never waits for a socket, and a socket never waits for a tick.

A prompt that cannot be used ends its own conversation only. Any other exception of the model is a fault of
the device. The device's state is then unknown, so all conversations end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from pxbridge.errors import InputError
from pxbridge.personaplex.scheduler import Close, Conversation, Open, Prefill, Scheduler, Tick

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from pxbridge.personaplex.prompt import Prompt
    from pxbridge.personaplex.scheduler import Frame, Work
    from pxbridge.personaplex.stepper import Sampling, Step, Stepper
    from pxbridge.personaplex.telemetry import Telemetry

log = logging.getLogger(__name__)

LONGEST_WAIT_S: Final = 3600.0
"""The thread looks at its queue at least this often. `threading` accepts no infinite timeout."""


class Listener(Protocol):
    """Gets the events of one conversation, in the event loop."""

    def live(self) -> None:
        """Its prompt is read: from now on the agent hears the caller."""
        ...

    def stepped(self, frame: Frame, step: Step) -> None:
        """A frame of the caller was taken; `step` is the answer."""
        ...

    def failed(self, reason: str) -> None:
        """Its prompt cannot be used, so it has lost its slot."""
        ...

    def broken(self) -> None:
        """One of the calls above raised: a fault of ours that ends this conversation, and no other."""
        ...


class _Failed:
    """The result of opening a conversation whose prompt cannot be used."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


Result = int | _Failed | dict[Conversation, "Step"] | None
"""Of `Open` and `Prefill`: the positions left; None while the voice is not read. Of `Tick`: the steps."""


class Engine:
    """A model and its scheduler.

    The thread calls `warm_up`, `begin`, `wait`, `perform` and `finish`; the event loop calls the rest.

    Args:
        stepper: The model. From now on only the thread uses it.
        telemetry: The engine's metrics.
        clock: Returns a monotonic time in seconds.
        prepare: Called in the thread after the model has warmed up and before it is ready: reads voices.

    Attributes:
        clock: As given.
        scheduler: Decides the work. Other code may only read it.
        ready: Set when a conversation can begin.
        stopped: No further work is begun.
        fault: The model's exception. It is done only if there was one.
        busy_since_s: When the thread began its present work; None while it waits.
    """

    def __init__(
        self,
        stepper: Stepper,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float] = time.monotonic,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._stepper = stepper
        self._telemetry = telemetry
        self.clock = clock
        self._prepare = prepare
        self.scheduler = Scheduler()
        self._told: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._listeners: dict[Conversation, Listener] = {}
        self.stopped = False
        self.ready = asyncio.Event()
        self.fault: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.busy_since_s: float | None = None

    @property
    def slots(self) -> int:
        """Conversations at once."""
        return self._stepper.slots

    # Called by the event loop.

    def open(
        self,
        slot: int,
        prompt: Callable[[], Generator[None, None, Prompt]],
        sampling: Sampling,
        listener: Listener,
    ) -> Conversation:
        """Begins a conversation in a slot. An earlier conversation in that slot is closed, without an event.

        Args:
            slot: The slot's number.
            prompt: Makes its prompt, in parts; called in the thread. If it raises an InputError or a
                ValueError, the conversation fails.
            sampling: How its tokens are drawn.
            listener: Gets its events until it is closed.
        """
        conversation = Conversation(slot, prompt, sampling)
        self._listeners[conversation] = listener
        self._tell(lambda: self.scheduler.open(conversation))
        return conversation

    def hear(self, conversation: Conversation, frame: Frame) -> None:
        """A frame of the caller came."""
        now_s = self.clock()
        self._tell(lambda: self.scheduler.hear(conversation, frame, now_s))

    def close(self, conversation: Conversation) -> None:
        """Ends a conversation: its listener gets no more events. Its slot may be used again at once."""
        if self._listeners.pop(conversation, None) is not None:
            self._tell(lambda: self.scheduler.close(conversation))

    def stop(self) -> None:
        """Ends the thread after its present work."""
        self.stopped = True
        self._tell(lambda: None)

    def _tell(self, what: Callable[[], None]) -> None:
        self._told.put(what)

    # Called by the thread.

    def warm_up(self) -> None:
        """Makes the model ready; takes seconds."""
        self._stepper.warm_up()
        self._prepare()

    def begin(self) -> Work | float:
        """Handles all queued events. Returns the work to do now, or how long to wait, in seconds."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._told.get_nowait()()
        now_s = self.clock()
        work = self.scheduler.next(now_s)
        if isinstance(work, float):
            return max(0.0, work - now_s)
        self.busy_since_s = now_s
        return work

    def wait(self, timeout_s: float) -> None:
        """Waits for the next event, for at most `timeout_s`."""
        with contextlib.suppress(queue.Empty):
            self._told.get(timeout=min(timeout_s, LONGEST_WAIT_S))()

    def perform(self, work: Work) -> Result:
        """Does a piece of work. The model is used here and nowhere else."""
        stepper = self._stepper
        match work:
            case Open(conversation, at_most_s, if_known):
                try:
                    prompt = self._make_prompt(conversation, at_most_s)
                    if prompt is None:
                        return None
                    if if_known and not stepper.knows(prompt):
                        conversation.making = _made(prompt)
                        return None
                    return stepper.open(conversation.slot, prompt, conversation.sampling)
                except (InputError, ValueError) as error:
                    return _Failed(str(error))
            case Prefill(conversation, positions):
                return stepper.prefill(conversation.slot, positions)
            case Tick(frames):
                steps = stepper.step({each.slot: frame for each, (frame, _) in frames.items()})
                return {each: steps[each.slot] for each in frames}
            case Close(conversation):
                stepper.close(conversation.slot)
                return None

    def _make_prompt(self, conversation: Conversation, at_most_s: float) -> Prompt | None:
        """Goes on making a conversation's prompt. None: not finished within `at_most_s`."""
        if conversation.making is None:
            conversation.making = conversation.prompt()
        began_s = part_began_s = self.clock()
        while True:
            try:
                next(conversation.making)
            except StopIteration as end:
                prompt: Prompt = end.value
                return prompt
            now_s = self.clock()
            if now_s - began_s + (now_s - part_began_s) >= at_most_s:  # another part is as long as this one
                return None
            part_began_s = now_s

    def finish(self, work: Work, result: Result) -> Callable[[], None]:
        """Notes that work is done. Returns a function for the event loop that passes on the result."""
        began_s, ended_s = self.busy_since_s or 0.0, self.clock()
        self.busy_since_s = None
        scheduler, telemetry = self.scheduler, self._telemetry
        match work, result:
            case Open(conversation=conversation) | Prefill(conversation=conversation), int(left):
                scheduler.done(work, began_s, ended_s, left)
                telemetry.read(ended_s - began_s)
                telemetry.counters = self._stepper.counters()
                if left == 0:
                    return lambda: self._say_live(conversation)
            case Open(), None:
                scheduler.done(work, began_s, ended_s, left=None)
                telemetry.read(ended_s - began_s)
            case Open(conversation=conversation), _Failed(reason=reason):
                scheduler.done(work, began_s, ended_s, left=0)
                scheduler.close(conversation)
                return lambda: self._say_failed(conversation, reason)
            case Tick(frames), dict(steps):
                scheduler.done(work, began_s, ended_s)
                telemetry.ticked(began_s, ended_s, [came_s for _, came_s in frames.values()])
                return lambda: self._say_stepped(frames, steps)
            case _:
                scheduler.done(work, began_s, ended_s)
        return _nothing

    # Called in the event loop, with the results.

    def _say_live(self, conversation: Conversation) -> None:
        if listener := self._listeners.get(conversation):
            _tell(listener, listener.live)

    def _say_failed(self, conversation: Conversation, reason: str) -> None:
        if listener := self._listeners.pop(conversation, None):
            _tell(listener, lambda: listener.failed(reason))

    def _say_stepped(
        self,
        frames: Mapping[Conversation, tuple[Frame, float]],
        steps: Mapping[Conversation, Step],
    ) -> None:
        for conversation, step in steps.items():
            if listener := self._listeners.get(conversation):
                _tell(listener, functools.partial(listener.stepped, frames[conversation][0], step))

    def say_fault(self, error: BaseException) -> None:
        """The model failed and cannot be used any more."""
        if not self.fault.done():
            self.fault.set_result(error)


def _tell(listener: Listener, what: Callable[[], None]) -> None:
    try:
        what()
    except Exception:
        log.exception("a session failed")
        listener.broken()


def _made(prompt: Prompt) -> Generator[None, None, Prompt]:
    """Gives a prompt that was made before."""
    yield from ()
    return prompt


def _nothing() -> None:
    pass


class EngineThread:
    """Runs an engine in its own thread: `with EngineThread(engine): ...` in the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        # A daemon thread, so that the process can end while the device hangs.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> EngineThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop()

    async def join(self, timeout_s: float) -> bool:
        """Waits for the thread's end, for at most `timeout_s`. Returns whether it has ended."""
        await asyncio.to_thread(self._thread.join, timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        engine = self._engine
        try:
            engine.busy_since_s = None
            engine.warm_up()
            self._post(engine.ready.set)
            while not engine.stopped:
                work = engine.begin()
                if isinstance(work, float):
                    engine.wait(work)
                else:
                    self._post(engine.finish(work, engine.perform(work)))
        except BaseException as error:
            log.critical("the model failed", exc_info=True)
            self._post(functools.partial(engine.say_fault, error))

    def _post(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the event loop has ended
            self._engine.stopped = True
