"""`pxbridge calls`: the records of calls, as tables or as JSON and CSV, and actions on live calls.

Records are read from the database, with or without a running bridge. Live calls, and actions on them, go
through the console of the running bridge. Text from peers (ids, names) is printed without control characters,
and in CSV it cannot become a spreadsheet formula.
"""

from __future__ import annotations

import contextlib
import csv
import getpass
import json
import os
import re
import sqlite3
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rich.table import Table
from rich.text import Text

from pxbridge import settings
from pxbridge.calls import delay
from pxbridge.calls.call_state import Outcome
from pxbridge.calls.events import Kind
from pxbridge.calls.start_times import START_TIMES
from pxbridge.commands.terminal import plain, say, say_fields, say_table
from pxbridge.console import client
from pxbridge.errors import InputError
from pxbridge.ops import human_lines
from pxbridge.records import database
from pxbridge.records.database import Query
from pxbridge.wording import counted, lasted, short_id

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from pxbridge.settings import Settings

EXIT_UNKNOWN = 1

HAND_OVER, END = "hand-over", "end"

BRIDGE_SETTINGS = {
    "config": "FILE",
    "state_dir": "FOLDER",
    "console_host": "TEXT",
    "console_port": "N",
    "console_credentials_file": "FILE",
}
"""The settings of the bridge that this command needs, with what stands for their values in help."""

OUTCOMES = (*(outcome.value for outcome in Outcome), database.CUT_OFF)
"""How calls in the records ended."""

MAX_SHOWN_IDS = 5
"""Of calls among which the user has to choose. They are shown whole, as their beginnings are the same."""

NO_LIMIT = 1_000_000_000

UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

CSV_COLUMNS = (
    "key", "call", "stream", "began_at", "ended_at", "caller", "called", "persona", "engine", "rate_hz",
    "outcome", "ended_by", "reason", "duration_s", "setup_s", "first_audio_s", "mouth_to_ear_s",
    "mouth_to_ear_p95_s", *(part.figure for part in delay.PARTS), "failovers", "holes",
    "longest_hole_s", "stalls", "longest_stall_s", "holds", "slow", "inserted_s", "removed_s",
    "withheld_s", "unheard_s", "drift_ppm", "malformed", "recording", "peer", "first_sound_s",
)  # fmt: skip

_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?[0-9.]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.usage = (
        "pxbridge calls [--live] [options]\n"
        "       pxbridge calls show ID [options]\n"
        "       pxbridge calls hand-over ID [NUMBER ...] [options]\n"
        "       pxbridge calls end ID [options]"
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=["show", HAND_OVER, END],
        metavar="WHAT",
        help="show one call; or hand a live call over to a person, or end it, once the agent has finished "
        "its sentence",
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="the id of the call, or its beginning")
    parser.add_argument(
        "numbers",
        nargs="*",
        metavar="NUMBER",
        help="phone numbers that the flow rings (+91...); none: those of its Connect applet",
    )
    parser.add_argument("--live", action="store_true", help="list live calls")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument(
        "--last",
        type=int,
        metavar="N",
        help="the number of calls, the newest first (default: 20; with --csv and --json all)",
    )
    parser.add_argument(
        "--since", metavar="WHEN", help="only calls since then: 90m, 12h, 7d, or 2026-01-31[T12:00]"
    )
    parser.add_argument(
        "--outcome",
        choices=OUTCOMES,
        metavar="WORD",
        help=f"only calls with this outcome: {', '.join(OUTCOMES)}",
    )
    for name, metavar in BRIDGE_SETTINGS.items():
        parser.add_argument(
            settings.flag(name), default=None, metavar=metavar, help="as for the bridge itself"
        )


async def run(args: argparse.Namespace, console: Console) -> int:
    """Prints calls, or applies an action to one; returns the exit status.

    Raises:
        InputError: An argument or the database cannot be used.
    """
    if args.what and not args.id:
        lists = "`pxbridge calls`" if args.what == "show" else "`pxbridge calls --live`"
        raise InputError(f"{args.what} needs the id of a call; {lists} lists them")
    if args.numbers and args.what != HAND_OVER:
        raise InputError(f"{args.what} takes one id; remove {args.numbers[0]!r}")
    if args.what and args.csv:
        raise InputError("--csv is for lists of calls; use --json for one call")
    given = {name: value for name in BRIDGE_SETTINGS if (value := getattr(args, name)) is not None}
    loaded = settings.load(given, os.environ)
    if args.what in (HAND_OVER, END):
        return await _operate(loaded.settings, args, console)
    folder = settings.state_folder(loaded.settings, os.environ)
    limit = args.last if args.last is not None else (NO_LIMIT if args.json or args.csv else Query().limit)
    if args.live:
        live = (await client.ask(loaded.settings, "/api/calls"))["live"]
        return _list(live[: args.last], args, console, "no live calls")
    query = Query(limit, None if args.since is None else moment(args.since, time.time()), args.outcome)
    file = folder / database.FILE
    with contextlib.ExitStack() as stack:
        connection = _open(file, stack)
        if args.what:
            found: Mapping[str, Any] | None = _find(connection, args.id)
            if found is None or found["ended_at"] is None:
                found = await _as_it_is_now(found, args.id, loaded.settings)
            return _show(found, args, console, folder)
        calls = database.find(connection, query) if connection is not None else []
    none = f"no such calls in {file}" if file.exists() else f"no calls yet: {file} does not exist"
    return _list(calls, args, console, none)


async def _as_it_is_now(
    found: Mapping[str, Any] | None, name: str, bridge: Settings
) -> Mapping[str, Any] | None:
    """A call without an end in the records, with the figures that the bridge has of it now.

    Args:
        found: The call as the records have it; None if they do not.
        name: The call's id, or the beginning of it.
        bridge: The settings of the bridge.

    Returns:
        The call; with a `note` if the bridge does not tell. None if neither knows it.
    """
    if found is not None:
        name = found["key"]
    try:
        live = await client.ask(bridge, f"/api/calls/{quote(name, safe='')}/figures")
    except InputError as error:
        return None if found is None else {**found, "note": f"as last written, not as it is now: {error}"}
    return {"ended_at": None, "recording": None, "events": [], "words": [], **(found or {}), **live}


def _list(calls: Sequence[Mapping[str, Any]], args: argparse.Namespace, console: Console, none: str) -> int:
    if args.json:
        json.dump(calls, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif args.csv:
        _write_csv(calls)
    elif calls:
        say_table(console, _table(calls))
    else:
        say(console, none)
    return 0


async def _operate(bridge: Settings, args: argparse.Namespace, console: Console) -> int:
    """Applies an action to a live call; returns the exit status."""
    request: dict[str, Any] = {"call": args.id, "by": _user()}
    if args.what == HAND_OVER:
        request["numbers"] = args.numbers
    call = (await client.ask(bridge, f"/api/calls/{args.what}", request))["call"]
    action = "is handed over" if args.what == HAND_OVER else "ends"
    say(console, f"{short_id(plain(call))} {action} once the agent has finished its sentence")
    return 0


def _user() -> str:
    """The user of this machine who runs the command; empty if unknown."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def moment(text: str, now: float) -> float:
    """The time that `text` means, in seconds since the epoch: an age before `now`, or a date in local time.

    Raises:
        InputError: It is neither.
    """
    if found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([mhdw])", text):
        return now - float(found[1]) * UNITS_S[found[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise InputError(
            f"--since {text!r} is neither an age like 90m, 12h or 7d nor a date like 2026-01-31"
        ) from None


def cell(value: object) -> object:
    """A value for a spreadsheet. Text that it would take for a formula is prefixed with a quote."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return "'" + value
    return value


def _open(file: Path, stack: contextlib.ExitStack) -> sqlite3.Connection | None:
    if not file.exists():
        return None
    try:
        return stack.enter_context(contextlib.closing(database.open_database(file)))
    except (sqlite3.Error, OSError) as error:
        raise InputError(f"{file}: {error}") from None


def _find(connection: sqlite3.Connection | None, name: str) -> dict[str, Any] | None:
    """The call whose id or key begins with `name`.

    Raises:
        InputError: There are several.
    """
    if connection is None:
        return None
    if len(ids := database.ids(connection, name)) > 1:
        some = ", ".join(map(plain, ids[:MAX_SHOWN_IDS])) + (", …" if len(ids) > MAX_SHOWN_IDS else "")
        raise InputError(f"{len(ids)} calls have an id that begins with {plain(name)}: {some}")
    return database.one(connection, name)


def _write_csv(calls: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(CSV_COLUMNS)
    writer.writerows([cell(call.get(name)) for name in CSV_COLUMNS] for call in calls)


def _table(calls: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("began", "call", "caller", "persona", "outcome"):
        table.add_column(name, no_wrap=True, min_width=len(name))
    for name in ("duration", "agent", "delay", "holes"):
        table.add_column(name, no_wrap=True, justify="right", min_width=len(name))
    for call in calls:
        cells = (
            _when(call["began_at"])[len("2026-") : len("2026-01-31 12:00")],
            short_id(plain(call["call"])),
            re.sub(r"\*+", "*", plain(call["caller"])),
            plain(call["persona"]),
            plain(call.get("phase") or call["outcome"]),
            _duration(_duration_s(call)),
            _seconds(call["first_audio_s"]),
            _delay(call),
            plain(call["holes"]) if _is_known(call) else "-",
        )
        table.add_row(*map(Text, cells))
    return table


def _show(call: Mapping[str, Any] | None, args: argparse.Namespace, console: Console, folder: Path) -> int:
    if call is None:
        say(console, f"no call has an id that begins with {plain(args.id)}")
        return EXIT_UNKNOWN
    if args.json:
        json.dump(call, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    say_fields(console, _rows(call, folder))
    for title, lines in (
        ("events", [(event["at_s"], _event(event)) for event in call["events"]]),
        ("the agent's words", [(words["at_s"], plain(words["text"])) for words in call["words"]]),
    ):
        if lines:
            console.print(f"\n{title}", style="bold")
            for at_s, text in lines:
                say(console, text, f"{at_s:8.1f} s  ")
    return 0


def _rows(call: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    ended = call["outcome"]
    if call["ended_at"] is None and ended == "live":
        phase = call.get("phase")
        ended = "not yet, in the records" if phase is None else "no, still live"
        if phase not in (None, "live"):
            ended += f" ({phase})"
    if call["ended_by"]:
        ended += f": by the {call['ended_by']}, {call['reason']}"
    rows = [
        ("call", call["call"]),
        ("began", _when(call["began_at"])),
        ("duration", _duration(_duration_s(call))),
        ("ended", ended),
        ("caller", f"{call['caller'] or 'unknown'} called {call['called'] or 'unknown'}"),
        ("address", call.get("peer") or "unknown"),
        ("agent", f"{call['persona']}, on {call['engine'] or 'no engine'}{_failovers(call)}"),
        *((each.title, _seconds(call.get(each.figure))) for each in START_TIMES),
        ("mouth to ear", _delays(call)),
    ]
    parts = [
        f"{part.title} {1e3 * value:.0f} ms"
        for part in delay.PARTS
        if (value := call.get(part.figure)) is not None
    ]
    if parts:
        rows.append(("its parts", ", ".join(parts)))
    rows.append(("sound", _sound(call)))
    if call.get("holds"):
        withheld = lasted(call.get("withheld_s") or 0.0)
        rows.append(("engine silent", f"{call['holds']} ×; {withheld} of the caller withheld"))
    if call.get("slow"):
        rows.append(("engine too slow", f"{call['slow']} ×: it got less than was said"))
    if (drift_ppm := call.get("drift_ppm")) is not None:
        rows.append(("phone's clock", delay.drift(drift_ppm)))
    if call.get("note"):
        rows.append(("note", call["note"]))
    if call["recording"]:
        rows.append(("recording", str(folder / database.RECORDINGS / call["recording"])))
    return [(title, plain(text)) for title, text in rows]


def _sound(call: Mapping[str, Any]) -> str:
    texts = []
    for noun, plural, number, longest in (
        ("hole", "holes", "holes", "longest_hole_s"),
        ("stall of the phone", "stalls of the phone", "stalls", "longest_stall_s"),
    ):
        text = counted(call.get(number) or 0, noun, plural)
        texts.append(f"{text}, the longest {lasted(call.get(longest) or 0.0)}" if call.get(number) else text)
    for how in ("inserted", "removed"):
        seconds = call.get(f"{how}_s") or 0.0
        texts.append(f"{lasted(seconds) if seconds else 'nothing'} {how}")
    return "; ".join(texts)


def _failovers(call: Mapping[str, Any]) -> str:
    failovers = call.get("failovers") or 0
    return f", after {failovers} {'was' if failovers == 1 else 'were'} lost" if failovers else ""


def _event(event: Mapping[str, Any]) -> str:
    """What happened, in the words of the log. Records of older versions may lack a detail."""
    kind = event["kind"]
    detail = {name: value for name, value in event.items() if name not in ("at_s", "kind")}
    try:
        sentence = _sentence(kind, detail)
    except KeyError:
        sentence = None
    return plain(sentence or _listed(kind, detail))


def _sentence(kind: str, detail: Mapping[str, Any]) -> str | None:
    match kind:
        case Kind.PERSONA:
            return f"agent: {detail['name']}" + (", recorded" if detail["record"] else "")
        case Kind.ENGINE_TRIED:
            return f"engine tried: {detail['engine']}" + (", prompted ahead" if detail["warm"] else "")
        case Kind.ENGINE_FAILED | Kind.ENGINE_LOST:
            return human_lines.failed(Kind(kind), detail)
        case Kind.LIVE:
            return human_lines.live(detail)
        case Kind.HEARD:
            return human_lines.heard(detail)
        case Kind.KEY:
            return f"key pressed: {detail['digit']}" if "digit" in detail else "key pressed"
        case Kind.ACTION:
            return human_lines.action(detail)
        case Kind.ENDED:
            return f"ended by the {detail['by']}: {detail['reason']}"
    return None


def _listed(kind: str, detail: Mapping[str, Any]) -> str:
    # A detail with the name of its kind is shown without a name: "phase: waiting". So is a note's text.
    text = ", ".join(
        str(value) if name in (kind, "text") else _detail(name, value) for name, value in detail.items()
    )
    return f"{kind}: {text}" if text else kind


def _detail(name: str, value: object) -> str:
    match value:
        case bool():
            return f"{name} {'yes' if value else 'no'}"
        case float() if name.endswith("_s"):
            return f"{name.removesuffix('_s')} {lasted(value)}"
        case float():
            return f"{name} {value:.3g}"
        case dict():
            return f"{name} {', '.join(f'{key}={each}' for key, each in value.items()) or 'none'}"
        case _:
            return f"{name} {value}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole_s = round(seconds)
    return f"{whole_s // 60}:{whole_s % 60:02}"


def _is_known(call: Mapping[str, Any]) -> bool:
    """Whether a call's figures are those of its end or of now. The records have a live call's beginning."""
    return bool(call.get("ended_at")) or "phase" in call


def _duration_s(call: Mapping[str, Any]) -> float | None:
    return call["duration_s"] if _is_known(call) else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _delay(call: Mapping[str, Any]) -> str:
    """The delay of a live call now, as the live page shows it; of one that has ended, the median."""
    delay_s = call["mouth_to_ear_now_s" if "phase" in call else "mouth_to_ear_s"]
    return "-" if delay_s is None else f"{1e3 * delay_s:.0f} ms"


def _delays(call: Mapping[str, Any]) -> str:
    if call["mouth_to_ear_s"] is None:
        return "-"
    text = f"{1e3 * call['mouth_to_ear_s']:.0f} ms (p95 {1e3 * call['mouth_to_ear_p95_s']:.0f} ms)"
    return f"{text}, now {_delay(call)}" if "phase" in call else text
