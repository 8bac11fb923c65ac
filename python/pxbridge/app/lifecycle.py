"""The life of a bridge's process.

`run` follows these phases::

    start    engines, calls, the listening ports; systemd is told READY
    serve    until SIGTERM or SIGINT; SIGHUP reads the settings again (`pxbridge.app.reload`)
    drain    not ready, new calls get 503; live calls may go on for up to `drain_s`
    end      the agent of each call finishes its sentence, then the socket closes with 1012

A second SIGTERM or SIGINT ends the process at once, in any phase after `serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from typing import TYPE_CHECKING

from pxbridge.app.assembly import assembled
from pxbridge.app.console import check_console
from pxbridge.app.reload import Reloader
from pxbridge.app.welcome import welcome
from pxbridge.calls import announcements
from pxbridge.calls.call import LAST_WORDS_S
from pxbridge.calls.handover import FLOW_ASKS_S
from pxbridge.calls.registry import LONGEST_SENTENCE_S
from pxbridge.ops.logs import logging_to
from pxbridge.ops.systemd import Notifier
from pxbridge.settings import check_access
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from rich.console import Console

    from pxbridge.app.assembly import Bridge
    from pxbridge.settings import Loaded

log = logging.getLogger("pxbridge")

CLOSE_TIMEOUT_S = 0.5
"""How long closing handshakes may take when all calls end at once. A peer that is alive answers in less."""

LONGEST_ENDING_S = LONGEST_SENTENCE_S + LAST_WORDS_S + FLOW_ASKS_S + 5.0
"""The longest time that the end of the last call takes, with 5 s to spare for closing handshakes."""

USUAL_LINE_HZ = 8000
"""The rate of most phone lines. Other rates: announcements are decoded in the first call that needs them."""


async def run(
    loaded: Loaded,
    console: Console,
    ready: Callable[[str], None] | None = None,
    read_again: Callable[[], Loaded] | None = None,
) -> int:
    """Serves calls until a signal ends it.

    Args:
        loaded: The settings.
        console: Where to print what was started and what to try next.
        ready: Called with the URL that a carrier dials, once calls are taken.
        read_again: Reads the settings again, for SIGHUP.

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
    systemd = Notifier(os.environ)
    async with contextlib.AsyncExitStack() as stack:
        log_writer = stack.enter_context(logging_to(None, settings.log_level, settings.log_format))
        for note in notes:
            log.warning("%s", note)
        signals = stack.enter_context(_signals())
        bridge = await stack.enter_async_context(assembled(loaded, personas, log_writer, os.environ))
        await stack.enter_async_context(systemd.watchdog())
        await asyncio.to_thread(announcements.load, USUAL_LINE_HZ)
        stack.enter_context(_frozen_garbage_collector())
        await stack.enter_async_context(bridge.announced())
        systemd.ready(f"takes calls at {bridge.url}")
        console.print(welcome(settings, bridge.url, bridge.console_url), markup=False, soft_wrap=True)
        if ready is not None:
            ready(bridge.url)

        reloader = Reloader(loaded, read_again or (lambda: loaded), bridge)
        while await signals.get() is signal.SIGHUP:
            systemd.reloading()
            await reloader.reload()
            systemd.ready(f"takes calls at {bridge.url}")

        log.info(
            "stopping: %d calls may go on for up to %g s; a second signal ends them at once",
            bridge.registry.live,
            settings.drain_s,
        )
        systemd.stopping("ends its calls", settings.drain_s + LONGEST_ENDING_S)
        bridge.pool.keep_warm({})  # callers of other bridges can use those engines
        if bridge.peers is not None:
            bridge.peers.leave()
        await _first_of(_drain(bridge, settings.drain_s), _second(signals))
        for side in (bridge.server, bridge.pool):
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, side.abort)
    return 0


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """The signals SIGINT, SIGTERM and SIGHUP as they come, in place of their usual effect."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in caught:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        yield signals
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


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
    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(bridge.server.drain())
        await asyncio.wait([drained], timeout=limit_s)
        if not drained.done():
            log.info("ending %d calls after %g s", bridge.registry.live, limit_s)
            await bridge.registry.close()
    if bridge.handovers.awaits_question:
        log.info("all calls have ended; their flows have %g s to ask about hand-overs", FLOW_ASKS_S)
        await asyncio.sleep(FLOW_ASKS_S)


async def _second(signals: asyncio.Queue[signal.Signals]) -> None:
    """Waits for a second signal to stop; SIGHUP has no effect any more."""
    while await signals.get() is signal.SIGHUP:
        pass
    log.warning("told to stop a second time: ending at once")


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Waits until one of `works` is done, and cancels the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
