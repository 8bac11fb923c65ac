"""Logs: one line for each event, for a person or as JSON. Every line of a call has the call's ids.

All code logs through the standard library's `logging`; structlog formats the lines. Code that runs in a call
need not name the call: `CURRENT_CALL` is set in the call's tasks and in the callbacks of its sockets. Other
code that logs about a call passes ``extra={"call": call_id}``.

Lines are formatted where they are logged and written by a thread, because the reader of our stderr may stop
reading and a call must not wait for a pipe. Lines that do not fit into the queue are dropped and counted.

Text from peers is data: its control characters are escaped, so that it cannot begin a new line. Payloads are
never logged, prompts only at level debug, and phone numbers in the form that the settings say.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

from pxbridge.calls.events import CURRENT_CALL, Kind
from pxbridge.calls.start_times import start_times_s
from pxbridge.calls.summary import summary
from pxbridge.ops import human_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict, Processor, WrappedLogger

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.calls.numbers import Numbers

Format = Literal["auto", "json", "human"]

WIRE_LOGS = ("websockets", "aiohttp", "asyncio")
"""Loggers of libraries that log whole messages at level debug, with payloads, numbers and passwords."""

MAX_LINES = 10_000
"""Lines that wait if the reader of stderr has stopped. Further lines are dropped."""

CLOSE_TIMEOUT_S = 2.0
"""How long writing the last lines may take at the end."""

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("pxbridge.call"),
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    wrapper_class=structlog.stdlib.BoundLogger,
)


class CallLog:
    """Logs a line for each event of a call, and one with all figures at its end. It is a subscriber.

    Args:
        numbers: How phone numbers are written.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Logs the event, if it has a line."""
        token = CURRENT_CALL.set(record)
        try:
            self._write(record, event)
        finally:
            CURRENT_CALL.reset(token)

    def _write(self, record: CallRecord, event: Event) -> None:
        detail = event.detail
        match event.kind:
            case Kind.STARTED:
                caller, called = self._numbers(record.caller), self._numbers(record.called)
                figures: dict[str, Any] = {
                    "key": record.key,
                    "peer": record.peer,
                    "caller": caller,
                    "called": called,
                    "rate_hz": record.rate_hz,
                }
                log.info("call started", **figures, sentence=human_lines.started(figures))
            case Kind.PERSONA:
                log.debug("persona chosen", persona=detail["name"])
            case Kind.LIVE:
                log.info(
                    "call live",
                    engine=detail["engine"],
                    prompt_s=round(detail["prompt_s"], 3),
                    warm=detail["warm"],
                    sentence=human_lines.live(detail),
                    **_setup(record),
                )
            case Kind.PHASE:
                log.debug("call phase", **detail)
            case Kind.HEARD:
                log.info(
                    "agent heard",
                    engine=detail["engine"],
                    after_s=round(detail["after_s"], 3),
                    sentence=human_lines.heard(detail),
                )
            case Kind.ACTION:
                log.info(
                    "action", action=detail["action"], by=detail["by"], sentence=human_lines.action(detail)
                )
            case Kind.KEY:
                log.debug("key pressed")  # not which one: it may be part of a secret
            case Kind.ENGINE_TRIED:
                log.debug("engine tried", engine=detail["engine"])
            case Kind.ENGINE_FAILED | Kind.ENGINE_LOST:
                log.warning(
                    event.kind.value,
                    engine=detail["engine"],
                    reason=detail["reason"],
                    sentence=human_lines.failed(event.kind, detail),
                )
            case Kind.NOTE:
                log.warning(detail["text"])
            case Kind.ENDED:
                figures = summary(record, self._numbers, event.at_s)
                log.info(
                    "call ended",
                    **{name: value for name, value in figures.items() if value not in (None, "")},
                    sentence=human_lines.ended(figures),
                )
            case Kind.COUNTERS | Kind.WORDS:
                pass  # counters come too often, and the agent's words are private


def _setup(record: CallRecord) -> dict[str, float]:
    """When the call's first engine was ready; nothing for a later engine."""
    setup_s = start_times_s(record)["setup_s"]
    return {} if setup_s is None or record.failovers else {"setup_s": round(setup_s, 3)}


class Writer(logging.Handler):
    """Writes lines to a stream, in a thread of its own.

    Args:
        stream: Where the lines go.

    Attributes:
        dropped: Lines that could not be written in time.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a line."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Writes the waiting lines, for at most twice `CLOSE_TIMEOUT_S`."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=CLOSE_TIMEOUT_S)
            self._thread.join(CLOSE_TIMEOUT_S)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # the stream is closed, so this cannot be logged
                self.dropped += 1
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def logging_to(stream: TextIO | None, level: str, form: Format = "auto") -> Iterator[Writer]:
    """Sends all logs to `stream` while the block runs.

    Args:
        stream: Where lines are written; None for stderr.
        level: The lowest level that is logged: debug, info, warning or error.
        form: ``json``, one object in each line; ``human``; or ``auto``: human on a terminal, else json.
    """
    stream = stream or sys.stderr
    root = logging.getLogger()
    for_human = form == "human" or (form == "auto" and stream.isatty())
    writer = Writer(stream)
    writer.setFormatter(_formatter(for_human=for_human, screen=stream if stream.isatty() else None))
    for name in WIRE_LOGS:
        logging.getLogger(name).setLevel(logging.WARNING)
    before = root.level
    root.addHandler(writer)
    root.setLevel(level.upper())
    try:
        yield writer
    finally:
        root.removeHandler(writer)
        root.setLevel(before)
        writer.close()


def _formatter(*, for_human: bool, screen: TextIO | None) -> structlog.stdlib.ProcessorFormatter:
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow={"call"}),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_call,
    ]
    if for_human:
        last: list[Processor] = [_escape, human_lines.HumanRenderer(screen)]
    else:
        last = [_without_sentence, structlog.processors.JSONRenderer(ensure_ascii=True)]
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            *last,
        ]
    )


def _without_sentence(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    line.pop(human_lines.SENTENCE, None)
    return line


def _add_call(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Adds the ids of the line's call; before its `start`, our own key."""
    record = CURRENT_CALL.get()
    if record is not None:
        line.setdefault("call", record.call_id)
        line.setdefault("stream", record.stream_id)
        if record.started_s is None:
            line.setdefault("key", record.key)
    return line


def _escape(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Escapes control characters, which could begin a new line or change a terminal."""
    return {name: _printable(value) if name != "exception" else value for name, value in line.items()}


def _printable(value: Any) -> Any:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in value)
