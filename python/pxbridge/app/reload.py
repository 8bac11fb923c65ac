"""SIGHUP: changed settings come into force for new calls, without a restart.

Live calls keep what they started with. A setting that cannot change in a running process (`RELOADED` lists
those that can) keeps its value, and the log names it. Wrong settings change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pxbridge.app.assembly import engine_addresses, playout_options, warm_sessions
from pxbridge.errors import ConfigError
from pxbridge.settings import Settings, check_access
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from collections.abc import Callable

    from pxbridge.app.assembly import Bridge
    from pxbridge.calls.persona import Personas
    from pxbridge.settings import Loaded

log = logging.getLogger("pxbridge")

RELOADED = {
    "allow_anonymous",
    "allowed_networks",
    "credentials",
    "engines",
    "engine_ca_file",
    "engine_connect_timeout_s",
    "engine_fingerprint",
    "engine_handshake_timeout_s",
    "engine_insecure",
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
    "voice_prompt",
    "warm_sessions",
}
"""Settings that SIGHUP puts in force for new calls."""


class Reloader:
    """Puts changed settings and personas in force.

    Args:
        loaded: The settings in force.
        read: Reads them again.
        bridge: What they change.
    """

    def __init__(self, loaded: Loaded, read: Callable[[], Loaded], bridge: Bridge) -> None:
        self._loaded = loaded
        self._read = read
        self._bridge = bridge

    async def reload(self) -> None:
        """Reads the settings and changes what can be changed. An error is logged and changes nothing."""
        old = self._loaded.settings
        try:
            # In a thread, because reading files would hold up the live calls.
            loaded, personas = await asyncio.to_thread(self._read_all)
            new = loaded.settings
            changed = {name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)}
            keep = changed - RELOADED
            if bool(old.engines) != bool(new.engines):
                keep.add("engines")  # the rehearsal engine starts and ends with the process
            new = new.model_copy(update={name: getattr(old, name) for name in keep})
            check_access(loaded._replace(settings=new))  # with the address that is listened on now
        except ConfigError as error:
            log.error("reload: %s; the settings stay as they were", error)
            return
        self._loaded = loaded._replace(settings=new)
        self._use(new, personas)
        for note in loaded.notes:
            log.warning("%s", note)
        log.info("reloaded: %d personas; changed settings: %s", len(personas), _list(changed - keep))
        if keep:
            log.warning("reload: a change of %s needs a restart", _list(keep))

    def _read_all(self) -> tuple[Loaded, Personas]:
        loaded = self._read()
        return loaded, read_personas(loaded)

    def _use(self, settings: Settings, personas: Personas) -> None:
        bridge = self._bridge
        bridge.registry.personas = personas
        bridge.registry.playout = playout_options(settings)
        bridge.pool.keep_warm(warm_sessions(personas))
        bridge.opener.settings = settings
        bridge.access.use(settings)
        bridge.shedding.use(settings.shed_above_lag_ms, settings.shed_below_lag_ms)
        if settings.engines:
            bridge.pool.replace_engines(engine_addresses(settings))


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
