"""Logs: one line for one thing, for a person or as JSON, and every line of a call with the call's ids.

Everything is logged through the standard library's `logging`; structlog makes the lines. Who logs in a call
need not say which: `CURRENT_CALL` knows, in the call's tasks and in what its sockets set off. Who logs of one
elsewhere says so: ``extra={"call": sid}``.

Lines are made where they are logged and written by a thread of their own: whoever reads our stderr may stop
reading, and a voice must not wait for a pipe. What no longer fits into the queue is dropped, and counted.

What strangers wrote stands in lines as data: control characters are escaped, so that nobody can write a line
of his own. Payloads are never logged, prompts only at debug, phone numbers in the form that was set.
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
from pxbridge.calls.summary import summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict, Processor, WrappedLogger

    from pxbridge.calls.call import CallRecord
    from pxbridge.calls.events import Event
    from pxbridge.calls.numbers import Numbers

Format = Literal["auto", "json", "human"]

WIRE_LOGS = ("websockets", "aiohttp", "asyncio")
"""Loggers of libraries that write whole messages at debug: payloads, numbers and passwords in headers."""

LINES_WAITING = 10_000
"""As many lines wait for a reader of stderr that has stopped; then they are dropped."""

LAST_LINES_S = 2.0
"""So long may writing the last lines take at the end."""

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("pxbridge.call"),
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    wrapper_class=structlog.stdlib.BoundLogger,
)


class CallLog:
    """Watches calls and writes a line for each event, and one with all figures at the end.

    Args:
        numbers: How phone numbers are written.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def __call__(self, record: CallRecord, event: Event) -> None:
        """Writes the event's line, if it has one."""
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
                log.info(
                    "call started",
                    key=record.key,
                    peer=record.peer,
                    caller=caller,
                    called=called,
                    rate_hz=record.rate_hz,
                )
            case Kind.PERSONA:
                log.debug("persona chosen", persona=detail["name"])
            case Kind.LIVE:
                log.info(
                    "call live",
                    engine=detail["engine"],
                    prompt_s=round(detail["prompt_s"], 3),
                    warm=detail["warm"],
                )
            case Kind.PHASE:
                log.debug("call phase", **detail)
            case Kind.HEARD:
                log.info("agent heard", engine=detail["engine"], after_s=round(detail["after_s"], 3))
            case Kind.ACTION:
                log.info("action", action=detail["action"], by=detail["by"])
            case Kind.KEY:
                log.debug("key pressed")  # which one may be part of a secret
            case Kind.ENGINE_TRIED:
                log.debug("engine tried", engine=detail["engine"])
            case Kind.ENGINE_FAILED | Kind.ENGINE_LOST:
                log.warning(event.kind.value, engine=detail["engine"], reason=detail["reason"])
            case Kind.NOTE:
                log.warning(detail["text"])
            case Kind.ENDED:
                figures = summary(record, self._numbers, event.at_s)
                log.info(
                    "call ended",
                    **{name: value for name, value in figures.items() if value not in (None, "")},
                )
            case Kind.COUNTERS | Kind.WORDS:
                pass  # too many, and the agent's words are the caller's own affair


class Writer(logging.Handler):
    """Writes lines to a stream, from a thread of its own.

    Args:
        stream: Where to.

    Attributes:
        dropped: Lines that nobody read in time.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_WAITING)
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
        """Writes what is left, for a bounded time."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=LAST_LINES_S)
            self._thread.join(LAST_LINES_S)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # closed: nowhere to say so
                self.dropped += 1
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def logging_to(stream: TextIO | None, level: str, form: Format = "auto") -> Iterator[Writer]:
    """All logs go to `stream` while the block runs.

    Args:
        stream: Where lines are written; None for stderr.
        level: The least that is logged: debug, info, warning or error.
        form: ``json``, one object a line; ``human``; or ``auto``: for a person if it is a terminal.
    """
    stream = stream or sys.stderr
    root = logging.getLogger()
    for_human = form == "human" or (form == "auto" and stream.isatty())
    writer = Writer(stream)
    writer.setFormatter(_formatter(for_human=for_human, colors=for_human and stream.isatty()))
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


def _formatter(*, for_human: bool, colors: bool) -> structlog.stdlib.ProcessorFormatter:
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow={"call"}),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_call,
    ]
    if for_human:
        last: list[Processor] = [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=colors,
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
                sort_keys=False,
            ),
        ]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=True)]
    return structlog.stdlib.ProcessorFormatter(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )


def _add_call(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """The ids of the call that the line belongs to; our own key where the phone has not named one."""
    record = CURRENT_CALL.get()
    if record is not None:
        line.setdefault("call", record.call_id)
        line.setdefault("stream", record.stream_id)
        if record.started_s is None:
            line.setdefault("key", record.key)
    return line


def _escape(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Control characters of strangers, which could begin a line or paint a terminal, as escapes."""
    return {name: _printable(value) if name != "exception" else value for name, value in line.items()}


def _printable(value: Any) -> Any:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in value)
