"""The life of a bridge's process.

`run` follows these phases::

    start    engines, calls, the listening ports; systemd is told READY
    serve    until SIGTERM or SIGINT; SIGHUP reads the settings again (`pxbridge.app.reload`)
    drain    not ready, new calls get 503; live calls may go on for up to `drain_s`
    end      the agent of each call finishes its sentence, then the socket closes with 1012

A second SIGTERM or SIGINT ends the process at once, in every phase. Live calls are closed, and after
`AT_ONCE_S` the process is gone even if something hangs. A third one kills it.

Every wait at the end has a limit. The whole end has one too (`TEARDOWN_S`), which the kernel keeps
(`pxbridge.app.deadline`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from typing import TYPE_CHECKING

import pxbridge
from pxbridge.app.assembly import assembled
from pxbridge.app.console import check_console
from pxbridge.app.reload import Reloader
from pxbridge.app.welcome import welcome
from pxbridge.calls import announcements
from pxbridge.calls.call import LAST_WORDS_S
from pxbridge.calls.handover import FLOW_ASKS_S
from pxbridge.calls.registry import LONGEST_SENTENCE_S
from pxbridge.ops import descriptors
from pxbridge.ops.logs import logging_to
from pxbridge.ops.systemd import Notifier, in_journal
from pxbridge.periodic import stop
from pxbridge.settings import check_access
from pxbridge.settings.persona_file import read_personas
from pxbridge.wording import counted, lasted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType
    from typing import Any

    from rich.console import Console

    from pxbridge.app.assembly import Bridge
    from pxbridge.settings import Loaded

log = logging.getLogger("pxbridge")

CLOSE_TIMEOUT_S = 0.5
"""How long closing handshakes may take when all calls end at once. A peer that is alive answers in less."""

TEARDOWN_S = 15.0
"""How long the end may take after the last call: storing hand-overs, writing records, closing connections.
It takes less than a second where disk and store answer."""

AT_ONCE_S = 5.0
"""How long the process may go on after a second signal. It needs one second."""

LAST_LINE_S = 1.0
"""This long before the kernel ends the process, the log names what is still running."""

LONGEST_CALL_END_S = LONGEST_SENTENCE_S + LAST_WORDS_S + CLOSE_TIMEOUT_S
"""The longest time that the end of the last call takes."""

LONGEST_ENDING_S = LONGEST_CALL_END_S + FLOW_ASKS_S + TEARDOWN_S
"""The longest time from the decision to end the live calls to the end of the process."""

STOPS = (signal.SIGTERM, signal.SIGINT)


async def run(
    loaded: Loaded,
    console: Console,
    ready: Callable[[str], None] | None = None,
    read_again: Callable[[], Loaded] | None = None,
    end_within: Callable[[float], None] = lambda _limit_s: None,
) -> int:
    """Serves calls until a signal ends it.

    Args:
        loaded: The settings.
        console: Where to print what was started and what to try next. The journal of systemd gets one line of
            the log instead.
        ready: Called with the URL that a carrier dials, once calls are taken.
        read_again: Reads the settings again, for SIGHUP.
        end_within: Called with the seconds after which the process must be gone, whatever hangs. The last
            call holds unless an earlier one ends sooner.

    Returns:
        The exit status.

    Raises:
        ConfigError: A persona is wrong, an address cannot be listened on, or anyone could call although no
            setting says that this is wanted.
    """
    settings = loaded.settings
    personas = read_personas(loaded)
    check_console(loaded)
    notes = [*loaded.notes, *check_access(loaded)]
    descriptors.raise_limit()
    systemd = Notifier(os.environ)
    async with contextlib.AsyncExitStack() as stack:
        log_writer = stack.enter_context(logging_to(None, settings.log_level, settings.log_format))
        for note in notes:
            log.warning("%s", note)
        signals = stack.enter_context(_caught(_Signals(end_within)))
        bridge = await stack.enter_async_context(assembled(loaded, personas, log_writer, os.environ))
        await stack.enter_async_context(systemd.watchdog())
        await asyncio.to_thread(announcements.load, personas.greetings)
        stack.enter_context(_frozen_garbage_collector())
        await stack.enter_async_context(bridge.announced())
        bridge.shedding.restart()
        systemd.ready(f"takes calls at {bridge.url}")
        if in_journal(os.environ):
            log.info("pxbridge %s takes calls at %s", pxbridge.__version__, bridge.url)
        else:
            console_url = None if bridge.console is None else bridge.console.url
            console.print(welcome(settings, bridge.url, console_url), markup=False, soft_wrap=True)
        if ready is not None:
            ready(bridge.url)

        reloader = Reloader(loaded, read_again or (lambda: loaded), bridge)
        while not signals.stop.is_set():
            await _first_of(signals.reload.wait(), signals.stop.wait())
            if signals.reload.is_set() and not signals.stop.is_set():
                signals.reload.clear()
                systemd.reloading()
                await _first_of(reloader.reload(), signals.stop.wait())
                systemd.ready(f"takes calls at {bridge.url}")

        if live := bridge.registry.live:
            calls, limit = counted(live, "call"), lasted(settings.drain_s)
            log.info("stopping: %s may go on for up to %s; a second signal ends them at once", calls, limit)
        else:
            log.info("stopping: no calls are live")
        limit_s = settings.drain_s + LONGEST_ENDING_S
        signals.end_within(limit_s)
        systemd.stopping("ends its calls", limit_s)
        bridge.pool.keep_warm({})  # callers of other bridges can use those engines
        if bridge.peers is not None:
            bridge.peers.leave()
        await _first_of(_drain(bridge, settings.drain_s), _second(signals))
        signals.end_within(TEARDOWN_S)
        for side in (bridge.server, bridge.pool):
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, side.abort)
    return 0


class _Signals:
    """The signals that came. `caught` is called for each, between two instructions of whatever runs.

    Attributes:
        reload: SIGHUP came.
        stop: SIGTERM or SIGINT came.
        stop_again: It came a second time.
    """

    def __init__(self, end_within: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._end_within = end_within
        self._stops = 0
        self.reload = asyncio.Event()
        self.stop = asyncio.Event()
        self.stop_again = asyncio.Event()

    def caught(self, number: int, _frame: FrameType | None) -> None:
        """Notes a signal. It does not rely on the event loop, which may hang, to end the process."""
        if number == signal.SIGHUP:
            event = self.reload
        else:
            self._stops += 1
            event = self.stop if self._stops == 1 else self.stop_again
            if self._stops > 1:
                _use_default_actions()
                self._end_within(AT_ONCE_S)
        self._loop.call_soon_threadsafe(self._note, event)

    def _note(self, event: asyncio.Event) -> None:
        event.set()
        if event is self.stop_again:
            self._name_what_hangs_after(AT_ONCE_S)

    def end_within(self, limit_s: float) -> None:
        """The process is gone after this time, whatever hangs. Shortly before, the log names what does."""
        self._end_within(limit_s)
        self._name_what_hangs_after(limit_s)

    def _name_what_hangs_after(self, limit_s: float) -> None:
        self._loop.call_later(limit_s - LAST_LINE_S, _name_what_hangs, limit_s)


def _name_what_hangs(limit_s: float) -> None:
    names = sorted(task.get_name() for task in asyncio.all_tasks())
    log.error("not ended after %s, and killed now; still running: %s", lasted(limit_s), ", ".join(names))


@contextlib.contextmanager
def _caught(signals: _Signals) -> Iterator[_Signals]:
    """Gives SIGINT, SIGTERM and SIGHUP to `signals` in place of their usual effect."""
    before = {number: signal.signal(number, signals.caught) for number in (*STOPS, signal.SIGHUP)}
    try:
        yield signals
    finally:
        for number, action in before.items():
            signal.signal(number, signal.SIG_DFL if action is None else action)
        if signals.stop.is_set():
            _use_default_actions()


def _use_default_actions() -> None:
    """From now on a signal to stop kills the process, even if no line of Python runs any more."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextlib.contextmanager
def _frozen_garbage_collector() -> Iterator[None]:
    """Excludes the objects of the started bridge from garbage collection: some 70,000, mostly code.

    A full collection of them takes 40 ms, and no call is heard meanwhile. Without them a collection takes
    about one millisecond.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _drain(bridge: Bridge, limit_s: float) -> None:
    """Takes no new call and waits for the live ones; after `limit_s`, ends them.

    If the last calls were handed over, webhooks are answered for a while longer.
    """
    drained = asyncio.create_task(bridge.server.drain(), name="drain")
    try:
        await asyncio.wait([drained], timeout=limit_s)
        if not drained.done():
            log.info("ending %s after %s", counted(bridge.registry.live, "call"), lasted(limit_s))
            await _end_calls(bridge, drained)
    finally:
        await stop([drained])
    if bridge.handovers.awaits_question:
        log.info("all calls have ended; their flows have %s to ask about hand-overs", lasted(FLOW_ASKS_S))
        await asyncio.sleep(FLOW_ASKS_S)


async def _end_calls(bridge: Bridge, drained: asyncio.Task[None]) -> None:
    try:
        async with asyncio.timeout(LONGEST_CALL_END_S):
            await bridge.registry.close()
            await drained
    except TimeoutError:
        calls = counted(bridge.registry.live, "call")
        log.error("cut after %s because it did not end: %s", lasted(LONGEST_CALL_END_S), calls)


async def _second(signals: _Signals) -> None:
    """Waits for a second signal to stop; SIGHUP has no effect any more."""
    await signals.stop_again.wait()
    log.warning("told to stop a second time: ending at once")


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Waits until one of `works` is done, and cancels the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await stop(tasks)
