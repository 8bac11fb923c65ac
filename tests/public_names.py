"""Every name that somebody outside of the code relies on: settings, flags, metrics, columns and JSON keys.

`collect` reads them off running programs, so that what counts is what comes out.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families
from tests.fault.processes import bridge_process, fetch, program, until

from pxbridge.cli import COMMANDS, _declare
from pxbridge.commands.load_measurement import Load, Row
from pxbridge.commands.processes import free_port
from pxbridge.settings import Settings, add_arguments, variable
from pxbridge.settings.persona_file import KEYS
from pxbridge.simulation.phone import Line, Phone, Script, place_call

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    Names = dict[str, Any]

CONFIG = """
[personas.nurse]
text_prompt = "You are a nurse."
record = true
keys = { "0" = { hand_over = ["+911"] } }
"""
OPEN_LABELS = {"engine", "version", "le"}
"""Their values depend on the installation, or are bounds of histograms."""
NOT_JSON_OF_OURS = {"timestamp", "level", "logger", "event"}


async def collect(folder: Path) -> Names:
    """The names, as lists in order, by where they appear.

    Args:
        folder: An empty folder for the state of the programs.
    """
    return {
        "settings": {name: variable(name) for name in Settings.model_fields},
        "flags": _options(add_arguments),
        "commands": {name: _options(partial(_declare, name)) for name in COMMANDS},
        "persona keys": list(KEYS),
        "bench --json": {"load": _fields(Load), "row": _fields(Row)},
        **await _of_a_call(folder / "call"),
        "metrics with a store": await _of_a_store(folder / "store"),
    }


def _options(add: Any) -> list[str]:
    parser = argparse.ArgumentParser()
    add(parser)
    return sorted(name for action in parser._actions for name in (action.option_strings or [action.dest]))


def _fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


async def _of_a_call(state: Path) -> Names:
    """One call that is handed over by a key, with everything that tells of it."""
    config = _config(state)
    console = f"http://127.0.0.1:{(console_port := free_port())}"
    observed: list[Mapping[str, Any]] = []
    async with bridge_process(
        config=str(config), state_dir=str(state), console_port=str(console_port), log_level="debug"
    ) as bridge:

        async def get(path: str) -> str:
            return (await asyncio.to_thread(fetch, console + path))[1]

        phone = Phone(Script(hang_up_at_s=60.0), Line(call_sid="CA1", dtmf=((2.5, "0"),)))
        url = f"ws://127.0.0.1:{bridge.port}/exotel/nurse"
        calling = asyncio.create_task(place_call(url, phone, observe=observed.append))
        await until(lambda: bridge.said('"agent heard"'), "the agent is heard")
        live = json.loads(await get("/api/calls"))
        await calling
        other = await bridge.call(Script(hang_up_at_s=60.0), Line(call_sid="CA2"))
        answers = [await asyncio.to_thread(_post, console + "/api/calls/end", call) for call in ("CA2", "?")]
        await until(lambda: other.close_code is not None, "the second call is over")
        after = json.loads(await get("/api/calls"))
        metrics = await get("/metrics")
        lines = [line for line in bridge.lines if line.startswith("{")]
        await until(lambda: _recording(state), "the call is in the records")
    at = {"PXBRIDGE_STATE_DIR": str(state)}
    record = json.loads(await _output("calls", "show", "CA1", "--json", environ=at))
    csv = (await _output("calls", "--csv", environ=at)).splitlines()[0]
    checked = json.loads(await _output("check-config", "--json", environ={"PXBRIDGE_CONFIG": str(config)}))
    doctor = (await _output("doctor", "--json", environ={**at, "PXBRIDGE_PORT": "0"})).splitlines()
    with closing(sqlite3.connect(state / "calls.db")) as connection:
        tables = {
            name: [column for _, column, *_ in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    return {
        "calls.db": tables,
        "calls --csv": csv.split(","),
        "calls show --json": {
            "call": sorted(record),
            "counters": {name: sorted(counters) for name, counters in record["counters"].items()},
            "events": _by(record["events"], "kind"),
            "words": _keys(record["words"]),
        },
        "check-config --json": {
            "": sorted(checked),
            "settings": {"": list(checked["settings"]), "each": _keys(checked["settings"].values())},
            "personas": {"each": _keys(checked["personas"].values())},
        },
        "doctor --json": _keys(map(json.loads, doctor)),
        "/api/calls": {"": sorted(live), "live": _keys(live["live"]), "recent": _keys(after["recent"])},
        "/api/calls/end": [sorted(answer) for answer in answers],
        "observed": _by(observed, "kind"),
        "log": {
            event: keys
            for event, keys in _by(
                (line for line in map(json.loads, lines) if line["logger"] == "pxbridge.call"), "event"
            ).items()
            if event != "call ended"  # its keys are those of a recent call, without what is not known
        },
        "metrics": _metrics(metrics),
    }


async def _of_a_store(state: Path) -> Names:
    """The metrics of a bridge whose store does not answer."""
    _config(state)
    port = free_port()
    async with bridge_process(
        state_dir=str(state),
        console_port=str(port),
        engines="ws://127.0.0.1:9",
        lease_store="redis://127.0.0.1:9/0",
    ):
        return _metrics((await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/metrics"))[1])


def _config(state: Path) -> Path:
    """A settings file in a new folder."""
    state.mkdir()
    config = state / "pxbridge.toml"
    config.write_text(CONFIG)
    return config


def _recording(state: Path) -> bool:
    with closing(sqlite3.connect(state / "calls.db")) as connection:
        rows = connection.execute("SELECT recording FROM calls WHERE ended_at IS NOT NULL").fetchall()
    return len(rows) == 2 and any(name for (name,) in rows)


def _post(url: str, call: str) -> Mapping[str, Any]:
    request = Request(url, json.dumps({"call": call}).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=10.0) as answer:
            return dict(json.loads(answer.read()))
    except HTTPError as error:
        with error:
            return dict(json.loads(error.read()))


async def _output(*words: str, environ: Mapping[str, str]) -> str:
    async with program("pxbridge", *words, environ=environ) as running:
        await running.process.wait()
    return running.log


def _keys(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({key for each in objects for key in each})


def _by(objects: Iterable[Mapping[str, Any]], name: str) -> dict[str, list[str]]:
    """The keys of JSON objects of each kind."""
    kinds: dict[str, set[str]] = {}
    for each in objects:
        kinds.setdefault(each[name], set()).update(each.keys() - NOT_JSON_OF_OURS)
    return {kind: sorted(keys) for kind, keys in sorted(kinds.items())}


def _metrics(text: str) -> dict[str, dict[str, list[str]]]:
    """For each metric of ours, its labels and their values."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("pxbridge_"):
                labels = found.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add("*" if label in OPEN_LABELS else value)
    return {
        name: {label: sorted(values) for label, values in labels.items()}
        for name, labels in sorted(found.items())
    }
