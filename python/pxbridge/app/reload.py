"""SIGHUP: changed settings come into force for new calls, without a restart.

Live calls keep what they started with. A setting that cannot change in a running process (`RELOADED` lists
those that can) keeps its value, and the log names it. Settings that are wrong, or cannot be read for any
reason, change nothing: whatever reading them raises, the old ones stay in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pxbridge.app.assembly import contents, engine_addresses, playout_options, warm_sessions
from pxbridge.app.console import check_console
from pxbridge.calls import announcements
from pxbridge.errors import ConfigError
from pxbridge.settings import check_access
from pxbridge.settings.changes import Reading, changed_personas, changed_settings
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pxbridge.app.assembly import Bridge
    from pxbridge.calls.persona import Personas
    from pxbridge.settings import Loaded, Settings

T = TypeVar("T")

log = logging.getLogger("pxbridge")

READ_TIMEOUT_S = 30.0
"""Files in a network's folder take a second or two. A file that takes longer, as a pipe does that nobody
writes to, must not keep later reloads from being tried."""

MAX_PROBLEM_CHARS = 500
"""A problem quotes the wrong value, which may be a whole file."""

MAX_PERSONAS = 20
"""More of them would make a line that nobody reads."""

RELOADED = {
    "allow_anonymous",
    "allowed_networks",
    "console_credentials",
    "console_origins",
    "console_tokens",
    "credentials",
    "engines",
    "engine_ca_file",
    "engine_connect_timeout_s",
    "engine_fingerprint",
    "engine_handshake_timeout_s",
    "engine_insecure",
    "engine_token",
    "failover_prefers",
    "gate_ms",
    "handshakes_per_minute",
    "max_backlog_ms",
    "max_calls_per_address",
    "playout_profile",
    "shed_above_lag_ms",
    "shed_below_lag_ms",
    "text_prompt",
    "token_keys",
    "trusted_proxies",
    "unknown_names",
    "voice_prompt",
    "warm_sessions",
}
"""Settings that SIGHUP puts in force for new calls."""


OF_ENGINES: Final = {"engine_ca_file", "engine_fingerprint", "engine_insecure", "engine_token"}
"""Settings that belong to the engines: how their certificates are checked, and the token for them."""


class Reloader:
    """Puts changed settings and personas in force.

    Args:
        loaded: The settings in force.
        read: Reads them again.
        bridge: What they change.
    """

    def __init__(self, loaded: Loaded, read: Callable[[], Loaded], bridge: Bridge) -> None:
        self._loaded = loaded
        self._ca = contents(loaded.settings.engine_ca_file)
        self._read = read
        self._bridge = bridge

    async def reload(self) -> None:
        """Reads the settings and changes what can be changed. An error is logged and changes nothing."""
        old, old_personas = self._loaded.settings, self._bridge.registry.personas
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                loaded, personas, ca = await in_thread(self._read_all)
            new = loaded.settings
            changed = changed_settings(old, new)
            keep = changed - RELOADED
            if bool(old.engines) != bool(new.engines):
                # The rehearsal engine starts and ends with the process. Engines keep what belongs to them.
                keep |= {"engines", *(changed & OF_ENGINES)}
                ca = self._ca
            new = new.model_copy(update={name: getattr(old, name) for name in keep})
            check_access(loaded._replace(settings=new))  # with the address that is listened on now
            check_console(loaded._replace(settings=new))
        except Exception as error:
            log.error("reload: %s; the settings stay as they were", _why(error))
            return
        try:
            self._use(new, personas)
        except Exception as error:
            log.error("reload: %s; the settings stay as they were", _why(error))
            self._use(old, old_personas)
            return
        if ca != self._ca:
            changed.add("engine_ca_file")  # under the same name, the file may be another one
        self._loaded, self._ca = loaded._replace(settings=new), ca
        for note in loaded.notes:
            log.warning("%s", note)
        told = _told(changed - keep, Reading(old, old_personas), Reading(new, personas))
        nothing = "nothing that takes effect without a restart" if keep else "nothing"
        log.info("reloaded: %s", told or f"{nothing} has changed")
        if keep:
            log.warning("reload: a change of %s needs a restart", _list(keep))

    def _read_all(self) -> tuple[Loaded, Personas, str]:
        loaded = self._read()
        personas = read_personas(loaded)
        announcements.load(personas.greetings)
        return loaded, personas, contents(loaded.settings.engine_ca_file)

    def _use(self, settings: Settings, personas: Personas) -> None:
        bridge = self._bridge
        bridge.registry.personas = personas
        bridge.registry.playout = playout_options(settings)
        bridge.pool.keep_warm(warm_sessions(personas))
        bridge.opener.settings = settings
        bridge.access.use(settings)
        if bridge.console is not None:
            bridge.console.use(settings)
        bridge.shedding.use(settings.shed_above_lag_ms, settings.shed_below_lag_ms)
        if settings.engines:
            bridge.pool.replace_engines(engine_addresses(settings))
        bridge.names.use(settings.unknown_names)
        bridge.voice_watch.look_again()


def _told(changed: set[str], old: Reading, new: Reading) -> str:
    """What has changed, by name; empty if nothing has. Values are not told, as they may be secrets."""
    told = [f"changed settings: {_list(changed)}"] if changed else []
    personas = {
        **{name: ["removed"] for name in old.personas if name not in new.personas},
        **{name: ["new"] for name in new.personas if name not in old.personas},
        **changed_personas(old, new),
    }
    told += [f"persona {name}: {', '.join(personas[name])}" for name in sorted(personas)[:MAX_PERSONAS]]
    if len(personas) > MAX_PERSONAS:
        told.append(f"and {len(personas) - MAX_PERSONAS} more personas")
    return "; ".join(told)


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _why(error: Exception) -> str:
    """Why a reload failed, in one line."""
    match error:
        case ConfigError():
            return _shortened(str(error))
        case TimeoutError():
            return f"reading the files took longer than {READ_TIMEOUT_S:g} s"
        case _:
            # A fault of pxbridge's own. Its text is left out, because it may quote a secret.
            *_, last = traceback.extract_tb(error.__traceback__)
            return f"{type(error).__name__} at {Path(last.filename).name}, line {last.lineno}"


def _shortened(problem: str) -> str:
    """A problem without its middle, if it is long: its beginning says where, and its end says what."""
    if len(problem) <= MAX_PROBLEM_CHARS:
        return problem
    return f"{problem[: MAX_PROBLEM_CHARS // 2]} ... {problem[-MAX_PROBLEM_CHARS // 2 :]}"


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread that is not waited for when the process ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            settle_soon(done.set_exception, error)
        else:
            settle_soon(done.set_result, result)

    def settle_soon(settle: Callable[[Any], None], outcome: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(settle_unless_cancelled, settle, outcome)

    def settle_unless_cancelled(settle: Callable[[Any], None], outcome: object) -> None:
        if not done.cancelled():
            settle(outcome)

    threading.Thread(target=run, name="reload", daemon=True).start()
    return await done
