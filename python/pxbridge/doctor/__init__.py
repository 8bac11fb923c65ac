"""Finds problems of settings, engines and machine before callers do, each with its fix.

A check looks at one thing, changes nothing and takes seconds at most. It talks to an engine only if no bridge
can be using it: NVIDIA's server lets a second client wait in silence, and the bridge that owns the engine
would find it busy.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pxbridge import settings as configuration
from pxbridge.app.console import check_console
from pxbridge.doctor import codec, engines, machine, serving
from pxbridge.doctor.finding import Finding, Verdict, good, note, wrong
from pxbridge.errors import ConfigError
from pxbridge.settings.persona_file import read_personas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from pxbridge.calls.persona import Personas
    from pxbridge.settings import Loaded

__all__ = ["Finding", "Verdict", "examine"]


async def examine(flags: Mapping[str, object], environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Runs all checks; yields each finding as soon as it is known.

    Args:
        flags: The settings of the command line, as `pxbridge.settings.load` takes them.
        environ: The environment of the bridge.
    """
    yield codec.round_trip()
    yield machine.clock(time.time())
    try:
        loaded = configuration.load(flags, environ)
    except ConfigError as error:
        yield _of_error("settings", error)
        return  # the other checks need the settings
    personas: Personas | None = None
    for finding in _settings(loaded):
        yield finding
    try:
        personas = read_personas(loaded)
        yield good("personas", f"{len(personas)}: {', '.join(personas)}")
    except ConfigError as error:
        yield _of_error("personas", error)
    yield machine.descriptors(loaded.settings)
    for finding in machine.disk(configuration.state_folder(loaded.settings, environ)):
        yield finding
    for finding in serving.certificate(loaded, time.time()):
        yield finding
    ports, bridge_runs = await machine.ports(loaded.settings)
    for finding in ports:
        yield finding
    async for finding in engines.check(loaded, personas, bridge_runs=bridge_runs):
        yield finding


def _settings(loaded: Loaded) -> Iterator[Finding]:
    try:
        notes = [*loaded.notes, *configuration.check_access(loaded)]
        check_console(loaded)
    except ConfigError as error:
        yield _of_error("settings", error)
        return
    yield good("settings", f"{len(loaded.origins)} given, all valid")
    for text in notes:
        yield note("settings", text)


def _of_error(check: str, error: ConfigError) -> Finding:
    """An error that would stop the start. Its text contains the fix."""
    return wrong(check, f"{error.setting} ({error.source}) is wrong", error.problem)
