"""The records of calls: what is kept, how long, and what happens when it cannot be."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pxbridge import cli
from pxbridge.calls.call import CallRecord, Ending, Party
from pxbridge.calls.events import Event, Kind
from pxbridge.calls.numbers import Numbers
from pxbridge.commands import calls as command
from pxbridge.errors import InputError
from pxbridge.records import database, purge_clock
from pxbridge.records import writer as record_writer
from pxbridge.records.database import Query
from pxbridge.records.purge_clock import PurgeClock
from pxbridge.records.writer import RecordWriter

if TYPE_CHECKING:
    from collections.abc import Callable

BEGAN_AT = 1_700_000_000.0
CALLER = "+919876501234"


def make_writer(folder: Path, **changes: Any) -> RecordWriter:
    given: dict[str, Any] = {"keep_s": 1e10, "keep_bytes": 10**9, "wall": lambda: BEGAN_AT, "retry_s": 0.01}
    return RecordWriter(folder, Numbers(), **(given | changes))


def live_call(writer: RecordWriter, name: str = "c1") -> CallRecord:
    """A call that has begun."""
    record = CallRecord(
        peer="203.0.113.7", call_id=name, stream_id="s", caller=CALLER, persona="nurse", opened_s=10.0
    )
    record.started_s, record.rate_hz = 10.5, 8000
    writer(record, Event(Kind.STARTED, 10.5, {"caller": CALLER, "called": "", "custom": {"pin": "0815"}}))
    return record


def end(writer: RecordWriter, record: CallRecord) -> None:
    record.ended_s, record.ending = 70.0, Ending(Party.PHONE, "stop")
    record.stats = {
        "uplink": {"stalls": 2, "holds": 1, "slow": 3, "withheld": 20_000, "drift_ppm": -40.0},
        "downlink": {"holes": 1, "first_sound_us": 10_520_000, "first_audio_us": 11_000_000},
    }
    writer(record, Event(Kind.ENDED, 70.0, {"by": "phone", "reason": "stop"}))


def whole_call(writer: RecordWriter, name: str = "c1") -> None:
    record = live_call(writer, name)
    record.ready_s = record.live_s = 10.75
    writer(record, Event(Kind.LIVE, 10.75, {"engine": "ws://gpu1", "prompt_s": 0.2}))
    writer(record, Event(Kind.KEY, 12.0, {"digit": "7"}))
    for at_s, text in ((13.0, "Good"), (13.1, " day."), (20.0, " Who"), (20.2, " is it?")):
        writer(record, Event(Kind.WORDS, at_s, {"text": text}))
    end(writer, record)


def read(folder: Path, query: Query | None = None) -> list[dict[str, Any]]:
    with closing(database.open_database(folder / database.FILE)) as connection:
        return database.find(connection, query or Query(limit=1000))


def show(folder: Path, name: str) -> dict[str, Any] | None:
    with closing(database.open_database(folder / database.FILE)) as connection:
        return database.one(connection, name)


def wait_for(true: Callable[[], object], limit_s: float = 10.0) -> None:
    """Until the writer's thread has got so far."""
    until = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < until, "it does not happen"
        threading.Event().wait(0.002)


def test_a_call_has_a_row_with_its_events_and_the_agents_words(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    whole_call(writer)
    writer.close()
    call = show(tmp_path, "c1")
    assert call is not None
    assert (call["outcome"], call["ended_by"], call["persona"]) == ("completed", "phone", "nurse")
    assert (call["duration_s"], call["setup_s"], call["first_audio_s"]) == (60.0, 0.25, 0.5)
    assert call["first_sound_s"] == 0.02
    assert call["ended_at"] - call["began_at"] == pytest.approx(60.0)
    assert (call["holes"], call["stalls"]) == (1, 2)
    assert [event["kind"] for event in call["events"]] == ["started", "live", "key", "ended"]
    assert [(words["at_s"], words["text"]) for words in call["words"]] == [
        (3.0, "Good day."),
        (10.0, "Who is it?"),
    ]
    assert writer.dropped == writer.errors == 0


def test_neither_numbers_nor_keys_nor_parameters_are_in_the_file(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    whole_call(writer)
    writer.close()
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"1234" in everything
    assert CALLER.encode() not in everything and b"0815" not in everything and b"digit" not in everything


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    make_writer(folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / database.FILE).stat().st_mode) == 0o600


def test_a_live_call_can_be_seen_before_it_ends(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    record = live_call(writer)
    wait_for(lambda: writer.written == 2)
    assert [(call["outcome"], call["ended_at"]) for call in read(tmp_path)] == [("live", None)]
    end(writer, record)
    writer.close()
    assert [call["outcome"] for call in read(tmp_path)] == ["abandoned"]


def test_without_its_bridge_a_call_without_an_end_is_shown_as_last_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PXBRIDGE_CONSOLE_PORT", "0")
    writer = make_writer(tmp_path)
    live_call(writer)
    writer.close()
    _, shown = calls_command(tmp_path, "show", "c1")
    assert "still live" not in shown and "not yet, in the records" in shown
    assert "as last written, not as it is now: PXBRIDGE_CONSOLE_PORT is 0" in shown
    assert "0 holes" not in calls_command(tmp_path)[1]


def test_a_database_of_version_1_is_brought_forward_with_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / database.FILE
    with closing(sqlite3.connect(file)) as old:
        old.executescript(database.MIGRATIONS[0])
        old.execute("PRAGMA user_version = 1")
        row = dict.fromkeys(database.COLUMNS, "x") | {"began_at": 5.0, "figures": "{}", "counters": "{}"}
        old.execute(database.PUT_CALL, row)
        old.commit()
    writer = make_writer(tmp_path)
    whole_call(writer)
    writer.close()
    old_call, new_call = sorted(read(tmp_path), key=lambda call: str(call["began_at"]))
    assert {old_call["call"], new_call["call"]} == {"x", "c1"}
    assert old_call["recording"] is None
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(database.MIGRATIONS),)


def test_a_database_of_a_newer_version_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / database.FILE
    with closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = file.read_bytes()
    writer = make_writer(tmp_path)
    whole_call(writer)
    wait_for(lambda: writer.errors)
    writer.close()
    assert file.read_bytes() == before
    assert "written by a newer pxbridge" in caplog.text
    assert writer.dropped > 0


def full_disk(most_pages: list[int]) -> Callable[[Path], sqlite3.Connection]:
    """Databases that may grow to so many pages: SQLite's own "database or disk is full"."""

    def connect(file: Path) -> sqlite3.Connection:
        connection = database.open_database(file)
        connection.execute(f"PRAGMA max_page_count = {most_pages[0]}")
        return connection

    return connect


def test_a_full_disk_is_told_once_and_writing_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    most_pages = [20]
    writer = make_writer(tmp_path, connect=full_disk(most_pages))
    for number in range(60):
        whole_call(writer, f"c{number}")
    wait_for(lambda: writer.errors >= 3)
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "full" in caplog.text and "calls go on" in caplog.text
    most_pages[0] = 100_000
    wait_for(lambda: "written again" in caplog.text)
    writer.close()
    assert len(read(tmp_path)) == 60
    assert writer.dropped == 0


def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_file: Path) -> sqlite3.Connection:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_writer, "MAX_ROWS", 10)
    writer = make_writer(tmp_path, connect=connect)
    began = time.perf_counter()
    for number in range(1000):
        live_call(writer, f"c{number}")
    assert time.perf_counter() - began < 2.0, "calls waited for the disk"
    writer.close()
    assert writer.dropped >= 2 * 1000 - 10 - record_writer.MAX_BATCH
    assert writer.written == 0


def test_a_locked_database_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.01)
    database.open_database(tmp_path / database.FILE).close()
    with closing(sqlite3.connect(tmp_path / database.FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        writer = make_writer(tmp_path)
        whole_call(writer)
        wait_for(lambda: writer.errors)
        other.execute("ROLLBACK")
    writer.close()
    assert len(read(tmp_path)) == 1
    assert "locked" in caplog.text


def test_a_file_that_is_no_database_costs_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / database.FILE).write_bytes(b"not a database at all" * 100)
    writer = make_writer(tmp_path)
    whole_call(writer)
    wait_for(lambda: writer.errors)
    writer.close()
    assert "not a database" in caplog.text
    assert (tmp_path / database.FILE).read_bytes().startswith(b"not a database")


def test_a_row_that_cannot_be_written_keeps_out_no_other(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    whole_call(writer, "odd \ud800")
    whole_call(writer, "fine")
    writer.close()
    assert [call["call"] for call in read(tmp_path)] == ["fine"]
    assert writer.dropped > 0


def test_calls_that_are_too_old_are_forgotten_with_all_that_belongs_to_them(tmp_path: Path) -> None:
    old = make_writer(tmp_path)
    whole_call(old, "old")
    old.close()
    recordings = tmp_path / database.RECORDINGS
    recordings.mkdir()
    for name, age_s in (("old.wav", 100.0), ("new.wav", 1.0)):
        (recordings / name).write_bytes(b"RIFF")
        os.utime(recordings / name, (BEGAN_AT + 200.0 - age_s,) * 2)
    new = make_writer(tmp_path, keep_s=50.0, wall=lambda: BEGAN_AT + 200.0)
    whole_call(new, "new")
    new.close()
    assert [call["call"] for call in read(tmp_path)] == ["new"]
    with closing(sqlite3.connect(tmp_path / database.FILE)) as connection:
        for table in ("events", "words"):
            assert connection.execute(f"SELECT count(DISTINCT key) FROM {table}").fetchone() == (1,)
    assert [path.name for path in recordings.iterdir()] == ["new.wav"]


def test_the_oldest_go_first_when_all_is_too_much_recordings_before_records(tmp_path: Path) -> None:
    recordings = tmp_path / database.RECORDINGS
    recordings.mkdir()
    for number in range(10):
        (recordings / f"{number}.wav").write_bytes(bytes(100_000))
        os.utime(recordings / f"{number}.wav", (BEGAN_AT + number,) * 2)
    for number in range(3):
        writer = make_writer(tmp_path, keep_bytes=500_000, wall=lambda n=number: BEGAN_AT + 60 * n)
        whole_call(writer, f"c{number}")
        writer.close()
    kept = sorted(path.name for path in recordings.iterdir())
    assert kept == [f"{number}.wav" for number in range(10 - len(kept), 10)] and 2 <= len(kept) <= 4
    assert len(read(tmp_path)) == 3


def test_a_bridge_that_died_leaves_no_call_that_seems_to_go_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    writer = make_writer(tmp_path)
    live_call(writer, "cut")
    wait_for(lambda: writer.written == 2)
    writer.close()
    with closing(sqlite3.connect(tmp_path / database.FILE, isolation_level=None)) as connection:
        connection.execute("UPDATE calls SET process = ?", (dead.pid,))
    make_writer(tmp_path).close()
    writer = make_writer(tmp_path)
    whole_call(writer, "next")
    writer.close()
    outcomes = {call["call"]: call["outcome"] for call in read(tmp_path)}
    assert outcomes == {"cut": database.CUT_OFF, "next": "completed"}


def test_a_killed_process_leaves_a_database_that_can_be_read(tmp_path: Path) -> None:
    writing = (
        "import sys, pathlib, itertools\n"
        "from tests.unit.test_records import make_writer, whole_call\n"
        "writer = make_writer(pathlib.Path(sys.argv[1]))\n"
        "for number in itertools.count():\n"
        "    whole_call(writer, f'c{number}')\n"
        "    while writer._jobs.qsize() > 1000: pass\n"
        "    if number == 200: print('going', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", writing, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"going\n"
        process.send_signal(signal.SIGKILL)
    calls = read(tmp_path, Query(limit=10**6))
    assert len(calls) >= 30
    with closing(database.open_database(tmp_path / database.FILE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def calls_command(folder: Path, *words: str) -> tuple[int, str]:
    """`pxbridge calls`, and what it prints."""
    printed = io.StringIO()
    parser = __import__("argparse").ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([*words, "--state-dir", str(folder)])
    status = asyncio.run(command.run(args, Console(file=printed, width=200)))
    return status, printed.getvalue()


def test_the_command_lists_calls_and_shows_one(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    whole_call(writer, "first")
    whole_call(writer, "se\x1b[31mcond")
    status, listed = calls_command(tmp_path)
    wait_for(lambda: "first" in calls_command(tmp_path)[1])
    status, listed = calls_command(tmp_path)
    assert status == 0 and "first" in listed and "completed" in listed and "\x1b" not in listed
    status, shown = calls_command(tmp_path, "show", "firs")
    writer.close()
    assert status == 0
    assert "203.0.113.7" in shown
    assert "Who is it?" in shown and "by the phone, stop" in shown and "engine ws://gpu1" in shown
    assert "1 ×; 2.5 s of the caller withheld" in shown and "40 ppm slow" in shown
    assert "3 ×: it got less than was said" in shown
    status, shown = calls_command(tmp_path, "show", "nobody")
    assert (status, shown) == (1, "no call has an id that begins with nobody\n")


def test_what_the_command_shows_of_a_call_is_written_for_people(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    record = live_call(writer, "422ae84269554ff79a408dc15af1f270")
    record.live_s = 10.75
    writer(record, Event(Kind.LIVE, 10.75, {"engine": "ws://gpu1", "prompt_s": 2 / 3, "warm": False}))
    end(writer, record)
    writer.close()
    _, shown = calls_command(tmp_path, "show", "422ae8426955")
    assert "agent ready: ws://gpu1, prompted in 667 ms" in shown
    assert "1 hole, the longest" in shown and "2 stalls of the phone, the longest" in shown
    assert "1 holes" not in shown and "0.666" not in shown and "False" not in shown
    _, listed = calls_command(tmp_path)
    assert "422ae8426955" in listed and "422ae84269554ff79a408dc15af1f270" not in listed


def test_a_beginning_that_several_calls_have_shows_none_of_them(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    for name in ("CA12", "CA13", "CA1", "CA1"):
        whole_call(writer, name)
    writer.close()
    with pytest.raises(InputError, match=r"3 calls have an id that begins with CA: CA.*, CA.*, CA"):
        calls_command(tmp_path, "show", "CA")
    assert "CA12" in calls_command(tmp_path, "show", "CA12")[1]
    assert calls_command(tmp_path, "show", "CA1")[0] == 0, "an id that is the beginning of another one"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["show", "CA1", "CA2"], "remove 'CA2'"),
        (["end", "CA1", "+911"], r"remove '\+911'"),
        (["end"], "pxbridge calls --live"),
        (["hand-over"], "pxbridge calls --live"),
        (["end", "CA1", "--csv"], "--csv is for lists"),
    ],
)
def test_words_that_make_no_sense_are_answered(tmp_path: Path, words: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        calls_command(tmp_path, *words)


def test_the_command_speaks_json_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = make_writer(tmp_path)
    whole_call(writer, "=HYPERLINK(1)")
    writer.close()
    calls_command(tmp_path, "--json")
    assert json.loads(capsys.readouterr().out)[0]["call"] == "=HYPERLINK(1)"
    calls_command(tmp_path, "--csv")
    header, row = csv.reader(io.StringIO(capsys.readouterr().out))
    told = dict(zip(header, row, strict=True))
    assert told["call"] == "'=HYPERLINK(1)", "a spreadsheet would run it"
    assert (told["outcome"], told["duration_s"], told["holes"]) == ("completed", "60.0", "1")
    calls_command(tmp_path, "show", "=HYP", "--json")
    assert json.loads(capsys.readouterr().out)["words"][0]["text"] == "Good day."


def test_the_command_works_when_there_is_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = calls_command(tmp_path)
    assert status == 0 and "no calls yet" in printed
    assert not list(tmp_path.iterdir())
    assert calls_command(tmp_path, "--json")[0] == 0
    assert json.loads(capsys.readouterr().out) == []


def test_calls_can_be_narrowed_down(tmp_path: Path) -> None:
    for number in range(5):
        writer = make_writer(tmp_path, wall=lambda n=number: BEGAN_AT + 3600 * n)
        whole_call(writer, f"c{number}")
        writer.close()
    assert [call["call"] for call in read(tmp_path, Query(limit=2))] == ["c4", "c3"]
    assert len(read(tmp_path, Query(since=BEGAN_AT + 3000))) == 4
    assert read(tmp_path, Query(outcome="no_engine")) == []
    assert command.moment("90m", BEGAN_AT) == BEGAN_AT - 5400
    with pytest.raises(InputError, match="neither an age like 90m"):
        command.moment("yesterday", BEGAN_AT)


def test_the_command_line_knows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calls", "--state-dir", str(tmp_path)]) == 0
    assert "no calls yet" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["file", "folder", "replaced"])
def test_a_database_that_is_deleted_or_replaced_is_made_anew_and_calls_are_recorded_there(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    writer = make_writer(folder)
    record = live_call(writer, "before")
    writer.recorded(record)("before.wav")
    wait_for(lambda: writer.written == 3)
    if harm == "file":
        (folder / database.FILE).unlink()
    elif harm == "folder":
        shutil.rmtree(folder)
    else:
        folder.rename(tmp_path / "moved")
        database.open_database(folder / database.FILE).close()
    end(writer, record)
    whole_call(writer, "after")
    writer.close()
    assert {call["call"]: call["recording"] for call in read(folder)} == {
        "before": "before.wav",
        "after": None,
    }
    assert f"{folder / database.FILE} was deleted or replaced; it is created again" in caplog.text
    assert writer.dropped == 0


def test_rows_that_were_written_while_the_file_was_deleted_are_written_again(tmp_path: Path) -> None:
    def connect(file: Path) -> sqlite3.Connection:
        connection = database.open_database(file)

        def delete(statement: str) -> None:
            if statement == "COMMIT" and not deleted:
                deleted.append(file)
                file.unlink()

        connection.set_trace_callback(delete)
        return connection

    deleted: list[Path] = []
    database.open_database(tmp_path / database.FILE).close()
    writer = make_writer(tmp_path, connect=connect)
    whole_call(writer, "c1")
    writer.close()
    assert deleted
    assert [call["call"] for call in read(tmp_path)] == ["c1"]
    assert writer.dropped == 0


DAY_S = 86_400.0


class Clocks:
    """The wall clock, which may be wrong, and the steady one."""

    def __init__(self) -> None:
        self.wall_s, self.steady_s = BEGAN_AT, 0.0

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds

    def writer(self, folder: Path, keep_s: float) -> RecordWriter:
        return make_writer(folder, keep_s=keep_s, wall=lambda: self.wall_s, steady=lambda: self.steady_s)


def names(folder: Path) -> set[str]:
    return {call["call"] for call in read(folder)}


def call_now(writer: RecordWriter, name: str) -> None:
    """A whole call, and the purge if one is due."""
    written = writer.written
    whole_call(writer, name)
    wait_for(lambda: writer.written >= written + 7)


def test_a_clock_that_jumped_ahead_deletes_nothing_and_old_records_go_when_it_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = Clocks()
    writer = clocks.writer(tmp_path, keep_s=10 * DAY_S)
    call_now(writer, "first")
    clocks.passes(3600.0)
    clocks.wall_s += 3650 * DAY_S
    call_now(writer, "while it is wrong")
    clocks.passes(3600.0)
    call_now(writer, "and still is")
    assert "first" in names(tmp_path)
    clocks.wall_s -= 3650 * DAY_S
    clocks.passes(3600.0)
    call_now(writer, "right again")
    assert {"first", "right again"} < names(tmp_path)
    clocks.passes(10 * DAY_S - 3600.0)
    call_now(writer, "ten days later")
    writer.close()
    assert "first" not in names(tmp_path)
    assert "right again" in names(tmp_path)
    assert caplog.text.count("the clock jumped ahead by 87600.0 hours") == 1
    assert caplog.text.count("the clock is right again") == 1


def test_a_process_that_starts_with_a_clock_years_ahead_deletes_a_day_an_hour(tmp_path: Path) -> None:
    clocks = Clocks()
    recordings = tmp_path / database.RECORDINGS
    recordings.mkdir()
    for day in range(5):
        writer = clocks.writer(tmp_path, keep_s=90 * DAY_S)
        whole_call(writer, f"day {day}")
        writer.close()
        (recordings / f"{day}.wav").write_bytes(b"RIFF")
        os.utime(recordings / f"{day}.wav", (clocks.wall_s,) * 2)
        clocks.passes(DAY_S)
    clocks.wall_s += 3650 * DAY_S
    writer = clocks.writer(tmp_path, keep_s=90 * DAY_S)
    call_now(writer, "wrong")
    assert names(tmp_path) == {*(f"day {day}" for day in range(1, 5)), "wrong"}
    assert sorted(file.name for file in recordings.iterdir()) == [f"{day}.wav" for day in range(1, 5)]
    call_now(writer, "at once")
    assert "day 1" in names(tmp_path)
    clocks.passes(3600.0)
    call_now(writer, "after an hour")
    writer.close()
    assert "day 1" not in names(tmp_path) and "day 2" in names(tmp_path)


def test_a_clock_that_stays_ahead_for_a_day_is_believed() -> None:
    clocks = Clocks()
    clock = PurgeClock(lambda: clocks.wall_s, lambda: clocks.steady_s)
    clocks.wall_s += 10 * DAY_S
    assert clock.now() == -math.inf
    clocks.passes(purge_clock.BELIEVED_AFTER_S - 1.0)
    assert clock.now() == -math.inf
    clocks.passes(1.0)
    assert clock.now() == pytest.approx(clocks.wall_s)
    clocks.passes(3600.0)
    assert clock.now() == pytest.approx(clocks.wall_s)


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(-1e9, 1e9)), max_size=20))
def test_a_clock_whatever_it_does_deletes_nothing_that_is_young_by_the_steady_clock(
    steps: list[tuple[float, float]],
) -> None:
    """What is believed is never ahead by more than small corrections, until a day has passed."""
    clocks = Clocks()
    clock = PurgeClock(lambda: clocks.wall_s, lambda: clocks.steady_s)
    began_s = clocks.steady_s
    for corrections, (passed_s, jump_s) in enumerate(steps, 1):
        clocks.passes(passed_s)
        clocks.wall_s += jump_s
        believed = clock.now()
        if clocks.steady_s - began_s < purge_clock.BELIEVED_AFTER_S:
            assert believed <= BEGAN_AT + (clocks.steady_s - began_s) + corrections * purge_clock.JUMP_S + 1.0


def test_rows_that_wait_when_the_bridge_ends_are_written_once(tmp_path: Path) -> None:
    is_full = False

    def connect(file: Path) -> sqlite3.Connection:
        if is_full:
            raise OSError(28, "No space left on device")
        return database.open_database(file)

    writer = make_writer(tmp_path, connect=connect, retry_s=60.0)
    call_now(writer, "before")
    is_full = True
    (tmp_path / database.FILE).unlink()
    whole_call(writer, "after")
    wait_for(lambda: writer.errors == 1)
    is_full = False
    writer.close()
    call = show(tmp_path, "after")
    assert call is not None
    assert [event["kind"] for event in call["events"]] == ["started", "live", "key", "ended"]
    assert len(call["words"]) == 2
    assert writer.dropped == 0


def put_recordings(folder: Path, **ages_s: float) -> Path:
    """Recordings that were last written so long before `BEGAN_AT`."""
    recordings = folder / database.RECORDINGS
    recordings.mkdir()
    for name, age_s in ages_s.items():
        (recordings / f"{name}.wav").write_bytes(bytes(1000))
        os.utime(recordings / f"{name}.wav", (BEGAN_AT - age_s,) * 2)
    return recordings


def keep_in_place(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes these files ones that cannot be deleted, as an immutable file is also for root."""
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name in names:
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)


def test_what_is_no_file_does_not_stop_the_deletion_of_old_recordings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recordings = put_recordings(tmp_path, old=3600.0, new=0.0)
    (recordings / "lost+found").mkdir()
    (recordings / "link").symlink_to(recordings / "new.wav")
    os.mkfifo(recordings / "fifo")
    for name in ("lost+found", "link", "fifo"):
        os.utime(recordings / name, (BEGAN_AT - 10 * DAY_S,) * 2, follow_symlinks=False)
    deleted = database.delete_old_recordings(recordings, since=BEGAN_AT - 60.0, max_bytes=1000)
    assert deleted == ["old.wav"]
    assert {path.name for path in recordings.iterdir()} == {"new.wav", "lost+found", "link", "fifo"}
    assert not caplog.messages


def test_recordings_that_cannot_be_deleted_are_told_once_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recordings = put_recordings(
        tmp_path, stuck=50 * DAY_S, old=20 * DAY_S, held=19.9 * DAY_S, later=19.8 * DAY_S, new=0.0
    )
    keep_in_place(monkeypatch, "stuck.wav", "held.wav")
    deleted = database.delete_old_recordings(recordings, since=BEGAN_AT - 10 * DAY_S, max_bytes=10**9)
    assert deleted == ["old.wav", "later.wav"]
    (message,) = caplog.messages
    assert message.startswith("2 recordings cannot be deleted") and "stuck.wav" in message


def test_a_recording_that_cannot_be_deleted_costs_no_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = put_recordings(tmp_path, stuck=30.0, old=20.0, new=10.0)
    keep_in_place(monkeypatch, "stuck.wav")
    assert database.delete_old_recordings(recordings, since=0.0, max_bytes=2000) == []
    assert database.delete_old_recordings(recordings, since=0.0, max_bytes=1000) == ["old.wav"]


def test_records_name_no_deleted_recording_if_another_one_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer(tmp_path)
    for name in ("first", "stuck"):
        record = live_call(writer, name)
        writer.recorded(record)(f"{name}.wav")
        end(writer, record)
    writer.close()
    recordings = put_recordings(tmp_path, first=200.0, stuck=100.0)
    keep_in_place(monkeypatch, "stuck.wav")
    with closing(database.open_database(tmp_path / database.FILE)) as connection:
        counts = database.delete_old(connection, recordings, since=BEGAN_AT - 50.0, max_bytes=10**9)
    assert counts == {"records": 0, "recordings": 1}
    assert {call["call"]: call["recording"] for call in read(tmp_path)} == {
        "first": None,
        "stuck": "stuck.wav",
    }
