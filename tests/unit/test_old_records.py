"""A `calls.db` that commit 2a4ded3 wrote is read by today's code, whole.

It holds three calls: one that was recorded and handed over by a key, a short one, and one whose bridge was
killed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from tests.call.rig import VECTORS

from pxbridge import cli
from pxbridge.calls.numbers import Numbers
from pxbridge.commands import calls as command
from pxbridge.records import database
from pxbridge.records.database import Query
from pxbridge.records.writer import RecordWriter

if TYPE_CHECKING:
    from pathlib import Path

HANDED_OVER, SHORT, CUT_OFF = (
    "5f8e21c3a4b94d0e8d1c7be2f0a61f35",
    "0c5a7d2e9b1f4a63b7e84d20f1c9a852",
    "a7c1f0e45d3b4c9286be1f7d0a52c3e8",
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    shutil.copy(VECTORS / "calls-2a4ded3.db", tmp_path / database.FILE)
    return tmp_path


def printed(monkeypatch: pytest.MonkeyPatch, state: Path, *words: str) -> str:
    """What `pxbridge calls ...` prints."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([*words, "--state-dir", str(state)])
    out, console = io.StringIO(), io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        assert asyncio.run(command.run(args, Console(file=console, width=200))) == 0
    return out.getvalue() or console.getvalue()


def test_every_value_of_an_old_file_is_read(state: Path) -> None:
    with closing(sqlite3.connect(VECTORS / "calls-2a4ded3.db")) as old:
        old.row_factory = sqlite3.Row
        rows = {row["call"]: dict(row) for row in old.execute("SELECT * FROM calls")}
    with closing(database.open_database(state / database.FILE)) as connection:
        found = database.find(connection, Query())
        whole = {call: database.one(connection, call) for call in rows}
    assert [call["call"] for call in found] == [CUT_OFF, SHORT, HANDED_OVER]
    for call, row in rows.items():
        read = whole[call]
        assert read is not None
        counters, figures = json.loads(row.pop("counters")), json.loads(row.pop("figures"))
        assert read.items() >= row.items()
        assert read["counters"] == counters
        assert read.keys() >= figures.keys()
    first = whole[HANDED_OVER]
    assert first is not None
    assert first["recording"] == f"{HANDED_OVER}.wav"
    assert [event["kind"] for event in first["events"]] == [
        "started", "persona", "phase", "engine tried", "phase", "live", "heard", "key", "action", "phase",
        "ended",
    ]  # fmt: skip
    assert [words["text"][:5] for words in first["words"]] == ["Hello"]


def test_an_old_file_is_listed_and_shown(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    listed = printed(monkeypatch, state)
    for call, outcome in ((HANDED_OVER, "handed_over"), (SHORT, "completed"), (CUT_OFF, "live")):
        assert any(call[:12] in line and outcome in line for line in listed.splitlines())
    shown = printed(monkeypatch, state, "show", HANDED_OVER)
    for text in ("handed over by the key 0", "nurse", "211 ms", f"{HANDED_OVER}.wav", "Hello, this is"):
        assert text in shown
    assert "queue at the carrier 136 ms" in shown
    assert re.search(r"mouth to ear +211 ms \(p95 \d+ ms\)", shown)
    assert re.search(r"phone's chunk \d+ ms, intake \d+ ms, ", shown)
    as_json: list[dict[str, Any]] = json.loads(printed(monkeypatch, state, "--json"))
    assert [call["delay_exotel_s"] for call in as_json] == [None, 0.1285, 0.1363]
    assert len(printed(monkeypatch, state, "--csv").splitlines()) == 4


def test_events_are_told_in_sentences(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    shown = printed(monkeypatch, state, "show", HANDED_OVER)
    events = shown[shown.index("events") : shown.index("the agent's words")]
    told = [line.split(" s  ", 1)[1] for line in events.splitlines() if " s  " in line]
    for sentence in ("agent: nurse", "agent ready: ws", "agent heard after ", "key pressed", "ended by the "):
        assert any(each.startswith(sentence) for each in told), told
    assert not any(word in each for each in told for word in ("warm yes", "name ", "record no", "{")), told


def test_an_outcome_that_no_call_has_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calls", "--outcome", "lost"]) == cli.EXIT_UNUSABLE
    assert "'no_engine', 'engine_failed'" in capsys.readouterr().err


def test_an_old_file_is_written_on_with_the_call_of_a_killed_bridge_marked(state: Path) -> None:
    with closing(sqlite3.connect(state / database.FILE)) as connection, connection:
        connection.execute("UPDATE calls SET process = 4000000")  # above the largest process id
    writer = RecordWriter(state, Numbers(), keep_s=1e12, keep_bytes=10**9)
    writer.close()
    assert writer.errors == 0
    with closing(database.open_database(state / database.FILE)) as connection:
        outcomes = [call["outcome"] for call in database.find(connection, Query())]
    assert outcomes == [database.CUT_OFF, "completed", "handed_over"]
