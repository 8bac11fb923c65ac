"""Log lines: for machines, for people, with a call's ids, and never in a voice's way."""

from __future__ import annotations

import array
import asyncio
import io
import json
import logging
import re
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxbridge.calls.call import CallRecord, Ending, Party
from pxbridge.calls.events import CURRENT_CALL, Event, Kind
from pxbridge.calls.numbers import Form, Numbers
from pxbridge.ops import logs
from pxbridge.ops.human_lines import INDENT, failed, folded
from pxbridge.ops.logs import CallLog, Format, logging_to

CALLER = "+919876543210"


def lines(form: Format = "json", level: str = "info", **more: Any) -> list[str]:
    """What is written of one call."""
    stream = io.StringIO()
    with logging_to(stream, level, form):
        tell(CallLog(Numbers(**more)))
    return stream.getvalue().splitlines()


def tell(log_call: CallLog) -> None:
    record = CallRecord(call_id="c1", stream_id="s1", caller=CALLER, called="+918000000000", opened_s=1.0)
    record.started_s, record.rate_hz, record.persona = 1.1, 8000, "nurse"
    log_call(record, Event(Kind.STARTED, 1.1, {"caller": CALLER, "called": "", "custom": {"pin": "4711"}}))
    log_call(record, Event(Kind.KEY, 2.0, {"digit": "7"}))
    log_call(record, Event(Kind.WORDS, 2.0, {"text": "your secret"}))
    record.ended_s, record.ending = 9.0, Ending(Party.PHONE, "stop")
    log_call(record, Event(Kind.ENDED, 9.0, {"by": "phone", "reason": "stop"}))


def test_every_line_of_a_call_carries_its_ids_and_is_json() -> None:
    told = [json.loads(line) for line in lines()]
    assert [line["event"] for line in told] == ["call started", "call ended"]
    assert all((line["call"], line["stream"]) == ("c1", "s1") for line in told)
    assert all({"timestamp", "level", "logger"} <= line.keys() for line in told)


def test_a_call_tells_where_it_came_from_and_whoever_never_starts_one_can_be_told_from_others() -> None:
    stream = io.StringIO()
    records = [CallRecord(peer="203.0.113.7"), CallRecord(peer="203.0.113.8")]
    with logging_to(stream, "info", "json"):
        log_call = CallLog(Numbers())
        for record in records:
            log_call(record, Event(Kind.NOTE, 1.0, {"text": "odd"}))
            record.ending = Ending(Party.BRIDGE, "no start within 10 s", 1008)
            log_call(record, Event(Kind.ENDED, 9.0, {}))
        record = CallRecord(call_id="c1", peer="203.0.113.9", started_s=1.0)
        log_call(record, Event(Kind.STARTED, 1.1, {}))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["key"] for line in told] == [each.key for each in records for _ in "12"] + [record.key]
    assert [line.get("peer") for line in told] == [None, "203.0.113.7", None, "203.0.113.8", "203.0.113.9"]
    assert told[1]["outcome"] == "no_start"


CALL_ID, STREAM_ID = "422ae84269554ff79a408dc15af1f270", "0b57fb8c9d514c7f918ad5fb56dcd039"


def course_of_a_call(form: Format, **troubles: dict[str, float]) -> list[str]:
    """The lines of a call of two minutes with an agent, and with troubles that its line counted."""
    stream = io.StringIO()
    record = CallRecord(
        call_id=CALL_ID, stream_id=STREAM_ID, peer="203.0.113.7", caller=CALLER, called="+918000000000",
        rate_hz=8000, opened_s=1.0, started_s=1.1, live_s=1.7,
    )  # fmt: skip
    record.stats = {
        "downlink": {"first_audio_us": 1.8e6, **troubles.get("downlink", {})},
        "uplink": troubles.get("uplink", {}),
    }
    record.delay.samples_s["mouth_to_ear"] = array.array("f", [0.4119999999])
    with logging_to(stream, "info", form):
        tell_of = CallLog(Numbers())
        tell_of(record, Event(Kind.STARTED, 1.1, {"caller": CALLER, "called": "", "custom": {}}))
        tell_of(
            record, Event(Kind.LIVE, 1.7, {"engine": "ws://gpu1/api/chat", "prompt_s": 2 / 3, "warm": False})
        )
        tell_of(record, Event(Kind.HEARD, 1.8, {"engine": "ws://gpu1/api/chat", "after_s": 0.7205181}))
        record.ended_s, record.ending = 126.0, Ending(Party.PHONE, "stop: callended")
        tell_of(record, Event(Kind.ENDED, 126.0, {"by": "phone", "reason": "stop"}))
    return stream.getvalue().splitlines()


def test_a_person_reads_one_short_line_for_each_event_of_a_call() -> None:
    told = [line.partition("Z ")[2] for line in course_of_a_call("human")]
    assert told == [
        "info call started: *3210 called *0000, 8 kHz, from 203.0.113.7 call=422ae8426955",
        "info agent ready: ws://gpu1/api/chat, prompted in 667 ms call=422ae8426955",
        "info agent heard after 721 ms call=422ae8426955",
        "info call ended: *3210, 2 min 5 s, completed by the phone, delay 412 ms call=422ae8426955",
    ]


def test_a_person_reads_all_that_was_bad_in_a_call_and_nothing_that_was_not() -> None:
    last = course_of_a_call(
        "human",
        downlink={"holes": 1, "longest_hole_us": 240_000.0},
        uplink={"stalls": 2, "longest_stall_us": 1_230_000.0, "holds": 1},
    )[-1]
    assert (
        "delay 412 ms, 1 hole up to 240 ms, 2 stalls of the phone up to 1.23 s, engine silent 1 time" in last
    )
    assert "slow" not in last and "malformed" not in last


def test_a_machine_reads_the_whole_of_a_call() -> None:
    first, *_, last = (json.loads(line) for line in course_of_a_call("json"))
    assert (last["event"], last["call"], last["stream"]) == ("call ended", CALL_ID, STREAM_ID)
    assert {"holes", "stalls", "mouth_to_ear_s", "mouth_to_ear_p95_s", "key"} <= last.keys()
    assert first["rate_hz"] == 8000
    assert "sentence" not in first.keys() | last.keys()


def test_on_a_terminal_a_line_begins_with_the_time_of_day_and_is_coloured() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    with logging_to(screen, "info"):
        logging.getLogger("pxbridge").warning("odd: %s", "\x1b[2J")
    pattern = r"\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m \x1b\[33mwarning\x1b\[0m \x1b\[1modd: \\x1b\[2J\x1b\[0m\n"
    assert re.fullmatch(pattern, screen.getvalue())


@given(st.lists(st.text("ab/:", min_size=1, max_size=40), min_size=1), st.integers(0, 60))
def test_a_narrow_terminal_breaks_no_word_of_a_line(words: list[str], columns: int) -> None:
    shown = [f"\x1b[2m{word}\x1b[0m" for word in words]
    lines = folded(" ".join(shown), columns).split("\n")
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in lines]
    assert [word for line in plain for word in line.split()] == words
    assert all(line.startswith(INDENT) for line in plain[1:])
    if columns:
        assert all(len(line) <= columns or len(line.split()) == 1 for line in plain)


@pytest.mark.parametrize("reason", ["ws://gpu1: it disconnected", "it disconnected"])
def test_a_lost_engine_is_named_once(reason: str) -> None:
    told = failed(Kind.ENGINE_LOST, {"engine": "ws://gpu1", "reason": reason})
    assert told == "engine lost: ws://gpu1: it disconnected"


@pytest.mark.parametrize("columns", range(20, 60))
def test_a_narrow_terminal_parts_no_number_from_its_unit(columns: int) -> None:
    text = "call ended: *7890, 2 min 5 s, completed by the phone, delay 228 ms, a hole of 1.25 s"
    assert not any(line.rstrip()[-1:].isdigit() for line in folded(text, columns).split("\n"))


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_line_that_is_not_of_a_call_has_no_ids(form: Format) -> None:
    stream = io.StringIO()
    with logging_to(stream, "info", form):
        logging.getLogger("pxbridge").warning("engines: %d", 3)
        logging.getLogger("library").warning("odd")
    own, other = stream.getvalue().splitlines()
    assert "call" not in own and "key" not in own
    assert "library" in other
    if form == "human":
        assert own.partition("Z ")[2] == "warning engines: 3"


def test_who_logs_of_a_call_elsewhere_names_it() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info", "json"):
        logging.getLogger("pxbridge.telephony.exotel.webhooks").info("Exotel reports", extra={"call": "CA1"})
    assert json.loads(stream.getvalue())["call"] == "CA1"


def test_the_last_line_of_a_call_sums_it_up() -> None:
    last = json.loads(lines()[-1])
    assert (last["outcome"], last["ended_by"], last["duration_s"]) == ("abandoned", "phone", 8.0)
    assert last["persona"] == "nurse"


@pytest.mark.parametrize("form", ["json", "human"])
def test_neither_numbers_nor_keys_nor_words_are_logged(form: Format) -> None:
    text = "\n".join(lines(form, "debug"))
    assert CALLER not in text and CALLER[-4:] in text
    assert "4711" not in text and "your secret" not in text and "digit" not in text


def test_a_number_is_written_in_the_form_that_was_set() -> None:
    assert Numbers()(CALLER) == "*********3210"
    assert Numbers()("911") == "***"
    assert Numbers(Form.FULL)(CALLER) == CALLER
    hashed = Numbers(Form.HASHED, b"one key")
    assert hashed(CALLER) == hashed(CALLER) != hashed(CALLER[:-1])
    assert hashed(CALLER) != Numbers(Form.HASHED, b"another key")(CALLER)
    assert CALLER[-4:] not in hashed(CALLER)
    assert Numbers()("") == ""


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_stranger_cannot_write_lines_of_his_own(form: Format) -> None:
    stream = io.StringIO()
    with logging_to(stream, "info", form):
        record = CallRecord(call_id="x\n2026-01-01 all is well\x1b[2J")
        CallLog(Numbers())(record, Event(Kind.NOTE, 0.0, {"text": "he said \r\n\x1b[31mfoo"}))
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert "\x1b" not in text and "\r" not in text


async def test_lines_of_a_calls_tasks_carry_its_ids_without_being_told() -> None:
    stream = io.StringIO()

    async def in_the_call() -> None:
        logging.getLogger("pxbridge.elsewhere").warning("something")

    with logging_to(stream, "info", "json"):
        CURRENT_CALL.set(CallRecord(call_id="c2"))
        await asyncio.create_task(in_the_call())
        CURRENT_CALL.set(None)
        await asyncio.create_task(in_the_call())
    inside, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert inside["call"] == "c2"
    assert "call" not in outside


def test_a_reader_that_stops_reading_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(io.StringIO):
        free = threading.Event()

        def write(self, text: str) -> int:
            self.free.wait()
            return super().write(text)

    monkeypatch.setattr(logs, "MAX_LINES", 100)
    stream = Stuck()
    with logging_to(stream, "info", "json") as writer:
        for number in range(1000):
            logging.getLogger("pxbridge").info("line %d", number)
        assert writer.dropped >= 899
        stream.free.set()
    assert len(stream.getvalue().splitlines()) == 1000 - writer.dropped


@pytest.mark.parametrize("form", ["human", "json"])
def test_an_exception_is_told_whole(form: Format) -> None:
    stream = io.StringIO()
    with logging_to(stream, "info", form):
        try:
            raise ValueError("so it is")
        except ValueError:
            logging.getLogger("pxbridge").exception("it failed")
    text = stream.getvalue()
    told = json.loads(text)["exception"] if form == "json" else text
    assert "ValueError: so it is" in told and "test_logs.py" in told
