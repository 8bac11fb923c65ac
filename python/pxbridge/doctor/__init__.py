"""What an operator would find out one night at a time, found out now.

Each check looks at one thing, changes nothing, takes seconds at most, and comes with the mend for what is
wrong. An engine is talked to only where nobody else may have it: NVIDIA's server keeps a second client
waiting without a word, and the bridge that owns the engine would find it taken.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pxbridge import settings as configuration
from pxbridge.app.observability import check_console
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
    """Looks at everything, and tells what it finds as it finds it.

    Args:
        flags: As `pxbridge.settings.load` takes them.
        environ: The environment that the bridge would have.
    """
    yield codec.round_trip()
    yield machine.clock(time.time())
    try:
        loaded = configuration.load(flags, environ)
    except ConfigError as error:
        yield _of_error("settings", error)
        return  # what the other checks should look at is not known
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
    ports, ours_runs = await machine.ports(loaded.settings)
    for finding in ports:
        yield finding
    async for finding in engines.look_at(loaded, personas, ours_runs=ours_runs):
        yield finding


def _settings(loaded: Loaded) -> Iterator[Finding]:
    try:
        notes = [*loaded.notes, *configuration.check_access(loaded)]
        check_console(loaded)
    except ConfigError as error:
        yield _of_error("settings", error)
        return
    yield good("settings", f"{len(loaded.origins)} given, all as they should be")
    for text in notes:
        yield note("settings", text)


def _of_error(check: str, error: ConfigError) -> Finding:
    """An error of the start: its text is the mend already."""
    return wrong(check, f"{error.setting} ({error.source}) is wrong", error.problem)
