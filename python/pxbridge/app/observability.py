"""Logs, metrics, records and recordings of a process, built from its settings.

None of these may cost a call. A setting that cannot work stops the start. A default that cannot work (the
usual port is taken, the usual folder cannot be written) is logged, and the bridge runs without that part.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from pxbridge.calls.numbers import Form, Numbers
from pxbridge.errors import ConfigError
from pxbridge.ops.logs import CallLog
from pxbridge.ops.loop_lag import Shedding, measured
from pxbridge.ops.metrics import Metrics
from pxbridge.records.database import RECORDINGS
from pxbridge.records.recent_calls import RecentCalls
from pxbridge.records.recording import Recorder, delete_old_recordings
from pxbridge.records.writer import RecordWriter
from pxbridge.settings import state_folder, variable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from pxbridge.calls.call import Call, CallRecord
    from pxbridge.calls.events import Subscriber
    from pxbridge.ops.logs import Writer
    from pxbridge.ops.metrics import Engines
    from pxbridge.settings import Loaded

log = logging.getLogger("pxbridge")

DAY_S = 86_400.0
BYTES_PER_MB = 1_000_000
KEY_FILE = "numbers.key"
KEY_BYTES = 32


class Observability:
    """What calls are observed with.

    Attributes:
        metrics: What Prometheus scrapes.
        subscribers: Get every event of every call.
        call_subscribers: Make a subscriber for each call.
        shedding: Whether new calls are refused because the process is overloaded.
        recent_calls: The live calls, and those that ended last.
        numbers: How phone numbers are written in records and on the console.
        folder: The folder of records and recordings.
    """

    def __init__(
        self,
        metrics: Metrics,
        recent_calls: RecentCalls,
        numbers: Numbers,
        folder: Path,
        shedding: Shedding,
    ) -> None:
        self.metrics = metrics
        self.subscribers: list[Subscriber] = [metrics, recent_calls]
        self.call_subscribers: list[Callable[[Call], Subscriber]] = []
        self.recent_calls = recent_calls
        self.numbers = numbers
        self.folder = folder
        self.shedding = shedding
        metrics.gauge(
            "pxbridge_event_loop_lag_p95_seconds",
            "How late the event loop runs due callbacks: 95th percentile of the last 5 s.",
            lambda: self.shedding.p95_s,
        )
        metrics.gauge(
            "pxbridge_overloaded",
            "Whether new calls are refused because the event loop is late: 1 or 0.",
            lambda: self.shedding.is_shedding,
        )

    def lag(self, lag_s: float, now_s: float) -> None:
        """Takes one measurement of the event loop's lag."""
        self.metrics.lag(lag_s)
        self.shedding.measured(lag_s, now_s)


@contextlib.asynccontextmanager
async def observability(
    loaded: Loaded, environ: Mapping[str, str], engines: Engines, log_writer: Writer
) -> AsyncIterator[Observability]:
    """Observes calls while the block runs.

    Args:
        loaded: The settings.
        environ: The environment's variables: where the state folder is.
        engines: The pool.
        log_writer: Writes the log; its lost lines are counted.

    Raises:
        ConfigError: A folder or file that a setting needs cannot be used.
    """
    settings = loaded.settings
    folder = state_folder(settings, environ)
    if "state_dir" in loaded.origins:
        _check_folder(folder, loaded.origins["state_dir"])
    key = b""
    for name in ("log_numbers", "record_numbers"):
        if getattr(settings, name) is Form.HASHED:
            key = _number_key(folder, loaded.origins[name])
    metrics = Metrics(engines, lambda: engines.waiting)
    metrics.count(
        "pxbridge_log_lines_dropped",
        "Log lines that could not be written in time.",
        lambda: log_writer.dropped,
    )
    numbers = Numbers(settings.record_numbers, key)
    recent_calls = RecentCalls(numbers, asyncio.get_running_loop().time)
    shedding = Shedding(settings.shed_above_lag_ms, settings.shed_below_lag_ms)
    observed = Observability(metrics, recent_calls, numbers, folder, shedding)
    observed.subscribers.append(CallLog(Numbers(settings.log_numbers, key)))
    async with contextlib.AsyncExitStack() as stack:
        metrics.follow(asyncio.get_running_loop())
        await stack.enter_async_context(measured(observed.lag))
        record_writer = None
        keep_s, keep_bytes = settings.keep_days * DAY_S, settings.keep_mb * BYTES_PER_MB
        if settings.keep_records:
            record_writer = RecordWriter(folder, numbers, keep_s=keep_s, keep_bytes=keep_bytes)
            stack.push_async_callback(asyncio.to_thread, record_writer.close)
            observed.subscribers.append(record_writer)
            for name, help_text in (
                ("written", "Rows of call records that were written."),
                ("dropped", "Rows of call records that could not be written."),
                ("errors", "How often writing call records failed."),
            ):
                metrics.count(f"pxbridge_records_{name}", help_text, partial(getattr, record_writer, name))
        else:
            keeping = asyncio.create_task(
                delete_old_recordings(folder / RECORDINGS, keep_s=keep_s, keep_bytes=keep_bytes),
                name="recordings",
            )
            stack.callback(keeping.cancel)
        recorder = Recorder(
            folder / RECORDINGS,
            settings.recording_format,
            record_writer.recorded if record_writer else _without_records,
        )
        stack.push_async_callback(asyncio.to_thread, recorder.close)
        observed.call_subscribers.append(recorder.subscriber)
        for name, help_text in (
            ("failures", "Recordings that ended early because of an error."),
            ("dropped", "Seconds of audio that recordings lost for lack of time."),
        ):
            metrics.count(f"pxbridge_recordings_{name}", help_text, partial(getattr, recorder, name))
        yield observed


def _without_records(_record: CallRecord) -> Callable[[str], None]:
    """Stands for the records of calls if none are kept: the name of a recording is written nowhere."""
    return lambda _name: None


def _check_folder(folder: Path, origin: tuple[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            *origin, f"cannot write to {folder}: {error.strerror}; choose another folder"
        ) from None


def _number_key(folder: Path, origin: tuple[str, str]) -> bytes:
    """The key that phone numbers are hashed with. It is made once and kept in the state folder."""
    file = folder / KEY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as new:
                new.write(os.urandom(KEY_BYTES))
        key = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            *origin,
            f"cannot keep the key of hashed numbers in {file}: {error.strerror}; "
            f"set {variable('state_dir')} to a folder that can be written",
        ) from None
    if len(key) != KEY_BYTES:
        raise ConfigError(
            *origin,
            f"{file} is not a key of {KEY_BYTES} bytes; delete it, and the next start makes a new one",
        )
    return key
